"""Atomic writes of local files: a reader sees the old file or the new one, never a part."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A draft path beside `path` to write to; the draft becomes `path` where the block ends without an error."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_text_atomic(path: Path, text: str) -> None:
    """Write a text file in one step. The folder must exist."""
    with replacing(path) as draft:
        draft.write_text(text, "utf-8")
