"""Tables of a lake, as files of Parquet, Delta Lake or Apache Iceberg: each is read in one state of it."""

import hashlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import date, timedelta
from importlib import import_module
from itertools import accumulate, groupby
from typing import Any

import polars as pl
from pyarrow import fs
from sqlalchemy.exc import OperationalError

from metrics_pipeline.errors import ContractError, PermanentError, TransientError
from metrics_pipeline.metrics.windows import DayWindow, days_between

#: {date} in METRICS_LOGS_URL, also with a format such as {date:%Y/%m/%d}.
_DATE = re.compile(r"\{date(?::([^{}]*))?\}")
#: Properties of pyiceberg, and the variables that Polars and deltalake read in their place.
_STORAGE = {"s3.endpoint": "AWS_ENDPOINT_URL", "s3.region": "AWS_REGION"}
#: What reading raises when a disk, a network or an object store fails, or a file is gone.
FAULTS_OF_STORAGE = (OSError,)
#: What reading raises when a file is damaged, or holds values that cannot be read.
FAULTS_OF_LOGS = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
# How the columns of a file may differ from those of the first one. Times are rounded down, which is within their day.
_CASTS = pl.ScanCastOptions(
    integer_cast="upcast",
    datetime_cast=["downcast", "upcast", "convert-timezone"],
    missing_struct_fields="insert",
    categorical_to_string="allow",
)
# Two parts take 200 MB while they are computed. Each opens the files of its group again, so groups are small.
_PART_ROWS = 500_000
_GROUP_BYTES = 64 * 2**20


class LakeState(ABC):
    """One state of a table. What is read from it is of this state, or require_unchanged raises TransientError.

    types_of_nulls: of columns whose values are NULL in a whole file. Some writers leave out their type.
    """

    types_of_nulls: Mapping[str, pl.DataType] = {}

    @abstractmethod
    def scan(self, window: DayWindow | None) -> pl.LazyFrame:
        """A frame with every log of the window, and maybe others; with every log, without a window.

        It has no columns if no file may hold such logs.
        """

    @abstractmethod
    def evidence(self, timestamp: str, windows: Sequence[DayWindow]) -> Mapping[date, str]:
        """For each day, what identifies the files that may hold its logs. `timestamp` is the name of that column."""

    def parts(self, window: DayWindow, is_within: pl.Expr) -> Iterator[pl.LazyFrame]:
        """Frames that together have the logs of scan(window) for which is_within is true."""
        yield self.scan(window)

    def schema(self) -> pl.Schema:
        """The columns and their types."""
        return self.scan(None).collect_schema()

    def oldest(self) -> Iterator[pl.LazyFrame]:
        """Frames of which the first that has logs has the oldest one."""
        yield self.scan(None)

    def unreadable_file(self, window: DayWindow, names: Collection[str]) -> str | None:
        """The file of the window in which columns of these names cannot be read, if that can be told."""
        return None

    def require_unchanged(self, window: DayWindow) -> None:  # noqa: B027 - files of most tables never change
        """Raises TransientError if the files of the window may have changed since this state was taken."""


class ParquetFiles(LakeState):
    """Files whose path matches a pattern: *, ** and ? as in a shell, and {date} for the day of the logs in them.

    The folders of {date} are days in UTC or in METRICS_TIME_ZONE. Files and folders whose names begin with _ or . are
    ignored, because engines write there what is not complete.
    """

    def __init__(self, location: str) -> None:
        self._prefix = "s3://" if location.startswith("s3://") else ""
        self._pattern = location.removeprefix("s3://")
        # Polars and deltalake read this variable by themselves, pyarrow does not.
        endpoint = os.environ.get("AWS_ENDPOINT_URL")
        self._system = fs.S3FileSystem(endpoint_override=endpoint) if self._prefix else fs.LocalFileSystem()
        self._where = location
        self._is_hive = "=" in location
        self._listed: dict[tuple[date, ...], dict[str, str]] = {}

    def schema(self) -> pl.Schema:
        """See LakeState: that of the newest file that is not damaged. Raises ContractError if there is no file."""
        error: Exception = ContractError(
            f"No file matches {self._where}, which METRICS_LOGS_URL names. Correct the URL, or have logs written."
        )
        for file in reversed(self._files(None)):
            try:
                return self._scan([file]).collect_schema()
            except FAULTS_OF_LOGS as damage:
                # Whoever reads the day of this file is told.
                error = damage
        raise error

    def scan(self, window: DayWindow | None) -> pl.LazyFrame:
        """See LakeState."""
        files = [*self._files(window)]
        return self._scan(files) if files else pl.LazyFrame()

    def parts(self, window: DayWindow, is_within: pl.Expr) -> Iterator[pl.LazyFrame]:
        """See LakeState: of _PART_ROWS each. Files that are read as one frame are read far ahead, and take 700 MB."""
        files = self._files(window)
        types = self._types(next(iter(files))) if files else {}
        bytes_before = accumulate((int(identity.split()[0]) for identity in files.values()), initial=0)
        by_place = groupby(zip(files, bytes_before, strict=False), key=lambda each: each[1] // _GROUP_BYTES)
        for _, group in by_place:
            logs = self._scan([file for file, _ in group], types)
            # Most files tell by their statistics, so files of other days are not read.
            if logs.filter(is_within).head(1).select(pl.len()).collect(engine="streaming").item():
                rows = logs.select(pl.len()).collect(engine="streaming").item()
                yield from (logs.slice(start, _PART_ROWS) for start in range(0, rows, _PART_ROWS))

    def oldest(self) -> Iterator[pl.LazyFrame]:
        """See LakeState: day by day, if the folders' names are in the order of the days."""
        folders = self._pattern.rpartition("/")[0]
        formats = _DATE.findall(folders)
        is_dated = formats and re.findall(r"%-?\w", "".join(formats)) in ([], ["%Y", "%m", "%d"])
        # Such as a folder for each region.
        before = re.compile(_as_regex(folders.partition("{date")[0]))

        def day(file: str) -> str:
            return before.sub("", file.rpartition("/")[0], count=1) if is_dated else ""

        for _, some in groupby(sorted(self._files(None), key=day), key=day):
            yield self._scan([*some])

    def evidence(self, timestamp: str, windows: Sequence[DayWindow]) -> Mapping[date, str]:
        """See LakeState: paths, sizes, and times of their last change."""
        return {window.metric_date: _digest(self._files(window).items()) for window in windows}

    def require_unchanged(self, window: DayWindow) -> None:
        """See LakeState."""
        before = self._files(window)
        self._listed.clear()
        if self._files(window) != before:
            raise TransientError(f"Files of {window.metric_date} changed while they were read from {self._where}.")

    def unreadable_file(self, window: DayWindow, names: Collection[str]) -> str | None:
        """See LakeState: one that is damaged, or lacks columns of the first file, or has them in other types."""
        types: dict[str, pl.DataType] = {}
        for file in self._files(window):
            try:
                types = types or self._types(file)
                self._scan([file], types).select(types.keys() & names).head(1).collect()
            except FAULTS_OF_LOGS:
                return self._prefix + file
        return None

    def _scan(self, files: Sequence[str], types: Mapping[str, pl.DataType] | None = None) -> pl.LazyFrame:
        """The rows of files, with the columns in `types`, or those of the first file, and those that folders name."""
        # Without a type, agent_id=007 is a number where no other folder is named by a text.
        of_folders = dict.fromkeys(re.findall(r"([^/=]+)=[^/]*/", files[0]) if self._is_hive else (), pl.String())
        return pl.scan_parquet(
            [self._prefix + file for file in files],
            glob=False,
            hive_partitioning=self._is_hive,
            hive_schema=of_folders or None,
            schema=types or self._types(files[0]),
            extra_columns="ignore",
            cast_options=_CASTS,
        )

    def _types(self, file: str) -> dict[str, pl.DataType]:
        """The columns of a file, in types that those of other files can be read as."""
        columns = pl.scan_parquet(self._prefix + file, glob=False, hive_partitioning=False).collect_schema()
        return {
            name: _wide(self.types_of_nulls.get(name, dtype) if dtype == pl.Null else dtype)
            for name, dtype in columns.items()
        }

    def _files(self, window: DayWindow | None) -> dict[str, str]:
        """The files of the window's days, or all files, by path, with what identifies each one's content."""
        days: tuple[date, ...] = ()
        if window is not None and _DATE.search(self._pattern):
            last = window.end - timedelta(microseconds=1)
            days = tuple(sorted({*days_between(window.start.date(), last.date()), window.metric_date}))
        if days not in self._listed:
            patterns = [self._pattern.format(date=day) for day in days] or [_DATE.sub(_any_date, self._pattern)]
            found: dict[str, str] = {}
            for pattern in dict.fromkeys(patterns):
                found |= self._matching(pattern)
            self._listed[days] = dict(sorted(found.items()))
        return self._listed[days]

    def _matching(self, pattern: str) -> dict[str, str]:
        base = re.split(r"[*?]", pattern)[0].rpartition("/")[0]
        matches = re.compile(_as_regex(pattern)).fullmatch
        listed = self._system.get_file_info(fs.FileSelector(base, recursive=True, allow_not_found=True))
        return {
            info.path: f"{info.size} {info.mtime_ns}"
            for info in listed
            if info.type == fs.FileType.File
            and matches(info.path)
            and not re.search(r"/[_.]", info.path.removeprefix(base))
        }


class DeltaTable(LakeState):
    """A Delta table at a path, in its newest version."""

    def __init__(self, location: str) -> None:
        library = _extra("deltalake")
        try:
            self._table = library.DeltaTable(location)
            self.schema()
        except library.exceptions.TableNotFoundError as error:
            raise ContractError(
                f"{location} is not a Delta table, although METRICS_LOGS_URL names it. Correct the URL, or have the "
                "table created."
            ) from error
        except library.exceptions.DeltaError as error:
            raise PermanentError(
                f"The Delta table {location} cannot be read: {str(error).splitlines()[0]}. Have it written without "
                "that feature, or repaired, or read by Spark."
            ) from error

    def scan(self, window: DayWindow | None) -> pl.LazyFrame:
        """See LakeState."""
        return pl.scan_delta(self._table)

    def evidence(self, timestamp: str, windows: Sequence[DayWindow]) -> Mapping[date, str]:
        """See LakeState: the files whose statistics of the timestamp overlap the day, or that have none."""
        added = pl.DataFrame(self._table.get_add_actions(flatten=True))
        bounds = [f"min.{timestamp}", f"max.{timestamp}"]
        files = added.with_columns(pl.lit(None).alias(name) for name in bounds if name not in added.columns)
        first, last = (pl.col(name).cast(pl.Datetime("us", "UTC")) for name in bounds)
        deletions = self._deletions()
        found = {}
        for window in windows:
            # Statistics are cut to milliseconds.
            overlap = (first < window.end) & (last >= window.start - timedelta(milliseconds=1))
            paths = [*files.filter(overlap.fill_null(True))["path"].sort()]
            names = (path.rpartition("/")[2] for path in paths)
            found[window.metric_date] = _digest([*paths, *(deletions[name] for name in names if name in deletions)])
        return found

    def _deletions(self) -> dict[str, str]:
        """What identifies the deleted rows of files that were not written anew, by the files' names."""
        if "deletionVectors" not in (self._table.protocol().reader_features or ()):
            return {}
        kept = pl.DataFrame(self._table.deletion_vectors())
        return {
            file.rpartition("/")[2]: hashlib.sha256(rows.to_numpy()).hexdigest()
            for file, rows in zip(kept["filepath"], kept["selection_vector"], strict=True)
        }


class IcebergTable(LakeState):
    """An Iceberg table of a catalog of pyiceberg, in its newest snapshot: CATALOG/NAMESPACE.TABLE."""

    def __init__(self, location: str) -> None:
        catalog, _, name = location.partition("/")
        faults = _extra("pyiceberg.exceptions")
        try:
            opened = _extra("pyiceberg.catalog").load_catalog(catalog)
            # Those of the catalog itself have priority.
            opened.properties = {
                key: os.environ[variable] for key, variable in _STORAGE.items() if variable in os.environ
            } | opened.properties
            self._table = opened.load_table(name)
        except faults.NoSuchTableError as error:
            raise ContractError(
                f"The catalog {catalog} has no table {name}, which METRICS_LOGS_URL names. Correct the URL, or have "
                "the table created."
            ) from error
        except (
            faults.ServerError,
            faults.ServiceUnavailableError,
            faults.TooManyRequestsError,
            OperationalError,
        ) as error:
            raise TransientError(
                f"The catalog {catalog} could not be read. Check that it runs and that this machine reaches it: {error}"
            ) from error
        except faults.RESTError as error:
            raise PermanentError(
                f"The catalog {catalog} does not show the table {name}. Check its address and our credentials: {error}"
            ) from error
        snapshot = self._table.current_snapshot()
        self._snapshot_id = snapshot and snapshot.snapshot_id

    def scan(self, window: DayWindow | None) -> pl.LazyFrame:
        """See LakeState."""
        return pl.scan_iceberg(self._table, snapshot_id=self._snapshot_id)

    def evidence(self, timestamp: str, windows: Sequence[DayWindow]) -> Mapping[date, str]:
        """See LakeState: the files that a scan of the day plans, with the files of their deletions."""
        of = _extra("pyiceberg.expressions")
        has_zone = "timestamptz" in str(self._table.schema().find_type(timestamp))

        def files(window: DayWindow) -> Iterable[str]:
            start, end = (
                moment.isoformat() if has_zone else moment.replace(tzinfo=None).isoformat()
                for moment in (window.start, window.end)
            )
            within = of.And(of.GreaterThanOrEqual(timestamp, start), of.LessThan(timestamp, end))
            scan = self._table.scan(row_filter=within, snapshot_id=self._snapshot_id)
            for task in scan.plan_files():
                yield from (task.file.file_path, *(delete.file_path for delete in task.delete_files))

        return {window.metric_date: _digest(sorted(files(window))) for window in windows}


#: The kinds of tables, by the scheme of METRICS_LOGS_URL.
TABLES: Mapping[str, Callable[[str], LakeState]] = {
    "parquet": ParquetFiles,
    "delta": DeltaTable,
    "iceberg": IcebergTable,
}


def lake_state(url: str, types_of_nulls: Mapping[str, pl.DataType]) -> LakeState:
    """The present state of the table that METRICS_LOGS_URL names. types_of_nulls: see LakeState.

    Raises PermanentError if the library for its format is not installed.
    """
    scheme, _, rest = url.partition(":")
    state = TABLES[scheme](rest.removeprefix("//") if rest.startswith("///") else rest)
    state.types_of_nulls = types_of_nulls
    return state


def _extra(module: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise PermanentError(
            f"METRICS_LOGS_URL needs the Python package {module.partition('.')[0]}. Install it: "
            "pip install 'metrics-pipeline[lake]'"
        ) from error


def _digest(names: Iterable[Any]) -> str:
    return hashlib.sha256(repr([*names]).encode()).hexdigest()


def _wide(dtype: pl.DataType) -> pl.DataType:
    if isinstance(dtype, pl.Decimal):
        return pl.Decimal(38, dtype.scale)
    if dtype.is_integer() and dtype != pl.UInt64:
        return pl.Int64()
    return pl.String() if dtype == pl.Categorical else dtype


def _any_date(match: re.Match[str]) -> str:
    return re.sub(r"(%-?\w)+", "*", match[1]) if match[1] else "*"


def _as_regex(pattern: str) -> str:
    parts = re.split(r"(\*\*/|\*|\?)", pattern)
    wild = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    return "".join(wild.get(part) or re.escape(part) for part in parts)
