"""`python -m longreel`, and what spark-submit runs: `spark-submit longreel/__main__.py ingest --home H --date D`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# spark-submit puts this file's folder on the path, where our modules would shadow others of the same name.
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "longreel")]

if __name__ == "__main__":
    from longreel.cli import main

    sys.exit(main())
