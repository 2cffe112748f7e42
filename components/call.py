"""How does a pipeline's step call the command line? As a container in a cluster, as a process on this machine.

A component of pipeline.py is one function that ends in `call(...)`. KFP runs it while it builds a container component,
where the arguments are placeholders and the answer is the container's command; and on this machine it runs it as a
lightweight component, where the arguments are values and the command is run here. So both editions are one command.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

IMAGE = "longreel/train:0.1.0-python3.11"
HOME_PATH = "/longreel"  # where a step's pod has its home folder
CLUSTER_YAML = Path(__file__).with_name("pipeline-cluster.yaml")  # pipeline.py writes it


def call(command: str, *arguments: Any) -> Any:
    """`longreel COMMAND ARGUMENTS`: the container that runs it, or None once it has run in a process of its own.

    Raises:
        SystemExit: it ran and failed; the code is the command's, and its output says why.
    """
    if os.environ.get("_KFP_RUNTIME") != "true":  # KFP sets it where a component runs
        from kfp import dsl

        return dsl.ContainerSpec(image=IMAGE, command=["longreel", *command.split()], args=list(arguments))
    # kfp.local hands whole numbers over as floats where they come from another step
    words = [str(int(a)) if isinstance(a, float) else str(a) for a in arguments]
    code = subprocess.run([sys.executable, "-m", "longreel", *command.split(), *words], check=False).returncode
    if code:
        raise SystemExit(code)
    return None
