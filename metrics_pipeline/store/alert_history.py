"""alert_history of the platform: rows of our own alert types, for teams that asked for them."""

from collections.abc import Iterable

from sqlalchemy import Connection, text

from metrics_pipeline.metrics.alerts import Change
from metrics_pipeline.store.alerts import Transition

_TYPE = "'metrics_pipeline.' || :rule"

# What is bound has no type, so that the columns may have any type that their contract accepts. A severity that changed
# is another row.
_RESOLVE = text(f"""
UPDATE alert_history SET resolved_at = :at
 WHERE agent_id = :agent_id AND alert_type = {_TYPE} AND resolved_at IS NULL""")
_RAISE = text(f"""
INSERT INTO alert_history (agent_id, alert_type, severity, message, triggered_at)
VALUES (:agent_id, {_TYPE}, :severity, :message, :at)""")


def write(connection: Connection, news: Iterable[tuple[Transition, str]]) -> None:
    """Opens and resolves our rows, as the transitions of agents' alerts say, each with its message and oldest first."""
    for told, message in news:
        values = {"agent_id": told.agent_id, "rule": told.rule, "at": told.occurred_at}
        if told.transition is not Change.OPENED:
            connection.execute(_RESOLVE, values)
        if told.transition in (Change.OPENED, Change.CHANGED):
            connection.execute(_RAISE, {**values, "severity": told.severity, "message": message})
