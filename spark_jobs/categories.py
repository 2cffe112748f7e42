"""Codes, names and counts of the values of categories, as a manifest's details keep them."""

from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.window import Window

from longreel.spark_jobs.validate import TEXT

MAX_NAMES = 1_000  # of a field


def count_categories(rows: DataFrame, fields: list[str], prefix: str = "") -> dict[str, list[list[Any]]]:
    """`[code, name, count]` of each field's most frequent values, in one job; the name is their text, the smallest
    where several texts have one code.

    Args:
        rows: `<prefix><field>` with the codes and `_text_<field>` with the texts of each field.
    """
    if not fields:
        return {}
    values = F.array(
        *(
            F.struct(
                F.lit(number).alias("field"),
                F.col(f"{prefix}{name}").alias("code"),
                F.col(f"{TEXT}{name}").alias("text"),
            )
            for number, name in enumerate(fields)
        )
    )
    each = rows.select(F.explode(values).alias("value")).select("value.*").where("text IS NOT NULL")
    counts = each.groupBy("field", "code").agg(F.min("text").alias("name"), F.count(F.lit(1)).alias("rows"))
    rank = F.row_number().over(Window.partitionBy("field").orderBy(F.desc("rows"), "code"))
    found: dict[str, list[list[Any]]] = {name: [] for name in fields}
    for row in counts.withColumn("rank", rank).where(F.col("rank") <= MAX_NAMES).orderBy("field", "rank").collect():
        found[fields[row["field"]]].append([row["code"], row["name"], row["rows"]])
    return found
