"""Command `longreel model score`: a request table in, a row per target with one probability per task out."""

import argparse
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from longreel.contracts.argument_types import at_least
from longreel.contracts.errors import LongreelError
from longreel.contracts.schemas import REQUEST_TABLE
from longreel.lake.home import Home
from longreel.lake.schema_evolution import missing_columns, stored_columns, to_schema


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Command-line options of `longreel model score`."""
    parser.add_argument("--input", type=Path, required=True, help="Parquet file with a request table's columns")
    parser.add_argument("--output", type=Path, required=True, help="Parquet file to write")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--version", type=at_least(1), help="a registered version")
    which.add_argument("--champion", action="store_true", help="the present champion (default)")
    parser.add_argument("--window", type=at_least(0), help="read at most this many history events (default: 10240)")


def run(args: argparse.Namespace, home: Home) -> int:
    """Score the file."""
    requests = read_requests(args.input)
    from longreel.components.evaluate import champion_version
    from longreel.components.registry import store, versions
    from longreel.model.evaluation.serving import Scorer

    client, name = store.open_store(home), versions.model_name(home.config)
    version = versions.get_version(client, name, args.version or champion_version(home, client))
    scores = Scorer.load(versions.download(client, name, version)).score(requests, args.window)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(scores, args.output)
    print(f"{scores.num_rows:,} targets scored by {name} version {version.version}: {args.output}")
    return 0


def read_requests(path: Path) -> pa.Table:
    """A request table from a Parquet file; other columns, such as labels, are ignored.

    Raises:
        LongreelError: there is no such file, it is not Parquet, or columns are missing or of another type.
    """
    if not path.is_file():
        raise LongreelError(f"no request table at {path}; expected a Parquet file, see contracts/schemas.py")
    try:
        names = set(pq.read_schema(path).names)
        if missing := missing_columns(REQUEST_TABLE, names):
            raise LongreelError(f"{path} lacks columns {', '.join(missing)}; see REQUEST_TABLE in contracts/schemas.py")
        return to_schema(pq.read_table(path, columns=stored_columns(REQUEST_TABLE, names)), REQUEST_TABLE, str(path))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise LongreelError(f"{path} is not a request table: {error}") from error
