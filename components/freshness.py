"""Freshness policy: whether a new samples partition is worth a training, a pure function of the published days."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date

from longreel.contracts.config import RetrainPolicy
from longreel.contracts.errors import LongreelError


@dataclass(frozen=True, kw_only=True)
class RetrainAnswer:
    """The policy's answer and its reason, a full sentence."""

    is_due: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class FreshnessState:
    """The facts that the policy reads.

    published: every day with samples. last_evaluated: the newest day on which a decided candidate was evaluated; None
    before the first. watermark: the newest day that the champion was trained on; None without a champion. warned: the
    days that a checkpoint warned about. today: in the time zone of the log's days.
    """

    published: frozenset[date]
    today: date
    last_evaluated: date | None = None
    watermark: date | None = None
    warned: frozenset[date] = field(default_factory=frozenset)

    def days_before(self, day: date) -> int:
        """The number of published days before `day`."""
        return sum(1 for other in self.published if other < day)


def should_retrain(day: date, state: FreshnessState, policy: RetrainPolicy) -> RetrainAnswer:
    """Whether the policy asks for a candidate evaluated on `day`, the partition that was just published."""
    objection = next(_objections(day, state, policy), None)
    if objection is not None:
        return RetrainAnswer(is_due=False, reason=objection)
    if state.last_evaluated is None:
        earlier = state.days_before(day)
        return RetrainAnswer(
            is_due=True, reason=f"No candidate was ever evaluated, and {earlier} days lie before {day}."
        )
    new = sum(1 for other in state.published if state.last_evaluated < other <= day)
    count = f"{new} new published day{'s' * (new != 1)} since {state.last_evaluated}; the policy requires"
    if new >= policy.every_new_days:
        return RetrainAnswer(is_due=True, reason=f"{count} {policy.every_new_days}.")
    for early_reason in (_old_champion, _warned_day):
        if reason := early_reason(day, state, policy):
            return RetrainAnswer(is_due=True, reason=reason)
    return RetrainAnswer(is_due=False, reason=f"{count} {policy.every_new_days}.")


def require_recent(day: date, today: date, policy: RetrainPolicy) -> None:
    """Raises LongreelError if a day is too old to train for."""
    if objection := _too_old(day, today, policy):
        raise LongreelError(
            f"{objection} Publish newer days (`longreel ops status` lists what is missing). To train on old data "
            f"anyway: longreel ops retrain --date {day} --force"
        )


def _objections(day: date, state: FreshnessState, policy: RetrainPolicy) -> Iterator[str]:
    """Reasons against a training for a day, whatever else holds."""
    if day not in state.published:
        yield f"The samples of {day} are not published."
    if (earlier := state.days_before(day)) < policy.min_train_days:
        yield f"{earlier} published days lie before {day}; the policy requires {policy.min_train_days} to train on."
    if state.last_evaluated is not None and day <= state.last_evaluated:
        yield f"{day} is no newer than {state.last_evaluated}, the last evaluated day (a rebuild or a backfill)."
    if objection := _too_old(day, state.today, policy):
        yield objection
    newest = max(state.published, default=day)
    if day < newest and not policy.replay:
        yield f"Newer days than {day} are published; only the newest, {newest}, is trained for."


def _too_old(day: date, today: date, policy: RetrainPolicy) -> str:
    age = (today - day).days
    if not policy.max_data_age_days or age <= policy.max_data_age_days:
        return ""
    return f"{day} lies {age} days back; [retrain] max_data_age_days allows {policy.max_data_age_days}."


def _old_champion(day: date, state: FreshnessState, policy: RetrainPolicy) -> str:
    if state.watermark is None or not policy.max_champion_age_days:
        return ""
    age = (day - state.watermark).days
    if age <= policy.max_champion_age_days:
        return ""
    through = f"The champion was trained through {state.watermark}, {age} days before {day}"
    return f"{through}; the policy allows {policy.max_champion_age_days}."


def _warned_day(day: date, state: FreshnessState, policy: RetrainPolicy) -> str:
    """A candidate trains on the days before its evaluation day. A warned day is a poor day to evaluate on, so it counts
    from the next day on, whose candidate trains on it."""
    if not policy.on_warning or state.last_evaluated is None:
        return ""
    days = sorted(other for other in state.warned if state.last_evaluated <= other < day)
    return f"The quality checkpoints warned about {days[0]}, which no candidate was trained on yet." if days else ""
