"""A run of retention: alerts, then raw logs, then the metrics that are old enough and whose logs are gone."""

from datetime import timedelta
from functools import partial

from sqlalchemy import Connection, text

from metrics_pipeline.errors import PermanentError
from metrics_pipeline.logs.contract import UpstreamContract
from metrics_pipeline.logs.counts import count_logs_before
from metrics_pipeline.metrics.alert_rules import DEFAULT_RULES, AlertRules
from metrics_pipeline.metrics.retention import Cutoffs
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.metrics.wording import counted
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.retention.expired_metrics import expire_metrics
from metrics_pipeline.retention.pace import OnProgress, Pace, RetentionConnection
from metrics_pipeline.retention.raw_logs import RawLogPruning
from metrics_pipeline.retention.report import RetentionReport
from metrics_pipeline.retention.resolved_alerts import delete_resolved_alerts
from metrics_pipeline.store.alerts import renew_after_expiry

#: Said in place of pruning the logs.
LAKE_IS_KEPT = "The logs are in a lake, of which nothing is deleted here: have its owner delete old files."


def apply_retention(
    database: Database,
    contract: UpstreamContract | None,
    cutoffs: Cutoffs,
    pace: Pace,
    *,
    run_id: str,
    is_dry_run: bool,
    on_progress: OnProgress,
    alert_rules: AlertRules = DEFAULT_RULES,
) -> RetentionReport:
    """Deletes what is older than the cutoffs, or says what would go. Ended at any point, the next run goes on.

    contract: None if the logs are in a lake, of which nothing is deleted.
    A fault of one table leaves the rest of the work to be done, and is raised at the end. Raises PermanentError for a
    `today` that the database's clock has not reached. Database faults become TransientError or PermanentError.
    """
    report = RetentionReport(cutoffs, is_dry_run)
    with database.connect() as session:
        connection = RetentionConnection(session)
        connection.transaction(partial(_refuse_the_future, cutoffs=cutoffs))
        connection.attempt(partial(connection.transaction, partial(delete_resolved_alerts, report=report)))
        if contract is None:
            on_progress(LAKE_IS_KEPT)
        else:
            connection.attempt(RawLogPruning(connection, pace, contract, report, on_progress).run)
        connection.attempt(partial(expire_metrics, connection, contract, report, run_id))
        if not is_dry_run:
            connection.attempt(partial(connection.transaction, partial(_renew_alerts, rules=alert_rules)))
        if report.is_out_of_time:
            on_progress(
                f"The time budget of {counted(pace.time_budget_minutes, 'minute')} is used up; the next run goes on."
            )
        if connection.faults:
            raise connection.faults[0]
        if contract is None:
            return report
        raw_logs_before = day_window(cutoffs.raw_logs, cutoffs.time_zone).start
        left = connection.transaction(partial(count_logs_before, contract=contract, moment=raw_logs_before))
        report.logs_left = left - (sum(report.pruned_logs.values()) if is_dry_run else 0)
    return report


def _renew_alerts(connection: Connection, rules: AlertRules) -> None:
    # After waiting for another transaction's alerts, which takes longer than a table may be waited for, its rows must
    # be seen.
    connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = 0")
    renew_after_expiry(connection, rules)


def _refuse_the_future(connection: Connection, cutoffs: Cutoffs) -> None:
    # A clock that is years ahead would expire every metric there is.
    today = connection.execute(text("SELECT now()")).scalar_one().date()
    if cutoffs.today > today + timedelta(days=1):
        raise PermanentError(
            f"This run counts from {cutoffs.today}, and by the database's clock it is {today}. Nothing was deleted. "
            "Set the clocks right, of the machine that runs Dagster or of the database."
        )
