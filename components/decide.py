"""The step `decide`: two report files and the policy in, a decision file out. It talks to no server."""

import argparse
from pathlib import Path

from contracts.home import Home
from contracts.report import EvaluationReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Command-line options of `longreel decide`."""
    parser.add_argument("--candidate", type=Path, required=True, help="the candidate's report (`longreel evaluate`)")
    parser.add_argument("--champion", type=Path, help="the champion's report on the same data; none: no champion yet")
    parser.add_argument("--out", type=Path, help="write the decision here (default: decision.json by the candidate's)")


def run(args: argparse.Namespace, home: Home) -> int:
    """Decide, write the decision and print its reasons."""
    from components.gates import decide
    from components.summary import decision_table, wide_console

    champion = None if args.champion is None else EvaluationReport.read(args.champion)
    decision = decide(EvaluationReport.read(args.candidate), champion, home.policy)
    out = args.out or args.candidate.with_name("decision.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(decision.to_json())
    wide_console().print(decision_table(decision))
    print(f"decision: {out}")
    return 0
