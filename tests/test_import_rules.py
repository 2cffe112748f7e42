"""Imports run one way: which package may import which, read from the source itself."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("contracts", "lake", "spark_jobs", "model", "components", "operators", "dags", "longreel")
OPTIONAL = {"torch", "pyspark", "great_expectations", "airflow", "kfp", "mlflow", "pandas"}

# package -> what it may import of this project, and which of the heavy libraries; at any depth, inside functions too
PROJECT = {
    "contracts": set(),
    "lake": {"contracts"},
    "spark_jobs": {"contracts", "lake"},
    "model": {"contracts", "lake"},
    "components": {"contracts", "lake", "model"},
    "operators": {"contracts", "lake", "components"},
    "dags": {"contracts", "lake", "operators"},
}
LIBRARIES = {
    "contracts": set(),
    "lake": set(),
    "spark_jobs": {"pyspark", "great_expectations", "pandas"},
    "model": {"torch"},
    "components": {"torch", "kfp", "mlflow", "pandas"},
    "operators": {"airflow"},
    "dags": {"airflow"},
}
# Small packages list everything that they may use besides the standard library.
ONLY = {"contracts": {"numpy", "pyarrow"}, "lake": {"numpy", "pyarrow"}, "dags": {"airflow", "pendulum"}}
# Packages inside a package, lowest first: each may import those before it.
LAYERS = {
    "model": ("data", "kernels", "nn", "training", "evaluation"),
    "components": ("gates", "registry", "reports", "training"),
}


def imports_of(path: Path) -> set[str]:
    """Dotted names of every import in a file, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def project_imports(path: Path, depth: int) -> set[str]:
    """The packages of this project that a file imports, as the `depth`-th part of `longreel.PACKAGE.SUBPACKAGE`."""
    parts = [name.split(".") for name in imports_of(path)]
    return {p[depth] for p in parts if p[0] == "longreel" and len(p) > depth}


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", PROJECT)
def test_imports_run_one_way(package: str) -> None:
    allowed = PROJECT[package] | {package}
    assert files(package)
    bad = {str(p.relative_to(ROOT)): extra for p in files(package) if (extra := project_imports(p, 1) - allowed)}
    assert not bad


@pytest.mark.parametrize("package", LAYERS)
def test_imports_inside_a_package_run_one_way(package: str) -> None:
    for number, layer in enumerate(LAYERS[package]):
        above = set(LAYERS[package][number + 1 :])
        for path in files(f"{package}/{layer}"):
            names = [name.split(".") for name in imports_of(path) if name.startswith(f"longreel.{package}.")]
            inner = {parts[2] for parts in names}
            assert not inner & above, path
            outside = {name for name in inner if name not in LAYERS[package]}
            assert package == "model" or not outside, f"{path} imports a step"


@pytest.mark.parametrize("package", LIBRARIES)
def test_heavy_libraries_stay_in_their_packages(package: str) -> None:
    for path in files(package):
        used = {name.split(".")[0] for name in imports_of(path)} & OPTIONAL
        assert used <= LIBRARIES[package], path


@pytest.mark.parametrize("package", ONLY)
def test_small_packages_need_little(package: str) -> None:
    for path in files(package):
        foreign = {name.split(".")[0] for name in imports_of(path)} - set(sys.stdlib_module_names)
        assert foreign <= ONLY[package] | {"longreel"}, path


def test_nothing_imports_a_top_level_folder_by_its_own_name() -> None:
    """`import model` works in a checkout only; `longreel.model` works everywhere."""
    for package in (*PACKAGES, "tests", "benchmarks"):
        for path in files(package):
            bare = {name.split(".")[0] for name in imports_of(path)} & (set(PACKAGES) - {"longreel"})
            assert not bare, f"{path}: import longreel.{', longreel.'.join(sorted(bare))}"


def test_every_folder_has_its_link() -> None:
    for package in set(PACKAGES) - {"longreel"}:
        link = ROOT / "longreel" / package
        assert link.is_symlink(), link
        assert link.resolve() == ROOT / package


def test_dags_do_no_io_at_import() -> None:
    for path in files("dags"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
                assert not str(module).startswith(("longreel.contracts", "longreel.lake")), f"{path} reads the lake"
