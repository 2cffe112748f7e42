"""Progress of a scheduler with hundreds of runs."""

from datetime import date, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from longreel.embedded_airflow import EmbeddedAirflow
from longreel.lake.home import Home
from longreel.watch import DayState, read_days

FIRST = date(2026, 1, 1)


class LongAtWork(EmbeddedAirflow):
    """Answers for 250 days that have ended well, in pages of at most 100 as Airflow's `maximum_page_limit` has them."""

    days = tuple(FIRST + timedelta(days=i) for i in range(250))

    def get(self, path: str) -> dict[str, Any]:
        if path.endswith("taskInstances"):
            return {"task_instances": []}
        query = {name: int(values[0]) for name, values in parse_qs(urlsplit(path).query).items() if name != "order_by"}
        start = query.get("offset", 0)
        page = self.days[start : start + min(100, query["limit"])]
        runs = [{"partition_key": str(day), "state": "success", "dag_run_id": f"partition__{day}"} for day in page]
        return {"dag_runs": runs, "total_entries": len(self.days)}


def test_the_newest_day_is_found_finished_after_hundreds_of_runs(tmp_path: Path) -> None:
    newest = LongAtWork.days[-1]
    states = read_days(LongAtWork(Home(tmp_path), {}), [newest], {newest: DayState()})
    assert states[newest].finished
