"""Worker process: reads cells, one line of JSON each, and writes one line of results for each.

python -m benchmarks.extrapolation.worker SETS OUT SIZE DEVICE     SIZE: JSON of cells.Size; started by the runner
"""

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

from benchmarks.extrapolation.cells import Cell, Size
from benchmarks.extrapolation.plan import Data, plan
from benchmarks.extrapolation.runner import Runner


def main() -> None:
    """Answer until the input ends."""
    sets, out, size, device = Path(sys.argv[1]), Path(sys.argv[2]), Size(**json.loads(sys.argv[3])), sys.argv[4]
    runner, answers = Runner(Data(sets), out, size), sys.stdout
    with redirect_stdout(sys.stderr):  # what training prints is no answer
        for line in sys.stdin:
            planned = plan(Cell(**json.loads(line)), size, runner.data, device)
            print(json.dumps(runner.compute(planned)), file=answers, flush=True)


if __name__ == "__main__":
    main()
