"""Is a new samples partition worth a training run? A pure function of what is published and what was trained."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

from contracts.config import RetrainPolicy


@dataclass(frozen=True, kw_only=True)
class Due:
    """The policy's answer, with a full sentence why."""

    is_due: bool
    reason: str


def due(day: date, samples_days: Iterable[date], last_evaluated: date | None, policy: RetrainPolicy) -> Due:
    """Does the policy ask for a candidate judged on `day`?

    Args:
        day: the partition that has just been published, or is asked about.
        samples_days: every published samples day, in any order.
        last_evaluated: the newest day on which a decided candidate was judged; None before the first.
        policy: how many days to train on at least, and how many new ones are worth a run.
    """
    published = set(samples_days)
    if day not in published:
        return Due(is_due=False, reason=f"The samples of {day} are not published.")
    before = sum(1 for other in published if other < day)
    if before < policy.min_train_days:
        reason = f"{before} published days lie before {day}; the policy wants {policy.min_train_days} to train on."
        return Due(is_due=False, reason=reason)
    if last_evaluated is None:
        return Due(is_due=True, reason=f"No candidate was ever judged, and {before} days lie before {day}.")
    if day <= last_evaluated:
        reason = f"{day} is no newer than {last_evaluated}, the last judged day (a rebuild or a backfill)."
        return Due(is_due=False, reason=reason)
    new = sum(1 for other in published if last_evaluated < other <= day)
    wanted = policy.every_new_days
    reason = f"{new} new published day{'s' * (new != 1)} since {last_evaluated}; the policy wants {wanted}."
    return Due(is_due=new >= wanted, reason=reason)
