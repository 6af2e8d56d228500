"""metric_day_verifications: what the last full reading of each day's logs found, and since when it is known to hold.

A cache: without its rows, every day is read in full again.
"""

import json
from collections.abc import Iterable
from datetime import date
from typing import Any

from sqlalchemy import Connection, text

from metrics_pipeline.metrics.fingerprint import SourceFingerprint
from metrics_pipeline.metrics.verification import JudgedBy, Unreadable, Verification

_COLUMNS = (
    "metric_date, window_start, window_end, ledger_version, fingerprint, unreadable, gone, verified_at, mark, "
    "confirmed_at, judged_by"
)

_ROWS = text(f"SELECT {_COLUMNS} FROM metric_day_verifications WHERE metric_date BETWEEN :first AND :last")

# What was compared with a row of the ledger that has been replaced since is of no use. Of two readings the later one
# is kept.
_RECORD = text(f"""
INSERT INTO metric_day_verifications AS known ({_COLUMNS})
SELECT {_COLUMNS} FROM jsonb_populate_recordset(NULL::metric_day_verifications, CAST(:rows AS jsonb)) AS read
 WHERE (SELECT xmin::text FROM metric_day_ledger WHERE metric_date = read.metric_date)
       IS NOT DISTINCT FROM read.ledger_version
 ORDER BY metric_date
ON CONFLICT (metric_date) DO UPDATE SET {
    ", ".join(f"{name} = EXCLUDED.{name}" for name in _COLUMNS.split(", ") if name != "metric_date")
}
 WHERE (known.verified_at, known.confirmed_at) < (EXCLUDED.verified_at, EXCLUDED.confirmed_at)""")


def verifications(connection: Connection, first: date, last: date) -> dict[date, Verification]:
    """What is recorded of the days from `first` to `last`. Verification.is_about() says whether it still counts."""
    rows = connection.execute(_ROWS, {"first": first, "last": last}).mappings()
    return {row["metric_date"]: _verification(dict(row)) for row in rows}


def record_verifications(connection: Connection, found: Iterable[Verification]) -> None:
    """Records what was found of days, unless a later reading is recorded or the day was stored again since."""
    rows = [_row(each) for each in found]
    if rows:
        connection.execute(_RECORD, {"rows": json.dumps(rows, default=str)})


def _verification(row: dict[str, Any]) -> Verification:
    fingerprint, unreadable = row.pop("fingerprint"), row.pop("unreadable")
    present = SourceFingerprint.from_text(fingerprint) if unreadable is None else Unreadable(unreadable)
    return Verification(**row | {"present": present, "judged_by": JudgedBy(row["judged_by"])})


def _row(found: Verification) -> dict[str, Any]:
    row = dict(vars(found))
    present = row.pop("present")
    is_unreadable = isinstance(present, Unreadable)
    return row | {
        "fingerprint": None if is_unreadable else present.to_text(),
        "unreadable": present.reason if is_unreadable else None,
    }
