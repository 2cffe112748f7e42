"""What does a running training say? A bar on a terminal, a plain line every few seconds elsewhere."""

import sys
import time
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LINE_EVERY_S = 5.0
RECENT = 50  # steps


@dataclass(frozen=True, kw_only=True)
class StepStats:
    """One optimiser step of all ranks together. Rates are over the last RECENT steps of this process."""

    step: int
    total_steps: int
    loss: float
    gradient_norm: float  # before clipping
    lr: float
    targets_per_s: float
    tokens_per_s: float  # history events plus targets
    mean_window: float  # history events per request in this batch
    data_wait_share: (
        float  # of the time, spent waiting for the next batch; on CUDA at most that, as the host runs ahead
    )
    flop_utilisation: float | None  # model FLOPs over the devices' peak; None where the peak is unknown
    peak_memory_mib: float  # of this rank


class Rates(NamedTuple):
    """What Meter measures; as in StepStats."""

    targets_per_s: float
    tokens_per_s: float
    flop_utilisation: float | None
    data_wait_share: float


class Meter:
    """Turns what steps did into rates."""

    def __init__(self, peak: float | None) -> None:
        self._peak = peak  # FLOP/s of all ranks' devices
        self._total = [0.0, 0.0, 0.0, 0.0]
        self._marks: deque[tuple[float, list[float]]] = deque([(time.monotonic(), [0.0] * 4)], maxlen=RECENT + 1)

    def add(self, *, targets: int, tokens: int, flops: float, waited_s: float) -> None:
        """Take a step that has just been given to the device."""
        self._total = [a + b for a, b in zip(self._total, (targets, tokens, flops, waited_s), strict=True)]
        self._marks.append((time.monotonic(), self._total))

    def rates(self) -> Rates:
        """Over the last RECENT steps."""
        (began, before), (now, total) = self._marks[0], self._marks[-1]
        targets, tokens, flops, waited = ((b - a) / max(now - began, 1e-9) for a, b in zip(before, total, strict=True))
        return Rates(targets, tokens, None if self._peak is None else flops / self._peak, min(1.0, waited))


def describe(stats: StepStats) -> str:
    """One line about a step."""
    used = "" if stats.flop_utilisation is None else f"  MFU {stats.flop_utilisation:.1%}"
    return (
        f"loss {stats.loss:.4f}  {stats.targets_per_s:,.0f} targets/s  {stats.tokens_per_s:,.0f} tokens/s{used}  "
        f"window {stats.mean_window:,.0f}  waiting for data {stats.data_wait_share:.1%}"
    )


class ProgressPrinter:
    """Shows steps on stderr; use as a context manager."""

    def __init__(self, label: str, silent: bool = False) -> None:
        self._label, self._silent = label, silent
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._last_line = 0.0

    def __enter__(self) -> "ProgressPrinter":
        if sys.stderr.isatty() and not self._silent:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

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
        if self._silent:
            return
        if self._bar is not None:
            if self._task is None:
                self._task = self._bar.add_task(self._label, total=stats.total_steps, said="")
            self._bar.update(self._task, completed=stats.step, said=describe(stats))
            return
        now = time.monotonic()
        if stats.step == stats.total_steps or now - self._last_line >= LINE_EVERY_S:
            self._last_line = now
            print(f"{self._label} {stats.step}/{stats.total_steps}  {describe(stats)}", file=sys.stderr, flush=True)
