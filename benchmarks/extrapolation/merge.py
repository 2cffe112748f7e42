"""Merge of results from other machines into a results folder: `python -m benchmarks.extrapolation.merge OUT FROM ...`.

FROM is another results folder, or a .tgz of its results.jsonl and draws. A cell that is here already, made from the
same settings and data, stays as it is.
"""

import argparse
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.arguments import run_main
from benchmarks.extrapolation.runner import RESULTS, append_line, draws_path, read_results
from longreel.contracts.errors import LongreelError


@contextmanager
def opened(source: Path) -> Iterator[Path]:
    """A results folder, unpacked from an archive where it is one."""
    if source.is_dir():
        yield source
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            with tarfile.open(source) as archive:
                archive.extractall(folder, filter="data")
        except (tarfile.TarError, EOFError, zlib.error, FileNotFoundError) as error:
            raise LongreelError(
                f"{source}: expected a results folder or a .tgz of one ({str(error).splitlines()[0]})"
            ) from error
        yield Path(folder)


def merge(out: Path, source: Path) -> tuple[int, int]:
    """Append the lines of `source` that are new here, with their replicates; how many those are, and of how many.

    Raises:
        LongreelError: there are no results in `source`, or a line's replicates are missing.
    """
    out.mkdir(parents=True, exist_ok=True)
    here = {row["key"]: row["fingerprint"] for row in read_results(out)}
    with opened(source) as folder:
        if not (folder / RESULTS).exists():
            raise LongreelError(f"no {RESULTS} in {source}; expected a results folder or a .tgz of one's contents")
        lines = list(read_results(folder))
        new = [line for line in lines if here.get(line["key"]) != line["fingerprint"]]
        for line in new:
            draws = draws_path(folder, line["key"])
            if not draws.exists():
                raise LongreelError(f"{source}: {line['key']} has no replicates, expected {draws.name} in draws/")
            draws_path(out, line["key"]).parent.mkdir(exist_ok=True)
            shutil.copyfile(draws, draws_path(out, line["key"]))
            append_line(out / RESULTS, line)
    return len(new), len(lines)


def main() -> None:
    """Merge all that is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("sources", type=Path, nargs="+", metavar="FROM")
    args = parser.parse_args()
    for source in args.sources:
        new, all_of_it = merge(args.out, source)
        print(f"{source}: {new} of {all_of_it} cells are new")


if __name__ == "__main__":
    run_main(main)
