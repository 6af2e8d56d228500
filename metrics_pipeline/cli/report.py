"""`report`: the metrics of a window as a table, CSV or JSON."""

import csv
import sys
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any

import simplejson
import typer

from metrics_pipeline.cli.tables import print_table
from metrics_pipeline.cli.values import storable
from metrics_pipeline.errors import PermanentError
from metrics_pipeline.metrics.windows import last_complete_day
from metrics_pipeline.pipeline.opening import open_database
from metrics_pipeline.postgres.upgrading import require_current
from metrics_pipeline.settings import Settings
from metrics_pipeline.store.distributions import (
    GROUP_COLUMNS,
    Grouping,
    days_without_dimension,
    read_values,
    read_window,
    stored_dimensions,
)


class Format(StrEnum):
    """How a report is printed."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


_SHOWN = {
    "total_executions": "executions",
    "success_rate": "success rate",
    "p50_latency_ms": "p50 ms",
    "p95_latency_ms": "p95 ms",
    "p99_latency_ms": "p99 ms",
    "unique_users": "users",
    "total_cost_usd": "cost USD",
    "cost_per_unassisted_success": "per unassisted success",
    "human_intervention_rate": "intervention rate",
    "is_exact": "exact",
}


def _storable_each(values: list[str] | None) -> list[str] | None:
    return None if values is None else [str(storable(value)) for value in values]


def report(
    first: Annotated[
        datetime, typer.Option("--from", metavar="YYYY-MM-DD", formats=["%Y-%m-%d"], help="The first day.")
    ],
    last: Annotated[
        datetime | None,
        typer.Option("--to", metavar="YYYY-MM-DD", formats=["%Y-%m-%d"], help="The last day. Default: yesterday."),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GROUP",
            callback=_storable_each,
            help="One row for each of these: agent, day, week, month, or one dimension of METRICS_DIMENSIONS. May be "
            "repeated.",
        ),
    ] = None,
    agent: Annotated[str | None, typer.Option(callback=storable, help="Only this agent. Default: all.")] = None,
    form: Annotated[Format, typer.Option("--format", help="CSV and JSON have all columns and digits.")] = Format.TABLE,
) -> None:
    """Prints the metrics of a window: sums, rates, percentiles and users over all of its stored days.

    They are computed from the stored distributions, also after retention has pruned the logs, and equal what the logs
    would give. A week begins on Monday and counts the days of the window only.

    **Examples**

    - `metrics-pipeline report --from 2025-07-01 --to 2025-07-31`
    - `metrics-pipeline report --from 2025-01-01 --to 2025-12-31 --by month --by agent --format csv`
    - `metrics-pipeline report --from 2025-07-01 --by model`: a dimension of METRICS_DIMENSIONS
    """
    settings = Settings.from_environment()
    last_day = last.date() if last else last_complete_day(datetime.now(UTC), settings.time_zone)
    if first.date() > last_day:
        raise PermanentError(f"The first day, {first.date()}, comes after the last, {last_day}. Swap --from and --to.")
    database = open_database(settings)
    asked = list(dict.fromkeys(by or ()))
    groups = [Grouping(each) for each in asked if each in GROUP_COLUMNS]
    dimensions = [each for each in asked if each not in GROUP_COLUMNS]
    keys = [GROUP_COLUMNS[each] for each in groups]
    with database.snapshot() as snapshot:
        require_current(snapshot)
        if dimensions:
            dimension = _known(dimensions, stored_dimensions(snapshot))
            frame = read_values(snapshot, first.date(), last_day, dimension, by=groups, agent_id=agent)
            without = days_without_dimension(snapshot, first.date(), last_day, dimension)
            keys.append("value")
        else:
            frame, without = read_window(snapshot, first.date(), last_day, by=groups, agent_id=agent), []
        rows = frame.to_dicts()
    for row in rows:
        row["error_distribution"] = {each["error_type"]: each["executions"] for each in row["error_distribution"]}
    if form is Format.JSON:
        print(simplejson.dumps(rows, use_decimal=False, default=_json_form, ensure_ascii=False, indent=2))
    elif form is Format.CSV:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(rows[0] if rows else [])
        writer.writerows([_cell(value) for value in row.values()] for row in rows)
    elif not rows:
        print("No day of the window is stored.")
    else:
        _print(f"{first.date()} to {last_day}, {database.description}", keys, rows)
    if without and form is Format.TABLE:
        print(
            f"Not broken down by {dimension}: {', '.join(map(str, without))}. While their logs exist, metrics-pipeline "
            f"backfill --from {without[0]} --to {without[-1]} breaks them down by what METRICS_DIMENSIONS declares."
        )


def _known(dimensions: list[str], stored: list[str]) -> str:
    unknown = [name for name in dimensions if name not in stored]
    if unknown:
        raise PermanentError(
            f"--by {unknown[0]} is neither {', '.join(GROUP_COLUMNS)} nor a dimension that a stored day has "
            f"({', '.join(stored) or 'none has any'}). METRICS_DIMENSIONS declares dimensions."
        )
    if len(dimensions) > 1:
        raise PermanentError(
            f"--by {' and '.join(dimensions)}: a day is broken down by each dimension alone. Give one."
        )
    return dimensions[0]


def _print(title: str, keys: list[str], rows: list[dict[str, Any]]) -> None:
    print_table(
        title,
        [*keys, *_SHOWN.values()],
        [[*(_cell(row[key]) for key in keys), *(_shown(name, row[name]) for name in _SHOWN)] for row in rows],
        left=keys,
    )
    missing = sorted({day for row in rows for day in row["days_without_distribution"]})
    if missing:
        print(
            f"Percentiles and users are empty where a day has no distribution: {', '.join(map(str, missing))}. While "
            f"their logs exist, metrics-pipeline backfill --from {missing[0]} --to {missing[-1]} stores them; sealed "
            "days were stored by a version that kept none."
        )


def _shown(name: str, value: Any) -> str:
    if value is None or isinstance(value, bool):
        return _cell(value)
    return f"{value:.2%}" if name.endswith("_rate") else f"{value:,f}" if isinstance(value, Decimal) else f"{value:,}"


def _json_form(value: object) -> Any:
    if isinstance(value, Decimal):
        return simplejson.RawJSON(f"{value:f}")
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"{type(value)} has no form in JSON")


def _cell(value: object) -> str:
    if isinstance(value, Mapping):
        return simplejson.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return " ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else f"{value:f}" if isinstance(value, Decimal) else str(value)
