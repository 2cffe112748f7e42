"""The KuaiRand source: the published files of Pure, 1K and 27K, their days and columns.

A row's log day is the published `date` column, which for about 1 % of Pure is not the day of its time stamp. The log
must have every day from its first to its last; one without rows is an empty day. Lines that have no readable `date`,
or do not fit the header, belong to the log's first day, where ingest quarantines them. Files log_history*.csv are
older history and not part of the log's days.
"""

from datetime import date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from longreel.contracts.errors import LongreelError
from longreel.spark_jobs.sources.base import (
    CORRUPT,
    FILE,
    RAW_COLUMNS,
    Source,
    find_csv,
    header_of,
    read_csv,
    require_columns,
)

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

# Our name -> the published one.
COLUMNS = {
    "user_id": "user_id",
    "item_id": "video_id",
    "time_ms": "time_ms",
    "surface": "tab",
    "play_ms": "play_time_ms",
    "duration_ms": "duration_ms",
    "click": "is_click",
    "like": "is_like",
    "follow": "is_follow",
    "comment": "is_comment",
    "forward": "is_forward",
    "hate": "is_hate",
    "long_view": "long_view",
    "profile_enter": "is_profile_enter",
}
VIDEO_COLUMNS = ("video_id", "author_id", "tag")
USER_FEATURES = (
    "user_active_degree",
    "is_lowactive_period",
    "is_video_author",
    "follow_user_num_range",
    "fans_user_num_range",
    "friend_user_num_range",
    "register_days_range",
)
DATE = r"^(19[9]\d|20\d\d)(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])$"  # 1990 .. 2099: a typing error must not be a day


class KuaiRandSource(Source):
    """The folder with log_*.csv, video_features_basic_*.csv and, where wanted, user_features_*.csv, or .csv.gz."""

    hashes_text_ids = False

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.older_logs = find_csv(root, "log_history")
        self.logs = [path for path in find_csv(root, "log_") if path not in self.older_logs]
        self.videos = find_csv(root, "video_features_basic")
        self.user_files = find_csv(root, "user_features")
        if not self.logs:
            raise LongreelError(f"no log_*.csv or log_*.csv.gz in {root}; expected KuaiRand's data folder")
        for path in (*self.logs, *self.older_logs):
            require_columns(path, header_of(path), ("date", *COLUMNS.values()))
        for path in self.videos:
            require_columns(path, header_of(path), VIDEO_COLUMNS)
        for path in self.user_files:
            require_columns(path, header_of(path), ("user_id", *USER_FEATURES))

    @cached_property
    def _span(self) -> tuple[date, date]:
        """First and last day of the log."""
        texts: set[str] = set()
        for path in self.logs:
            texts.update(_dates_in(path))
        days = sorted(day for text in texts if (day := _parse(text)) is not None)
        if not days:
            raise LongreelError(f"no readable date (YYYYMMDD) in the logs of {self.root}")
        return days[0], days[-1]

    def days(self) -> list[date]:
        first, last = self._span
        return [first + timedelta(days=number) for number in range((last - first).days + 1)]

    def has_day(self, day: date) -> bool:
        first, last = self._span
        return first <= day <= last

    def files(self, day: date) -> list[Path]:
        # Files hold many days, so a new file makes every day be read again; the same rows then publish nothing new.
        return [*self.logs, *self.videos, *self.user_files]

    def rows(self, spark: "SparkSession", day: date) -> "DataFrame":
        from pyspark.sql import functions as F

        of_day = F.coalesce((F.col("date") == f"{day:%Y%m%d}") & F.col(CORRUPT).isNull(), F.lit(False))
        unreadable = _unreadable()
        if day == self._span[0]:
            of_day = of_day | unreadable.isNotNull()
        else:
            unreadable = F.lit(None).cast("string")
        return _as_rows(read_csv(spark, self.logs).where(of_day), unreadable)

    def bootstrap_files(self) -> list[Path]:
        return [*self.older_logs, *self.videos] if self.older_logs else []

    def bootstrap_rows(self, spark: "SparkSession") -> "DataFrame":
        return _as_rows(read_csv(spark, self.older_logs), _unreadable())

    def standard(self, rows: "DataFrame") -> "DataFrame":
        from pyspark.sql import functions as F

        fields = rows.select("row.*").columns
        mapped = {ours: F.col(f"row.{theirs}") for ours, theirs in COLUMNS.items()}
        if "request_id" in fields:
            mapped["request_id"] = F.col("row.request_id")
        standard = rows.select("*", *(column.alias(name) for name, column in mapped.items()))
        if self.videos:
            videos = read_csv(rows.sparkSession, self.videos).select(
                F.col("video_id").alias("item_id"),
                "author_id",
                F.split_part("tag", F.lit(","), F.lit(1)).alias("tag"),  # "12,65": the first is the main one
            )
            distinct = videos.groupBy("item_id").agg(F.min(F.struct("author_id", "tag")).alias("video"))
            standard = standard.join(distinct, "item_id", "left")
            standard = standard.select("*", "video.author_id", "video.tag").drop("video")
        missing = [name for name in RAW_COLUMNS if name not in standard.columns]
        return standard.select("*", *(F.lit(None).cast("string").alias(name) for name in missing))

    def users(self, spark: "SparkSession") -> tuple[list[str], "DataFrame | None"]:
        if not self.user_files:
            return [], None
        return list(USER_FEATURES), read_csv(spark, self.user_files).select("user_id", *USER_FEATURES)


def _unreadable() -> "Column":
    """Why a line can be neither split into columns nor dated, else null."""
    from pyspark.sql import functions as F

    # 20220231 fits the pattern, so the calendar decides too.
    dated = F.when(F.col("date").rlike(DATE), F.try_to_timestamp("date", F.lit("yyyyMMdd")))
    return F.when(F.col(CORRUPT).isNotNull(), "malformed_row").when(dated.isNull(), "unreadable_date")


def _as_rows(raw: "DataFrame", unreadable: "Column") -> "DataFrame":
    """Lines as read -> `row, source_file, unreadable`."""
    from pyspark.sql import functions as F

    names = [name for name in raw.columns if name not in (CORRUPT, FILE)]
    return raw.select(
        F.struct(*names, F.col(CORRUPT)).alias("row"),
        F.col(FILE).alias("source_file"),
        unreadable.alias("unreadable"),
    )


def _parse(text: str) -> date | None:
    try:
        day = datetime.strptime(text, "%Y%m%d").date()
    except ValueError:
        return None
    return day if 1990 <= day.year < 2100 and len(text) == 8 else None


def _dates_in(path: Path) -> list[str]:
    """The different texts in the `date` column."""
    texts: set[str] = set()
    try:
        reader = pacsv.open_csv(
            path,
            parse_options=pacsv.ParseOptions(invalid_row_handler=lambda _: "skip"),
            convert_options=pacsv.ConvertOptions(include_columns=["date"], column_types={"date": pa.string()}),
        )
        for batch in reader:
            texts.update(text for text in pc.unique(batch.column(0)).to_pylist() if text)
    except (pa.ArrowInvalid, OSError) as error:
        raise LongreelError(f"{path} cannot be read to its end: {error}; fetch the file again") from error
    return sorted(texts)
