"""Interruptions of a training: SIGTERM, and when a checkpoint is due so that one loses little.

A step may be one long call into C++, during which Python runs no signal handler. So a thread watches for the signal. A
step in progress has STOP_WITHIN_S to end and to be saved; then the process ends, and the next one continues from the
last checkpoint. Where steps take longer than that, each is saved: a stop loses at most the step in progress.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)

TERMINATED = 143  # exit status, 128 + SIGTERM: the training is saved, run it again to continue
STOP_WITHIN_S = 15.0  # of SIGTERM; container runtimes and torchrun kill after 30 s
CHECKPOINT_EVERY_S = 300.0


class CheckpointClock:
    """Time since the last checkpoint; with several ranks each has one, and any of them may ask for a checkpoint."""

    def __init__(self) -> None:
        self._saved_at = self._step_began = time.monotonic()

    def begin_step(self) -> None:
        """Mark the beginning of a step, before its batch is read."""
        self._step_began = time.monotonic()

    def is_due(self) -> bool:
        """Whether to save after the step in progress, since another one like it would end too late for that."""
        now = time.monotonic()
        step_s = now - self._step_began
        return step_s >= STOP_WITHIN_S or now - self._saved_at + step_s > CHECKPOINT_EVERY_S

    def saved(self) -> None:
        """Mark a checkpoint."""
        self._saved_at = time.monotonic()


@contextmanager
def stop_on_sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets. The process ends with TERMINATED if the block has not ended STOP_WITHIN_S later.

    Outside the main thread, which alone may handle signals, the event stays unset.
    """
    requested, ended = threading.Event(), threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested
        return
    receiver, sender = os.pipe()
    os.set_blocking(sender, False)

    def watch() -> None:
        while number := os.read(receiver, 1):  # empty once `sender` is closed
            if number[0] == signal.SIGTERM:
                requested.set()
                if not ended.wait(STOP_WITHIN_S):
                    log.warning("asked to stop: left the step in progress; run again to continue from the checkpoint")
                    os._exit(TERMINATED)

    watcher = threading.Thread(target=watch, name="sigterm", daemon=True)
    watcher.start()
    before = signal.signal(signal.SIGTERM, lambda *_: None)  # Python writes signals with a handler to the descriptor
    descriptor = signal.set_wakeup_fd(sender, warn_on_full_buffer=False)
    try:
        yield requested
    finally:
        ended.set()
        signal.set_wakeup_fd(descriptor)
        signal.signal(signal.SIGTERM, before)
        os.close(sender)
        watcher.join()
        os.close(receiver)
