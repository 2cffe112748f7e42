"""The home folder of one pipeline: its configuration, lake, reports and other files."""

import os
from dataclasses import dataclass
from pathlib import Path

from longreel.contracts.config import Config, load_config
from longreel.contracts.errors import LongreelError
from longreel.contracts.local_files import require_path
from longreel.contracts.policy import GatePolicy, load_policy
from longreel.contracts.web import require_no_user
from longreel.lake.table import Lake

CONFIG_FILE = "longreel.toml"
POLICY_FILE = "gates.toml"
# Environment variables
HOME_VARIABLE = "LONGREEL_HOME"
CONFIG_VARIABLE = "LONGREEL_CONFIG"
LAKE_VARIABLE = "LONGREEL_LAKE"
TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"


@dataclass(frozen=True)
class Home:
    """Paths of one pipeline. On a cluster, environment variables move some of them out of the folder."""

    path: Path

    @staticmethod
    def locate(folder: str | None = None) -> "Home":
        """The home in `folder`, else in $LONGREEL_HOME, else in .longreel/simulated of the working directory.

        Raises:
            LongreelError: it is a URL.
        """
        path = folder or os.environ.get(HOME_VARIABLE) or ".longreel/simulated"
        require_path(path, "--home" if folder else HOME_VARIABLE)
        return Home(Path(path).absolute())

    @property
    def settings(self) -> Path:
        """The folder of configuration and gate policy: $LONGREEL_CONFIG if set (a mounted ConfigMap), else the home."""
        return Path(os.environ.get(CONFIG_VARIABLE) or self.path)

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
        """The lake: $LONGREEL_LAKE if set, else `lake/` in the home.

        Raises:
            LongreelError: the variable is not an absolute path. Spark tasks, trainings and people use the lake by path,
                so an object store's URL does not work, and a relative path would differ between them.
        """
        path = os.environ.get(LAKE_VARIABLE)
        if path and not Path(path).is_absolute():
            raise LongreelError(
                f"{LAKE_VARIABLE}: expected an absolute path that every machine sees, such as a shared volume's "
                f"/data/lake, got {path!r}" + ("; mount the bucket's data as a volume" if ":/" in path else "")
            )
        return Lake(path or self.path / "lake", self.config.log_schema)

    @property
    def tracking_uri(self) -> str:
        """MLflow's store: $MLFLOW_TRACKING_URI if set, else SQLite in the home.

        Raises:
            LongreelError: it is a server's with a user or password, which MLflow would print with every run's address.
        """
        uri = os.environ.get(TRACKING_VARIABLE) or f"sqlite:///{self.mlflow_database}"
        require_no_user(uri, TRACKING_VARIABLE, "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD")
        return uri

    def run_page(self, run_id: str) -> str:
        """The page of a run on the tracking server; "" for a store without pages."""
        uri = self.tracking_uri
        return f"{uri.rstrip('/')}/#/runs/{run_id}" if uri.startswith("http") else ""

    @property
    def mlflow(self) -> Path:
        """Database and artefacts of a local MLflow."""
        return self.path / "mlflow"

    @property
    def mlflow_database(self) -> Path:
        """SQLite store of a local MLflow."""
        return self.mlflow / "mlflow.db"

    @property
    def artifacts(self) -> Path:
        """Artefacts of a local MLflow."""
        return self.mlflow / "artifacts"

    @property
    def log(self) -> Path:
        """The raw log that the configuration names; a relative path starts at the home."""
        return (self.path / self.config.source.log).resolve()

    @property
    def reports(self) -> Path:
        """Reports, decisions, Data Docs and quality summaries, by day."""
        return self.path / "reports"

    @property
    def work(self) -> Path:
        """Working files of running trainings: checkpoints that a resumed run continues from."""
        return self.path / "work"

    @property
    def airflow(self) -> Path:
        """AIRFLOW_HOME of the embedded Airflow."""
        return self.path / "airflow"


def private_folder(path: Path) -> None:
    """Make a folder for its owner alone: logs, passwords and databases are below it. One that is there stays as it is,
    since a person may have opened it to a group."""
    path.mkdir(0o700, parents=True, exist_ok=True)


def private_file(path: Path) -> None:
    """Make an empty file for its owner alone. SQLite gives the files beside a database the same permissions."""
    path.touch(0o600)
