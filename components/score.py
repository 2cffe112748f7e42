"""Command `longreel model score`: a request table in, a row per target with a probability or number per task out."""

import argparse
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from longreel.contracts.argument_types import at_least
from longreel.contracts.errors import LongreelError
from longreel.contracts.local_files import replacing
from longreel.lake.home import Home


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
    scorer = Scorer.load(versions.download(client, name, version))
    try:
        scores = scorer.score(requests, args.window)
    except LongreelError as error:
        raise LongreelError(f"{args.input} does not fit {name} version {version.version}: {error}") from error
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with replacing(args.output) as draft:
        pq.write_table(scores, draft)
    print(f"{scores.num_rows:,} targets scored by {name} version {version.version}: {args.output}")
    return 0


def read_requests(path: Path) -> pa.Table:
    """A request table from a Parquet file, with whatever columns it has.

    Raises:
        LongreelError: there is no such file, or it is not Parquet.
    """
    if not path.is_file():
        raise LongreelError(f"no request table at {path}; expected a Parquet file with a row per user")
    try:
        return pq.read_table(path)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise LongreelError(f"{path} is not a request table: {error}") from error
