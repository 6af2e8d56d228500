"""A second source of logs, as small as possible: rows in memory. It delivers pairs of a value and its count."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple, replace
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction

import polars as pl

from metrics_pipeline.logs.source import KNOWN_STATUSES, ExtractedDay, LogQuality, Suspicion, SuspiciousLog
from metrics_pipeline.metrics.calculator import agents_with_irregular_costs, merge_partials
from metrics_pipeline.metrics.catalog import EXACT_COSTS_SCHEMA, PARTIALS_SCHEMA
from metrics_pipeline.metrics.conservation import AgentLogs
from metrics_pipeline.metrics.fingerprint import FingerprintKind, SourceFingerprint
from metrics_pipeline.metrics.upstream import FLAGS
from metrics_pipeline.metrics.verification import JudgedBy, Mark
from metrics_pipeline.metrics.windows import DayWindow
from metrics_pipeline_tests.days import Log

KIND = ("memory", 1)


class MemoryLogs:
    """A LogSource over `agents` ({id: status}) and `logs`. It has its own state, and ignores the snapshot."""

    name = "rows in memory"
    warnings: tuple[str, ...] = ()
    fingerprint_kinds: tuple[FingerprintKind, ...] = (KIND,)
    unlogged: Sequence[str] = ()

    def __init__(self, agents: Mapping[str, str], logs: Sequence[Log]) -> None:
        self.agents = agents
        self.logs = logs

    def read_day(self, snapshot: object, window: DayWindow, *, include_inactive_agents: bool) -> ExtractedDay:
        agents = [agent for agent, status in self.agents.items() if include_inactive_agents or status == "active"]
        by_agent: dict[str | None, list[Log]] = {}
        for log in self._within(window.start, window.end):
            by_agent.setdefault(log.agent_id, []).append(log)
        rows = [_partial(agent, logs) for agent, logs in by_agent.items()]
        partials = pl.DataFrame(rows, schema=PARTIALS_SCHEMA)
        irregular = agents_with_irregular_costs(partials)
        exact = [_exact_costs(agent, by_agent[agent]) for agent in by_agent if agent in irregular or agent is None]
        return ExtractedDay(
            pl.Series("agent_id", agents, dtype=pl.String),
            partials,
            pl.DataFrame(exact if irregular else [], schema=EXACT_COSTS_SCHEMA, orient="row"),
            datetime.now(UTC),
            KIND,
        )

    def fingerprints(
        self, snapshot: object, windows: Sequence[DayWindow], kind: FingerprintKind
    ) -> dict[date, SourceFingerprint]:
        days = {window: self.read_day(snapshot, window, include_inactive_agents=True) for window in windows}
        return {
            window.metric_date: merge_partials(day.partials).fingerprint(day.exact_costs, kind)
            for window, day in days.items()
        }

    def watch(self, database: object, until: object) -> None:
        pass

    def marks(self, connection: object, windows: Sequence[DayWindow]) -> dict[date, Mark]:
        return {}

    def unchanged(
        self, connection: object, windows: Sequence[DayWindow], since: Mapping[date, Mark], now: Mapping[date, Mark]
    ) -> dict[date, JudgedBy]:
        return {}

    def counts(self, snapshot: object, windows: Sequence[DayWindow]) -> dict[date, int]:
        return {window.metric_date: len(self._within(window.start, window.end)) for window in windows}

    def logs_by_agent(self, snapshot: object, windows: Sequence[DayWindow]) -> list[AgentLogs]:
        found = []
        for window in windows:
            logs = self._within(window.start, window.end)
            for agent in {log.agent_id for log in logs}:
                of_agent = [log for log in logs if log.agent_id == agent]
                total, _, regular, _ = _exact_costs(agent, of_agent)[1:]
                found.append(AgentLogs(window.metric_date, agent, len(of_agent), regular, total))
        return found

    def quality(
        self, snapshot: object, windows: Sequence[DayWindow], *, future_from: datetime, examples: int
    ) -> LogQuality:
        within = [log for window in windows for log in self._within(window.start, window.end)]

        def suspicion(value: str, logs: list[Log]) -> Suspicion:
            newest = sorted(logs, key=lambda log: log.timestamp, reverse=True)[:examples]
            return Suspicion(
                len(logs),
                [
                    SuspiciousLog(
                        "", log.agent_id, str(log.timestamp), getattr(log, value) and str(getattr(log, value))
                    )
                    for log in newest
                ],
            )

        return LogQuality(
            len(within),
            {
                "negative_latency": suspicion("latency_ms", [log for log in within if (log.latency_ms or 0) < 0]),
                "negative_tokens": suspicion("token_count", [log for log in within if (log.token_count or 0) < 0]),
                "negative_cost": suspicion("cost_usd", [log for log in within if _is_finite(log) and _cost(log) < 0]),
                "cost_not_a_number": suspicion("cost_usd", [log for log in within if not _is_finite(log)]),
                "cost_of_12_digits_or_more": suspicion(
                    "cost_usd", [log for log in within if _is_finite(log) and abs(_cost(log)) >= 10**11]
                ),
                "unknown_status": suspicion("status", [log for log in within if log.status not in KNOWN_STATUSES]),
                "in_the_future": suspicion("timestamp", [log for log in self.logs if log.timestamp > future_from]),
            },
            unreadable={},
        )

    def first_log_at(self, snapshot: object) -> datetime | None:
        return min((log.timestamp for log in self.logs), default=None)

    def _within(self, start: datetime, end: datetime) -> list[Log]:
        return [log for log in self.logs if start <= log.timestamp < end]


def _cost(log: Log) -> Decimal:
    return Decimal(log.cost_usd or 0)


def _is_finite(log: Log) -> bool:
    return _cost(log).is_finite()


def _is_regular(log: Log) -> bool:
    return _is_finite(log) and _cost(log) == round(_cost(log), 9)


def _metadata(log: Log, key: str) -> str | None:
    found = json.loads(log.metadata or "{}").get(key)
    return found if found is None or isinstance(found, str) else json.dumps(found)


def _partial(agent: str | None, logs: list[Log]) -> dict[str, object]:
    failed = [log for log in logs if log.status == "failed"]
    hashes = (hashlib.sha256(repr(astuple(replace(log, timestamp=None))).encode()).digest()[:7] for log in logs)
    return {
        "agent_id": agent,
        "total_executions": len(logs),
        "successful_executions": sum(log.status == "success" for log in logs),
        "failed_executions": len(failed),
        **{name: sum(_metadata(log, key) == "true" for log in logs) for key, name in FLAGS.items()},
        "total_tokens": sum(log.token_count or 0 for log in logs),
        "cost_nano_usd": int(sum(map(_cost, logs)).scaleb(9)) if all(map(_is_regular, logs)) else None,
        "content_hash": sum(int.from_bytes(digest) for digest in hashes),
        "latencies_ms": None,
        "latency_counts": [
            {"latency_ms": latency, "executions": executions}
            for latency, executions in Counter(log.latency_ms for log in logs).items()
            if latency is not None
        ],
        "user_ids": list({user for log in logs if (user := _metadata(log, "user_id")) is not None}),
        "error_types": None,
        "error_counts": [
            {"error_type": error_type, "executions": executions}
            for error_type, executions in Counter(log.error_type or "unknown" for log in failed).items()
        ],
    }


def _exact_costs(agent: str | None, logs: list[Log]) -> tuple[str | None, int, int, int, int]:
    finite = sum((_cost(log) for log in logs if _is_finite(log)), Decimal(0)).scaleb(9)
    mean = Fraction(finite) / len(logs)
    magnitude = (abs(mean) * 2 + 1) // 2
    return (
        agent,
        int(finite.to_integral_value(ROUND_HALF_UP)),
        int(magnitude if mean >= 0 else -magnitude),
        int(sum((_cost(log) for log in logs if _is_regular(log)), Decimal(0)).scaleb(9)),
        sum(not _is_finite(log) for log in logs),
    )
