"""Whether this server can answer questions, and how old its answers are."""

import logging
from typing import Literal

from sqlalchemy.exc import TimeoutError as NoConnectionFreeError

from metrics_pipeline.api.context import Context
from metrics_pipeline.api.models import Readiness
from metrics_pipeline.errors import PermanentError, PipelineError
from metrics_pipeline.postgres.upgrading import require_current
from metrics_pipeline.store.ledger import newest_stored_day

_log = logging.getLogger("metrics_pipeline.api")


def readiness(context: Context, request_id: str) -> Readiness:
    """Asks the database. What is wrong stands in the log in full, and in the answer without names."""
    revision: Literal["current", "not current", "unknown"] = "unknown"
    try:
        with context.database.connect() as connection:
            try:
                require_current(connection)
            except PermanentError:
                revision = "not current"
                raise
            revision = "current"
            newest = newest_stored_day(connection)
    except (PipelineError, NoConnectionFreeError) as error:
        _log.warning("%s", error, extra={"request_id": request_id})
        return Readiness(
            status="not ready",
            database="ok" if revision == "not current" else "unavailable",
            schema_revision=revision,
            newest_day=None,
            coverage_age_days=None,
        )
    return Readiness(
        status="ready",
        database="ok",
        schema_revision=revision,
        newest_day=newest,
        coverage_age_days=None if newest is None else (context.yesterday() - newest).days,
    )
