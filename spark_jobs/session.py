"""How a step gets its Spark session: local by default, or the one that spark-submit was told to use."""

import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SHUFFLE_PARTITIONS = 4  # local mode; adaptive execution merges them further

# What every session needs for the same rows and digests on any machine, and little noise.
COMMON = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "true",
    "spark.sql.adaptive.enabled": "true",
    "spark.sql.parquet.compression.codec": "zstd",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.log.level": "ERROR",
}

LOCAL = {
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.memory": "2g",
    "spark.sql.shuffle.partitions": str(SHUFFLE_PARTITIONS),
    "spark.shuffle.compress": "true",
}


def spark_session(app: str) -> "SparkSession":
    """A session named `app`. A master given to spark-submit is kept; otherwise all cores of this machine are used."""
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    from pyspark import SparkConf
    from pyspark.sql import SparkSession

    submitted = SparkConf().get("spark.master") if "PYSPARK_GATEWAY_PORT" in os.environ else None
    master = submitted or "local[*]"
    builder = SparkSession.builder.appName(app).master(master)
    for name, value in COMMON.items():
        builder = builder.config(name, value)
    if master.startswith("local"):
        warehouse = Path(tempfile.gettempdir()) / "longreel-spark-warehouse"
        for name, value in (LOCAL | {"spark.sql.warehouse.dir": str(warehouse)}).items():
            builder = builder.config(name, value)
    logging.getLogger("py4j").setLevel(logging.WARNING)
    return builder.getOrCreate()
