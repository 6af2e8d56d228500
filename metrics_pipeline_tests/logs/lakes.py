"""Logs in files of a lake."""

from collections.abc import Sequence
from dataclasses import astuple, fields
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from metrics_pipeline_tests.days import Log

#: Costs as text, which holds NaN and any number of places.
SCHEMA = {
    "agent_id": pl.String,
    "status": pl.String,
    "latency_ms": pl.Int32,
    "token_count": pl.Int32,
    "cost_usd": pl.String,
    "error_type": pl.String,
    "metadata": pl.String,
    "timestamp": pl.Datetime("us", "UTC"),
}


def frame(logs: Sequence[Log]) -> pl.DataFrame:
    """A row for each log, under the names of agent_execution_logs."""
    return pl.DataFrame([astuple(log) for log in logs], schema=SCHEMA, orient="row").select(
        field.name for field in fields(Log)
    )


def write_parquet(folder: Path, logs: Sequence[Log]) -> str:
    """Replaces the files in `folder`, one for each day of UTC, and returns their METRICS_LOGS_URL."""
    for file in folder.glob("date=*/*.parquet"):
        file.unlink()
    # A lake without any file has no columns.
    days = {log.timestamp.date() for log in logs} or {date(2000, 1, 1)}
    for day in days:
        (folder / f"date={day}").mkdir(exist_ok=True)
        of_day = frame([log for log in logs if log.timestamp.date() == day])
        of_day.write_parquet(folder / f"date={day}" / "part-0.parquet")
    return f"parquet://{folder}/date={{date}}/*.parquet"


def iceberg_catalog(folder: Path, monkeypatch: pytest.MonkeyPatch, warehouse: str | None = None) -> Any:
    """The catalog `lake` of pyiceberg in `folder`, with the namespace `ops`. Its tables are there too, or in a URL."""
    catalogs = pytest.importorskip("pyiceberg.catalog", reason="the extra [lake] is not installed")
    from pyiceberg.utils.config import Config

    monkeypatch.setenv("POLARS_ICEBERG_PLANNER", "pyiceberg")
    monkeypatch.setenv("PYICEBERG_CATALOG__LAKE__URI", f"sqlite:///{folder}/catalog.db")
    monkeypatch.setenv("PYICEBERG_CATALOG__LAKE__WAREHOUSE", warehouse or f"file://{folder}/warehouse")
    # It read the environment when it was imported.
    monkeypatch.setattr(catalogs, "_ENV_CONFIG", Config())
    catalog = catalogs.load_catalog("lake")
    catalog.create_namespace("ops")
    return catalog
