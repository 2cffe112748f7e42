"""Which slow tests fit? All, or those that begin in the first $LONGREEL_SLOW_MINUTES of a run; others are skipped."""

import os
import time

import pytest

BEGAN = time.monotonic()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Begin no slow test after the time that was given."""
    minutes = os.environ.get("LONGREEL_SLOW_MINUTES")
    if minutes is not None and item.get_closest_marker("slow") and time.monotonic() - BEGAN > 60 * float(minutes):
        pytest.skip(f"slow, and the {minutes} minutes of LONGREEL_SLOW_MINUTES are over")
