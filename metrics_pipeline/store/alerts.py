"""metric_alerts and its journal: computing them, what is open, what changed, and what a receiver was not yet told."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy import Connection, Row, text

from metrics_pipeline.metrics.alert_rules import (
    RULES,
    SKIPPED_LOGS,
    THRESHOLD_METRICS,
    AlertRules,
    Scope,
    Severity,
    threshold,
)
from metrics_pipeline.metrics.alerts import Alert, Change, differences, episodes
from metrics_pipeline.metrics.catalog import AGENT_DAY, METRICS, NANO_USD_PER_USD
from metrics_pipeline.metrics.upstream import UNKNOWN_WITHOUT
from metrics_pipeline.metrics.verdicts import LOOK_BACK_DAYS, History, Series, Verdict, fleet_of, needed_days, verdicts
from metrics_pipeline.names import ALERTS_LOCK
from metrics_pipeline.store.unlogged import days_without

_Value = TypeVar("_Value")

_EPOCH = date(1970, 1, 1)
_NUMBERS = ("total_executions", "successful_executions", "p95_latency_ms")
_RATES = ("success_rate", "avg_cost_per_execution")
# The metrics that only a threshold needs.
_FURTHER = {metric.name for metric in METRICS if metric.sql_type == "bigint"} - {*_NUMBERS}
# What says nothing of a day whose logs did not have the column.
_NOT_JUDGED_WITHOUT = {**UNKNOWN_WITHOUT, "error_type": ("error_distribution",)}

_ALERT_COLUMNS = "rule, scope, agent_id, opened_on, severity, last_seen_on, days, resolved_on, evidence"
_ORDER = 'opened_on, rule, scope, agent_id COLLATE "C"'

_OPEN = text(f"SELECT {_ALERT_COLUMNS} FROM metric_alerts WHERE resolved_on IS NULL ORDER BY {_ORDER}")

# Taken last, after the lock of the day: transactions wait for each other's alerts, and see each other's rows after it.
_LOCK = text("SELECT pg_advisory_xact_lock(:key)").bindparams(key=ALERTS_LOCK)
_STATE = text(f"""
SELECT (SELECT digest FROM metric_alert_rules) AS digest, least(metrics.oldest, ledger.oldest) AS oldest,
       greatest(metrics.newest, ledger.newest) AS newest,
       ARRAY(SELECT agent_id FROM metric_acknowledged_agents) AS acknowledged
  FROM (SELECT min(metric_date) AS oldest, max(metric_date) AS newest FROM {AGENT_DAY.table}) AS metrics,
       (SELECT min(metric_date) AS oldest, max(metric_date) AS newest FROM metric_day_ledger
         WHERE metrics_expired_at IS NULL) AS ledger""")
_SET_DIGEST = text("""
INSERT INTO metric_alert_rules (id, digest) VALUES (1, :digest)
ON CONFLICT (id) DO UPDATE SET digest = EXCLUDED.digest""")
# Rows of other rules do not follow from the metrics.
_STORED = text(f"""
SELECT {_ALERT_COLUMNS} FROM metric_alerts
 WHERE (resolved_on IS NULL OR resolved_on >= :first) AND rule = ANY(:rules)""").bindparams(rules=list(RULES))

# A row for each agent, and its days as arrays or as one text: one row for each day takes five times as long. Costs
# arrive as whole nano-dollars. The text of a jsonb has no line breaks.
_ROWS = f"""
SELECT agent_id, array_agg(metric_date - DATE '1970-01-01'),
       string_agg(CASE failed_executions WHEN 0 THEN '{{}}' ELSE error_distribution::text END, E'\\n'),
       string_agg(trunc(total_cost_usd * {NANO_USD_PER_USD})::text, ' '),
       {", ".join(f"array_agg({name}::float8)" for name in _RATES)}, NUMBERS
  FROM {AGENT_DAY.table} WHERE metric_date = ANY(:days) GROUP BY agent_id"""
_LEDGER = text("""
SELECT metric_date, source_logs, skipped_logs FROM metric_day_ledger
 WHERE metric_date = ANY(:days) AND metrics_expired_at IS NULL""")

_DELETE = text("""
DELETE FROM metric_alerts AS gone USING jsonb_to_recordset(CAST(:alerts AS jsonb))
    AS key(rule text, scope text, agent_id text, opened_on date)
 WHERE (gone.rule, gone.scope, gone.agent_id, gone.opened_on) = (key.rule, key.scope, key.agent_id, key.opened_on)""")
_INSERT = text(f"""
INSERT INTO metric_alerts ({_ALERT_COLUMNS})
SELECT {_ALERT_COLUMNS} FROM jsonb_to_recordset(CAST(:alerts AS jsonb)) AS alert(rule text, scope text, agent_id text,
    opened_on date, severity text, last_seen_on date, days integer, resolved_on date, evidence jsonb)""")
_JOURNAL = text("""
INSERT INTO metric_alert_transitions (rule, scope, agent_id, opened_on, transition, metric_date, severity, evidence,
    run_id, is_quiet)
SELECT rule, scope, agent_id, opened_on, transition, :metric_date, severity, evidence, :run_id, is_quiet
  FROM jsonb_to_recordset(CAST(:transitions AS jsonb)) AS change(position integer, rule text, scope text,
    agent_id text, opened_on date, transition text, severity text, evidence jsonb, is_quiet boolean)
 ORDER BY position""")

# Beside the digest of the rules: metrics expired since, so that alerts of the days after them are to be computed again.
_EXPIRED = " expired"
_MARK_EXPIRED = text("""
UPDATE metric_alert_rules SET digest = digest || :mark WHERE right(digest, length(:mark)) <> :mark""").bindparams(
    mark=_EXPIRED
)


@dataclass(frozen=True)
class Cause:
    """Why alerts are computed: the day that was stored, and by which run. is_quiet: nobody is to be told."""

    metric_date: date
    run_id: str | None
    is_quiet: bool


@dataclass(frozen=True)
class _State:
    """digest: of the rules that the alerts were computed with. oldest, newest: of the stored days; None: none is."""

    digest: str | None
    oldest: date | None
    newest: date | None
    acknowledged: frozenset[str]


@dataclass(frozen=True)
class Transition:
    """A row of metric_alert_transitions; metric_date is the day whose storing caused it."""

    transition_id: int
    rule: str
    scope: Scope
    agent_id: str
    opened_on: date
    transition: Change
    metric_date: date
    severity: Severity
    evidence: dict[str, Any]
    run_id: str | None
    occurred_at: datetime
    is_quiet: bool


def open_alerts(connection: Connection) -> list[Alert]:
    """The alerts that are not resolved, the oldest first."""
    return [_alert(row) for row in connection.execute(_OPEN)]


def renew_alerts(connection: Connection, rules: AlertRules, cause: Cause) -> None:
    """Computes the alerts that the rows of a day concern, after these were stored or deleted, in their transaction.

    They may be alerts of later days too, which are judged by this day among others. If the stored alerts are of other
    rules, all are computed again before, without telling anybody.
    """
    state = _locked(connection)
    day, newest = cause.metric_date, state.newest
    if newest is None or state.digest != rules.digest:
        # What is new on the newest day is told also if the rules are.
        until = day - timedelta(days=1) if newest == day else newest
        _renew(connection, rules, state, date.min, until, until, replace(cause, is_quiet=True))
        connection.execute(_SET_DIGEST, {"digest": rules.digest})
        if newest is None or until == newest:
            return
    # Without this day, alerts that were resolved on it or before it by the passing of time may be open again.
    first = min(day, newest + timedelta(days=1))
    _renew(connection, rules, state, first, min(day + timedelta(days=LOOK_BACK_DAYS), newest), newest, cause)


def replay_alerts(connection: Connection, rules: AlertRules, run_id: str | None = None) -> int:
    """Computes all alerts from the stored metrics, telling nobody. Returns how many rows of metric_alerts changed."""
    state = _locked(connection)
    cause = Cause(state.newest or date.min, run_id, is_quiet=True)
    changed = _renew(connection, rules, state, date.min, state.newest, state.newest, cause)
    connection.execute(_SET_DIGEST, {"digest": rules.digest})
    return changed


def mark_expired(connection: Connection) -> None:
    """Notes, in the transaction that deletes expired metrics, that alerts are to be computed again."""
    connection.execute(_MARK_EXPIRED)


def renew_after_expiry(connection: Connection, rules: AlertRules) -> None:
    """Computes the alerts of the oldest days again, whose past has expired. The journal says nothing of it."""
    state = _locked(connection)
    if state.digest is None or not state.digest.endswith(_EXPIRED):
        return
    last = state.newest
    if state.oldest and last and state.digest == rules.digest + _EXPIRED:
        last = min(state.oldest + timedelta(days=LOOK_BACK_DAYS), last)
    _renew(connection, rules, state, date.min, last, state.newest, None)
    connection.execute(_SET_DIGEST, {"digest": rules.digest})


def lock_alerts(connection: Connection) -> None:
    """Waits until no other transaction of ours writes alerts."""
    connection.execute(_LOCK)


def _locked(connection: Connection) -> _State:
    lock_alerts(connection)
    row = connection.execute(_STATE).one()
    return _State(row.digest, row.oldest, row.newest, frozenset(row.acknowledged))


def _renew(
    connection: Connection,
    rules: AlertRules,
    state: _State,
    first: date,
    last: date | None,
    newest: date | None,
    cause: Cause | None,
) -> int:
    """Replaces the alerts that days from `first` to `last` concern. Returns how many rows of metric_alerts changed.

    newest: the newest day that counts as stored; None: none does. cause: None writes no journal.
    After `last` nothing else changes once nothing is open on it, before and after; until then, later days are judged.
    """
    stored = [_alert(row) for row in connection.execute(_STORED, {"first": first})]
    if last is None or newest is None:
        before, after = stored, []
    else:
        while True:
            before = [alert for alert in stored if last >= newest or alert.opened_on <= last]
            after = _computed(connection, rules, before, first, state.oldest or first, last)
            if last >= newest or not any(alert.is_open_on(last) for alert in (*before, *after)):
                break
            last = min(newest, last + timedelta(days=LOOK_BACK_DAYS))
    gone = _without(before, after)
    new = _without(after, before)
    if gone:
        connection.execute(_DELETE, {"alerts": _json(gone)})
    if new:
        connection.execute(_INSERT, {"alerts": _json(new)})
    if cause and (gone or new):
        _journal(connection, differences(gone, new), state, cause)
    return len({(alert.series, alert.opened_on) for alert in (*gone, *new)})


def _computed(
    connection: Connection, rules: AlertRules, before: Sequence[Alert], first: date, oldest: date, last: date
) -> list[Alert]:
    """The alerts as `before` has them, after the days from `first` to `last` changed."""
    # What was open when the days began is resumed after its newest unusual day before them, or from its beginning.
    standing = {alert.series: alert for alert in before if alert.opened_on < first}
    seeds = {series: alert for series, alert in standing.items() if alert.last_seen_on < first}
    begins = {
        series: alert.last_seen_on + timedelta(days=1) if series in seeds else alert.opened_on
        for series, alert in standing.items()
    }
    begin = max(min([first, *begins.values()]), oldest)
    days = [begin + timedelta(days=n) for n in range((last - begin).days + 1)]
    found: dict[Series, list[Verdict]] = {alert.series: [] for alert in before}
    if days:
        found = verdicts(_read(connection, rules, begin, last), rules, days, found)
    after = []
    for series, judged in found.items():
        own = [verdict for verdict in judged if verdict.metric_date >= begins.get(series, first)]
        after += episodes(series, own, seeds.get(series), last)
    return after


def _read(connection: Connection, rules: AlertRules, first: date, last: date) -> Iterator[History]:
    """What the rules need to judge the days from `first` to `last`, of each agent, the fleet and the pipeline."""
    days = needed_days(first, last)
    length = (last - days[0]).days + 1
    numbers = [*_NUMBERS, *(name for name in THRESHOLD_METRICS if rules.is_on(threshold(name)) and name in _FURTHER)]
    statement = text(_ROWS.replace("NUMBERS", ", ".join(f"array_agg({name})" for name in numbers)))
    # A day without a column is not judged by what it would say, and is no past of the days after it.
    unknown = [
        (figure, (day - days[0]).days)
        for column, lacking in days_without(connection, days[0], last).items()
        for figure in _NOT_JUDGED_WITHOUT.get(column, ())
        for day in lacking
    ]
    agents = []
    for agent_id, ordinals, errors, costs, *columns in connection.execute(statement, {"days": days}):
        places = [ordinal - (days[0] - _EPOCH).days for ordinal in ordinals]
        values = {name: _placed(places, each, length) for name, each in zip((*_RATES, *numbers), columns, strict=True)}
        values["total_cost_usd"] = _placed(places, map(int, costs.split(" ")), length)
        values["executions"] = values["total_executions"]
        texts = _placed(places, errors.split("\n"), length)
        series: dict[str, list[Any]] = {**values, "error_distribution": texts}
        for figure, place in unknown:
            if figure in series:
                series[figure][place] = None
        agents.append(History(Scope.AGENT, agent_id, days[0], values, texts))
    yield from agents
    if agents:
        yield fleet_of(agents)
    if rules.is_on(SKIPPED_LOGS):
        rows = connection.execute(_LEDGER, {"days": days}).all()
        places = [(row.metric_date - days[0]).days for row in rows]
        of_logs = {
            "executions": _placed(places, [row.source_logs for row in rows], length),
            "skipped_logs": _placed(places, [row.skipped_logs for row in rows], length),
        }
        yield History(Scope.PIPELINE, "", days[0], of_logs)


def _placed(places: Iterable[int], values: Iterable[_Value], length: int) -> list[_Value | None]:
    """The values at their places in a list, which has None elsewhere."""
    placed: list[_Value | None] = [None] * length
    for place, value in zip(places, values, strict=True):
        placed[place] = value
    return placed


def _without(alerts: Iterable[Alert], others: Iterable[Alert]) -> list[Alert]:
    """The alerts that are not among the others with the same values."""
    same = {(alert.series, alert.opened_on): alert for alert in others}
    return [alert for alert in alerts if same.get((alert.series, alert.opened_on)) != alert]


def _journal(connection: Connection, changes: Iterable[tuple[Change, Alert]], state: _State, cause: Cause) -> None:
    transitions = [
        {
            **vars(alert),
            "position": position,
            "transition": change,
            "is_quiet": cause.is_quiet or (alert.scope is Scope.AGENT and alert.agent_id in state.acknowledged),
        }
        for position, (change, alert) in enumerate(changes)
    ]
    if transitions:
        connection.execute(
            _JOURNAL,
            {
                "transitions": json.dumps(transitions, default=date.isoformat),
                "metric_date": cause.metric_date,
                "run_id": cause.run_id,
            },
        )


def _json(alerts: Iterable[Alert]) -> str:
    return json.dumps([vars(alert) for alert in alerts], default=date.isoformat)


def _alert(row: Row[Any]) -> Alert:
    values = row._asdict()
    return Alert(**{**values, "scope": Scope(values["scope"]), "severity": Severity(values["severity"])})
