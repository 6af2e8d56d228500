"""The gauges of /metrics, in OpenMetrics: the state of the days, the newest one, and how long runs take."""

import logging
import time
from dataclasses import dataclass, field
from threading import Lock, Thread

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.openmetrics.exposition import generate_latest
from sqlalchemy import text

from metrics_pipeline.api.context import Context
from metrics_pipeline.api.models import COVERAGE_STATES, Run
from metrics_pipeline.errors import PipelineError
from metrics_pipeline.logs.contract import check_contract
from metrics_pipeline.metrics.retention import cutoffs
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.names import LOGS_TABLE
from metrics_pipeline.pipeline.reconciling import lookback
from metrics_pipeline.retention.raw_logs import count_logs_before
from metrics_pipeline.store.ledger import ledger_rows, newest_stored_day

_log = logging.getLogger(__name__)

#: As often as the sensor looks at the days.
_COUNTED_EVERY_SECONDS = 15 * 60
_COUNT_SECONDS = 60
_LOCK_SECONDS = 1


@dataclass
class Gauges:
    """Renders the gauges of one server, from our tables.

    The logs that retention held back are counted by a thread, one at a time and on a connection of its own: no answer
    waits for the logs, and a lock on them costs no other gauge.
    """

    context: Context
    _lock: Lock = field(init=False, default_factory=Lock)
    _counted_at: float = field(init=False, default=float("-inf"))
    _held_back: int | None = field(init=False, default=None)

    def render(self, latest_run: Run | None, *, is_dagster_up: bool) -> bytes:
        """The OpenMetrics text. Raises the errors of a database that does not answer."""
        registry = CollectorRegistry()

        def gauge(name: str, meaning: str, value: float) -> None:
            Gauge(f"metrics_pipeline_{name}", meaning, registry=registry).set(value)

        with self.context.database.connect() as connection:
            day = newest_stored_day(connection)
            newest = ledger_rows(connection, day, day)[day] if day is not None else None
            # Of the clock that the days were judged by.
            now = connection.execute(text("SELECT now()")).scalar_one()
        looked_back = lookback(self.context.settings, self.context.now())
        days = self.context.judged_days(looked_back[0], looked_back[-1]) if looked_back else []

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
        held_back = self._logs_held_back()
        if held_back is not None:
            gauge(
                "logs_held_back",
                "Logs that are older than the retention period and still exist: held back, or not pruned yet.",
                held_back,
            )
        gauge(
            "days_not_compared",
            "Days of the look-back window whose logs were not read since they were stored.",
            sum(verdict.verified_at is None for verdict, _ in days),
        )
        for name, meaning, times in (
            ("judged", "compared with its logs", [verdict.confirmed_at for verdict, _ in days]),
            (
                "verified",
                "compared with all of its logs, read one by one",
                [verdict.verified_at for verdict, _ in days],
            ),
        ):
            oldest = min((at for at in times if at is not None), default=None)
            if oldest is not None:
                gauge(
                    f"days_{name}_age_seconds",
                    f"How long ago a day of the look-back window was last {meaning}: the day for which it is longest.",
                    (now - oldest).total_seconds(),
                )
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

    def _logs_held_back(self) -> int | None:
        """The last count, which another thread renews if it is old; None until there is one, and for a lake."""
        if self.context.settings.logs_url is not None:
            return None
        with self._lock:
            is_old = time.monotonic() - self._counted_at >= _COUNTED_EVERY_SECONDS
            if is_old:
                self._counted_at = time.monotonic()
                Thread(target=self._count_logs_held_back, name="held back", daemon=True).start()
            return self._held_back

    def _count_logs_held_back(self) -> None:
        context, settings = self.context, self.context.settings
        kept_from = cutoffs(settings.retention, context.now(), settings.time_zone).raw_logs
        hurried = context.database.within(_COUNT_SECONDS, lock_seconds=_LOCK_SECONDS)
        try:
            with hurried.connect() as connection:
                contract = check_contract(connection, [LOGS_TABLE])
                start = day_window(kept_from, settings.time_zone).start
                self._held_back = count_logs_before(connection, contract, start)
        except PipelineError as error:
            self._held_back = None
            _log.warning("The logs that retention held back cannot be counted. %s", error)
