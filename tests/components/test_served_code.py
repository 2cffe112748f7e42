"""Code that is packed with a registered model: MLflow imports it where this project is not installed."""

import os
import subprocess
import sys
from pathlib import Path

from longreel.components.registry.registration import SCRIPT, _serving_code

LOAD = f"import runpy, longreel; runpy.run_path({str(SCRIPT)!r}); print(longreel.__file__)"


def test_a_served_model_needs_no_other_code_of_this_project(tmp_path: Path) -> None:
    with _serving_code() as code:
        environment = os.environ | {"PYTHONPATH": str(code.parent)}  # in front of an installed longreel
        done = subprocess.run(
            [sys.executable, "-c", LOAD], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == [str(code / "__init__.py")]
