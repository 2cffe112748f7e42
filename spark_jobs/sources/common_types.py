"""The type that a column is read as whose types differ between files: the narrowest that holds every value."""

from collections.abc import Sequence

from pyspark.sql import types as T

from longreel.spark_jobs.sources.arrow_types import DECIMAL_DIGITS

WHOLE = (T.ByteType, T.ShortType, T.IntegerType, T.LongType)
FRACTIONS = (T.FloatType, T.DoubleType)
DIGITS = {T.ByteType: 3, T.ShortType: 5, T.IntegerType: 10, T.LongType: 19}
EXACT: dict[type, tuple[type, ...]] = {
    T.FloatType: (T.ByteType, T.ShortType),
    T.DoubleType: (T.ByteType, T.ShortType, T.IntegerType),
}
NESTED = (T.ArrayType, T.MapType, T.StructType)
TIMES = (T.DateType, T.TimestampType, T.TimestampNTZType)


def common_type(kinds: Sequence[T.DataType]) -> T.DataType | None:
    """A type to which values of each type can be cast without loss; None where the values could not be compared as
    text either: times and numbers, and nested values that differ in more than the types of their parts.

    Columns of nulls take any type. Numbers that no type holds are text, as numbers and text are. Whole numbers always
    have 64 bits: `ts * 1000` of seconds in 32 bits would overflow in silence.
    """
    merged: T.DataType | None = T.NullType()
    for kind in kinds:
        merged = merged and _both(merged, kind)
    return T.LongType() if isinstance(merged, WHOLE) else merged and _as_text(merged)


def _as_text(kind: T.DataType) -> T.DataType:
    """A type with text where it is void."""
    if isinstance(kind, T.ArrayType):
        return T.ArrayType(_as_text(kind.elementType))
    if isinstance(kind, T.MapType):
        return T.MapType(_as_text(kind.keyType), _as_text(kind.valueType))
    if isinstance(kind, T.StructType):
        return T.StructType([T.StructField(field.name, _as_text(field.dataType)) for field in kind])
    return T.StringType() if isinstance(kind, T.NullType) else kind


def _both(one: T.DataType, other: T.DataType) -> T.DataType | None:
    """The common type of two, of which either may be void, here and inside."""
    if isinstance(one, T.NullType) or one == other:
        return other
    if isinstance(other, T.NullType):
        return one
    if isinstance(one, NESTED) or isinstance(other, NESTED):
        return _nested(one, other)
    if isinstance(one, TIMES) or isinstance(other, TIMES):
        return T.StringType() if T.StringType() in (one, other) else None
    return _number(one, other) or T.StringType()


def _number(one: T.DataType, other: T.DataType) -> T.DataType | None:
    """The number type that holds the values of both, None where there is none."""
    for widening in (WHOLE, FRACTIONS):
        if isinstance(one, widening) and isinstance(other, widening):
            return max(one, other, key=lambda kind: widening.index(type(kind)))
    for fraction, whole in ((one, other), (other, one)):
        if isinstance(fraction, FRACTIONS) and isinstance(whole, EXACT[type(fraction)]):
            return fraction
    decimals = [decimal for kind in (one, other) if (decimal := _as_decimal(kind)) is not None]
    if len(decimals) < 2:
        return None
    scale = max(kind.scale for kind in decimals)
    precision = scale + max(kind.precision - kind.scale for kind in decimals)
    return T.DecimalType(precision, scale) if precision <= DECIMAL_DIGITS else None


def _as_decimal(kind: T.DataType) -> T.DecimalType | None:
    if isinstance(kind, T.DecimalType):
        return kind
    return T.DecimalType(DIGITS[type(kind)], 0) if isinstance(kind, WHOLE) else None


def _nested(one: T.DataType, other: T.DataType) -> T.DataType | None:
    """The common type of two lists, maps or structs of equal names; None of anything else."""
    if isinstance(one, T.ArrayType) and isinstance(other, T.ArrayType):
        element = _both(one.elementType, other.elementType)
        return element and T.ArrayType(element)
    if isinstance(one, T.MapType) and isinstance(other, T.MapType):
        key, value = _both(one.keyType, other.keyType), _both(one.valueType, other.valueType)
        return T.MapType(key, value) if key and value else None
    if isinstance(one, T.StructType) and isinstance(other, T.StructType) and one.names == other.names:
        parts = [(mine.name, _both(mine.dataType, theirs.dataType)) for mine, theirs in zip(one, other, strict=True)]
        fields = [T.StructField(name, part) for name, part in parts if part is not None]
        return T.StructType(fields) if len(fields) == len(one) else None
    return None
