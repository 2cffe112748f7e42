"""Progress of a running training: a bar on a terminal, a plain line every few seconds elsewhere."""

import sys
import time
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from longreel.contracts.durations import time_left

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LINE_EVERY_S = 5.0


@dataclass(frozen=True, kw_only=True)
class StepStats:
    """One optimiser step of all ranks together; rates as in throughput.py."""

    step: int
    total_steps: int
    loss: float
    gradient_norm: float  # before clipping
    lr: float
    targets_per_s: float
    tokens_per_s: float
    mean_window: float  # history events per request in this batch
    data_wait_share: float
    flop_utilisation: float | None
    peak_memory_mib: float  # of this rank


def describe(stats: StepStats) -> str:
    """One line about a step."""
    utilisation = "" if stats.flop_utilisation is None else f"  MFU {stats.flop_utilisation:.1%}"
    return (
        f"loss {stats.loss:.4f}  {stats.targets_per_s:,.0f} targets/s  {stats.tokens_per_s:,.0f} tokens/s{utilisation}"
        f"  window {stats.mean_window:,.0f}  data wait {stats.data_wait_share:.1%}"
    )


class ProgressPrinter:
    """Shows steps on stderr; use as a context manager."""

    def __init__(self, label: str, silent: bool = False) -> None:
        self._label, self._silent = label, silent
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._last_line = 0.0
        self._first: tuple[int, float] | None = None  # step, and when it was shown

    def __enter__(self) -> "ProgressPrinter":
        if sys.stderr.isatty() and not self._silent:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[line]}"),
            )
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, stats: StepStats) -> None:
        """Show a step; cheap enough for every step."""
        if self._silent:
            return
        if self._bar is not None:
            if self._task is None:
                self._task = self._bar.add_task(self._label, total=stats.total_steps, line="")
            self._bar.update(self._task, completed=stats.step, line=describe(stats))
            return
        now = time.monotonic()
        first_step, began = self._first = self._first or (stats.step, now)
        if stats.step == stats.total_steps or now - self._last_line >= LINE_EVERY_S:
            self._last_line = now
            share = (stats.step - first_step) / max(1, stats.total_steps - first_step)
            parts = [f"{self._label} {stats.step}/{stats.total_steps}", time_left(now - began, share), describe(stats)]
            print("  ".join(filter(None, parts)), file=sys.stderr, flush=True)
