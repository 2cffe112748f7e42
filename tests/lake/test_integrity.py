"""What was changed after it was published is refused: files bit by bit, manifests letter by letter."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from lake_helpers import DAY, rows, stored_values, write_build

from longreel.contracts.errors import LongreelError, TransientError
from longreel.lake.manifest import MANIFEST, Manifest, with_checksum
from longreel.lake.table import Lake, PartitionWriter
from longreel.spark_jobs.array_io import write_bucket

OTHER_DAY = DAY.replace(day=DAY.day + 1)


def published(tmp_path: Path, number: int = 40) -> tuple[Lake, Manifest, Path]:
    """Samples of random values, as two row groups: lists, text, floats, and each of the encodings."""
    lake = Lake(tmp_path)
    writer: PartitionWriter = lake.writer("samples", DAY)
    schema, draw = lake.schemas["samples"], random.Random(3)
    values = {
        "int64": lambda: draw.randrange(10**12),
        "int32": lambda: draw.randrange(9),
        "string": lambda: "some text",
    }
    tables = []
    for _ in range(2):
        columns = []
        for field in schema:
            is_list = pa.types.is_list(field.type)
            value = values.get(str(field.type.value_type if is_list else field.type), draw.random)
            columns.append([[value() for _ in range(n % 5)] if is_list else value() for n in range(number)])
        arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
        tables.append(pa.table(arrays, schema=schema))
    write_bucket(writer, 0, tables)
    manifest = writer.commit(digest="d1", inputs={})
    return lake, manifest, Path(lake.paths(manifest)[0])


def outcome(read: Callable[[], Any]) -> tuple[str, Any]:
    """The message of a refusal, or what was read."""
    try:
        return "", read()
    except LongreelError as error:
        return str(error), None


def test_no_flipped_bit_of_a_file_is_read_as_data(tmp_path: Path) -> None:
    lake, manifest, path = published(tmp_path)
    content, expected = path.read_bytes(), lake.read(manifest)
    draw, refused = random.Random(7), 0
    for place in range(0, len(content), 3):
        changed = bytearray(content)
        changed[place] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        message, table = outcome(lambda: lake.read(manifest))
        assert f"{path} is damaged" in message if table is None else table.equals(expected), (place, message)
        refused += table is None
    assert refused > 0.3 * len(content)  # the rest has no meaning, such as statistics of a page


def test_a_file_of_the_same_size_from_elsewhere_is_refused(tmp_path: Path) -> None:
    lake, manifest, path = published(tmp_path / "one")
    _, _, other = published(tmp_path / "two")
    content = bytearray(other.read_bytes())
    content[content.rindex(b"parquet-cpp")] ^= 1  # any number of the footer
    path.write_bytes(content)
    with pytest.raises(LongreelError, match="its footer has digest"):
        lake.read(manifest)
    path.write_bytes(content + b"x")
    with pytest.raises(LongreelError, match=r"it has [\d,]+ bytes, [\d,]+ were published"):
        lake.paths(manifest)
    path.unlink()
    with pytest.raises(TransientError, match="is gone"):
        lake.paths(manifest)


def test_no_edit_of_a_manifest_is_believed(tmp_path: Path) -> None:
    lake, manifest, _ = published(tmp_path)
    path, draw, refused = tmp_path / "samples" / f"date={DAY}" / MANIFEST, random.Random(11), 0
    content = path.read_bytes()
    for _ in range(5_000):
        place, length = draw.randrange(len(content)), draw.choice((0, 1, 1, 1, 5, 40))
        letters = bytes(draw.choice(b'0123456789abcdef"{}[],:. \n\\\xe9') for _ in range(draw.choice((0, 1, 1, 3))))
        path.write_bytes(content[:place] + letters + content[place + length :])
        message, read = outcome(lambda: lake.require("samples", DAY))
        is_right = re.search("restore (it|that)|upgrade longreel", message) if read is None else read == manifest
        assert is_right, (message, path.read_bytes())
        refused += read is None
    assert refused > 4_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(files=[]), "it says 80 rows, its files 0"),
        (lambda v: v.update(date=str(OTHER_DAY)), f"is the manifest of samples of {OTHER_DAY}"),
        (lambda v: v.update(dataset="history"), "is the manifest of history"),
        *(
            (lambda v, p=p: v["files"][0].update(path=p), "expected a file build-.* of the partition, got")
            for p in ("/etc/passwd.parquet", "../x.parquet", "build-x/part-0.parquet", "..", ".", "")
        ),
        (lambda v: v["files"][0].update(path=v["files"][0]["path"].replace("/part", "/../part")), "expected a file"),
        (lambda v: v.update(schema_version=3, readable_since=3), "changed in version 4; run its step again"),
    ],
)
def test_a_manifest_with_the_right_checksum_still_has_to_make_sense(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    lake, _, _ = published(tmp_path)
    path = tmp_path / "samples" / f"date={DAY}" / MANIFEST
    values = stored_values(path.read_text())
    change(values)
    path.write_text(with_checksum(values))
    with pytest.raises(LongreelError, match=message):
        lake.read(lake.require("samples", DAY))


def test_deletion_never_leaves_the_partition(tmp_path: Path) -> None:
    lake, manifest, _ = published(tmp_path)
    path = tmp_path / "samples" / f"date={DAY}" / MANIFEST
    precious = tmp_path / "samples" / "precious.parquet"
    precious.write_text("x")
    text = path.read_text().replace(manifest.files[0].path, "../precious.parquet")
    for stored in (text, with_checksum(stored_values(text))):
        path.write_text(stored)
        with pytest.raises(LongreelError):
            lake.drop_partition(lake.require("samples", DAY))
    assert precious.exists()


def test_the_checksum_is_of_everything(tmp_path: Path) -> None:
    _, manifest, _ = published(tmp_path)
    values = json.loads(manifest.to_json())
    for name in set(values) - {"checksum", "schema_version", "readable_since"}:
        with pytest.raises(LongreelError, match="its checksum is"):
            Manifest.from_json(json.dumps(values | {name: "other"}))
    assert Manifest.from_json(json.dumps(values)) == manifest


def test_the_same_rows_replace_a_damaged_file(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    manifest = write_build(lake, rows("x", "y")).commit(digest="d1", inputs={})
    path = Path(lake.paths(manifest)[0])
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)
    assert lake.read(write_build(lake, rows("x", "y")).commit(digest="d1", inputs={})).equals(rows("x", "y"))
