"""The same steps by spark-submit on a cluster of two workers: the digests of local mode, and the driver's own code."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from spark_helpers import DAY, REPOSITORY, longreel, new_home, row, write_raw

from longreel.contracts.schemas import DATASETS
from longreel.lake.home import Home

pytestmark = pytest.mark.slow
DAYS = [DAY + timedelta(days=number) for number in range(3)]
DAY_MS = 86_400_000
BIN = Path(sys.executable).parent
PROBE = """
import sys
sys.path.insert(0, {repository!r})
from longreel.spark_jobs.session import spark_session

def where(_):
    from longreel.lake import table
    from longreel.spark_jobs import bucket_tasks
    return bucket_tasks.__file__ + " " + table.__file__

print("FOUND", *spark_session("probe").sparkContext.parallelize(range(4), 4).map(where).distinct().collect())
"""


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def environment() -> dict[str, str]:
    """Nothing of this checkout on the workers' path."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "LONGREEL_HOME")}
    return kept | {"SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": sys.executable}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """A standalone master with two workers of one core each, on this machine; its URL and the port of its page."""
    folder, port, page = tmp_path_factory.mktemp("cluster"), free_port(), free_port()
    url, base = f"spark://127.0.0.1:{port}", "org.apache.spark.deploy"
    commands = [[f"{base}.master.Master", "--host", "127.0.0.1", "--port", str(port), "--webui-port", str(page)]]
    for number in range(2):
        work = folder / f"worker-{number}"
        where = ["--host", "127.0.0.1", "--webui-port", "0", "--work-dir", str(work)]
        commands.append([f"{base}.worker.Worker", *where, "--cores", "1", "--memory", "1500m", url])
    with (folder / "log").open("w") as log:
        options: dict[str, Any] = {"cwd": folder, "env": environment(), "stdout": log, "stderr": log}
        processes = [subprocess.Popen([BIN / "spark-class", *c], start_new_session=True, **options) for c in commands]
        try:
            wait_for_workers(page, 2)
            yield url, page
        finally:
            for process in processes[::-1]:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(timeout=30)


def state_of(page: int) -> dict[str, Any]:
    """What the master knows of its workers and applications."""
    with urlopen(f"http://127.0.0.1:{page}/json/", timeout=5) as answer:
        state: dict[str, Any] = json.load(answer)
    return state


def wait_for_workers(page: int, workers: int) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        try:
            if sum(entry["state"] == "ALIVE" for entry in state_of(page)["workers"]) == workers:
                return
        except OSError:
            pass
        time.sleep(0.5)
    raise AssertionError("the cluster did not come up")


def submit(master: str, folder: Path, *words: str) -> str:
    """Run spark-submit against the cluster; returns what it printed."""
    command = [str(BIN / "spark-submit"), "--master", master, "--driver-memory", "1g"]
    command += ["--executor-memory", "1g", "--conf", "spark.driver.host=127.0.0.1", *words]
    done = subprocess.run(
        command, cwd=folder, env=environment(), check=False, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-4_000:]
    return done.stdout


def write_log(home: Home) -> None:
    for number, day in enumerate(DAYS):
        rows = [
            row(
                user,
                (user * 7 + n) % 50,
                number * DAY_MS + n * 100_000 - (n % 11 == 0),
                click=n % 2,
                request_id=f"r{n // 3}",
            )
            for user in range(120)
            for n in range(user % 13)
        ]
        write_raw(home, day, rows + rows[:5] + [row(None, 1, number * DAY_MS)])


def digests(home: Home) -> dict[str, tuple[str, int]]:
    state = {}
    for dataset in DATASETS:
        for day in home.lake.days(dataset):
            manifest = home.lake.require(dataset, day)
            state[f"{dataset}/{day}"] = (manifest.digest, manifest.rows)
    return state


def test_a_cluster_gives_the_digests_of_local_mode(spark: Any, cluster: tuple[str, int], tmp_path: Path) -> None:
    master, page = cluster
    span = ("--start", str(DAYS[0]), "--end", str(DAYS[-1]))
    steps = [("data ingest", *span), ("data build-samples", "--date", str(DAYS[-1]))]
    steps.append(("data forget", "--user", "12"))
    local, remote = (new_home(tmp_path / name, compact_every_days=1) for name in ("local", "cluster"))
    for home in (local, remote):
        write_log(home)
    for step, *words in steps:
        assert longreel(local, step, *words) == 0
        main = str(REPOSITORY / "longreel" / "__main__.py")
        output = submit(master, tmp_path, main, *step.split(), "--home", str(remote.path), *words)
        assert DAYS[-1].isoformat() in output
    assert digests(local) == digests(remote)
    ran = [entry["name"] for entry in state_of(page)["completedapps"] if entry["cores"] == 2]
    assert sorted(ran) == sorted(f"longreel {step}" for step, *_ in steps)
    assert len(digests(local)) == 3 * len(DAYS) + 2  # and one day's samples on a snapshot


def test_workers_run_the_code_that_the_driver_ships(cluster: tuple[str, int], tmp_path: Path) -> None:
    master, _ = cluster
    probe = tmp_path / "probe.py"
    probe.write_text(PROBE.format(repository=str(REPOSITORY)))
    (line,) = [line for line in submit(master, tmp_path, str(probe)).splitlines() if line.startswith("FOUND")]
    assert all("longreel.zip/" in path for path in line.split()[1:])
