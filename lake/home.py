"""The home folder: everything one pipeline owns, and where in it each thing lies."""

import os
from dataclasses import dataclass
from pathlib import Path

from longreel.contracts.config import Config, load_config
from longreel.contracts.errors import LongreelError
from longreel.contracts.policy import GatePolicy, load_policy
from longreel.lake.table import Lake

CONFIG_FILE = "longreel.toml"
POLICY_FILE = "gates.toml"
TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"
LAKE_VARIABLE = "LONGREEL_LAKE"
ENV_HOME = "LONGREEL_HOME"


@dataclass(frozen=True)
class Home:
    """Paths of one pipeline. Environment variables move the parts that a cluster keeps elsewhere."""

    path: Path

    @staticmethod
    def locate(given: str | None = None) -> "Home":
        """The folder given, else $LONGREEL_HOME, else .longreel/simulated here."""
        return Home(Path(given or os.environ.get(ENV_HOME) or ".longreel/simulated").absolute())

    @property
    def settings(self) -> Path:
        """Where configuration and gate policy lie: $LONGREEL_CONFIG where set (a mounted ConfigMap), else here."""
        return Path(os.environ.get("LONGREEL_CONFIG") or self.path)

    @property
    def config(self) -> Config:
        """The configuration of this home."""
        return load_config(self.settings / CONFIG_FILE)

    @property
    def policy(self) -> GatePolicy:
        """The gate policy of this home; the shipped one where it has none."""
        return load_policy(self.settings / POLICY_FILE)

    @property
    def lake(self) -> Lake:
        """The lake: $LONGREEL_LAKE where set, else `lake/` here.

        Raises:
            LongreelError: the variable is no absolute path. Spark's tasks, trainings and people write and read the lake
                by path, so an object store's URL will not do, and a relative path would be another place for each.
        """
        given = os.environ.get(LAKE_VARIABLE)
        if given and not Path(given).is_absolute():
            raise LongreelError(
                f"{LAKE_VARIABLE}: expected an absolute path that every machine sees, such as a shared volume's "
                f"/data/lake, got {given!r}" + ("; mount the bucket's data as a volume" if ":/" in given else "")
            )
        return Lake(given or self.path / "lake")

    @property
    def tracking_uri(self) -> str:
        """MLflow's store: $MLFLOW_TRACKING_URI where set, else SQLite here."""
        return os.environ.get(TRACKING_VARIABLE) or f"sqlite:///{self.path / 'mlflow' / 'mlflow.db'}"

    def run_page(self, run_id: str) -> str:
        """Where a run stands on the tracking server; "" where none is named, so that no page can be linked to."""
        uri = self.tracking_uri
        return f"{uri.rstrip('/')}/#/runs/{run_id}" if uri.startswith("http") else ""

    @property
    def artifacts(self) -> Path:
        """Where a local MLflow keeps artefacts."""
        return self.path / "mlflow" / "artifacts"

    @property
    def log(self) -> Path:
        """The raw log that the configuration names, relative to this home."""
        return (self.path / self.config.source.log).resolve()

    @property
    def reports(self) -> Path:
        """Reports, decisions, Data Docs and quality summaries, by day."""
        return self.path / "reports"

    @property
    def work(self) -> Path:
        """Scratch of running trainings: checkpoints that a resumed run continues from."""
        return self.path / "work"

    @property
    def airflow(self) -> Path:
        """AIRFLOW_HOME of the embedded Airflow."""
        return self.path / "airflow"
