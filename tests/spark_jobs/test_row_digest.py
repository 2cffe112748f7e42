"""The content digest sees every value and nothing else."""

from typing import Any

from longreel.spark_jobs.row_digest import digest_columns, digest_from_aggregates

SCHEMA = "a STRING, b STRING, c ARRAY<BIGINT>, d ARRAY<BIGINT>"
ROWS = [("x", None, [1], [2, 3]), ("y", "z", [], [4]), ("y", "z", [], [4])]


def digest(spark: Any, rows: list[tuple[Any, ...]], parts: int = 1) -> str:
    frame = spark.createDataFrame(rows, SCHEMA).repartition(parts)
    return digest_from_aggregates(frame.agg(*digest_columns(frame)).collect()[0].asDict())


def test_order_and_partitioning_do_not_matter(spark: Any) -> None:
    assert digest(spark, ROWS) == digest(spark, ROWS[::-1], parts=3)


def test_every_change_of_a_row_matters(spark: Any) -> None:
    changed = [
        ROWS[:2],  # a duplicate less
        [(None, "x", [1], [2, 3]), *ROWS[1:]],  # a null in another column
        [("x", None, [1, 2], [3]), *ROWS[1:]],  # the same numbers, split elsewhere
        [("x", "", [1], [2, 3]), *ROWS[1:]],  # empty, not null
        [],
    ]
    digests = [digest(spark, rows) for rows in (ROWS, *changed)]
    assert len(set(digests)) == len(digests)
