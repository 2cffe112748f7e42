"""Content digest of rows in Spark: 16 hex digits that depend on neither row order nor file layout."""

from typing import Any

from pyspark.sql import Column, DataFrame, Observation
from pyspark.sql import functions as F
from pyspark.sql import types as T

from longreel.contracts.digests import digest_of

HALF = 0xFFFFFFFF


def row_hash(frame: DataFrame, salt: int) -> Column:
    """64-bit hash of a row. xxhash64 alone skips nulls and does not see where one list ends and the next begins, so
    null flags and lengths are hashed too."""
    parts: list[Column] = [F.lit(salt)]
    for field in frame.schema.fields:
        parts += [F.col(field.name), F.col(field.name).isNull()]
        if isinstance(field.dataType, T.ArrayType):
            parts.append(F.size(field.name))
    return F.xxhash64(*parts)


def digest_columns(frame: DataFrame) -> list[Column]:
    """Aggregates for `digest_from_aggregates`. Sums of 32-bit halves cannot overflow below 2^31 rows."""
    aggregates = [F.count(F.lit(1)).alias("digest_rows")]
    for salt in (1, 2):
        value = row_hash(frame, salt)
        aggregates.append(F.sum(F.shiftrightunsigned(value, 32)).alias(f"digest_high_{salt}"))
        aggregates.append(F.sum(value.bitwiseAND(F.lit(HALF))).alias(f"digest_low_{salt}"))
    return aggregates


def digest_from_aggregates(observed: dict[str, Any]) -> str:
    """The digest, from the collected values of `digest_columns`."""
    return digest_of({name: int(value or 0) for name, value in observed.items() if name.startswith("digest_")})


def observe_digest(frame: DataFrame, names: list[str], *more: Column) -> tuple[DataFrame, Observation]:
    """The columns `names` of a frame, and an observation that has their digest, and other aggregates of the frame, once
    they are written."""
    observation = Observation()
    observed = frame.observe(observation, *digest_columns(frame.select(names)), *more)
    return observed.select(names), observation
