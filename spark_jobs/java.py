"""Spark's Java process: what it needs of the user, and what to do if it does not start."""

import os
import pwd
import subprocess
import threading
from collections import deque
from typing import Any

from longreel.contracts.errors import LongreelError


def require_named_user() -> None:
    """Raises LongreelError for a user id without a line in /etc/passwd: Hadoop, which reads files for Spark, cannot
    sign in without a name."""
    number = os.geteuid()
    try:
        pwd.getpwuid(number)
    except KeyError:
        raise LongreelError(
            f"Spark needs a user with a name, and user id {number} has no line in /etc/passwd; add one "
            f"(`echo 'longreel:x:{number}:{os.getegid()}::/tmp:/bin/false' >> /etc/passwd`, as root or in the image), "
            "or run as a user that has one"
        ) from None


def start_java(settings: dict[str, str]) -> Any:
    """Py4J's connection to a new Java process of Spark, whose messages go on to this process's standard error.

    Raises:
        LongreelError: the process ended at once; the message tells a missing Java from one that works.
    """
    from pyspark import SparkConf
    from pyspark.errors import PySparkRuntimeError
    from pyspark.java_gateway import launch_gateway

    messages, output = os.pipe()
    last: deque[str] = deque(maxlen=1)
    copy = threading.Thread(target=_copy_messages, args=(messages, last), daemon=True)
    copy.start()
    conf = SparkConf(loadDefaults=False).setAll(list(settings.items()))
    try:
        try:
            return launch_gateway(conf, {"stderr": output})  # type: ignore[no-untyped-call]
        finally:
            os.close(output)  # the new process has its own
    except PySparkRuntimeError as error:
        if "JAVA_GATEWAY_EXITED" not in str(error):
            raise
        copy.join(timeout=5)
        raise LongreelError(java_refusal("".join(last))) from error


def _copy_messages(source: int, last: "deque[str]") -> None:
    """Copy lines to standard error, and remember the last one that is no line of a Java trace."""
    with os.fdopen(source, "rb") as lines:
        for line in lines:
            os.write(2, line)
            if line.strip() and not line.startswith((b"\t", b" ")):
                last.append(line.decode(errors="replace").strip())


def java_refusal(message: str) -> str:
    """What to do if Spark's Java process ended at once with this message."""
    java_home = os.environ.get("JAVA_HOME")
    java = f"{java_home}/bin/java" if java_home else "java"
    place = f"JAVA_HOME is {java_home}" if java_home else "JAVA_HOME is not set"
    try:
        version = subprocess.run([java, "-version"], capture_output=True, text=True, check=True).stderr
    except (OSError, subprocess.CalledProcessError):
        return (
            f"Spark needs Java 17, and none could be started ({place}); `export JAVA_HOME=$(bash .ci/java.sh)` finds "
            "or installs one"
        )
    return (
        f"Java works ({place}: {version.partition(chr(10))[0]}), but Spark's process on it ended while starting: "
        f"{message or 'without a message'}; Spark needs Java 17 or 21"
    )
