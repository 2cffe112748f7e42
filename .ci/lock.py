"""Writer of requirements.lock: every package of every runtime, and the hashes of its files.

A line is `name==version --hash=sha256:... # groups`: the hashes of all its files for Python 3.11, whatever the machine,
and the groups of pyproject.toml that install it. `make setup` installs the lines of `all`, an image those of its group
(install.py). `cuda` is no group of pyproject.toml but what torch's CUDA build needs, where pip takes that one.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from pip._internal.commands.install import InstallCommand  # pip prints the hash of this machine's file alone
from pip._internal.index.collector import parse_links
from pip._vendor.packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from pip._vendor.packaging.version import InvalidVersion, Version

ROOT = Path(__file__).resolve().parents[1]
HEADER = "# Every package, its files' hashes and the groups that install it, resolved by `make lock`. Do not edit.\n"
GROUPS = ("all", "spark", "pipeline", "airflow", "server")
MARKERS = {"triton": " ; sys_platform == 'linux'"}  # no wheels for other systems
PYTHONS = ("cp311", "py3", "py311")


def resolve(requirement: str, pins: dict[str, str]) -> dict[str, str]:
    """Names and versions of the packages that a requirement installs; those in `pins` keep their version."""
    with tempfile.TemporaryDirectory() as folder:
        report, constraints = Path(folder) / "report.json", Path(folder) / "pins.txt"
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in pins.items()))
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--constraint", str(constraints), "--report", str(report), requirement]
        subprocess.run(command, check=True)
        packages = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    # A local build tag (torch's "+cpu") is this machine's: the same pin is the CUDA build on a GPU machine.
    versions = {canonicalize_name(one["name"]): one["version"].split("+")[0] for one in packages}
    versions.pop("longreel", None)
    return versions


def files(name: str) -> Iterator[tuple[str, str, bool]]:
    """Version, SHA-256 and whether it is a wheel, of a package's files for this Python, wherever pip is set to look."""
    command = InstallCommand("install", "")
    options, _ = command.parse_args(["--quiet"])
    with command.main_context():
        finder = command._build_package_finder(options, command.get_default_session(options))
        collector = finder._link_collector

        def links_of(page):  # type: ignore[no-untyped-def]
            response = collector.fetch_response(page)
            return parse_links(response) if response else ()

        places = collector.collect_sources(name, links_of)
        for place in (*places.find_links, *places.index_urls):
            for link in (*place.page_candidates(), *place.file_links()) if place else ():
                if version := version_for_python(link.filename, name):
                    digest = link._hashes.get("sha256") or hashlib.sha256(Path(link.file_path).read_bytes()).hexdigest()
                    yield version, digest, link.is_wheel


def version_for_python(filename: str, name: str) -> str | None:
    """The version in the name of a package's file; None for another package's and for another Python's."""
    try:
        if filename.endswith(".whl"):
            package, version, _, tags = parse_wheel_filename(filename)
            fits = any(tag.interpreter in PYTHONS or tag.abi == "abi3" for tag in tags)
        else:
            (package, version), fits = parse_sdist_filename(filename), True
    except (InvalidWheelFilename, InvalidSdistFilename, InvalidVersion):
        return None
    return str(version).split("+")[0] if fits and package == name else None


def main() -> None:
    pins: dict[str, str] = {}
    groups = defaultdict(list)
    for group in (*GROUPS, "cuda"):
        # Three equal signs leave out builds with a local tag, which are those for CPUs.
        versions = resolve(f"torch==={pins['torch']}" if group == "cuda" else f"{ROOT}[{group}]", pins)
        pins |= versions
        for name in versions:
            groups[name].append(group)
    lines = [HEADER]
    for name, version in sorted(pins.items()):
        own = [(digest, is_wheel) for other, digest, is_wheel in files(name) if other == str(Version(version))]
        # A build from source runs code of more packages: only where there is no wheel.
        hashes = sorted({digest for digest, is_wheel in own if is_wheel} or {digest for digest, _ in own})
        pin = f"{name}=={version}{MARKERS.get(name, '')}"
        lines.append(" ".join([pin, *(f"--hash=sha256:{digest}" for digest in hashes), "#", *groups[name]]) + "\n")
    (ROOT / "requirements.lock").write_text("".join(lines))


if __name__ == "__main__":
    main()
