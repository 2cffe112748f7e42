"""`python -m longreel`, and what spark-submit runs: `spark-submit longreel/__main__.py ingest --home H --date D`."""

import sys
from pathlib import Path

ROOT = Path(__file__).absolute().parents[1]  # of the checkout or of site-packages; spark-submit knows this file only
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry or ".").absolute() != ROOT / "longreel")]

if __name__ == "__main__":
    from longreel.cli import main

    sys.exit(main())
