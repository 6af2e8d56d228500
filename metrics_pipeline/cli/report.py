"""`report`: the metrics of a window as a table, CSV or JSON."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any

import typer

from metrics_pipeline.cli.tables import Column, Format, FormatOption, say, show
from metrics_pipeline.cli.values import day_option, named, require_known, require_order, storable, storable_each
from metrics_pipeline.errors import PermanentError
from metrics_pipeline.metrics.window_metrics import window_objects
from metrics_pipeline.metrics.windows import last_complete_day
from metrics_pipeline.pipeline.opening import open_database
from metrics_pipeline.postgres.upgrading import require_current
from metrics_pipeline.settings import Settings
from metrics_pipeline.store.unlogged import days_without
from metrics_pipeline.store.windows import (
    GROUP_COLUMNS,
    Grouping,
    days_without_dimension,
    read_values,
    read_window,
    stored_dimensions,
)


def _percent(rate: Decimal | None) -> str:
    return "" if rate is None else f"{rate:.2%}"


_COLUMNS = (
    Column("total_executions", "executions"),
    Column("success_rate", "success", in_words=_percent),
    Column("p50_latency_ms", "p50 ms", rank=3),
    Column("p95_latency_ms", "p95 ms", rank=1),
    Column("p99_latency_ms", "p99 ms", rank=4),
    Column("unique_users", "users", rank=2),
    Column("total_cost_usd", "cost USD"),
    Column("cost_per_unassisted_success", "USD per unassisted success", rank=6),
    Column("human_intervention_rate", "interventions", rank=5, in_words=_percent),
    Column("is_exact", "exact", rank=7),
)


def report(
    first: Annotated[date, day_option("--from", help="The first day.")],
    last: Annotated[date | None, day_option("--to", help="The last day. Default: yesterday.")] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GROUP",
            callback=storable_each,
            help="One row for each of these: agent, day, week, month, or one dimension of METRICS_DIMENSIONS. May be "
            "repeated.",
        ),
    ] = None,
    agent: Annotated[str | None, typer.Option(callback=storable, help="Only this agent. Default: all.")] = None,
    form: FormatOption = Format.TABLE,
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
    last_day = last or last_complete_day(datetime.now(UTC), settings.time_zone)
    require_order(first, last_day)
    database = open_database(settings)
    asked = list(dict.fromkeys(by or ()))
    groups = [Grouping(each) for each in asked if each in GROUP_COLUMNS]
    dimensions = [each for each in asked if each not in GROUP_COLUMNS]
    keys = [GROUP_COLUMNS[each] for each in groups]
    with database.snapshot() as snapshot:
        require_current(snapshot)
        require_known(snapshot, agent)
        if dimensions:
            dimension = _known(dimensions, stored_dimensions(snapshot))
            frame = read_values(snapshot, first, last_day, dimension, by=groups, agent_id=agent)
            without = days_without_dimension(snapshot, first, last_day, dimension)
            keys.append("value")
        else:
            frame, without = read_window(snapshot, first, last_day, by=groups, agent_id=agent), []
        unlogged = days_without(snapshot, first, last_day)
    rows = window_objects(frame)
    if not rows and form is Format.TABLE:
        say(f"No day from {first} to {last_day} is stored in {database.description}.")
    else:
        grouped = [Column(key, name, is_text=True) for key, name in zip(keys, [*groups, *dimensions], strict=True)]
        show(f"{first} to {last_day}, {database.description}", [*grouped, *_COLUMNS], rows, form)
        if form is Format.TABLE:
            _name_days_without_distribution(rows)
            if unlogged:
                lacked = "; ".join(f"{column} on {named(days)}" for column, days in unlogged.items())
                say(f"The logs did not have {lacked}. Figures that need these columns are those of the other days.")
            if any(row["has_several_user_keys"] for row in rows):
                say("METRICS_USER_KEY was changed within the window: users cannot be counted where none are shown.")
    if without and form is Format.TABLE:
        say(
            f"Not broken down by {dimension}: {named(without)}. While their logs exist, break them down by what "
            "METRICS_DIMENSIONS declares:",
            f"metrics-pipeline backfill --from {without[0]} --to {without[-1]}",
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


def _name_days_without_distribution(rows: list[dict[str, Any]]) -> None:
    missing = sorted({day for row in rows for day in row["days_without_distribution"]})
    if missing:
        say(
            f"Percentiles and users are empty where a day has no distribution: {named(missing)}. Sealed days were "
            "stored by a version that kept none. While the logs of the others exist, store them:",
            f"metrics-pipeline backfill --from {missing[0]} --to {missing[-1]}",
        )
