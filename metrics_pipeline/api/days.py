"""What the database says of days: the verdict on each, and the ledger's row."""

from dataclasses import dataclass
from datetime import date

from metrics_pipeline.api.context import Context
from metrics_pipeline.metrics.reconciliation import DayVerdict, LedgerRow
from metrics_pipeline.metrics.windows import days_between
from metrics_pipeline.pipeline.reconciling import judge_days
from metrics_pipeline.store.ledger import ledger_rows


@dataclass(frozen=True)
class DayJudgement:
    """A day's verdict, and the ledger's row; None for a day that was never aggregated."""

    verdict: DayVerdict
    ledger: LedgerRow | None


def judgements(context: Context, first: date, last: date) -> list[DayJudgement]:
    """Each day from `first` to `last`, oldest first, from one snapshot. Reads the logs of all of them.

    Which days a run is about to write is Dagster's to know, so no day is called running here.
    """
    with context.database.snapshot() as snapshot:
        ledger = ledger_rows(snapshot, first, last)
        verdicts = judge_days(snapshot, context.logs, days_between(first, last), context.settings.time_zone)
    return [DayJudgement(verdict, ledger.get(verdict.metric_date)) for verdict in verdicts]
