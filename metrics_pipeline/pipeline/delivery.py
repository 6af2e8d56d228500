"""Delivers the journal of alerts to its receivers: each transition once, and again only if its answer was lost."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from time import monotonic

from metrics_pipeline.errors import PermanentError
from metrics_pipeline.metrics.alerts import Severity
from metrics_pipeline.metrics.wording import counted
from metrics_pipeline.names import ALERTS_TABLE
from metrics_pipeline.pipeline.delivery_channels import ANSWER_SECONDS, Channel
from metrics_pipeline.pipeline.delivery_messages import Message, digest, in_words, summary
from metrics_pipeline.pipeline.delivery_summaries import DAILY, WEEKLY, note_summaries
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.privileges import Purpose, require_privileges
from metrics_pipeline.settings import Settings
from metrics_pipeline.store.alert_history import write
from metrics_pipeline.store.alerts import Transition
from metrics_pipeline.store.deliveries import claim, delivered, failed, owe
from metrics_pipeline.variables import Receiver

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What became of one message. error: why the receiver was not told; None if it was."""

    receiver: str
    transitions: int
    error: str | None

    def __str__(self) -> str:
        news = counted(self.transitions, "transition")
        if self.error is None:
            return f"{self.receiver} was told of {news}."
        return f"{self.receiver} was not told of {news}. {self.error}"


def deliver(database: Database, settings: Settings, now: datetime, *, seconds: float) -> list[Outcome]:
    """Tells each receiver, in one message, of all transitions that it is owed at the instant `now`.

    No message is begun later than `seconds` before which its answer would come; the next call goes on. Raises
    TransientError if the database cannot be used, and PermanentError if alert_history cannot be written.
    """
    ends = monotonic() + seconds
    ids = [receiver.id for receiver in settings.notify]
    if settings.alerts_to:
        ids.append(settings.alerts_to)
    summaries = {DAILY: settings.notify_daily, WEEKLY: settings.notify_weekly}
    note_summaries(database, settings, now)
    with database.begin() as connection:
        owe(connection, ids, now)
        for rule, wanted in summaries.items():
            owe(connection, [receiver.id for receiver in wanted], now, summary=rule)
    outcomes = []
    for receiver in _all_receivers(settings):
        if monotonic() + ANSWER_SECONDS > ends:
            break
        outcomes += _tell(database, settings, receiver, now)
    # Last, because it raises what keeps us from writing.
    if settings.alerts_to:
        outcomes += _write(database, now)
    return outcomes


def send_test(settings: Settings) -> list[Outcome]:
    """Sends every receiver a message that says that it is a test."""
    message = Message(
        "Test of metrics-pipeline", None, ["Alerts arrive here."], [settings.api_url] if settings.api_url else []
    )
    return [_sent(receiver, message) for receiver in _all_receivers(settings)]


def tell_daemon(receivers: Sequence[Receiver], silent: Sequence[str], settings: Settings) -> set[str]:
    """Tells the receivers which daemons of Dagster are silent, or that all are back. Returns the ids of those told."""
    if silent:
        title = "Dagster's daemon gives no sign"
        said = f"Nothing has been heard for ten minutes of {', '.join(silent)}."
        consequence = "No schedule and no sensor runs, so no day is aggregated and nobody is told of alerts."
        message = Message(title, Severity.CRITICAL, [said, consequence], [settings.ui_url])
    else:
        message = Message("Dagster's daemon is back", None, ["All of it gives signs again."], [])
    outcomes = {receiver.id: _sent(receiver, message) for receiver in receivers}
    for outcome in outcomes.values():
        if outcome.error is not None:
            _log.warning("%s was not told: %s. %s", outcome.receiver, message.title, outcome.error)
    return {name for name, outcome in outcomes.items() if outcome.error is None}


def _all_receivers(settings: Settings) -> Iterable[Receiver]:
    return dict.fromkeys((*settings.notify, *settings.notify_daily, *settings.notify_weekly))


def _tell(database: Database, settings: Settings, receiver: Receiver, now: datetime) -> list[Outcome]:
    # Committed before anything is sent: whoever is killed in between leaves a claim whose answer was lost.
    with database.begin() as connection:
        due = claim(connection, receiver.id, now)
    if not due:
        return []
    outcome = _sent(receiver, digest(due, settings), len(due))
    with database.begin() as connection:
        if outcome.error is None:
            delivered(connection, receiver.id, due, now)
            return [outcome]
        again = failed(connection, receiver.id, due, outcome.error, now)
    return [Outcome(outcome.receiver, len(due), f"{outcome.error} Tried again after {again:%H:%M} UTC.")]


def _sent(receiver: Receiver, message: Message, transitions: int = 0) -> Outcome:
    try:
        channel = Channel(receiver)
    except PermanentError as error:
        return Outcome(f"Receiver {receiver.id}", transitions, str(error))
    return Outcome(channel.name, transitions, channel.send(message))


def _write(database: Database, now: datetime) -> list[Outcome]:
    # In the transaction that notes it, so each row is written exactly once.
    with database.begin() as connection:
        due = claim(connection, ALERTS_TABLE, now)
        if due:
            require_privileges(connection, Purpose.ALERTS)
        write(connection, [(each.transition, _message(each.transition)) for each in due])
        delivered(connection, ALERTS_TABLE, due, now)
    return [Outcome(ALERTS_TABLE, len(due), None)] if due else []


def _message(told: Transition) -> str:
    return f"{summary(told)} on {told.metric_date}: {in_words(told.evidence)}".rstrip(": ")
