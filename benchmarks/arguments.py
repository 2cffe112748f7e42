"""Command lines of the benchmarks: options that are refused in words, and exit status 2 for a user's error."""

import argparse
import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from longreel.contracts.errors import LongreelError, from_os_error
from longreel.lake.home import CONFIG_FILE


def existing_home(text: str) -> Path:
    """An argparse type: a home folder."""
    if not text or not (Path(text) / CONFIG_FILE).is_file():
        raise argparse.ArgumentTypeError(f"expected a home, a folder with {CONFIG_FILE}, got {text!r}")
    return Path(text)


def existing_folder(text: str) -> Path:
    """An argparse type: a folder that exists."""
    if not text or not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"expected a folder that exists, got {text!r}")
    return Path(text)


def unknown(option: str, value: str, names: Iterable[str]) -> LongreelError:
    """The error of an option's value that is none of `names`, with the nearest of them, or else all, at most ten."""
    every = sorted(set(names))
    nearest = get_close_matches(value, every, n=3, cutoff=0.5)
    listed = ", ".join(nearest or every[:10]) + (", .." if not nearest and len(every) > 10 else "")
    return LongreelError(f"{option}: expected {'such as ' if nearest else 'one of '}{listed or 'none'}, got {value!r}")


def run_main(main: Callable[[], Any]) -> NoReturn:
    """Run a program and exit with its status; a user's error is one line on stderr."""
    try:
        sys.exit(main())
    except LongreelError as error:
        refusal: LongreelError | None = error
    except OSError as error:
        if (refusal := from_os_error(error)) is None:
            raise
    assert refusal is not None
    print(f"error: {refusal}", file=sys.stderr)
    sys.exit(refusal.exit_code)
