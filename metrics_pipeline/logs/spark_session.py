"""A session of Spark: opening it, running statements that end with us, and what its faults mean."""

import re
import signal
import threading
import uuid
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, TypeVar

import polars as pl

from metrics_pipeline.errors import ContractError, PermanentError, TransientError
from metrics_pipeline.logs.lake_logs import UnreadableLogsError
from metrics_pipeline.logs.spark_sql import quoted

_T = TypeVar("_T")

# Errors instead of wrong numbers, instants in UTC, one meaning of names, and no file that is left out silently. What
# tables and files mean is left to the settings of their owner.
_PINNED = {
    "spark.sql.ansi.enabled": "true",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.parser.quotedRegexColumnNames": "false",
    # Spark's default is true, which replaces ${…} in the name of a column.
    "spark.sql.variable.substitute": "false",
    "spark.sql.files.ignoreCorruptFiles": "false",
    "spark.sql.files.ignoreMissingFiles": "false",
    # Otherwise reading a part of rows that are kept starts 200 tasks, which take four times as long as the part.
    "spark.sql.optimizer.canChangeCachedPlanOutputPartitioning": "true",
}
# On this machine only: nothing listens on other interfaces.
_LOCAL = {
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
}

# Spark's names of errors, which its messages begin with. A file that is gone was replaced: it is tried again.
_OF_LOGS = re.compile(
    r"\[(CAST_\w+|ARITHMETIC_OVERFLOW|NUMERIC_\w+|DECIMAL_\w+|"
    r"FAILED_READ_FILE\.(?!FILE_NOT_EXIST)\w+|CANNOT_READ_FILE_FOOTER|PARQUET_\w+)[\w.]*\]"
)


class Spark:
    """A session that runs statements of Spark's SQL.

    url: METRICS_LOGS_URL. Raises PermanentError without pyspark or Java, and TransientError for an unreachable Spark.
    """

    def __init__(self, url: str) -> None:
        try:
            from pyspark.sql import SparkSession
        except ModuleNotFoundError as error:
            raise PermanentError(
                "METRICS_LOGS_URL needs the Python package pyspark. Install it: pip install 'metrics-pipeline[spark]'"
            ) from error
        # The address without parameters, which may hold a token.
        self.name = url.partition(";")[0].removesuffix("/")
        builder: Any = SparkSession.builder.appName("metrics_pipeline")
        if url.startswith("sc://"):
            builder = builder.remote(url)
        elif url.startswith("spark://"):
            builder = builder.master(url).config("spark.ui.showConsoleProgress", "false")
        else:
            builder = builder.master(url.removeprefix("spark:")).config(map=_LOCAL)
        with self._faults("could not be opened. Check that it runs and that this machine reaches it"), _kept_handler():
            has_connect = url.startswith("sc://")
            if not has_connect:
                # The package pyspark-client, which has nothing but Spark Connect, lacks it.
                from pyspark import SparkContext

                # A cluster may have ended the application of this process, or never accepted it. pyspark does not
                # notice.
                context = SparkContext._active_spark_context  # noqa: SLF001
                if context is not None and context._jsc.sc().isStopped():  # noqa: SLF001
                    context.stop()
            self._session = builder.getOrCreate()
            for name, value in _PINNED.items():
                self._session.conf.set(name, value)
            # Without Connect, a tag of the session does not reach the thread that delivers Arrow (Spark 4.3).
            of = self._session if has_connect else self._session.sparkContext
            self._add_tag = of.addTag if has_connect else of.addJobTag
            self._remove_tag = of.removeTag if has_connect else of.removeJobTag
            self._cancel = of.interruptTag if has_connect else of.cancelJobsWithTag

    def frame(self, statement: str) -> pl.DataFrame:
        """The rows of a statement.

        Raises UnreadableLogsError for values that cannot be read, ContractError for a name that Spark does not know,
        and TransientError for other faults. If the thread is interrupted, Spark's work on it is cancelled.
        """
        return _frame(self._run(lambda: self._session.sql(statement).toArrow()))

    def schema(self, table: str, read: Collection[str]) -> pl.Schema:
        """The columns of a table and their types; pl.Unknown of those that are not in `read`.

        Raises ContractError if Spark cannot deliver a column in `read`, such as an interval, and what frame() raises.
        """
        rows = self._run(lambda: self._session.sql(f"SELECT * FROM {table} LIMIT 0"))
        types: dict[str, Any] = {}
        problems = []
        for field in self._run(lambda: rows.schema.fields):
            types[field.name] = pl.Unknown()
            if field.name in read:
                try:
                    [types[field.name]] = _frame(self._run(rows.select(quoted(field.name)).toArrow)).dtypes
                except ContractError as error:
                    problems.append(f"column {field.name} of type {field.dataType.simpleString()}: {error}")
        if problems:
            raise ContractError(
                f"Spark cannot deliver {'; '.join(problems)} Name in METRICS_LOGS_TABLE a view that casts it, or in "
                "METRICS_LOGS_COLUMNS another column."
            )
        return pl.Schema(types)

    def buckets(self, statement: str, number: int) -> Iterator[pl.DataFrame]:
        """The rows of a statement, of one part of the agents after the other, so that only a part is in memory here.

        The statement is computed once: Spark keeps its rows on the disks of its executors.
        """
        if number == 1:
            yield self.frame(statement)
            return
        from pyspark import StorageLevel

        # Sorted, so that reading a part skips what Spark has kept of the others.
        divided = f"SELECT *, pmod(xxhash64(agent_id), {number}) AS part FROM ({statement}) SORT BY part"
        kept = self._run(lambda: self._session.sql(divided).persist(StorageLevel.DISK_ONLY))
        try:
            for part in range(number):
                rows = kept.where(f"part = {part}").drop("part")
                yield _frame(self._run(rows.toArrow))
        finally:
            self._run(kept.unpersist)

    def refresh(self, table: str) -> None:
        """Has Spark forget which files the table had. It keeps that for tables of a catalog, but not for bare files."""
        if "/" not in table:
            self._run(lambda: self._session.sql(f"REFRESH TABLE {table}"))

    def _run(self, work: Callable[[], _T]) -> _T:
        """The result of the work, which another thread does: this one waits, so that a signal can interrupt it."""
        tag = f"metrics_pipeline-{uuid.uuid4().hex}"

        def tagged() -> _T:
            self._add_tag(tag)
            try:
                return work()
            finally:
                self._remove_tag(tag)

        with self._faults(), ThreadPoolExecutor(1) as thread:
            running = thread.submit(tagged)
            try:
                return running.result()
            finally:
                # Interrupted: the work may be between two jobs, so it is told until it has ended.
                while not running.done():
                    self._cancel(tag)
                    wait([running], timeout=0.5)

    @contextmanager
    def _faults(self, failed: str = "could not compute a statement") -> Iterator[None]:
        try:
            yield
        except Exception as error:
            from pyspark.errors import AnalysisException, PySparkTypeError, UnsupportedOperationException

            said = str(error)
            first, *others = said.strip().splitlines() or [""]
            # That line only names the call of Java.
            if first.startswith("An error occurred while calling") and others:
                first = others[0].removeprefix(": ")
            if _OF_LOGS.search(said):
                raise UnreadableLogsError(f"{self.name} holds logs that cannot be read: {first}") from error
            # The other two are of types that Arrow lacks.
            if isinstance(error, AnalysisException | PySparkTypeError | UnsupportedOperationException):
                raise ContractError(f"{self.name} does not hold what METRICS_LOGS_TABLE names: {first}") from error
            if "JAVA_GATEWAY_EXITED" in said:
                raise PermanentError(
                    "METRICS_LOGS_URL needs Java 17 or newer on this machine, except with sc://. Install it, "
                    "or set JAVA_HOME."
                ) from error
            raise TransientError(f"{self.name} {failed}: {first}") from error


def _frame(table: Any) -> pl.DataFrame:
    return pl.DataFrame(pl.from_arrow(table))


@contextmanager
def _kept_handler() -> Iterator[None]:
    """Keeps the handler of SIGINT, which is Dagster's in a run. A new session of pyspark sets one of its own."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)
