"""A Spark session for preparation: settings are made, and what cannot work is said before Spark starts."""

import contextlib
import logging
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from linguarec.data.engine import EngineChoice
from linguarec.errors import SettingsError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

OLDEST_JAVA = 17
VECTOR = "jdk.incubator.vector"  # a module that Spark's launcher asks for
_JAVA = (
    "Install Java 17 or 21 from the system (Debian and Ubuntu: openjdk-17-jre-headless or openjdk-21-jre-headless), or set "
    "JAVA_HOME to one."
)
BATCH_ROWS = 1 << 16
_UNITS = {"K": "k", "M": "m", "G": "g", "T": "t"}


@contextlib.contextmanager
def session(choice: EngineChoice) -> "Iterator[SparkSession]":
    """A session of our own in the Spark context of this process, which is started if there is none, and then stopped.

    Raises:
        SettingsError: PySpark or Java is missing or too old, the memory or the master is not one for Spark, or Spark
        does not start.
    """
    try:
        from pyspark import SparkContext
        from pyspark.errors import PySparkException
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise SettingsError(
            [
                "--engine spark needs PySpark, which is not installed; run `pip install 'linguarec[spark]'`, or use "
                "--engine duckdb."
            ]
        ) from error
    # Nothing here uses pandas, which Ibis imports; errors of a query are reported by us, in a sentence.
    warnings.filterwarnings("ignore", "PySpark does not yet fully support pandas", FutureWarning)
    logging.getLogger("SQLQueryContextLogger").setLevel(logging.CRITICAL)
    running = SparkSession.getActiveSession()
    if running is None and SparkContext._active_spark_context is not None:  # the session is active in another thread
        running = SparkSession(SparkContext._active_spark_context)
    if running is not None:
        master = running.sparkContext.master
        if choice.master not in (None, master):
            raise SettingsError(
                [f"--master is {choice.master}, but this process has a Spark context on {master}; stop that first."]
            )
        yield _own(running)
        return
    settings = _settings(choice)
    check_java()
    # Workers run the Python that runs here, unless the user says otherwise.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = SparkSession.builder.appName("linguarec prepare")
    for key, value in settings.items():
        builder = builder.config(key, value)
    try:
        started = builder.getOrCreate()
    except (PySparkException, OSError, RuntimeError) as error:
        raise SettingsError(
            [f"Spark does not start: {str(error).strip().splitlines()[0]} Check --master and Java. {_JAVA}"]
        ) from error
    except Exception as error:
        if type(error).__module__.split(".")[0] != "py4j":
            raise
        raise SettingsError([f"Spark does not start with --master {choice.master}: {_reason(error)}"]) from error
    try:
        yield _own(started)
    finally:
        started.stop()


def _settings(choice: EngineChoice) -> dict[str, str]:
    """Settings of the context; those of SQL are in `_own`.

    Raises:
        SettingsError: the memory or the master is not one for Spark.
    """
    problems = []
    amount = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT])i?B", choice.memory, re.IGNORECASE)
    if amount is None:
        problems.append(
            f'--memory is {choice.memory!r}; with Spark give a number and a unit, such as "1500MB" or "4GB".'
        )
    if choice.master is not None and not re.match(r"(local(\[.+\])?|spark://.+|k8s://.+|yarn)$", choice.master):
        problems.append(
            f"--master is {choice.master!r}; expected the URL of a Spark master: local[8], spark://HOST:7077, "
            f"k8s://... or yarn."
        )
    if problems or amount is None:
        raise SettingsError(problems)
    kilobytes = float(amount[1]) * 1024 ** " KMGT".index(amount[2].upper()) / 1024
    memory = f"{round(kilobytes)}k"
    settings = {
        "spark.driver.memory": memory,
        "spark.executor.memory": memory,
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
    }
    if choice.master is not None:
        settings["spark.master"] = choice.master
        if re.match(r"local|spark://(127\.|localhost)", choice.master):  # nothing beyond this machine has to reach us
            settings |= {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
    return settings


def _own(running: "SparkSession") -> "SparkSession":
    """A session beside `running` with SQL settings and temporary views of its own."""
    own = running.newSession()
    own.conf.set("spark.sql.session.timeZone", "UTC")
    own.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", BATCH_ROWS)
    # A partition's value is text, as its folder is written, with DuckDB as well.
    own.conf.set("spark.sql.sources.partitionColumnTypeInference.enabled", "false")
    if not running.sparkContext.getConf().contains("spark.sql.shuffle.partitions"):
        # Spark's default of 200 is made for clusters; few cores spend their time on starting tasks.
        own.conf.set("spark.sql.shuffle.partitions", max(8, 4 * running.sparkContext.defaultParallelism))
    return own


def check_java() -> None:
    """Refuse to start Spark without a Java that it runs on.

    Raises:
        SettingsError: there is no Java, it is older than 17, or it is one cut down to fewer modules than Spark needs.
    """
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home, "bin", "java")) if home else shutil.which("java")
    if java is None:
        raise SettingsError([f"--engine spark needs Java, and there is none. {_JAVA}"])
    said = _said_by(java, "-version")
    found = re.search(r'version "(?:1\.)?(\d+)', said)
    if found is None or int(found[1]) < OLDEST_JAVA:
        version = said.strip().splitlines()[0] if said.strip() else "an unknown version"
        raise SettingsError([f"--engine spark needs Java {OLDEST_JAVA} or later, but {java} is {version}. {_JAVA}"])
    if VECTOR not in _said_by(java, "--list-modules"):
        raise SettingsError([f"--engine spark needs a whole Java, but {java} lacks the module {VECTOR}. {_JAVA}"])


def _said_by(java: str, flag: str) -> str:
    try:
        done = subprocess.run([java, flag], capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        raise SettingsError([f"--engine spark needs Java, but {java} does not run ({error}). {_JAVA}"]) from error
    return done.stderr + done.stdout


def _reason(error: Exception) -> str:
    """The line of an error of Java's that says why."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "Exception" in line), lines[0] if lines else type(error).__name__)[:300]
