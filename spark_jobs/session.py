"""How a step gets its Spark session: local by default, or the one that spark-submit was told to use."""

import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

QUICK_BYTES = 256 * 2**20  # below this much input a step is over before the optimizing compiler has paid for itself
QUICK_JAVA = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"  # 26 s of processor time a step instead of 43

# What every session needs for the same rows and digests on any machine, and little noise.
COMMON = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "true",
    "spark.sql.adaptive.enabled": "true",
    "spark.speculation": "false",  # two attempts of a task would write the same file
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
    "spark.sql.shuffle.partitions": "32",  # adaptive execution merges what is small
}
QUICK = {
    "spark.driver.extraJavaOptions": QUICK_JAVA,
    "spark.sql.shuffle.partitions": "2",
}


def spark_session(app: str, *, input_bytes: int = 0) -> "SparkSession":
    """A session named `app`. A master given to spark-submit is kept; otherwise all cores of this machine are used, and
    a local session is set up for how much it will read."""
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
        settings = LOCAL | {"spark.sql.warehouse.dir": str(warehouse)} | (QUICK if input_bytes < QUICK_BYTES else {})
        for name, value in settings.items():
            builder = builder.config(name, value)
    logging.getLogger("py4j").setLevel(logging.WARNING)
    return builder.getOrCreate()
