"""Prefetching iterator: a bounded queue filled by one background thread."""

import queue
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")

_POLL_S = 0.1  # how soon the thread notices that the reading has ended


@dataclass(frozen=True)
class _Item(Generic[T]):
    value: T


@dataclass(frozen=True)
class _End:
    """The source has ended, or has failed with an error."""

    error: BaseException | None = None


class Prefetcher(Generic[T]):
    """Iterates over `source` in a background thread, at most `depth` items ahead. Errors arrive where they are read.

    Use it as a context manager, so that the thread ends with the reading.
    """

    def __init__(self, source: Iterable[T], depth: int = 4) -> None:
        self._queue: queue.Queue[_Item[T] | _End] = queue.Queue(depth)
        self._stopped = threading.Event()
        self.last_wait_s = 0.0  # seconds that the reader waited for the newest item
        self._thread = threading.Thread(target=self._fill, args=(source,), name="prefetch", daemon=True)
        self._thread.start()

    def _fill(self, source: Iterable[T]) -> None:
        try:
            for item in source:
                if not self._put(_Item(item)):
                    return
            self._put(_End())
        except BaseException as error:  # handed to the reader, whatever it is
            self._put(_End(error))

    def _put(self, entry: _Item[T] | _End) -> bool:
        while not self._stopped.is_set():
            try:
                self._queue.put(entry, timeout=_POLL_S)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> Iterator[T]:
        while True:
            began = time.monotonic()
            entry = self._queue.get()
            self.last_wait_s = time.monotonic() - began
            if isinstance(entry, _Item):
                yield entry.value
            elif entry.error is None:
                return
            else:
                raise entry.error

    def __enter__(self) -> "Prefetcher[T]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()
