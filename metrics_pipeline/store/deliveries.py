"""metric_alert_deliveries: which receiver was told of which transition of an alert, and what is still to be told."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, text

from metrics_pipeline.metrics.alerts import Change, Scope, Severity
from metrics_pipeline.names import ALERTS_TABLE
from metrics_pipeline.store.alerts import Transition
from metrics_pipeline.store.summaries import SUMMARY_PREFIX

#: Older transitions are not news any more to the receivers of a team that had none.
_NEWS = timedelta(days=7)

#: Longer than a receiver may take to answer. After it, whoever claimed the message has ended without a word.
_LEASE = timedelta(minutes=2)

_FIRST_PAUSE = timedelta(minutes=1)
_LONGEST_PAUSE = timedelta(hours=1)

#: How an error begins after which the receiver may have been told all the same.
ANSWER_LOST = "Its answer was lost"

# A transition is given to the receivers of the moment, so a receiver that is added later is not told of old ones. A
# receiver that does not answer is given more, to be told in one message. alert_history has rows of agents only.
_OWE = text(f"""
INSERT INTO metric_alert_deliveries (transition_id, receiver, not_before)
SELECT transition_id, receiver, coalesce(
           (SELECT max(not_before) FROM metric_alert_deliveries AS failed
             WHERE failed.receiver = to_tell.receiver AND delivered_at IS NULL AND not_before > :now), :now)
  FROM metric_alert_transitions AS transition CROSS JOIN unnest(CAST(:receivers AS text[])) AS to_tell (receiver)
 WHERE NOT is_quiet AND occurred_at > :since
   AND CASE WHEN starts_with(rule, '{SUMMARY_PREFIX}') THEN rule ELSE '' END = :summary
   AND (to_tell.receiver <> '{ALERTS_TABLE}' OR scope = 'agent')
   AND NOT EXISTS (SELECT FROM metric_alert_deliveries AS known WHERE known.transition_id = transition.transition_id)
    ON CONFLICT DO NOTHING""")

# The error is that of a sender who is killed before the answer, until the answer is known.
_CLAIM = text(f"""
WITH due AS (
    SELECT transition_id, attempts, coalesce(starts_with(error, '{ANSWER_LOST}'), false) AS may_repeat
      FROM metric_alert_deliveries
     WHERE receiver = :receiver AND delivered_at IS NULL AND not_before <= :now
       FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE metric_alert_deliveries AS delivery
       SET attempts = delivery.attempts + 1, tried_at = :now, not_before = :lease_ends,
           error = '{ANSWER_LOST}: the process that told it has ended.'
      FROM due WHERE delivery.receiver = :receiver AND delivery.transition_id = due.transition_id
)
SELECT due.attempts + 1 AS attempts, may_repeat, transition.*
  FROM due JOIN metric_alert_transitions AS transition USING (transition_id)
 ORDER BY transition_id""")

_DELIVERED = text("""
UPDATE metric_alert_deliveries SET delivered_at = :now, error = NULL
 WHERE receiver = :receiver AND transition_id = ANY(:transitions) AND delivered_at IS NULL""")

# A refusal says nothing about an earlier attempt whose answer was lost.
_FAILED = text(f"""
UPDATE metric_alert_deliveries
   SET not_before = :not_before,
       error = CASE WHEN transition_id = ANY(:lost) AND NOT starts_with(:error, '{ANSWER_LOST}')
                    THEN '{ANSWER_LOST} once. ' ELSE '' END || :error
 WHERE receiver = :receiver AND transition_id = ANY(:transitions) AND delivered_at IS NULL""")


@dataclass(frozen=True)
class Due:
    """A transition that a receiver is to be told, and the number of this attempt.

    may_repeat: whether the receiver may have been told before, because its answer was lost.
    """

    transition: Transition
    attempts: int
    may_repeat: bool


def owe(connection: Connection, receivers: Sequence[str], now: datetime, *, summary: str = "") -> None:
    """Notes for each of the receivers every transition of the last days that nobody was to be told yet.

    summary: the rule of the summaries that they are owed, instead of alerts.
    """
    values = {"receivers": list(receivers), "now": now, "since": now - _NEWS, "summary": summary}
    connection.execute(_OWE, values)


def claim(connection: Connection, receiver: str, now: datetime) -> list[Due]:
    """What the receiver is to be told at the instant `now`, oldest first. Nobody else is given it for two minutes.

    Commit before the receiver is told. Then say what became of it: `delivered` or `failed`.
    """
    rows = connection.execute(_CLAIM, {"receiver": receiver, "now": now, "lease_ends": now + _LEASE}).mappings()
    return [
        Due(
            Transition(
                **{name: value for name, value in row.items() if name not in ("attempts", "may_repeat")}
                | {
                    "scope": Scope(row["scope"]),
                    "transition": Change(row["transition"]),
                    "severity": Severity(row["severity"]),
                }
            ),
            row["attempts"],
            row["may_repeat"],
        )
        for row in rows
    ]


def delivered(connection: Connection, receiver: str, told: Sequence[Due], now: datetime) -> None:
    """Notes that the receiver was told."""
    connection.execute(_DELIVERED, {"receiver": receiver, "transitions": _ids(told), "now": now})


def failed(connection: Connection, receiver: str, told: Sequence[Due], error: str, now: datetime) -> datetime:
    """Notes why the receiver was not told, and returns when it is to be tried again: after 1 minute, 2, 4, up to 60."""
    attempts = max(due.attempts for due in told)
    again: datetime = now + min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(attempts - 1, 10))
    values = {
        "receiver": receiver,
        "transitions": _ids(told),
        "lost": _ids([due for due in told if due.may_repeat]),
        "error": error,
        "not_before": again,
    }
    connection.execute(_FAILED, values)
    return again


def _ids(told: Sequence[Due]) -> list[int]:
    return [due.transition.transition_id for due in told]
