"""What the database says of days: the verdict on each, and the ledger's row."""

from dataclasses import dataclass
from datetime import date

from metrics_pipeline.api.context import Context
from metrics_pipeline.logs.fingerprints import present_fingerprints
from metrics_pipeline.metrics.reconciliation import DayVerdict, reconcile
from metrics_pipeline.metrics.windows import day_window, days_between
from metrics_pipeline.store.ledger import stored_days
from metrics_pipeline.store.reads import LedgerRow, ledger_rows


@dataclass(frozen=True)
class DayJudgement:
    """A day's verdict, and the ledger's row; None for a day that was never aggregated."""

    verdict: DayVerdict
    ledger: LedgerRow | None


def judge_days(context: Context, first: date, last: date) -> list[DayJudgement]:
    """Each day from `first` to `last`, oldest first, from one snapshot. Reads the logs of all of them.

    Which days a run is about to write is Dagster's to know, so no day is called running here.
    """
    contract, zone = context.contract, context.settings.time_zone
    days = days_between(first, last)
    with context.database.snapshot() as connection:
        ledger = ledger_rows(connection, first, last)
        stored = stored_days(connection, first, last)
        present = present_fingerprints(connection, contract, [day_window(day, zone) for day in days])
    verdicts = reconcile(days, time_zone=zone, stored=stored, present=present, running=frozenset())
    return [DayJudgement(verdict, ledger.get(verdict.metric_date)) for verdict in verdicts]
