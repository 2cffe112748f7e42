"""Entry point of `python -m longreel` and of `spark-submit longreel/__main__.py data ingest --home H --date D`."""

import sys
from pathlib import Path

if not __package__:  # run as a file: Python put this folder on the path, where `import model` would find ours
    sys.path[0] = str(Path(__file__).absolute().parents[1])

if __name__ == "__main__":
    from longreel.cli import main

    sys.exit(main())
