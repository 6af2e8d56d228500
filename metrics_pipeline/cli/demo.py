"""`demo`: four weeks of generated logs, aggregated by Dagster on the embedded server, and the result as a table."""

from datetime import UTC, date, datetime, timedelta

import polars as pl
import typer

from metrics_pipeline.cli.runs import run_with_progress
from metrics_pipeline.cli.tables import Column, printable, show
from metrics_pipeline.errors import SettingsError
from metrics_pipeline.log_files.sample_logs import store_sample, store_sample_alerts
from metrics_pipeline.metrics.windows import days_between, last_complete_day
from metrics_pipeline.pipeline.aggregation import AggregationOptions
from metrics_pipeline.pipeline.opening import open_database, open_logs
from metrics_pipeline.pipeline.reconciling import first_day
from metrics_pipeline.sample.agents import SampleSpec, sample_agents
from metrics_pipeline.settings import Settings, forget_database_url, remember
from metrics_pipeline.store.acknowledgements import acknowledge
from metrics_pipeline.store.publishing import Reason
from metrics_pipeline.store.reads import metrics_of_day

#: An agent is judged against its last 28 days, and needs three of each weekday for it.
_DAYS = 28
_SPEC = SampleSpec(seed=1, agents=20, logs_per_day=3_000)
#: A week more than resolved alerts are kept, so that retention has something to delete.
_DAYS_OF_ALERTS = 97
_DIMENSIONS = "model,version"

_COLUMNS = (
    Column("agent_id", "agent", is_text=True),
    Column("total_executions", "logs"),
    Column("success_rate", "success", in_words="{:.2%}".format),
    Column("p50_latency_ms", "p50 ms", rank=2),
    Column("p95_latency_ms", "p95 ms"),
    Column("p99_latency_ms", "p99 ms", rank=3),
    Column("total_tokens", "tokens", rank=4),
    Column("total_cost_usd", "cost USD"),
    Column("human_interventions", "humans", rank=5),
    Column("unique_users", "users", rank=1),
)


def demo() -> None:
    """Shows everything on the embedded PostgreSQL: generates four weeks of logs and aggregates them through Dagster.

    Yesterday one of the agents had an outage, which the check no_unusual_changes and the page report.

    METRICS_DATABASE_URL is ignored, so no database of yours is touched. Running it again changes nothing.
    """
    if forget_database_url():
        typer.echo("The demo uses the embedded PostgreSQL and ignores METRICS_DATABASE_URL.")
    settings = Settings.from_environment()
    last = last_complete_day(datetime.now(UTC), settings.time_zone)
    first = max(last - timedelta(days=_DAYS - 1), settings.start_date)
    if first > last:
        raise SettingsError(f"METRICS_START_DATE is {first}, and no day has ended since. Choose an earlier one.")

    typer.echo(printable(f"PostgreSQL  starting the embedded server under {settings.home}"))
    from metrics_pipeline.orchestration.instance import open_instance

    with open_instance(settings) as instance:
        database = open_database(settings)
        typer.echo(f"Logs        making up four weeks of {_SPEC.agents} agents, {first} to {last}")
        made = 0

        def count(_day: date, logs: int) -> None:
            nonlocal made
            made += logs

        new = store_sample(database, _SPEC, days_between(first, last), settings.time_zone, count, outage=last)
        alerts_from = last - timedelta(days=_DAYS_OF_ALERTS)
        store_sample_alerts(database, _SPEC, days_between(alerts_from, last), settings.time_zone, outage=last)
        typer.echo(f"            {made:,} logs, of which {new:,} are new")
        with database.snapshot() as snapshot:
            known = first_day(snapshot, open_logs(database), settings.time_zone)
        if settings.start_date == Settings.start_date and known is not None:
            remember(settings.home, "start_date", str(known))
        if not settings.dimensions:
            remember(settings.home, "dimensions", _DIMENSIONS)
        with database.begin() as connection:
            retired = sample_agents(_SPEC).filter(status="inactive")["id"].to_list()
            acknowledge(connection, retired, "Retired in the sample; their clients still call them.")
        typer.echo("Dagster     running daily_metrics_job")
        run_with_progress(instance, database, first, last, Reason.BACKFILL, AggregationOptions())
    with database.connect() as connection:
        _print_agents(metrics_of_day(connection, last), last)
    typer.echo("Look at these days: make dev   (or: metrics-pipeline dev)")
    typer.echo("  page        http://127.0.0.1:8000")
    typer.echo("  Dagster UI  http://127.0.0.1:3000")


def _print_agents(metrics: pl.DataFrame, day: date) -> None:
    ranked = metrics.sort("total_executions", "agent_id", descending=[True, False])
    show(f"agent_performance_metrics on {day}", _COLUMNS, ranked.to_dicts())
