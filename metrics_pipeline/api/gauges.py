"""The gauges of /metrics, in OpenMetrics: the state of the days, the newest one, and how long runs take."""

import time
from dataclasses import dataclass, field
from threading import Lock

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.openmetrics.exposition import generate_latest

from metrics_pipeline.api.context import Context, JudgedDay
from metrics_pipeline.api.models import COVERAGE_STATES, Run
from metrics_pipeline.logs.contract import check_contract
from metrics_pipeline.metrics.retention import cutoffs
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.names import LOGS_TABLE
from metrics_pipeline.pipeline.reconciling import lookback
from metrics_pipeline.retention.raw_logs import count_logs_before
from metrics_pipeline.store.ledger import ledger_rows, newest_stored_day

#: As often as the sensor: judging the days reads all logs of the look-back window.
_JUDGED_FOR_SECONDS = 15 * 60


@dataclass
class Gauges:
    """Renders the gauges of one server. The logs are read at most every 15 minutes, by one request at a time."""

    context: Context
    _lock: Lock = field(init=False, default_factory=Lock)
    _judged_at: float = field(init=False, default=float("-inf"))
    _judged: list[JudgedDay] = field(init=False, default_factory=list)
    _held_back: int = field(init=False, default=0)

    def render(self, latest_run: Run | None, *, is_dagster_up: bool) -> bytes:
        """The OpenMetrics text. Raises the errors of a database that does not answer."""
        registry = CollectorRegistry()

        def gauge(name: str, meaning: str, value: float) -> None:
            Gauge(f"metrics_pipeline_{name}", meaning, registry=registry).set(value)

        with self.context.database.connect() as connection:
            day = newest_stored_day(connection)
            newest = ledger_rows(connection, day, day)[day] if day is not None else None
        with self._lock:
            if time.monotonic() - self._judged_at >= _JUDGED_FOR_SECONDS:
                self._read_logs()
            days, held_back, age = self._judged, self._held_back, time.monotonic() - self._judged_at

        if newest is not None:
            gauge(
                "newest_day_end_timestamp_seconds",
                "The end of the newest aggregated day.",
                newest.window_end.timestamp(),
            )
            gauge(
                "newest_day_aggregation_seconds",
                "From the snapshot to the publication of the newest aggregated day.",
                (newest.aggregated_at - newest.snapshot_at).total_seconds(),
            )
        states = Gauge("metrics_pipeline_days", "Days of the look-back window by state.", ["state"], registry=registry)
        for state in COVERAGE_STATES:
            states.labels(state.value).set(sum(verdict.state is state for verdict, _ in days))
        gauge(
            "skipped_logs",
            "Logs of inactive or unregistered agents in the look-back window, which are in no metric.",
            sum(ledger.skipped_logs for _, ledger in days if ledger),
        )
        gauge(
            "logs_held_back",
            "Logs that are older than the retention period and still exist: held back, or not pruned yet.",
            held_back,
        )
        gauge("days_judged_age_seconds", "How long ago the days were compared with their logs.", age)
        gauge("dagster_up", "Whether the Dagster webserver answers.", is_dagster_up)
        if latest_run is not None and latest_run.started_at and latest_run.ended_at:
            gauge(
                "run_duration_seconds",
                "How long the newest successful run of daily_metrics_job took.",
                (latest_run.ended_at - latest_run.started_at).total_seconds(),
            )
            gauge(
                "run_end_timestamp_seconds",
                "When the newest successful run of daily_metrics_job ended.",
                latest_run.ended_at.timestamp(),
            )
        return bytes(generate_latest(registry))  # type: ignore[no-untyped-call]

    def _read_logs(self) -> None:
        context, settings = self.context, self.context.settings
        days = lookback(settings, context.now())
        judged = context.judged_days(days[0], days[-1]) if days else []
        kept_from = cutoffs(settings.retention, context.now(), settings.time_zone).raw_logs
        with context.database.connect() as connection:
            contract = check_contract(connection, [LOGS_TABLE])
            self._held_back = count_logs_before(connection, contract, day_window(kept_from, settings.time_zone).start)
        self._judged, self._judged_at = judged, time.monotonic()
