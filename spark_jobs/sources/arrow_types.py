"""Arrow types as Spark has them, and values converted to them without loss."""

import pyarrow as pa
import pyarrow.compute as pc

AS_SPARK = {  # the nearest type that Spark has and that holds every value
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),
    pa.float16(): pa.float32(),
    pa.large_string(): pa.string(),
    pa.string_view(): pa.string(),
    pa.large_binary(): pa.binary(),
    pa.binary_view(): pa.binary(),
    pa.date64(): pa.date32(),
    pa.time32("s"): pa.int32(),
    pa.time32("ms"): pa.int32(),
}
AS_THEY_ARE = {
    pa.null(),
    pa.bool_(),
    pa.int8(),
    pa.int16(),
    pa.int32(),
    pa.int64(),
    pa.float32(),
    pa.float64(),
    pa.string(),
    pa.binary(),
    pa.date32(),
}
DECIMAL_DIGITS = 38  # of Spark's widest decimal
LAST_US = 2**63 - 1


def as_spark(kind: pa.DataType) -> pa.DataType | None:
    """The type that Spark reads values of a type as; None where Spark has none for it. Times of day and durations are
    their stored integers, wider decimals and UUIDs are text."""
    while pa.types.is_dictionary(kind) or _is_extension(kind):
        kind = kind.storage_type if _is_extension(kind) else kind.value_type
    return _nested_as_spark(kind) if pa.types.is_nested(kind) else _scalar_as_spark(kind)


def _is_extension(kind: pa.DataType) -> bool:
    return isinstance(kind, pa.BaseExtensionType) and not isinstance(kind, pa.UuidType)


def _nested_as_spark(kind: pa.DataType) -> pa.DataType | None:
    read = (as_spark(kind.field(number).type) for number in range(kind.num_fields))
    parts = [part for part in read if part is not None]
    if pa.types.is_union(kind) or not parts or len(parts) < kind.num_fields:
        return None
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, part) for field, part in zip(kind, parts, strict=True)])
    if pa.types.is_map(kind):  # a list of keys with values
        return pa.map_(*(field.type for field in parts[0]))
    return pa.list_(parts[0])


def _scalar_as_spark(kind: pa.DataType) -> pa.DataType | None:
    if isinstance(kind, pa.UuidType):
        return pa.string()
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz and "UTC")
    if pa.types.is_time64(kind) or pa.types.is_duration(kind):
        return pa.int64()
    if pa.types.is_decimal(kind):
        return pa.string() if kind.precision > DECIMAL_DIGITS else pa.decimal128(kind.precision, kind.scale)
    if pa.types.is_fixed_size_binary(kind):
        return pa.binary()
    return kind if kind in AS_THEY_ARE else AS_SPARK.get(kind)


def converted(values: pa.Array, kind: pa.DataType, *, exact: bool) -> pa.Array:
    """Values as the `as_spark` of their type; nanoseconds become the microsecond that they lie in.

    Args:
        exact: whether a time that microseconds of 64 bits cannot hold is an error; else it is null.

    Raises:
        pa.ArrowInvalid: there is such a time.
    """
    while pa.types.is_dictionary(values.type) or _is_extension(values.type):
        values = values.storage if _is_extension(values.type) else values.dictionary_decode()
    if values.type == kind:
        return values
    if pa.types.is_nested(kind):
        return _converted_nested(values, kind, exact=exact)
    if pa.types.is_timestamp(kind):
        return _microseconds(values, kind, exact=exact)
    if pa.types.is_decimal(values.type) and pa.types.is_string(kind):
        return pa.array([None if value is None else f"{value:f}" for value in values.to_pylist()], kind)
    if isinstance(values.type, pa.UuidType):
        return pa.array([None if value is None else str(value) for value in values.to_pylist()], kind)
    if pa.types.is_fixed_size_binary(values.type) and pa.types.is_string(kind):
        values = values.cast(pa.binary())
    return values.cast(kind)


def _converted_nested(values: pa.Array, kind: pa.DataType, *, exact: bool) -> pa.Array:
    if pa.types.is_struct(kind):
        parts = [converted(values.field(number), kind.field(number).type, exact=exact) for number in range(len(kind))]
        return pa.StructArray.from_arrays(parts, fields=list(kind), mask=values.is_null())
    if pa.types.is_map(kind):
        keys = converted(values.keys, kind.key_type, exact=exact)
        items = converted(values.items, kind.item_type, exact=exact)
        inner = pa.StructArray.from_arrays([keys, items], fields=[kind.key_field, kind.item_field])
    else:
        if not pa.types.is_list(values.type):
            values = _as_list(values)
        inner = converted(values.values, kind.value_type, exact=exact)
    # The same offsets over other values, whatever part of a longer array this is.
    return pa.Array.from_buffers(kind, len(values), values.buffers()[:2], offset=values.offset, children=[inner])


def _as_list(values: pa.Array) -> pa.Array:
    lengths = pc.fill_null(pc.list_value_length(values), 0).cast(pa.int32())
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), pc.cumulative_sum_checked(lengths)])
    return pa.ListArray.from_arrays(offsets, values.flatten(), mask=values.is_null())


def _microseconds(values: pa.Array, kind: pa.DataType, *, exact: bool) -> pa.Array:
    """Timestamps of any unit, or numbers of microseconds, as timestamps."""
    if pa.types.is_integer(values.type):
        return values.view(kind)
    per_us = {"s": -1_000_000, "ms": -1_000, "us": 1, "ns": 1_000}[values.type.unit]
    numbers = values.view(pa.int64())
    if per_us > 1:
        fraction = pc.less(pc.subtract(numbers, pc.multiply(pc.divide(numbers, per_us), per_us)), 0)
        numbers = pc.subtract(pc.divide(numbers, per_us), fraction.cast(pa.int64()))  # a division drops the sign
    elif per_us < 0:
        if not exact:
            limit = LAST_US // -per_us
            fits = pc.and_(pc.less_equal(numbers, limit), pc.greater_equal(numbers, -limit))
            numbers = pc.if_else(fits, numbers, None)
        numbers = pc.multiply_checked(numbers, -per_us)
    return numbers.view(kind)


def first_inexact(values: pa.Array) -> float | None:
    """The first fraction, also in lists, beyond the whole numbers that its type holds one by one; None without any."""
    while pa.types.is_list(values.type):
        values = values.flatten()
    if not pa.types.is_floating(values.type):
        return None
    limit = 2.0 ** (24 if pa.types.is_float32(values.type) else 53)
    beyond = values.filter(pc.greater(pc.abs(values), limit))
    return float(beyond[0].as_py()) if len(beyond) else None
