"""Resolve pyproject's `all` group in an empty environment and write requirements.lock (name==version, sorted)."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEADER = "# Every package of the one-machine environment, resolved by `make lock`. Do not edit.\n"
MARKERS = {"triton": "; sys_platform == 'linux'"}  # no wheels for other systems


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        subprocess.run([*command, "--report", str(report), f"{ROOT}[all]"], check=True)
        found = json.loads(report.read_text())["install"]
    metadata = [item["metadata"] for item in found]
    # A local build tag (torch's "+cpu") is this machine's: the same pin is the CUDA build on a GPU machine.
    pins = {one["name"].lower().replace("_", "-"): one["version"].split("+")[0] for one in metadata}
    pins.pop("longreel")
    lines = (f"{name}=={pins[name]}{MARKERS.get(name, '')}\n" for name in sorted(pins))
    (ROOT / "requirements.lock").write_text(HEADER + "".join(lines))


if __name__ == "__main__":
    main()
