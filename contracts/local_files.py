"""Local files: atomic writes, of which a reader sees the old file or the new one, and paths, which are no URLs."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from longreel.contracts.errors import LongreelError

URL = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)


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


def require_path(text: str, what: str) -> None:
    """Raises LongreelError for a URL: as a path it would be that of a folder that is missing, and waited for."""
    if URL.match(text):
        raise LongreelError(
            f"{what}: expected a path on this machine, got the URL {text!r}; mount a bucket's data as a volume, or "
            "copy them to a folder"
        )
