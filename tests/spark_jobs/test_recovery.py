"""Steps as processes: killed without warning they leave nothing visible, and spark-submit runs the same step."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from spark_helpers import (
    DAY,
    REPOSITORY,
    event,
    longreel,
    publish_events,
    published,
    row,
    step,
    wait_for,
    write_raw,
)

from longreel.lake.lease import LEASE_FILE
from longreel.spark_jobs.session import QUICK_JAVA


def test_a_killed_build_leaves_nothing_visible_and_the_next_completes(spark: Any, make_home: Any) -> None:
    home = make_home()
    publish_events(home, DAY, [event(user % 50, user, at=user) for user in range(5_000)])
    partition = home.path / "lake" / "samples" / f"date={DAY}"
    process = step(home, "data build-samples", "--date", str(DAY))
    wait_for(lambda: list(partition.glob("build-*")), process)
    os.killpg(process.pid, signal.SIGKILL)  # Python and its JVM at once
    assert process.wait() == -signal.SIGKILL
    assert list(partition.glob("build-*")), "killed before it had staged anything"
    assert home.lake.manifest("samples", DAY) is None
    assert list(home.lake.days("samples")) == []

    (left,) = partition.glob("build-*")
    (left / LEASE_FILE).write_text("1700000000")  # hours later
    assert longreel(home, "data build-samples", "--date", str(DAY)) == 0
    assert sum(len(r["target_item_id"]) for r in published(home, "samples", DAY)) == 5_000
    assert not left.exists()


def test_spark_submit_runs_a_step_and_passes_its_exit_code_on(make_home: Any, tmp_path: Path) -> None:
    home = make_home()
    write_raw(home, DAY, [row(item=number) for number in range(9)])
    submit = Path(sys.executable).with_name("spark-submit")
    command = [str(submit), "--master", "local[2]", str(REPOSITORY / "longreel" / "__main__.py"), "data", "ingest"]
    command += ["--home", str(home.path), "--date"]
    command[1:1] = ["--driver-java-options", QUICK_JAVA]
    environment = os.environ | {"PYSPARK_PYTHON": sys.executable}
    done = subprocess.run(
        [*command, str(DAY)], cwd=tmp_path, env=environment, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    assert "9 rows = 9 events" in done.stdout
    assert home.lake.require("events", DAY).rows == 9
    missing = subprocess.run(
        [*command, "2026-03-20"], cwd=tmp_path, env=environment, check=False, capture_output=True, text=True
    )
    assert missing.returncode == 3
    assert "not 2026-03-20" in missing.stdout + missing.stderr  # spark-submit sends both to one of them
    assert not (tmp_path / "spark-warehouse").exists()
