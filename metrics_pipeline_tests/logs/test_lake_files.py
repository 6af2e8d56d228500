"""Files of Parquet of one lake that are damaged, or were written in different ways."""

import tempfile
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from metrics_pipeline.errors import TransientError
from metrics_pipeline.logs import lake_buckets, lake_tables
from metrics_pipeline.logs.lake_logs import KIND, LakeLogs
from metrics_pipeline.metrics.fingerprint import SourceFingerprint
from metrics_pipeline.metrics.verification import Unreadable
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import DAY, NOON, WINDOW, Log
from metrics_pipeline_tests.logs.lakes import frame
from metrics_pipeline_tests.logs.test_lake import NEXT_DAY

METADATA = '{"user_id": "u", "human_intervention": "true"}'
LOGS = frame([Log("a", "failed", 7, 8, "1.5", "timeout", METADATA), Log("a", "success", timestamp=NOON)]).with_columns(
    pl.col("cost_usd").cast(pl.Decimal(20, 9))
)
NULLS = pl.lit(None)
#: Other ways to write the columns of LOGS.
WAYS = {
    "wide integers": LOGS.cast({"latency_ms": pl.Int64, "token_count": pl.UInt32}),
    "narrow integers": LOGS.cast({"latency_ms": pl.UInt8, "token_count": pl.Int16}),
    "wide decimals": LOGS.cast({"cost_usd": pl.Decimal(38, 9)}),
    "dictionaries": LOGS.cast({"agent_id": pl.Categorical, "status": pl.Categorical}),
    "milliseconds": LOGS.cast({"timestamp": pl.Datetime("ms", "UTC")}),
    "nanoseconds": LOGS.cast({"timestamp": pl.Datetime("ns", "UTC")}),
    "a time zone": LOGS.with_columns(pl.col("timestamp").dt.convert_time_zone("Asia/Tokyo")),
    "another order": LOGS.select(reversed(LOGS.columns)),
}
NO_TYPES = LOGS[1:].with_columns(NULLS.alias(name) for name in LOGS.columns if LOGS[name][1] is None)


@pytest.fixture(params=["at once", "in parts"])
def _sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "in parts":
        monkeypatch.setattr(lake_buckets, "_LOGS_PER_BUCKET", 1)
        monkeypatch.setattr(lake_tables, "_GROUP_BYTES", 1)


def write(folder: Path, *files: pl.DataFrame, day: date = DAY) -> str:
    """Writes the only files of a day, and returns METRICS_LOGS_URL."""
    (folder / f"date={day}").mkdir(exist_ok=True)
    for number, logs in enumerate(files):
        logs.write_parquet(folder / f"date={day}" / f"{number}.parquet")
    return f"parquet://{folder}/date={{date}}/*.parquet"


def fingerprint(database: Database, url: str, day: date = DAY) -> SourceFingerprint | Unreadable:
    with database.snapshot() as snapshot:
        return LakeLogs(url, {}).fingerprints(snapshot, [day_window(day, "UTC")], KIND)[day]


@pytest.mark.usefixtures("_sizes")
def test_files_of_a_day_may_be_written_with_other_types(database: Database, tmp_path: Path) -> None:
    expected = fingerprint(database, write(tmp_path, *([LOGS] * (len(WAYS) + 1)), LOGS[1:], LOGS[1:]))
    assert isinstance(expected, SourceFingerprint)
    assert expected.logs == 2 * (len(WAYS) + 1) + 2
    assert expected == fingerprint(database, write(tmp_path, LOGS, *WAYS.values(), NO_TYPES, LOGS[1:]))
    assert expected == fingerprint(database, write(tmp_path, NO_TYPES, *WAYS.values(), LOGS, LOGS[1:]))


@pytest.mark.usefixtures("_sizes")
@pytest.mark.parametrize(
    ("other", "words"),
    [
        # Read with the nine places of the first file, these costs would be 0.
        (LOGS.with_columns(cost_usd=pl.lit("0.0000000004").cast(pl.Decimal(20, 12))), "column cost_usd"),
        (LOGS.with_columns(cost_usd=pl.lit("0.0000000004")), "column cost_usd"),
        (LOGS.drop("token_count"), "did not find column token_count"),
        (LOGS.with_columns(metadata=pl.struct(user_id=pl.lit("u"))), "column metadata"),
    ],
    ids=["places of costs", "costs as text", "a missing column", "metadata as a struct"],
)
def test_a_file_that_cannot_be_read_like_the_others_is_named(
    database: Database, tmp_path: Path, other: pl.DataFrame, words: str
) -> None:
    found = fingerprint(database, write(tmp_path, LOGS, other, LOGS))
    assert isinstance(found, Unreadable)
    assert f"{tmp_path}/date={DAY}/1.parquet cannot be read like the other files of its day: " in found.reason
    assert words in found.reason
    assert found.reason.endswith(". Have it written again, or move it away.")


@pytest.mark.usefixtures("_sizes")
def test_agents_of_folders_keep_their_zeros(database: Database, tmp_path: Path) -> None:
    for agent in ("007", "10"):
        folder = tmp_path / f"date={DAY}" / f"agent_id={agent}"
        folder.mkdir(parents=True)
        LOGS.drop("agent_id").write_parquet(folder / "logs.parquet")
    lake = LakeLogs(f"parquet://{tmp_path}/date={{date}}/*/*.parquet", {})
    with database.snapshot() as snapshot:
        partials = lake.read_day(snapshot, WINDOW, include_inactive_agents=False).partials
    assert sorted(partials["agent_id"]) == ["007", "10"]


@pytest.mark.parametrize("is_damaged", [True, False], ids=["damaged", "without a column"])
def test_a_bad_file_of_the_newest_day_touches_no_other_day(
    database: Database, tmp_path: Path, is_damaged: bool
) -> None:
    url = write(tmp_path, LOGS)
    lake = LakeLogs(url, {})
    windows = [day_window(DAY - timedelta(days=1), "UTC"), WINDOW, NEXT_DAY]
    with database.snapshot() as snapshot:
        before = lake.marks(snapshot, windows)
        write(tmp_path, LOGS.drop("status"), LOGS, day=NEXT_DAY.metric_date)
        bad = tmp_path / f"date={NEXT_DAY.metric_date}" / "0.parquet"
        if is_damaged:
            bad.write_bytes(bad.read_bytes()[:-1])
            bad.rename(bad.with_name("9.parquet"))
            lake = LakeLogs(url, {})
        found = lake.fingerprints(snapshot, windows, KIND)
        quality = lake.quality(snapshot, windows[:2], future_from=NEXT_DAY.start, examples=1)
        after = lake.marks(snapshot, windows)
    assert [day for day, each in found.items() if isinstance(each, Unreadable)] == [NEXT_DAY.metric_date]
    assert [*quality.unreadable] == [NEXT_DAY.metric_date]
    assert quality.logs == 2
    assert [day for day in before if before[day] != after[day]] == [NEXT_DAY.metric_date]


@pytest.mark.parametrize(
    ("pattern", "folders"),
    [
        ("*/{date}/*.parquet", ["b/2025-03-01", "a/2025-03-02", "c/2025-03-01"]),
        ("{date:%d.%m.%Y}/*.parquet", ["04.03.2025", "05.02.2025", "06.04.2025"]),
        ("{date:%Y/month=%-m/day=%-d}/*.parquet", ["2025/month=3/day=2", "2025/month=3/day=10", "2025/month=10/day=1"]),
    ],
)
def test_the_first_log_is_the_oldest_one_in_whatever_order_the_folders_are(
    database: Database, tmp_path: Path, pattern: str, folders: list[str]
) -> None:
    first = datetime(2025, 3, 1, 8, tzinfo=UTC)
    days = sorted(folders)
    for hours, folder in zip([25, 3, 0], days, strict=True):
        (tmp_path / folder).mkdir(parents=True)
        logs = LOGS.with_columns(timestamp=pl.lit(first + timedelta(hours=hours)))
        logs.write_parquet(tmp_path / folder / "logs.parquet")
    with database.snapshot() as snapshot:
        assert LakeLogs(f"parquet://{tmp_path}/{pattern}", {}).first_log_at(snapshot) == first


def test_a_day_without_space_for_its_buckets_names_their_folder(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = write(tmp_path, LOGS, LOGS)
    monkeypatch.setattr(lake_buckets, "_LOGS_PER_BUCKET", 1)
    monkeypatch.setattr(tempfile, "tempdir", "/dev/full")
    with pytest.raises(TransientError, match=r"could not be read: .* and that /dev/full has space\."):
        fingerprint(database, url)
