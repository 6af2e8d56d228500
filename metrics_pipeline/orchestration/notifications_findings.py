"""What is wrong in Dagster: failed runs, ticks and checks, as conditions of pipeline/data_alerts.py."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg

from metrics_pipeline.metrics.alerts import Severity
from metrics_pipeline.metrics.wording import counted
from metrics_pipeline.names import (
    CHECKS_AFTER_CANCELLATION_SENSOR,
    CHECKS_AFTER_FAILURE_SENSOR,
    DAILY_CHECKS_JOB,
    DAILY_CHECKS_SCHEDULE,
    DAILY_METRICS_JOB,
    DAILY_METRICS_SCHEDULE,
    DATA_RETENTION_JOB,
    DATA_RETENTION_SCHEDULE,
    LATE_LOGS_SENSOR,
    NOTIFICATIONS_SENSOR,
    PARTITION_RANGE_END_TAG,
    PARTITION_RANGE_START_TAG,
    PARTITION_TAG,
    WILL_RETRY_TAG,
)
from metrics_pipeline.orchestration.asset_keys import METRICS_ASSET_KEY, RETENTION_ASSET_KEY
from metrics_pipeline.pipeline.data_alerts import CHECK_FAILED, RETENTION_HELD_BACK, RUN_FAILED, TICK_FAILED
from metrics_pipeline.pipeline.delivery_messages import printable
from metrics_pipeline.store.data_alerts import Condition, Findings

_JOBS = (DAILY_METRICS_JOB, DAILY_CHECKS_JOB, DATA_RETENTION_JOB)
_SCHEDULES = (DAILY_METRICS_SCHEDULE, DAILY_CHECKS_SCHEDULE, DATA_RETENTION_SCHEDULE)
#: A sensor that failed once is evaluated again within the quarter of an hour.
_SENSORS = (LATE_LOGS_SENSOR, CHECKS_AFTER_FAILURE_SENSOR, CHECKS_AFTER_CANCELLATION_SENSOR, NOTIFICATIONS_SENSOR)

#: An older failure that nothing followed is known.
_RECENT = timedelta(days=7)
_MOST_RUNS = 20
_MOST_NAMED = 3

_HELD_BACK = dg.AssetCheckKey(RETENTION_ASSET_KEY, "no_logs_held_back")
#: The findings of the other checks open alerts of their own.
_CHECKS = [
    dg.AssetCheckKey(METRICS_ASSET_KEY, name)
    for name in (
        "stored_rows_equal_ledger",
        "distributions_equal_metrics",
        "breakdowns_add_up",
        "active_agents_have_rows",
    )
]


def conditions_of_dagster(instance: dg.DagsterInstance, now: datetime, time_zone: str) -> Findings:
    """What is wrong with runs, ticks and checks at the instant `now`."""
    today = now.astimezone(ZoneInfo(time_zone)).date()
    return {
        RUN_FAILED: _failed_runs(instance, now, today),
        TICK_FAILED: _failed_ticks(instance, today),
        **_failed_checks(instance, today),
    }


def _failed_runs(instance: dg.DagsterInstance, now: datetime, today: date) -> Condition | None:
    failures = instance.get_run_records(
        dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], created_after=now - _RECENT), limit=_MOST_RUNS
    )
    jobs = {record.dagster_run.job_name for record in failures}
    succeeded = {
        job: records[0].create_timestamp
        for job in jobs
        if (
            records := instance.get_run_records(
                dg.RunsFilter(statuses=[dg.DagsterRunStatus.SUCCESS], job_name=job), limit=1
            )
        )
    }
    open_failures = [
        record
        for record in failures
        if _is_ours(record.dagster_run)
        # A run of a process that was killed is repeated by the daemon.
        and record.dagster_run.tags.get(WILL_RETRY_TAG) != "true"
        and succeeded.get(record.dagster_run.job_name, record.create_timestamp) <= record.create_timestamp
    ]
    if not open_failures:
        return None
    runs = [record.dagster_run for record in open_failures]
    return Condition(
        RUN_FAILED,
        Severity.CRITICAL,
        today,
        today,
        tuple(run.run_id for run in runs),
        _said([_run_in_words(instance, run) for run in runs[:_MOST_NAMED]], len(runs), "more run"),
        runs[0].run_id,
    )


def _is_ours(run: dg.DagsterRun) -> bool:
    ours = {METRICS_ASSET_KEY, RETENTION_ASSET_KEY}
    return run.job_name in _JOBS or bool(ours & (run.asset_selection or set()))


def _run_in_words(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    tags = run.tags
    first = tags.get(PARTITION_TAG) or tags.get(PARTITION_RANGE_START_TAG, "")
    last = tags.get(PARTITION_TAG) or tags.get(PARTITION_RANGE_END_TAG, "")
    days = f" for {first}" if first == last else f" for {first} to {last}"
    return f"run {run.run_id} of {run.job_name}{days if first else ''} failed: {_error_of(instance, run)}"


def _error_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    for entry in reversed(instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)):
        failure = entry.dagster_event.step_failure_data if entry.dagster_event else None
        if failure is not None and failure.user_failure_data is not None and failure.user_failure_data.description:
            return _first_line(failure.user_failure_data.description)
        if failure is not None and failure.error is not None:
            return _first_line(failure.error.cause.message if failure.error.cause else failure.error.message)
    for entry in reversed(instance.all_logs(run.run_id, of_type=dg.DagsterEventType.RUN_FAILURE)):
        return _first_line(entry.user_message or entry.message)
    return "its log says why."


def _failed_ticks(instance: dg.DagsterInstance, today: date) -> Condition | None:
    failed = {}
    for state in instance.all_instigator_state():
        if not state.is_running or state.name not in (*_SCHEDULES, *_SENSORS):
            continue
        # One may be started, and has no result yet.
        ticks = [
            tick
            for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=3)
            if tick.is_completed
        ]
        counted = ticks[: 1 if state.name in _SCHEDULES else 2]
        if counted and all(tick.is_failure for tick in counted):
            error = counted[0].error
            failed[state.name] = _first_line(error.message if error else "no error is known")
    if not failed:
        return None
    named = [f"the ticks of {name} fail: {error}" for name, error in failed.items()]
    said = _said(named[:_MOST_NAMED], len(named), "more schedule or sensor", "more schedules and sensors")
    return Condition(TICK_FAILED, Severity.CRITICAL, today, today, tuple(sorted(failed)), said)


def _failed_checks(instance: dg.DagsterInstance, today: date) -> Findings:
    latest = instance.event_log_storage.get_latest_asset_check_execution_by_key([*_CHECKS, _HELD_BACK])
    # Of a run that is to evaluate a check, its last verdict is not known.
    verdicts = {
        key: record.evaluation
        for key, record in latest.items()
        if isinstance(record.evaluation, dg.AssetCheckEvaluation)
    }
    found: dict[str, Condition | None] = {}
    if _HELD_BACK in verdicts:
        found[RETENTION_HELD_BACK] = _held_back(verdicts[_HELD_BACK], latest[_HELD_BACK].run_id, today)
    if all(key in verdicts for key in _CHECKS if key in latest):
        found[CHECK_FAILED] = None
        failed = {key: verdicts[key] for key in _CHECKS if key in verdicts and not verdicts[key].passed}
        if failed:
            names = tuple(sorted(key.name for key in failed))
            is_error = any(verdict.severity is dg.AssetCheckSeverity.ERROR for verdict in failed.values())
            found[CHECK_FAILED] = Condition(
                CHECK_FAILED,
                Severity.CRITICAL if is_error else Severity.WARNING,
                today,
                today,
                names,
                f"The last evaluation failed of {', '.join(names)}: see the checks of the asset.",
                next(latest[key].run_id for key in failed),
            )
    return found


def _held_back(verdict: dg.AssetCheckEvaluation, run_id: str, today: date) -> Condition | None:
    if verdict.passed:
        return None
    values: dict[str, Any] = {name: each.value for name, each in verdict.metadata.items()}
    return Condition(
        RETENTION_HELD_BACK,
        Severity.WARNING,
        today,
        today,
        (RETENTION_HELD_BACK,),
        f"Retention holds back {counted(values['logs_held_back'], 'raw log')} of "
        f"{counted(values['days_held_back'], 'day')}: see the asset data_retention.",
        run_id,
    )


def _first_line(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return printable(lines[0] if lines else "no error is known", 300)


def _said(named: Sequence[str], number: int, *what: str) -> str:
    more = number - len(named)
    said = "; ".join([*named, *([f"and {counted(more, *what)}"] if more else [])])
    return f"{said[0].upper()}{said[1:]}"
