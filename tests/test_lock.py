"""The lock: complete, with hashes, current; its audit and its bill of materials."""

import http.server
import json
import os
import re
import subprocess
import sys
import threading
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
LINES = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
PIN, HASHES = r"(?P<name>[a-z0-9.-]+)==(?P<version>\S+)(?: ; \S+ == '\w+')?", r"(?: --hash=sha256:[0-9a-f]{64})+"
LINE = re.compile(rf"{PIN}{HASHES} # (?P<groups>.+)")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def test_every_line_has_a_version_hashes_and_groups() -> None:
    names = [LINE.fullmatch(line)["name"] for line in LINES]  # type: ignore[index]
    assert names == sorted(set(names))


@pytest.mark.parametrize("group", ["all", "spark", "pipeline", "airflow", "server"])
def test_a_group_s_requirements_are_locked(group: str) -> None:
    """A change of pyproject.toml without `make lock` fails here."""
    locked = {m["name"]: m["version"] for m in map(LINE.fullmatch, LINES) if m and group in m["groups"].split()}
    for requirement in required(group):
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), requirement


def required(group: str) -> list[Requirement]:
    """A group's requirements, those of the groups that it names included."""
    requirements = []
    for requirement in map(Requirement, [*EXTRAS[group], *PROJECT["dependencies"]]):
        if requirement.name == PROJECT["name"]:
            requirements += [one for extra in sorted(requirement.extras) for one in required(extra)]
        else:
            requirements.append(requirement)
    return requirements


def test_a_package_without_its_hash_or_outside_the_lock_is_not_installed(tmp_path: Path) -> None:
    """pip itself refuses, before it downloads anything that it would keep."""
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci/install.py").write_text((ROOT / ".ci/install.py").read_text())
    line = next(line for line in LINES if line.startswith("six=="))
    changed = re.sub(r"sha256:[0-9a-f]{64}", "sha256:" + "0" * 64, line)
    (tmp_path / "requirements.lock").write_text(changed.partition(" # ")[0] + " # all\n")
    wheel = tmp_path / "six-1.17.0-py2.py3-none-any.whl"
    wheel.write_bytes(b"another file under the name of the locked one")
    environment = os.environ | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_TARGET": str(tmp_path / "t")}
    command = [sys.executable, str(tmp_path / ".ci/install.py"), "all"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert "DO NOT MATCH THE HASHES" in done.stderr or "hash" in done.stderr.lower()
    unknown = subprocess.run([*command[:2], "nothing"], check=False, capture_output=True, text=True)
    assert (unknown.returncode, "expected groups of requirements.lock" in unknown.stderr) == (1, True)


def test_the_bill_of_materials_has_every_package_and_is_deterministic(tmp_path: Path) -> None:
    texts = []
    for name in ("a.json", "b.json"):
        subprocess.run([sys.executable, ROOT / ".ci/sbom.py", tmp_path / name], check=True, capture_output=True)
        texts.append((tmp_path / name).read_text())
    assert texts[0] == texts[1]
    bill = json.loads(texts[0])
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert [f"{c['name']}=={c['version']}" for c in bill["components"]] == [re.split(r" ", line)[0] for line in LINES]
    assert all(c["hashes"] and c["purl"] == c["bom-ref"] for c in bill["components"])


def audit(url: str) -> tuple[int, str]:
    environment = os.environ | {"LONGREEL_OSV_URL": url}
    command = [sys.executable, str(ROOT / ".ci/audit.py")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert not done.stderr
    return done.returncode, done.stdout


def test_the_audit_names_what_is_vulnerable_and_says_when_it_could_not_ask() -> None:
    vulnerable, query_counts = {"pkg:pypi/six@"}, []

    class Database(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            queries = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
            query_counts.append(len(queries))
            answers: list[dict[str, Any]] = [
                {"vulns": [{"id": "GHSA-1"}]} if any(q["package"]["purl"].startswith(v) for v in vulnerable) else {}
                for q in queries
            ]
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"results": answers}).encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Database) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        code, text = audit(url)
        assert code == 1
        assert re.search(r"audit: six@\S+: GHSA-1", text)
        vulnerable.clear()
        code, text = audit(url)
        assert (code, f"{len(LINES)} packages checked, 0 with" in text) == (0, True)
        server.shutdown()
    assert query_counts == [len(LINES)] * 2
    code, text = audit("http://127.0.0.1:1")
    assert (code, "NOT CHECKED" in text) == (0, True)
