"""Audit of requirements.lock: the published vulnerabilities of its versions, from the OSV database (`make audit`).

Exit code 1 if there are any. Where the database cannot be reached, it says so and ends with 0: nothing was checked.
LONGREEL_OSV_URL names another server of OSV's interface.
"""

import json
import os
import sys
import urllib.request

from sbom import components

URL = "https://api.osv.dev"
BATCH = 500
TIMEOUT_S = 20


def vulnerabilities(packages: list[str]) -> dict[str, list[str]]:
    """Identifiers of published vulnerabilities, by package URL; packages without any are left out.

    Raises:
        OSError, ValueError: the database does not answer, or not as agreed.
    """
    result: dict[str, list[str]] = {}
    for start in range(0, len(packages), BATCH):
        batch = packages[start : start + BATCH]
        body = json.dumps({"queries": [{"package": {"purl": purl}} for purl in batch]}).encode()
        url = os.environ.get("LONGREEL_OSV_URL", URL) + "/v1/querybatch"
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            results = json.load(answer)["results"]
        if len(results) != len(batch):
            raise ValueError(f"{len(results)} answers to {len(batch)} questions")
        for purl, one in zip(batch, results, strict=True):
            if names := [vulnerability["id"] for vulnerability in one.get("vulns", ())]:
                result[purl] = names
    return result


def main() -> int:
    packages = [component["purl"] for component in components()]
    try:
        result = vulnerabilities(packages)
    except (OSError, ValueError, KeyError) as error:
        print(f"audit: NOT CHECKED: the vulnerability database did not answer ({error}); {len(packages)} packages")
        return 0
    for purl, names in result.items():
        print(f"audit: {purl.removeprefix('pkg:pypi/')}: {', '.join(names)}")
    print(f"audit: {len(packages)} packages checked, {len(result)} with published vulnerabilities")
    return 1 if result else 0


if __name__ == "__main__":
    sys.exit(main())
