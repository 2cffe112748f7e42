"""A smaller day with the same fault."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from tests.fuzz_days.days import Day
from tests.fuzz_days.ingest import Verdict


def smallest(day: Day, verdict: Verdict, evaluate: Callable[[Day], Verdict], trials: int) -> tuple[Day, Verdict]:
    """Leave out files, rows, columns, spellings and options one after another, as long as the fault stays."""
    has_changed = True
    while has_changed and trials > 0:
        has_changed = False
        for smaller in _smaller(day):
            trials -= 1
            other = evaluate(smaller)
            if other.sort == verdict.sort:
                day, verdict, has_changed = smaller, other, True
            if has_changed or trials <= 0:
                break
    return day, verdict


def _smaller(day: Day) -> Iterator[Day]:
    """Days with one thing less."""
    files = day.files
    for at in range(len(files)):
        if len(files) > 1:
            yield replace(day, files=files[:at] + files[at + 1 :])
    for at, file in enumerate(files):
        smaller = [replace(file, unread={})] if file.unread else []
        smaller += [replace(file, header={})] if file.header else []
        smaller += [replace(file, options={})] if file.options else []
        smaller += [replace(file, kinds={})] if file.kinds else []
        smaller += [replace(file, lines=())] if file.lines else []
        half = len(file.rows) // 2
        smaller += [replace(file, rows=file.rows[:half]), replace(file, rows=file.rows[half:])] if half else []
        smaller += [replace(file, rows=file.rows[:n] + file.rows[n + 1 :]) for n in range(len(file.rows))][:4]
        smaller += [replace(file, unread=_without(file.unread, name)) for name in file.unread]
        smaller += [replace(file, kinds=_without(file.kinds, name)) for name in file.kinds]
        smaller += [replace(file, options=_without(file.options, name)) for name in file.options]
        smaller += [replace(file, damage="")] if file.damage else []
        yield from (replace(day, files=(*files[:at], one, *files[at + 1 :])) for one in smaller)
    for name in ("tags", "vector", "price", "surface", "country", "request"):
        if name in day.settings.names:
            yield replace(day, settings=replace(day.settings, names=_without(day.settings.names, name)))


def _without(values: dict[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in values.items() if key != name}
