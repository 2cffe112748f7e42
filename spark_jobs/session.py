"""The Spark session of a step: local by default, or on the master given to spark-submit.

The driver ships its own code to the workers: they need Python with numpy and pyarrow and nothing of this project, and
always run what the driver runs.
"""

import atexit
import logging
import os
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import longreel
from longreel.spark_jobs.java import require_named_user, start_java

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

QUICK_BYTES = 256 * 2**20  # below this much input a step is over before the optimizing compiler has paid for itself
QUICK_JAVA = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"  # 26 s of processor time a step instead of 43

# What every session needs for the same rows and digests on any machine, and little noise.
COMMON = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "false",  # a cast in a user's SQL that fails gives null, it does not end the step
    "spark.sql.adaptive.enabled": "true",
    "spark.speculation": "false",  # two attempts of a task would write the same file
    "spark.sql.codegen.cache.maxEntries": "2000",  # a day has more classes than the default, 100
    "spark.sql.parquet.compression.codec": "zstd",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.python.sql.dataFrameDebugging.enabled": "false",  # five calls of the JVM for each column expression
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
TASK_LOGGERS = (
    "org.apache.spark.executor.Executor",
    "org.apache.spark.scheduler.TaskSetManager",
    "org.apache.spark.util.Utils",
    "org.apache.spark.sql.execution.datasources.FileFormatWriter",
)
_shipped_to: set[str] = set()  # the Spark applications that have the code
SHIPPED = ("contracts", "lake", "spark_jobs")  # what tasks import
QUICK = {
    "spark.driver.extraJavaOptions": QUICK_JAVA,
    "spark.sql.shuffle.partitions": "2",
}


def spark_session(app: str, *, input_bytes: int = 0) -> "SparkSession":
    """A session named `app`. A master given to spark-submit is kept; otherwise all cores of this machine are used, and
    a local session is set up for how much it will read.

    Raises:
        LongreelError: there is no Java that Spark can be started with, or the user has no account on this machine.
    """
    require_named_user()
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

    master = _submitted_master() or "local[*]"
    settings = COMMON
    if master.startswith("local"):
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
        warehouse = {"spark.sql.warehouse.dir": str(Path(tempfile.gettempdir()) / "longreel-spark-warehouse")}
        settings = COMMON | LOCAL | warehouse | (QUICK if input_bytes < QUICK_BYTES else {})
    logging.getLogger("py4j").setLevel(logging.CRITICAL)  # what fails in a call is raised
    logging.getLogger().addFilter(_is_no_call)
    logging.getLogger("SQLQueryContextLogger").setLevel(logging.CRITICAL)  # prints the Java trace of wrong SQL
    if "PYSPARK_GATEWAY_PORT" not in os.environ and not SparkContext._gateway:
        SparkContext._ensure_initialized(gateway=start_java(settings))
    builder = SparkSession.builder.appName(app).master(master)
    for name, value in settings.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    _silence_tasks(session)
    _ship_code(session)
    return session


def _silence_tasks(session: "SparkSession") -> None:
    """Keep the stack traces of failed tasks out of the output: the driver raises their errors."""
    log4j = session.sparkContext._jvm.org.apache.logging.log4j  # type: ignore[union-attr]
    for name in TASK_LOGGERS:
        log4j.core.config.Configurator.setLevel(name, log4j.Level.OFF)


def _is_no_call(record: logging.LogRecord) -> bool:
    """Whether a record is not the trace of a call that failed, which Py4J also raises, or that Ctrl-C broke off."""
    return not str(record.msg).endswith("while sending command.")


def _submitted_master() -> str | None:
    """The master given to spark-submit, None without spark-submit."""
    if "PYSPARK_GATEWAY_PORT" not in os.environ:
        return None
    from pyspark import SparkConf, SparkContext

    SparkContext._ensure_initialized()  # a configuration made before the JVM is known is empty
    return SparkConf().get("spark.master")


def _ship_code(session: "SparkSession") -> None:
    """Give the Python workers this checkout's or installation's modules, in front of any that are installed there;
    once for a Spark application, whatever the number of its sessions."""
    root, application = Path(longreel.__file__).parent, session.sparkContext.applicationId
    if application in _shipped_to or not (root / "spark_jobs").is_dir():  # the latter: run from a shipped archive
        return
    _shipped_to.add(application)
    folder = tempfile.mkdtemp(prefix="longreel-code-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # the driver serves the file for as long as it runs
    archive = Path(folder) / "longreel.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in [root / "__init__.py", *(p for package in SHIPPED for p in sorted((root / package).rglob("*.py")))]:
            packed.write(path, path.relative_to(root.parent))
    session.sparkContext.addPyFile(str(archive))
