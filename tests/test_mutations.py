"""`python -m tests.test_mutations --number 5000 --seed 1`: stored files with random edits; a short version is a test.

An edited manifest or erasure request is refused in words, or it reads as before. Configurations and policies, which
people edit, may read as another value. So may a report or a decision whose edit fits its type: a promotion compares the
text of the recorded reports with the version's tags, and computes the decision again.
"""

import argparse
import json
import math
import random
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from longreel.contracts.config import parse_config
from longreel.contracts.decision import Decision, GateResult
from longreel.contracts.errors import LongreelError
from longreel.contracts.policy import parse_policy
from longreel.contracts.presets import preset
from longreel.contracts.report import EvaluationReport
from longreel.lake.erasure import erasure_requests, new_request, request_path, write_request
from longreel.lake.manifest import DataFile, Manifest
from longreel.lake.storage import Storage
from tests.components.reports import make_report

VALUES = (None, True, 0, -1, 10**30, 1e308, math.nan, math.inf, "", "x", "../x", [], {}, [[1]])
Read = Callable[[bytes], Any]


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container of nested values with each of its keys."""
    if not isinstance(value, dict | list):
        return []
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    return [(value, key) for key in keys] + [place for key in keys for place in places(value[key])]


def mutated(content: bytes, draw: random.Random) -> bytes:
    """The content with one edit."""
    place = draw.randrange(len(content))
    kind = draw.randrange(7)
    if kind >= 3 and content.startswith(b"{"):
        values = json.loads(content)
        container, key = draw.choice(places(values))
        if kind == 3:
            del container[key]
        elif kind == 4 and isinstance(container, dict):
            container["more"] = draw.choice(VALUES)
        else:
            container[key] = draw.choice((*VALUES, container[key], draw.choice(places(values))[1]))
        return json.dumps(values).encode()
    if kind == 0:
        return content[:place]
    if kind == 1:
        return content[:place] + draw.choice((b"\xff", b"[" * 5_000, b"nan", b"inf", b"-", b"0", b"")) + content[place:]
    return content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]


def kinds(folder: Path) -> dict[str, tuple[bytes, Read, Callable[[Any], Any] | None]]:
    """Content, reader, and what tells an edit by kind of file; None where people edit it."""
    storage, path = Storage(folder), folder / "file.json"
    gate = GateResult(name="champion", verdict="pass", reason="It is better.")
    digests = dict.fromkeys(("candidate_digest", "data_digest", "policy_digest", "candidate_report"), "d1")
    decision = Decision(
        outcome="promote", gates=(gate,), date="2026-01-03", champion_digest=None, policy_version="1",
        evaluation_days=1, champion_report=None, **digests,
    )  # fmt: skip
    file = DataFile(path="build-20260101T000000-0123abcd/part-0.parquet", rows=2, size_bytes=9)
    manifest = Manifest(dataset="events", date="2026-01-01", digest="d", rows=2, files=(file,))
    request = new_request(["a", "b"])
    write_request(storage, request)
    stored = Path(request_path(storage, request.name))

    def of_file(read: Callable[[Path], Any]) -> Read:
        return lambda content: (path.write_bytes(content), read(path))[1]

    def erased(content: bytes) -> Any:
        stored.write_bytes(content)
        return erasure_requests(storage)

    def text(parse: Callable[[str], Any]) -> Read:
        return lambda content: parse(content.decode(errors="replace"))

    return {
        "manifest": (manifest.to_json().encode(), text(Manifest.from_json), lambda value: value),
        "erasure request": (stored.read_bytes(), erased, lambda value: value),
        "report": (make_report().to_json().encode(), of_file(EvaluationReport.read), lambda value: value.digest()),
        "decision": (decision.to_json().encode(), of_file(Decision.read), lambda value: value.digest()),
        "configuration": (preset("simulated").encode(), text(parse_config), None),
        "policy": (preset("gates").encode(), text(parse_policy), None),
    }


def run(number: int, seed: int, folder: Path) -> Counter[str]:
    """Counts by kind and outcome; any error but a LongreelError ends it."""
    counts: Counter[str] = Counter()
    draw, every = random.Random(seed), kinds(folder)
    for count in range(number):
        name = list(every)[count % len(every)]
        content, read, told_by = every[name]
        changed = draw.choice(list(every.values()))[0] if draw.random() < 0.03 else mutated(content, draw)
        try:
            value = read(changed)
        except LongreelError:
            counts[f"{name}: refused"] += 1
            continue
        except Exception as error:
            raise AssertionError(f"seed {seed}, {name} {count}: {changed[:2_000]!r}") from error
        original = read(content)
        if value == original:
            counts[f"{name}: as before"] += 1
        else:
            counts[f"{name}: another value"] += 1
            assert told_by is None or name in ("report", "decision"), (seed, name, count, changed)
            if told_by is not None and told_by(value) == told_by(original):
                counts[f"{name}: another value of the same digest"] += 1
    return counts


def test_no_edit_is_a_crash_or_is_believed(tmp_path: Path) -> None:
    counts = run(300, 1, tmp_path)
    assert counts["manifest: refused"] > 20
    assert counts["erasure request: refused"] > 20


@pytest.mark.parametrize("text", ["[" * 100_000, '{"date": 1, "date": 2}', '{"date": 3}', "[]"])
def test_a_report_of_another_shape_is_refused(text: str) -> None:
    with pytest.raises(LongreelError, match="not an evaluation report"):
        EvaluationReport.from_json(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.test_mutations", description=__doc__)
    parser.add_argument("--number", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        print(*sorted(run(arguments.number, arguments.seed, Path(work)).items()), sep="\n")
