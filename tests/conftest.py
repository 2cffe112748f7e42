"""Shared fixtures, the time limit of slow tests, and the closing list of tests that did not run, with the reasons.

LONGREEL_SLOW_MINUTES  slow tests that would begin after so many minutes are skipped; unset: all run
"""

import os
import time
from collections import Counter, defaultdict

import pytest

from tests.airflow_process import airflow_process

__all__ = ["airflow_process"]
BEGAN = time.monotonic()
DESELECTED = pytest.StashKey[Counter[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Prepare the counts of tests that -m or -k left out."""
    config.stash[DESELECTED] = Counter()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a slow test that would begin after the time limit."""
    minutes = os.environ.get("LONGREEL_SLOW_MINUTES")
    if minutes is not None and item.get_closest_marker("slow") and time.monotonic() - BEGAN > 60 * float(minutes):
        pytest.skip(f"slow, and the {minutes} minutes of LONGREEL_SLOW_MINUTES are over")


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Count the tests that -m or -k left out, by file."""
    for item in items:
        item.config.stash[DESELECTED][item.location[0]] += 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In a process of pytest-xdist: hand the counts to the main process."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["deselected"] = dict(session.config.stash[DESELECTED])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object) -> None:
    """In the main process of pytest-xdist: take a process's counts; each has collected the same tests."""
    counts = getattr(node, "workeroutput", {}).get("deselected", {})
    node.config.stash[DESELECTED] |= Counter(counts)  # type: ignore[attr-defined]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print every test that did not run, by reason."""
    tests = defaultdict(list)
    for report in terminalreporter.stats.get("skipped", ()):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        tests[reason.removeprefix("Skipped: ")].append(report.nodeid)
    left_out = config.stash[DESELECTED]
    if not tests and not left_out:
        return
    terminalreporter.section("tests that did not run, and why")
    for reason, names in sorted(tests.items()):
        terminalreporter.write_line(f"{reason} ({len(names)}):")
        for name in sorted(names):
            terminalreporter.write_line(f"  {name}")
    if left_out:
        options = [
            f"-{name} {value!r}"
            for name in ("m", "k")
            if (value := getattr(config.option, {"m": "markexpr", "k": "keyword"}[name]))
        ]
        terminalreporter.write_line(f"left out by {' and '.join(options) or 'the command line'} ({left_out.total()}):")
        for name, number in sorted(left_out.items()):
            terminalreporter.write_line(f"  {name} ({number})")
