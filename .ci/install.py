"""Installer of a group of requirements.lock into the environment of this Python; each file's hash is checked.

    python .ci/install.py all                      # what `make setup` does
    python .ci/install.py spark pipeline airflow   # several groups, as an image does

Nothing but the lock decides what is installed: without dependencies, and building from source without downloads.
"""

import subprocess
import sys
import tempfile
from importlib.metadata import distributions
from pathlib import Path

LOCK = Path(__file__).resolve().parents[1] / "requirements.lock"


def lines_of(groups: set[str]) -> list[str]:
    """The lines of packages that one of the groups installs."""
    lines = [line for line in LOCK.read_text().splitlines() if not line.startswith("#")]
    return [line for line in lines if groups & set(line.partition("#")[2].split())]


def pip(command: str, *options: str) -> None:
    """Run pip; its own error ends this program."""
    words = [sys.executable, "-m", "pip", command, "--quiet", "--disable-pip-version-check", "--no-deps", *options]
    if code := subprocess.run(words, check=False).returncode:
        sys.exit(code)


def install(lines: list[str], *options: str) -> None:
    """Install lines of the lock."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(lines))
        file.flush()
        pip("install", "--require-hashes", "--no-build-isolation", *options, "-r", file.name)


def install_torch(line: str) -> bool:
    """Install the build of torch that pip takes on this machine; whether that is one for CUDA.

    Among files with hashes pip prefers those whose hash the index tells, which a CPU's build in a folder lacks: so pip
    first chooses without hashes, and the file it chose is then checked.
    """
    with tempfile.TemporaryDirectory() as folder:
        pip("download", "--dest", folder, line.split(maxsplit=1)[0])
        install([line], "--no-index", "--find-links", folder)
    (torch,) = [one for one in distributions() if one.name == "torch"]
    return any(requirement.startswith(("nvidia-", "cuda-")) for requirement in torch.requires or ())


def main() -> None:
    groups = set(sys.argv[1:])
    lines = lines_of(groups)
    if not lines:
        sys.exit(f"error: expected groups of requirements.lock, such as `all` or `spark`, got {sorted(groups)}")
    install([line for line in lines if line.startswith("setuptools==")])  # builds the packages that have no wheel
    torch = [line for line in lines if line.startswith("torch==")]
    if torch and install_torch(torch[0]):
        lines += [line for line in lines_of({"cuda"}) if line not in lines]
    install([line for line in lines if line not in torch])


if __name__ == "__main__":
    main()
