"""Writer of requirements.lock: every package of every runtime, and the hashes of its files.

A line is `name==version --hash=sha256:... # groups`: the hashes of all its files for Python 3.11, whatever the machine,
and the groups of pyproject.toml that install it. `make setup` installs the lines of `all`, an image those of its group.
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
from pip._vendor.packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

ROOT = Path(__file__).resolve().parents[1]
HEADER = "# Every package, its files' hashes and the groups that install it, resolved by `make lock`. Do not edit.\n"
GROUPS = ("all", "spark", "pipeline", "airflow", "server")
MARKERS = {"triton": "; sys_platform == 'linux'"}  # no wheels for other systems
PYTHONS = ("cp311", "py3", "py311")


def resolve(group: str, pins: dict[str, str]) -> dict[str, str]:
    """Names and versions of the packages that a group installs; those in `pins` keep their version."""
    with tempfile.TemporaryDirectory() as folder:
        report, constraints = Path(folder) / "report.json", Path(folder) / "pins.txt"
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in pins.items()))
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--constraint", str(constraints), "--report", str(report), f"{ROOT}[{group}]"]
        subprocess.run(command, check=True)
        packages = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    # A local build tag (torch's "+cpu") is this machine's: the same pin is the CUDA build on a GPU machine.
    versions = {canonicalize_name(one["name"]): one["version"].split("+")[0] for one in packages}
    versions.pop("longreel")
    return versions


def wheels(name: str) -> Iterator[tuple[str, str]]:
    """Version and SHA-256 of every wheel of a package for this Python, wherever pip is set up to look."""
    command = InstallCommand("install", "")
    options, _ = command.parse_args([])
    with command.main_context():
        finder = command._build_package_finder(options, command.get_default_session(options))
        collector = finder._link_collector

        def links_of(page):  # type: ignore[no-untyped-def]
            response = collector.fetch_response(page)
            return parse_links(response) if response else ()

        places = collector.collect_sources(name, links_of)
        for place in (*places.find_links, *places.index_urls):
            for link in (*place.page_candidates(), *place.file_links()) if place else ():
                try:
                    found, version, _, tags = parse_wheel_filename(link.filename)
                except InvalidWheelFilename:
                    continue
                if found == name and any(tag.interpreter in PYTHONS or tag.abi == "abi3" for tag in tags):
                    digest = link._hashes.get("sha256") or hashlib.sha256(Path(link.file_path).read_bytes()).hexdigest()
                    yield str(version).split("+")[0], digest


def main() -> None:
    pins: dict[str, str] = {}
    groups = defaultdict(list)
    for group in GROUPS:
        versions = resolve(group, pins)
        pins |= versions
        for name in versions:
            groups[name].append(group)
    lines = [HEADER]
    for name, version in sorted(pins.items()):
        hashes = sorted({digest for other, digest in wheels(name) if other == version})
        if not hashes:
            sys.exit(f"error: {name} {version} has no wheel: a build from source would install what nobody has locked")
        pin = f"{name}=={version}{MARKERS.get(name, '')}"
        lines.append(" ".join([pin, *(f"--hash=sha256:{digest}" for digest in hashes), "#", *groups[name]]) + "\n")
    (ROOT / "requirements.lock").write_text("".join(lines))


if __name__ == "__main__":
    main()
