"""Writer of the bill of materials: requirements.lock as CycloneDX 1.6 JSON (`make sbom`)."""

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LINE = re.compile(r"^(\S+)==(\S+)(.*) # (.+)$", re.MULTILINE)


def components() -> list[dict[str, Any]]:
    """A component for each package: name, version, package URL, the hashes of its files, the groups that install it."""
    parts = []
    for name, version, rest, groups in LINE.findall((ROOT / "requirements.lock").read_text()):
        purl = f"pkg:pypi/{name}@{version}"
        hashes = [{"alg": "SHA-256", "content": digest} for digest in re.findall(r"sha256:([0-9a-f]{64})", rest)]
        groups_of = [{"name": "longreel:group", "value": group} for group in groups.split()]
        part = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
        parts.append(part | {"hashes": hashes, "properties": groups_of})
    return parts


def bill() -> dict[str, Any]:
    """The document. It holds no time and no random number: the same lock gives the same bytes."""
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    product = {
        "type": "application",
        "bom-ref": "longreel",
        "name": "longreel",
        "version": version[1] if version else "",
    }
    head = {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "metadata": {"component": product}}
    return head | {"components": components()}


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(bill(), indent=1) + "\n")
    print(f"wrote {sys.argv[1]}: {len(components())} packages")
