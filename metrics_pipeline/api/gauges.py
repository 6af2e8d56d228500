"""The gauges of /metrics, in OpenMetrics: the state of the days, the newest one, Dagster's runs and daemon."""

import logging
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from threading import Lock, Thread
from typing import Protocol

from prometheus_client import CollectorRegistry, Gauge
from sqlalchemy import RowMapping, text

from metrics_pipeline.api.context import Context
from metrics_pipeline.api.dagster_runs import DagsterState
from metrics_pipeline.api.models.days import COVERAGE_STATES
from metrics_pipeline.api.traffic import Traffic
from metrics_pipeline.errors import PipelineError
from metrics_pipeline.logs.contract import check_contract
from metrics_pipeline.logs.counts import count_logs_before
from metrics_pipeline.metrics.alert_rules import RULES, Severity
from metrics_pipeline.metrics.retention import cutoffs
from metrics_pipeline.metrics.upstream import unknown_without
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.names import LOGS_TABLE
from metrics_pipeline.pipeline.reconciling import lookback
from metrics_pipeline.store.answers.alerts import open_by_rule
from metrics_pipeline.store.answers.monitoring import busiest_agents, day_totals, gaps
from metrics_pipeline.store.ledger import ledger_rows, newest_stored_day

_log = logging.getLogger(__name__)

#: As often as the sensor looks at the days.
_COUNTED_EVERY_SECONDS = 15 * 60
_COUNT_SECONDS = 60
_LOCK_SECONDS = 1


#: What store.answers.monitoring.day_totals() tells. _METRICS: the metrics that some of it adds up.
_TOTALS = {
    "agents": "Agents with a row of the newest aggregated day.",
    "executions": "Executions of the newest aggregated day.",
    "failed_executions": "Failed executions of the newest aggregated day.",
    "tokens": "Tokens of the newest aggregated day.",
    "cost_usd": "Cost of the newest aggregated day.",
}
_METRICS = {"tokens": "total_tokens", "cost_usd": "total_cost_usd"}


class _SetGauge(Protocol):
    def __call__(self, name: str, meaning: str, value: float, **labels: str) -> None: ...


@dataclass
class Gauges:
    """The gauges of one server, from our tables.

    The logs that retention held back are counted by a thread, one at a time and on a connection of its own: no answer
    waits for the logs, and a lock on them costs no other gauge.
    """

    context: Context
    traffic: Traffic
    _lock: Lock = field(init=False, default_factory=Lock)
    _counted_at: float = field(init=False, default=float("-inf"))
    _held_back: int | None = field(init=False, default=None)

    def registry(self, dagster: DagsterState | None, *, agents: int) -> CollectorRegistry:
        """The registry with all of them, and with gauges for at most `agents` agents.

        dagster: None if it does not answer. Raises the errors of a database that does not answer.
        """
        registry = CollectorRegistry()
        registry.register(self.traffic)

        def gauge(name: str, meaning: str, value: float, **labels: str) -> None:
            found = families.get(name)
            if found is None:
                found = families[name] = Gauge(f"metrics_pipeline_{name}", meaning, [*labels], registry=registry)
            (found.labels(**labels) if labels else found).set(value)

        families: dict[str, Gauge] = {}
        with self.context.monitoring.snapshot() as connection:
            day = newest_stored_day(connection)
            newest = ledger_rows(connection, day, day)[day] if day is not None else None
            if newest is not None:
                unknown = unknown_without(newest.unlogged)
                for name, value in day_totals(connection, newest.metric_date).items():
                    if _METRICS.get(name) not in unknown:
                        gauge(f"newest_day_{name}", _TOTALS[name], float(value))
                for agent in busiest_agents(connection, newest.metric_date, agents):
                    _gauge_agent(gauge, agent, unknown)
            unstored, oldest_gap = gaps(connection, self.context.yesterday())
            found = open_by_rule(connection)
            for rule in sorted(
                {rule for rule, _ in found} | set(filter(self.context.settings.alert_rules.is_on, RULES))
            ):
                for severity in Severity:
                    alerts = found.get((rule, severity), 0)
                    gauge("open_alerts", "Alerts that are not resolved.", alerts, rule=rule, severity=severity)
            # Of the clock that the days were judged by.
            now = connection.execute(text("SELECT now()")).scalar_one()
        gauge("gaps", "How many days since the first stored one are not stored.", unstored)
        if oldest_gap is not None:
            gauge(
                "oldest_gap_timestamp_seconds",
                "The start of the oldest day that is not stored, although an older one is.",
                day_window(oldest_gap, self.context.settings.time_zone).start.timestamp(),
            )
        looked_back = lookback(self.context.settings, self.context.now())
        days = self.context.judged_days(self.context.monitoring, looked_back[0], looked_back[-1]) if looked_back else []

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
        for state in COVERAGE_STATES:
            in_state = sum(verdict.state is state for verdict, _ in days)
            gauge("day_states", "Days of the look-back window by state.", in_state, state=state.value)
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
            "not_compared",
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
                    f"{name}_age_seconds",
                    f"How long ago a day of the look-back window was last {meaning}: the day for which it is longest.",
                    (now - oldest).total_seconds(),
                )
        gauge("dagster_up", "Whether the Dagster webserver answers.", dagster is not None)
        if dagster is not None:
            _gauge_dagster(gauge, dagster)
        return registry

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
        hurried = context.monitoring.within(_COUNT_SECONDS, lock_seconds=_LOCK_SECONDS)
        try:
            with hurried.connect() as connection:
                contract = check_contract(connection, [LOGS_TABLE])
                start = day_window(kept_from, settings.time_zone).start
                self._held_back = count_logs_before(connection, contract, start)
        except PipelineError as error:
            self._held_back = None
            _log.warning("The logs that retention held back cannot be counted. %s", error)


def _gauge_agent(gauge: _SetGauge, row: RowMapping, unknown: Collection[str]) -> None:
    agent = row["agent_id"]
    gauge("agent_executions", "Executions of an agent on the newest day.", row["total_executions"], agent=agent)
    gauge("agent_success_ratio", "Success rate of an agent on the newest day.", float(row["success_rate"]), agent=agent)
    # A 0 that was not measured is not a gauge.
    if "total_cost_usd" not in unknown:
        gauge("agent_cost_usd", "Cost of an agent on the newest day.", float(row["total_cost_usd"]), agent=agent)
    for percentile in (50, 95, 99):
        name = f"p{percentile}_latency_ms"
        if name not in unknown:
            gauge(
                "agent_latency_seconds",
                "Latency of an agent on the newest day.",
                row[name] / 1000,
                agent=agent,
                percentile=str(percentile),
            )


def _gauge_dagster(gauge: _SetGauge, dagster: DagsterState) -> None:
    success, last, retention = dagster.newest_success, dagster.last_run, dagster.retention
    if success is not None and success.started_at:
        gauge(
            "run_duration_seconds",
            "How long the newest successful run of daily_metrics_job took.",
            success.ended_at - success.started_at,
        )
        gauge(
            "run_end_timestamp_seconds", "When the newest successful run of daily_metrics_job ended.", success.ended_at
        )
    if last is not None:
        gauge("last_run_failed", "Whether the newest run of daily_metrics_job that has ended failed.", last.has_failed)
    if retention is not None:
        gauge(
            "retention_end_timestamp_seconds",
            "When the newest successful run of data_retention_job ended.",
            retention.ended_at,
        )
    for status, runs in (("queued", dagster.queued), ("running", dagster.running), ("failed", dagster.failed)):
        gauge("runs", "Dagster runs that wait, that run, and that failed within the last day.", runs, status=status)
    for daemon, at in dagster.heartbeats.items():
        gauge("daemon_heartbeat_timestamp_seconds", "When a daemon of Dagster last gave a sign.", at, daemon=daemon)
