"""Values of evaluated columns by kind: ids, categories, numbers, lists, times and actions.

Text is trimmed, and blank text is a missing value. A whole number may be written 39.0, 1.65E12 or 1e+16, as some
writers spell fractions. `1e3` is text: ids in hexadecimal have such digits.
"""

from dataclasses import dataclass

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql import types as T

from longreel.contracts.durations import delay_ms
from longreel.contracts.errors import LongreelError
from longreel.contracts.log_schema import UNKNOWN, Field

WHOLE = (T.ByteType, T.ShortType, T.IntegerType, T.LongType)
NUMERIC = (*WHOLE, T.FloatType, T.DoubleType, T.DecimalType, T.BooleanType)
NESTED = (T.ArrayType, T.StructType, T.MapType)
DIGITS = r"^[+-]?\d+$"
DECIMAL = r"^[+-]?\d+(\.0*|\.\d*[eE]\+?\d+|[eE]\+\d+)$"  # a whole number with a point, or a signed exponent
WHITE_SPACE = "".join(chr(code) for code in range(0x3001) if chr(code).isspace())  # all that Python strips
BEYOND_LONG = r"^\+?(-?\d{19,})(?:\.0*)?$"  # a whole number that may not fit 64 bits
DAY_MS = 86_400_000
LAST_MS = 253_402_300_799_999  # of the year 9999
FLOAT_MAX = 3.4028234663852886e38  # of float32, in which numbers are stored


@dataclass(frozen=True)
class Parsed:
    """A column's value in its kind's type, null where it is missing, and the text of one that cannot be read."""

    value: Column
    unreadable: Column | None = None  # None: any value can be read


def _parsed(value: Column, raw: Column, is_unreadable: Column) -> Parsed:
    return Parsed(value, F.when(is_unreadable, raw.cast("string")))


def text_of(value: Column) -> Column:
    """Text without the white space around it, as `str.strip` has it; null where it is blank."""
    return F.nullif(F.trim(value.cast("string"), F.lit(WHITE_SPACE)), F.lit(""))


def cleaned(value: Column, kind: T.DataType) -> Column:
    """A value with what means none as null: blank text, and a fraction that is not a number. Text is trimmed."""
    if isinstance(kind, T.StringType):
        return text_of(value)
    return F.when(~F.isnan(value), value) if isinstance(kind, T.FloatType | T.DoubleType) else value


def as_long(text: Column) -> Column:
    """A whole number written as text; null where it is not one or does not fit 64 bits."""
    # Patterns first: a cast that fails throws inside, which takes longer than all the rest.
    decimal = F.when(text.rlike(DECIMAL), text).try_cast("decimal(38,6)")
    return F.coalesce(F.when(text.rlike(DIGITS), text).try_cast("bigint"), decimal.try_cast("bigint"))


def id_of(value: Column, kind: T.DataType) -> Column:
    """A whole number as it is, other text hashed to 64 bits; null where the value is."""
    if isinstance(kind, WHOLE):
        return value.cast("bigint")
    text = value.cast("string")
    digits = F.when(text.rlike(BEYOND_LONG), F.regexp_extract(text, BEYOND_LONG, 1))  # as those below are one id
    return F.when(text.isNotNull(), F.coalesce(as_long(text), F.xxhash64(F.coalesce(digits, text))))


def category_code(text: Column) -> Column:
    """The code of a category's text: a whole number of 32 bits as it is, other text hashed to 31."""
    hashed = F.pmod(F.xxhash64(text), F.lit(2**31)).cast("int")
    return F.when(text.isNotNull(), F.coalesce(as_long(text).try_cast("int"), hashed))


def parse(field: Field, value: Column, kind: T.DataType, where: str) -> Parsed:
    """A field's value, `cleaned`, of a Spark type, as labels see it: a category as text.

    Raises:
        LongreelError: no value of the type fits the field's kind.
    """
    if field.kind in ("multi", "vector"):
        if not isinstance(kind, T.ArrayType) or isinstance(kind.elementType, NESTED):
            example = "split(x, ',')" if field.kind == "multi" else "from_json(x, 'array<float>')"
            raise LongreelError(
                f"{where}: expected a list, got {kind.simpleString()}; give one in `from`, such as {example}"
            )
        if field.kind == "multi":
            element = kind.elementType
            ids = F.transform(value, lambda x: id_of(cleaned(x, element), element))
            return Parsed(F.filter(ids, lambda x: x.isNotNull()))
        return _vector(field, value, kind.elementType, where)
    if field.kind == "number":
        return _number(value, kind, where)
    require_scalar(kind, where)
    return Parsed(id_of(value, kind) if field.kind == "id" else _category_text(value, kind))


def _category_text(value: Column, kind: T.DataType) -> Column:
    """The text of a category. Whole numbers have one spelling: a column that is missing somewhere may be read as
    fractions, and 33 then as 33.0."""
    text = value.cast("string")
    if isinstance(kind, WHOLE):
        return text
    return F.coalesce(F.when(text.rlike(DECIMAL), as_long(text)).cast("string"), text)


def require_scalar(kind: T.DataType, where: str) -> None:
    """Raises LongreelError for a type that holds more than one value."""
    if isinstance(kind, NESTED):
        raise LongreelError(f"{where}: expected a number or text, got {kind.simpleString()}; name a part of it")


def _number(value: Column, kind: T.DataType, where: str) -> Parsed:
    if isinstance(kind, T.StringType):
        double = value.try_cast("double")
        return _parsed(_finite(double), value, value.isNotNull() & double.isNull())
    if not isinstance(kind, NUMERIC):
        raise LongreelError(
            f"{where}: expected a number, got {kind.simpleString()}; give one in `from`, such as unix_seconds(x)"
        )
    return Parsed(_finite(value.cast("double")))


def _finite(double: Column) -> Column:
    return F.when(F.abs(double) <= FLOAT_MAX, double)


def _vector(field: Field, value: Column, element: T.DataType, where: str) -> Parsed:
    """`size` numbers; unreadable where there are more or fewer, or one of them is no number."""
    if not isinstance(element, (*NUMERIC, T.StringType)):
        raise LongreelError(f"{where}: expected a list of numbers, got a list of {element.simpleString()}")
    numbers = F.transform(value, lambda x: _number(cleaned(x, element), element, where).value)
    is_whole = (F.size(numbers) == field.size) & ~F.exists(numbers, lambda x: x.isNull())
    return _parsed(F.when(is_whole, numbers), value, value.isNotNull() & ~is_whole)


def stored(field: Field, value: Column) -> Column:
    """A parsed value as `events` and `users` store it: lists filled up to `size`, missing values as UNKNOWN or NaN."""
    unknown = F.lit(field.unknown)
    if field.kind == "multi":
        kept = F.slice(F.coalesce(value, F.array().cast("array<bigint>")), 1, field.size)
        return F.concat(kept, F.array_repeat(F.lit(UNKNOWN).cast("bigint"), F.lit(field.size) - F.size(kept)))
    if field.kind == "vector":
        return F.coalesce(value, F.array_repeat(unknown, field.size)).cast("array<float>")
    if field.kind == "category":
        return F.coalesce(category_code(value), unknown.cast("int"))
    return F.coalesce(value, unknown.cast("bigint")) if field.kind == "id" else F.coalesce(value, unknown).cast("float")


def milliseconds(value: Column, kind: T.DataType, time_zone: str, where: str) -> Parsed:
    """Milliseconds since 1970 UTC, of a `cleaned` number, text or timestamp; one without a zone is of the log's.

    Raises:
        LongreelError: the type is none of these.
    """
    if isinstance(kind, T.TimestampType):
        return Parsed(F.unix_millis(value))
    if isinstance(kind, T.TimestampNTZType):
        return Parsed(F.unix_millis(F.to_utc_timestamp(value.cast("timestamp"), time_zone)))
    if isinstance(kind, WHOLE):
        return Parsed(value.cast("bigint"))
    if not isinstance(kind, T.StringType | T.FloatType | T.DoubleType | T.DecimalType):
        raise LongreelError(
            f"{where}: expected milliseconds since 1970 UTC or a timestamp, got {kind.simpleString()}; "
            "convert it, as with to_timestamp(x)"
        )
    number = as_long(value.cast("string"))
    return _parsed(number, value, value.isNotNull() & number.isNull())


def known_ms(happened_ms: Column, known_after: str, time_zone: str) -> Column:
    """When something becomes known that happened at a time, 0 .. LAST_MS: after a delay, or with `next day` at the
    local midnight that ends its day, as `contracts.clock.midnight_ms` has it."""
    delay = delay_ms(known_after, "known_after")
    if delay is not None:
        return happened_ms + delay if delay else happened_ms
    local_ms = F.unix_millis(F.from_utc_timestamp(F.timestamp_millis(happened_ms), time_zone))
    end_ms = local_ms - F.pmod(local_ms, F.lit(DAY_MS)) + DAY_MS
    midnight_ms = F.unix_millis(F.to_utc_timestamp(F.timestamp_millis(end_ms), time_zone))
    return F.greatest(midnight_ms, happened_ms)  # a clock that is turned back over midnight has it twice


def flag(value: Column, kind: T.DataType, where: str) -> Parsed:
    """Whether something holds, of true/false or 1/0, `cleaned`, also as text; missing is false.

    Raises:
        LongreelError: the type is neither.
    """
    if isinstance(kind, T.BooleanType):
        return Parsed(F.coalesce(value, F.lit(False)))
    if not isinstance(kind, (*NUMERIC, T.StringType)):
        raise LongreelError(f"{where}: expected true/false or 1/0, got {kind.simpleString()}; give a condition")
    text = F.lower(F.coalesce(value.cast("string"), F.lit("false")))
    is_true = text.isin("1", "1.0", "true")
    return _parsed(is_true, value, ~is_true & ~text.isin("0", "0.0", "false"))
