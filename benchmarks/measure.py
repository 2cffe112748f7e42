"""Cost of a command: seconds, and the greatest memory of all its processes together."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

EVERY_S = 0.1
REST = 20  # pause between two readings of the memory, over a reading's own time: one takes .15 s for 7 GB
MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Wall-clock seconds, and the peak of proportional set sizes summed over the process tree, in MiB."""

    seconds: float
    peak_mib: float
    failed: str | None = None  # the last line of a failing command's output


def run(command: Sequence[str], environment: dict[str, str] | None = None) -> Cost:
    """Run a command to its end; a failure is part of the result."""
    with tempfile.TemporaryFile("w+") as output:
        began, peak = time.monotonic(), 0
        process = psutil.Popen(list(command), stdout=output, stderr=subprocess.STDOUT, env=environment)
        while process.poll() is None:
            reading = time.monotonic()
            peak = max(peak, _memory(process))
            with suppress(psutil.TimeoutExpired):
                process.wait(max(EVERY_S, REST * (time.monotonic() - reading)))
        seconds = time.monotonic() - began
        output.seek(0)
        lines = [line.strip() for line in output if line.strip()]
    failed = (next((line for line in reversed(lines) if "Error" in line), "no output")) if process.returncode else None
    return Cost(seconds=seconds, peak_mib=peak / MIB, failed=failed)


def python(*words: str) -> list[str]:
    """This interpreter running a module."""
    return [sys.executable, "-m", *words]


def _memory(process: psutil.Process) -> int:
    """Bytes of a process and its descendants; memory that they share counts once."""
    total = 0
    try:
        for member in [process, *process.children(recursive=True)]:
            try:
                total += member.memory_full_info().pss
            except psutil.Error:
                continue
    except psutil.Error:
        pass
    return total
