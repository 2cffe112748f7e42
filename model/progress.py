"""What does a running training say? A bar on a terminal, a plain line every few seconds elsewhere."""

import sys
import time
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

LINE_EVERY_S = 5.0


@dataclass(frozen=True, kw_only=True)
class StepStats:
    """One optimiser step. Rates are since this process began training."""

    step: int
    total_steps: int
    loss: float
    lr: float
    targets_per_s: float
    tokens_per_s: float  # history events plus targets
    mean_window: float  # history events per request in this batch
    data_wait_share: float  # of the time, spent waiting for the next batch


def describe(stats: StepStats) -> str:
    """One line about a step."""
    return (
        f"loss {stats.loss:.4f}  {stats.targets_per_s:,.0f} targets/s  {stats.tokens_per_s:,.0f} tokens/s  "
        f"window {stats.mean_window:,.0f}  waiting for data {stats.data_wait_share:.0%}"
    )


class ProgressPrinter:
    """Shows steps on stderr; use as a context manager."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._last_line = 0.0

    def __enter__(self) -> "ProgressPrinter":
        if sys.stderr.isatty():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[said]}"),
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
        """Report a step; cheap enough for every step."""
        if self._bar is not None:
            if self._task is None:
                self._task = self._bar.add_task(self._label, total=stats.total_steps, said="")
            self._bar.update(self._task, completed=stats.step, said=describe(stats))
            return
        now = time.monotonic()
        if stats.step == stats.total_steps or now - self._last_line >= LINE_EVERY_S:
            self._last_line = now
            print(f"{self._label} {stats.step}/{stats.total_steps}  {describe(stats)}", file=sys.stderr, flush=True)
