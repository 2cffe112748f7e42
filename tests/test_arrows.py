"""The house's arrows run downward: which folder may import which, read from the source itself."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("contracts", "spark_jobs", "model", "components", "operators", "dags", "longreel")

# room -> what it must not import, at any depth
FORBIDDEN = {
    "contracts": {"spark_jobs", "model", "components", "operators", "dags", "longreel"},
    "spark_jobs": {"model", "components", "operators", "dags", "longreel", "torch", "airflow", "kfp", "mlflow"},
    "model": {
        "spark_jobs", "components", "operators", "dags", "longreel", "pyspark", "airflow", "kfp", "mlflow", "pandas",
    },
    "components": {"spark_jobs", "operators", "dags", "longreel", "pyspark", "airflow", "great_expectations"},
    "operators": {"spark_jobs", "model", "dags", "longreel", "torch", "pyspark", "kfp", "mlflow"},
    "dags": {"spark_jobs", "model", "components", "longreel", "torch", "pyspark", "kfp", "mlflow"},
}  # fmt: skip
# Standalone rooms list what they may use besides the standard library and themselves.
ALLOWED = {"contracts": {"numpy", "pyarrow"}, "dags": {"airflow", "contracts", "operators"}}


def imports_of(path: Path) -> set[str]:
    """Top-level names of every import in a file, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def files(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("room", ROOMS)
def test_room_has_files(room: str) -> None:
    assert files(room)


@pytest.mark.parametrize("room", FORBIDDEN)
def test_no_arrow_runs_upward(room: str) -> None:
    bad = {str(path.relative_to(ROOT)): found for path in files(room) if (found := imports_of(path) & FORBIDDEN[room])}
    assert not bad


@pytest.mark.parametrize("room", ALLOWED)
def test_ground_floor_needs_little(room: str) -> None:
    for path in files(room):
        foreign = imports_of(path) - set(sys.stdlib_module_names) - ALLOWED[room] - {room}
        assert not foreign, path


def test_dags_do_no_io_at_import() -> None:
    for path in files("dags"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
                assert not str(module).startswith("contracts"), f"{path} reads the lake at import"
