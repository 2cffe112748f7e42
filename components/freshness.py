"""Is a new samples partition worth a training run? A pure function of what is published and what was trained."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date

from longreel.contracts.config import RetrainPolicy
from longreel.contracts.errors import LongreelError


@dataclass(frozen=True, kw_only=True)
class Due:
    """The policy's answer, with a full sentence why."""

    is_due: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class Known:
    """What the policy looks at.

    published: every day with samples. last_judged: the newest day on which a decided candidate was judged; None before
    the first. watermark: the newest day that the champion was trained on; None without a champion. warned: the days of
    which a checkpoint warned. today: by the clock of the log's days.
    """

    published: frozenset[date]
    today: date
    last_judged: date | None = None
    watermark: date | None = None
    warned: frozenset[date] = field(default_factory=frozenset)


def due(day: date, known: Known, policy: RetrainPolicy) -> Due:
    """Does the policy ask for a candidate judged on `day`, the partition that has just been published?"""
    against = next(_against(day, known, policy), None)
    if against is not None:
        return Due(is_due=False, reason=against)
    if known.last_judged is None:
        before = sum(1 for other in known.published if other < day)
        return Due(is_due=True, reason=f"No candidate was ever judged, and {before} days lie before {day}.")
    new = sum(1 for other in known.published if known.last_judged < other <= day)
    counted = f"{new} new published day{'s' * (new != 1)} since {known.last_judged}; the policy wants"
    if new >= policy.every_new_days:
        return Due(is_due=True, reason=f"{counted} {policy.every_new_days}.")
    for sooner in (_old_champion, _warned):
        if reason := sooner(day, known, policy):
            return Due(is_due=True, reason=reason)
    return Due(is_due=False, reason=f"{counted} {policy.every_new_days}.")


def require_young(day: date, today: date, policy: RetrainPolicy) -> None:
    """Raises LongreelError where a day is too old to train for."""
    if said := _too_old(day, today, policy):
        raise LongreelError(
            f"{said} Publish newer days (`longreel ops status` says what is missing), or train on old data knowingly: "
            f"longreel ops retrain --date {day} --force"
        )


def _against(day: date, known: Known, policy: RetrainPolicy) -> Iterator[str]:
    """Why nothing is to be trained for a day, whatever else holds."""
    if day not in known.published:
        yield f"The samples of {day} are not published."
    before = sum(1 for other in known.published if other < day)
    if before < policy.min_train_days:
        yield f"{before} published days lie before {day}; the policy wants {policy.min_train_days} to train on."
    if known.last_judged is not None and day <= known.last_judged:
        yield f"{day} is no newer than {known.last_judged}, the last judged day (a rebuild or a backfill)."
    if said := _too_old(day, known.today, policy):
        yield said
    newest = max(known.published, default=day)
    if day < newest and not policy.replay:
        yield f"Newer days than {day} are published; only the newest, {newest}, is trained for."


def _too_old(day: date, today: date, policy: RetrainPolicy) -> str:
    age = (today - day).days
    if not policy.max_data_age_days or age <= policy.max_data_age_days:
        return ""
    return f"{day} lies {age} days back; [retrain] max_data_age_days allows {policy.max_data_age_days}."


def _old_champion(day: date, known: Known, policy: RetrainPolicy) -> str:
    if known.watermark is None or not policy.max_champion_age_days:
        return ""
    age = (day - known.watermark).days
    if age <= policy.max_champion_age_days:
        return ""
    through = f"The champion was trained through {known.watermark}, {age} days before {day}"
    return f"{through}; the policy allows {policy.max_champion_age_days}."


def _warned(day: date, known: Known, policy: RetrainPolicy) -> str:
    """A candidate judged on a day was trained on those before it. A warned day is no good day to be judged on, so it
    counts from the next day on, which trains on it."""
    if not policy.on_warning or known.last_judged is None:
        return ""
    days = sorted(other for other in known.warned if known.last_judged <= other < day)
    return f"The quality checkpoints warned of {days[0]}, which no candidate was trained on yet." if days else ""
