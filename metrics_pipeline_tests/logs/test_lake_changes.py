"""What happens to the files of a lake is noticed: late files, lost, damaged and replaced ones."""

from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from metrics_pipeline.errors import DayRefusedError, PermanentError, TransientError
from metrics_pipeline.logs.lake_logs import LakeLogs
from metrics_pipeline.logs.lake_tables import ParquetFiles
from metrics_pipeline.metrics.reconciliation import DayState
from metrics_pipeline.metrics.retention import RetentionPolicy, cutoffs
from metrics_pipeline.metrics.verification import JudgedBy, Unreadable
from metrics_pipeline.metrics.windows import DayWindow
from metrics_pipeline.pipeline.watching import USUAL_EFFORT
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.retention.pace import Pace
from metrics_pipeline.retention.run import apply_retention
from metrics_pipeline_tests.days import (
    DAY,
    WINDOW,
    column,
    judged,
    query,
    store_agents,
    store_logs,
)
from metrics_pipeline_tests.logs.lakes import frame, write_parquet
from metrics_pipeline_tests.logs.test_lake import LOGS, NEXT_DAY, aggregate


def verdicts(database: Database, lake: LakeLogs, *days: date) -> list[tuple[DayState, JudgedBy | None]]:
    """As a tick of late_logs_sensor judges the days."""
    found = judged(database, *days, logs=lake, effort=USUAL_EFFORT)
    return [(verdict.state, verdict.judged_by) for verdict in found]


@pytest.fixture
def lake(database: Database, tmp_path: Path) -> LakeLogs:
    """Two logs of an active agent on DAY, and one on the next; both days are aggregated."""
    store_agents(database, {"a": "active"})
    lake = LakeLogs(write_parquet(tmp_path, LOGS), {})
    for window in (WINDOW, NEXT_DAY):
        aggregate(database, lake, window)
    return lake


def test_a_late_file_makes_its_day_dirty_and_other_days_are_not_read(
    database: Database, tmp_path: Path, lake: LakeLogs
) -> None:
    assert verdicts(database, lake, DAY, NEXT_DAY.metric_date) == [(DayState.AGGREGATED, JudgedBy.CONTENT)] * 2
    assert verdicts(database, lake, DAY, NEXT_DAY.metric_date) == [(DayState.AGGREGATED, JudgedBy.SNAPSHOT)] * 2
    frame([replace(LOGS[0], cost_usd="2")]).write_parquet(tmp_path / f"date={DAY}" / "late.parquet")
    assert verdicts(database, lake, DAY, NEXT_DAY.metric_date) == [
        (DayState.DIRTY, JudgedBy.CONTENT),
        (DayState.AGGREGATED, JudgedBy.SNAPSHOT),
    ]
    aggregate(database, lake)
    assert query(database, "SELECT total_executions, total_cost_usd FROM agent_performance_metrics ORDER BY 1")[1] == (
        3,
        4,
    )


def test_a_file_that_is_gone_makes_its_day_shrunk(database: Database, tmp_path: Path, lake: LakeLogs) -> None:
    (tmp_path / f"date={DAY}" / "part-0.parquet").unlink()
    assert verdicts(database, lake, DAY) == [(DayState.SHRUNK, JudgedBy.CONTENT)]
    with pytest.raises(DayRefusedError, match="has shrunk"):
        aggregate(database, lake)
    aggregate(database, lake, accept_deleted_logs=True)
    assert sorted(column(database, "total_executions")) == [0, 1]


def test_a_damaged_file_makes_its_own_day_unreadable(database: Database, tmp_path: Path, lake: LakeLogs) -> None:
    file = tmp_path / f"date={DAY}" / "part-0.parquet"
    file.write_bytes(b"PAR1" + b"\0" * 100 + b"PAR1")
    with database.snapshot() as snapshot:
        found = lake.fingerprints(snapshot, [WINDOW, NEXT_DAY], lake.fingerprint_kinds[0])
    assert isinstance(found[DAY], Unreadable)
    assert not isinstance(found[NEXT_DAY.metric_date], Unreadable)
    with pytest.raises(PermanentError, match="cannot be read"):
        aggregate(database, lake)


def test_retention_deletes_no_log_and_says_so_in_one_sentence(database: Database, lake: LakeLogs) -> None:
    store_logs(database, LOGS)
    said: list[str] = []
    limits = cutoffs(RetentionPolicy(), datetime(2026, 6, 1, tzinfo=UTC), "UTC")
    assert limits.raw_logs > DAY
    apply_retention(database, None, limits, Pace(), run_id="a run", is_dry_run=False, on_progress=said.append)
    assert said == ["The logs are in a lake, of which nothing is deleted here: have its owner delete old files."]
    assert query(database, "SELECT count(*) FROM agent_execution_logs") == [(len(LOGS),)]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("latency_ms", 2**31, "conversion from `i64` to `i32` failed in column 'latency_ms'"),
        ("metadata", '{"user_id', "metadata is not JSON"),
        ("cost_usd", "1,5", "the cost '1,5' is not a number"),
    ],
)
def test_a_value_that_cannot_be_read_is_named(
    database: Database, tmp_path: Path, lake: LakeLogs, name: str, value: Any, words: str
) -> None:
    logs = frame(LOGS[:1]).with_columns(pl.lit(value).alias(name))
    logs.write_parquet(tmp_path / f"date={DAY}" / "part-0.parquet")
    with pytest.raises(PermanentError, match=words):
        aggregate(database, lake)


def test_a_day_whose_files_change_while_it_is_read_is_tried_again(
    database: Database, tmp_path: Path, lake: LakeLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = ParquetFiles.scan

    def scan_and_write(files: ParquetFiles, window: DayWindow | None) -> pl.LazyFrame:
        logs = scan(files, window)
        frame(LOGS[:1]).write_parquet(tmp_path / f"date={DAY}" / "late.parquet")
        return logs

    monkeypatch.setattr(ParquetFiles, "scan", scan_and_write)
    with pytest.raises(TransientError, match=f"Files of {DAY} changed while they were read"):
        aggregate(database, lake)
