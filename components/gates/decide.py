"""Decision on a candidate: two reports and a policy in, an outcome with reasons out."""

from collections.abc import Iterable, Iterator

from longreel.components.gates import preconditions
from longreel.components.gates.evaluator import VERDICT, Evidence, conclude, measure
from longreel.components.gates.gate import Gate, absolute_gates, champion_gates, cost_gate, window_gates
from longreel.components.gates.sentences import not_evaluated, render
from longreel.contracts.decision import Decision, GateResult, Outcome
from longreel.contracts.policy import GatePolicy
from longreel.contracts.report import ALL_TARGETS, EvaluationReport, UnevaluatedModel


def decide(
    candidate: EvaluationReport, baseline: EvaluationReport | UnevaluatedModel | None, policy: GatePolicy
) -> Decision:
    """Evaluate every gate of the policy for a candidate.

    A gate that fails makes the outcome `reject`, one that holds makes it `hold`, otherwise it is `promote`. Without a
    champion the absolute gates alone decide. The same arguments give a decision with the same digest.

    Args:
        baseline: the champion's report, or why it has none; None where there is no champion.

    Raises:
        LongreelError: the champion's report is of other data, another seed or other windows.
    """
    champion = baseline if isinstance(baseline, EvaluationReport) else None
    if champion is not None:
        preconditions.require_comparable(candidate, champion)
    results = [preconditions.complete(candidate, champion, policy)]
    if results[0].verdict == "pass":
        results += [preconditions.data(candidate, policy), preconditions.consistency(candidate)]
        for gate in _gates(candidate, baseline, policy):
            results.append(gate if isinstance(gate, GateResult) else evaluate_gate(gate, candidate, champion, policy))
    return Decision(
        outcome=_outcome(results),
        gates=tuple(results),
        date=candidate.date,
        candidate_digest=candidate.model_digest,
        champion_digest=None if baseline is None else baseline.model_digest,
        data_digest=candidate.data_digest,
        policy_version=policy.version,
        policy_digest=policy.digest(),
        evaluation_days=policy.evaluation_days,
        candidate_report=candidate.digest(),
        champion_report=None if champion is None else champion.digest(),
    )


def evaluate_gate(
    gate: Gate, candidate: EvaluationReport, champion: EvaluationReport | None, policy: GatePolicy
) -> GateResult:
    """A gate's verdict and reason."""
    evidence = measure(gate, candidate, champion)
    finding = conclude(gate, evidence, candidate.interval, policy)
    return GateResult(
        name=gate.name,
        verdict=VERDICT[finding[0]],
        reason=render(gate, evidence, finding, candidate, champion, policy),
        required_sample_factor=finding[1],
    )


def _outcome(results: Iterable[GateResult]) -> Outcome:
    verdicts = {result.verdict for result in results}
    return "reject" if "fail" in verdicts else "hold" if "hold" in verdicts else "promote"


def _gates(
    candidate: EvaluationReport, baseline: EvaluationReport | UnevaluatedModel | None, policy: GatePolicy
) -> Iterator[Gate | GateResult]:
    """The gates in report order; a result stands where there is nothing to test."""
    yield from absolute_gates(candidate, policy)
    if candidate.reference_window == candidate.windows[-1]:
        longest = f"No window is longer than {candidate.windows[-1]:,}"
        reason = f"{longest}, the one nearest to the training mean of {candidate.training_mean_window:,} events."
        yield GateResult(name="windows", verdict="pass", reason=reason)
    else:
        yield from window_gates(candidate, policy)
    yield _cost(candidate, policy)
    unavailable = preconditions.champion_available(candidate, baseline, policy)
    if unavailable is not None:
        yield unavailable
        return
    assert isinstance(baseline, EvaluationReport)
    gates = list(champion_gates(candidate, policy, list(_compared_slices(candidate, baseline, policy))))
    yield gates[0]
    yield from _other_slices(candidate, baseline, policy)
    yield from gates[1:]


def _cost(candidate: EvaluationReport, policy: GatePolicy) -> Gate | GateResult:
    """The cost gate under the first budget of the candidate's device."""
    device = "" if candidate.scoring is None else candidate.scoring.device
    budget = next((budget for budget in policy.budgets if budget.device in device), None)
    if budget is None and policy.budgets:
        names = ", ".join(budget.device for budget in policy.budgets)
        reason = f"gates.toml has no budget for {device}, only for {names}: add one, or evaluate on such a device."
        return GateResult(name="cost", verdict="hold", reason=reason)
    return cost_gate(budget)


def _compared_slices(candidate: EvaluationReport, champion: EvaluationReport, policy: GatePolicy) -> Iterator[str]:
    """The slices with enough users to be compared."""
    for part in candidate.slices:
        users = candidate.row(policy.task, candidate.windows[-1], part).users
        if part != ALL_TARGETS and part in champion.slices and users >= policy.min_users:
            yield part


def _other_slices(candidate: EvaluationReport, champion: EvaluationReport, policy: GatePolicy) -> Iterator[GateResult]:
    """Results of the slices with too few users, and of those that the champion's log schema does not have."""
    compared = set(_compared_slices(candidate, champion, policy))
    for part in candidate.slices:
        if part == ALL_TARGETS or part in compared:
            continue
        row = candidate.row(policy.task, candidate.windows[-1], part)
        subject = f"Slice {part}" + (", which the policy protects," if part in policy.protected_slices else "")
        if part in champion.slices:
            reason = not_evaluated(subject, Evidence(row=row, differences={}, estimates={}), candidate)
        else:
            reason = f"{subject} was not evaluated: the champion's log schema does not declare its field."
        yield GateResult(name=f"slice/{part}", verdict="not_evaluated", reason=reason)
    for part in policy.protected_slices:
        if part not in candidate.slices:  # preconditions.py requires those by history
            subject = f"Slice {part}, which the policy protects,"
            reason = f"{subject} was not evaluated: it is not among the values with the most targets."
            yield GateResult(name=f"slice/{part}", verdict="not_evaluated", reason=reason)
