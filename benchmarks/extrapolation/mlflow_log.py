"""Results in MLflow, where it is installed: one run per cell, however often the program is called.

python -m benchmarks.extrapolation.mlflow_log OUT     for results that came from a machine without MLflow
"""

import argparse
import importlib.util
import json
import math
import os
from pathlib import Path
from typing import Any

from benchmarks.arguments import run_main

EXPERIMENT = "extrapolation"


def is_there() -> bool:
    """Whether MLflow can be imported, and is not switched off by LONGREEL_NO_MLFLOW."""
    return importlib.util.find_spec("mlflow") is not None and not os.environ.get("LONGREEL_NO_MLFLOW")


def log(line: dict[str, Any], out: Path) -> None:
    """Log a line of the results file; into $MLFLOW_TRACKING_URI where set, else a SQLite file beside the results."""
    if not is_there():
        return
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow

    mlflow.set_tracking_uri(os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{(out / 'mlflow.db').absolute()}"))
    mlflow.set_experiment(EXPERIMENT)
    logged = mlflow.search_runs(filter_string=f"tags.fingerprint = '{line['fingerprint']}'", max_results=1)
    if len(logged):
        return
    cell = line["cell"]
    with mlflow.start_run(run_name=line["key"], tags={"fingerprint": line["fingerprint"], "suite": cell["suite"]}):
        mlflow.log_params({name: cell[name] for name in ("set", "reader", "training", "seed", "change", "match")})
        mlflow.log_params(
            {name: str(value) for name, value in (cell["model"] | cell["train"] | cell.get("windows", {})).items()}
        )
        numbers = ("training_tokens", "training_seconds", "scoring_seconds", "steps", "parameters", "final_loss")
        mlflow.log_metrics({name: float(line[name]) for name in numbers if line.get(name) is not None})
        for row in line["rows"]:
            place = f"{row['task']}/{row['slice']}".replace(">=", " from ").replace("<", " below ")
            values = {f"{place}/{name}": row[name][0] for name in ("auc", "gauc", "log_loss")}
            mlflow.log_metrics({n: v for n, v in values.items() if not math.isnan(v)}, step=row["window"])
        mlflow.log_dict(line["windows"], "windows.json")


def main() -> None:
    """Log every line that is not in MLflow yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    for text in (out / "results.jsonl").read_text().splitlines():
        log(json.loads(text), out)


if __name__ == "__main__":
    run_main(main)
