"""Place of a home as its MLflow store has recorded it, and its correction after the home was moved, renamed or copied.

MLflow keeps absolute addresses of artefacts. A home that was copied would write into the original, and one that was
moved into its old place, so both are refused until `longreel init --relocate` has rewritten the addresses.
"""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from longreel.contracts.errors import LongreelError, TransientError
from longreel.lake.home import Home

# Columns of MLflow's schema that hold addresses below the home; datasets hold theirs inside JSON.
ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
DATASETS = ("datasets", "dataset_source")


def experiment_name(home: Home) -> str:
    """The pipeline's experiment. Where its artefacts go says where the home was when it was created."""
    return f"longreel/{home.config.name}"


def has_own_database(home: Home) -> bool:
    """Whether the home's store is the SQLite file in the home, and not by a link another home's."""
    uri, file = home.tracking_uri, home.mlflow_database
    if uri != f"sqlite:///{file}":
        return False
    return not file.exists() or (file.stat().st_nlink == 1 and file.resolve().is_relative_to(home.path.resolve()))


def require_location(home: Home) -> None:
    """Raises LongreelError where the SQLite store in a home names another place; other stores are checked when they
    are opened."""
    if home.tracking_uri.startswith("sqlite:///"):
        require_place(home, _recorded(home))


def require_place(home: Home, location: str | None) -> None:
    """Raises LongreelError where artefacts of the pipeline's experiment go into another home than this."""
    if (old := other_place(home, location)) is not None:
        raise LongreelError(
            f"expected a home at {old}, as its MLflow store says, got {home.path}: it was moved, renamed or copied; "
            f"`longreel init --relocate --home {home.path}` makes it a home of this place"
        )


def other_place(home: Home, location: str | None) -> Path | None:
    """The other home that an experiment's `artifact_location` lies in; None if it is this one or no home's at all."""
    scheme, _, path = urlsplit(location or "")[:3]
    place = Path(unquote(path) if scheme else path)
    if scheme not in ("", "file") or place.parts[-2:] != home.artifacts.parts[-2:]:
        return None  # a bucket, a tracking server, or a folder that somebody chose
    old = place.parents[1]
    return None if old.resolve() == home.path.resolve() else old


def relocate(home: Home) -> tuple[Path, int] | None:
    """Rewrite the addresses in the home's SQLite store; nothing outside of the home is read or written.

    Returns:
        The place that the store named and the number of addresses rewritten; None where it names this place already.

    Raises:
        LongreelError: the store is outside of the home, where it may serve others.
        TransientError: another process writes to the store.
    """
    if not has_own_database(home):
        raise LongreelError(
            f"the MLflow store of {home.path} is not a database of this home alone; the addresses in it stay as they "
            "are, because they may be another home's. Move the home back, or name another store (MLFLOW_TRACKING_URI)"
        )
    if (old := other_place(home, _recorded(home))) is None:
        return None
    try:
        with closing(sqlite3.connect(home.mlflow_database, timeout=30, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            number = sum(_move_addresses(database, *column, old, home.path) for column in ADDRESSES)
            number += _move_datasets(database, old, home.path)
            database.execute("COMMIT")  # an error before it leaves the store as it was
    except sqlite3.OperationalError as error:
        raise TransientError(f"{home.mlflow_database} cannot be written ({error}); stop what uses it") from error
    return old, number


def _move_addresses(database: sqlite3.Connection, table: str, column: str, old: Path, new: Path) -> int:
    """Replace the first part of addresses, written as URL or as path; the number of rows changed."""
    rows = 0
    for before, after in ((old.as_uri(), new.as_uri()), (str(old), str(new))):
        rows += database.execute(
            f"UPDATE {table} SET {column} = :after || substr({column}, length(:before) + 1) "
            f"WHERE substr({column}, 1, length(:before) + 1) = :before || '/'",
            {"before": before, "after": after},
        ).rowcount
    return rows


def _move_datasets(database: sqlite3.Connection, old: Path, new: Path) -> int:
    table, column = DATASETS
    before, after = (json.dumps(f"{path}/").removesuffix('"') for path in (old, new))
    return database.execute(
        f"UPDATE {table} SET {column} = replace({column}, ?, ?) WHERE instr({column}, ?)", (before, after, before)
    ).rowcount


def _recorded(home: Home) -> str | None:
    """Where artefacts of the pipeline's experiment go; None before the first run, and for a file that is no store."""
    file = home.tracking_uri.removeprefix("sqlite:///")
    if not Path(file).is_file():
        return None
    query = "SELECT artifact_location FROM experiments WHERE name = ?"
    try:
        with closing(sqlite3.connect(f"{Path(file).absolute().as_uri()}?mode=ro", timeout=30, uri=True)) as database:
            row = database.execute(query, (experiment_name(home),)).fetchone()
    except sqlite3.DatabaseError as error:
        if "locked" in str(error):
            raise TransientError(f"{file} is in use by a writer ({error}); run the command again") from error
        return None
    return None if row is None else row[0]
