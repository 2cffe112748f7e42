"""`python -m tests.reliability [NAME ...]`: break things under a real Airflow and write what happened in the docs.

Runs the named rows of docs/reliability.md's tables, or all of them, one after another, and puts each result in its row.
A row whose check fails keeps what it said; the command then ends with 1.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.reliability.backfills import BACKFILLS
from tests.reliability.days import WEEKS
from tests.reliability.faults import FAULTS
from tests.reliability.pipeline import Case, make_world

CASES = WEEKS | BACKFILLS | FAULTS
PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"


def main() -> int:
    """Run what is asked for; 0 where every check held."""
    case_names = ", ".join(CASES)
    parser = argparse.ArgumentParser(prog="python -m tests.reliability", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {case_names} (default: all)")
    parser.add_argument("--folder", type=Path, help="work there, and leave the homes there to be looked at")
    args = parser.parse_args()
    names = args.names or list(CASES)
    if unknown := sorted(set(names) - set(CASES)):
        parser.error(f"no such row: {', '.join(unknown)}; rows are {case_names}")
    folder = args.folder or Path(tempfile.mkdtemp(prefix="longreel-reliability-"))
    print(f"homes: {folder}", flush=True)
    failed = [name for name in names if not tried(CASES[name], folder)]
    if not (args.folder or failed):
        shutil.rmtree(folder, ignore_errors=True)
    print(f"failed: {', '.join(failed)}" if failed else "every check held")
    return bool(failed)


def tried(case: Case, folder: Path) -> bool:
    """Run a case and write its row; False where a check failed, its home is then kept."""
    print(f"{case.name} ...", flush=True)
    world, began = make_world(folder / "world"), time.monotonic()
    shutil.rmtree(folder / case.name, ignore_errors=True)
    try:
        happened = case.run(world, folder / case.name)
    except Exception:
        traceback.print_exc()
        return False
    print(f"{case.name}: {happened} ({time.monotonic() - began:.0f} s in all)", flush=True)
    lines = PAGE.read_text().splitlines()
    PAGE.write_text("\n".join(row(case, happened) if is_row(case, line) else line for line in lines) + "\n")
    return True


def is_row(case: Case, line: str) -> bool:
    """Whether a line of the page is the case's row."""
    return line.startswith("|") and f"`{case.name}`" in line


def row(case: Case, happened: str) -> str:
    """The case's row."""
    return f"| `{case.name}` | {case.done} | {happened} | {case.checked} |"


if __name__ == "__main__":
    os.environ.pop("MLFLOW_TRACKING_URI", None)  # every home has its own
    sys.exit(main())
