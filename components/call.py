"""Calls of the command line by pipeline components: as a container in a cluster, as a process on this machine.

A component of pipeline.py is one function that ends in `call(...)`. KFP runs it while it builds a container component:
then the arguments are placeholders, and the result is the container's command. On this machine KFP runs it as a
lightweight component: then the arguments are values, and the command runs here. So both editions are one command.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

IMAGE = "longreel/train:0.1.0-python3.11"
HOME_PATH = "/longreel"  # the home folder in a step's pod
EXIT_CODE_FILE = "LONGREEL_EXIT_CODE_FILE"  # names the file for the exit code of a failed step on this machine
CLUSTER_YAML = Path(__file__).with_name("pipeline-cluster.yaml")  # pipeline.py writes it


def call(command: str, *arguments: Any) -> Any:
    """`longreel COMMAND ARGUMENTS`: the container that runs it, or None once it has run in its own process.

    Raises:
        SystemExit: the command failed; the code is the command's, and its output gives the reason.
    """
    if os.environ.get("_KFP_RUNTIME") != "true":  # KFP sets it where a component runs
        from kfp import dsl

        return dsl.ContainerSpec(image=IMAGE, command=["longreel", *command.split()], args=list(arguments))
    # kfp.local passes integers from another step as floats
    words = [str(int(a)) if isinstance(a, float) else str(a) for a in arguments]
    code = subprocess.run([sys.executable, "-m", "longreel", *command.split(), *words], check=False).returncode
    if code:
        if file := os.environ.get(EXIT_CODE_FILE):  # KFP says only that a step failed
            Path(file).write_text(str(code))
        raise SystemExit(code)
    return None
