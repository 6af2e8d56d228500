"""Sends a message to one receiver through the library apprise, and says whether it was told.

apprise is imported when the first message is sent: that takes a second. Its own log quotes URLs, so it goes nowhere.
"""

import logging
import re
from functools import cache
from importlib import import_module
from typing import Any

from metrics_pipeline.errors import PermanentError
from metrics_pipeline.metrics.alerts import Severity
from metrics_pipeline.pipeline.delivery_messages import Message
from metrics_pipeline.store.deliveries import ANSWER_LOST
from metrics_pipeline.variables import Receiver

#: How long a receiver may take, which is far below the lease of store.deliveries.
ANSWER_SECONDS = 10

#: Longer messages are for the page. Discord, for example, refuses 2,001 characters: a channel may have less.
_MOST_CHARACTERS = 4000

_STATUS = re.compile(r"error=(\d{3})\b")
#: Answers of a gateway, or of a server that waited: whoever is behind it may have the message.
_FROM_BETWEEN = ("408", "502", "504")
_SMTP_CODE = re.compile(r"\((\d{3}), b['\"]")
# Of the operating system, so without anything of the URL. Nothing was sent yet in any of these cases.
_NOT_REACHED = re.compile(
    r"Connection refused|Name or service not known|No address associated with hostname|No route to host|"
    r"Network is unreachable|Temporary failure in name resolution|certificate verify failed|ConnectTimeoutError"
)


class Channel:
    """A receiver as the library sees it. Raises PermanentError, without the URL, if the library cannot read it."""

    def __init__(self, receiver: Receiver) -> None:
        apprise = _library()
        self._asset = apprise.AppriseAsset(
            service_timeout=ANSWER_SECONDS,
            # Nothing is sent to a host that nobody configured, and no message shows a picture of one.
            http_redirects=False,
            image_url_mask="",
            image_url_logo="",
            app_id="metrics_pipeline",
            app_desc="metrics_pipeline",
            app_url="",
            pem_autogen=False,
            pgp_autogen=False,
        )
        service = apprise.Apprise.instantiate(receiver.url, asset=self._asset)
        if service is None:
            raise PermanentError(
                f"The library apprise cannot read the URL of receiver {receiver.id}, {_scheme(receiver)}. Compare it "
                "with the library's documentation of this service, and correct METRICS_NOTIFY."
            )
        # Whoever sends decides when to try again, and must know about each attempt.
        service.retry = 0
        self._service = service
        self.name = f"{service.service_name} ({receiver.id})"

    def send(self, message: Message) -> str | None:
        """Sends the message, and returns why the receiver was not told; None if it was.

        The reason contains nothing of the URL. It begins with ANSWER_LOST if the message may have arrived.
        """
        apprise = _library()
        sender = apprise.Apprise(asset=self._asset)
        sender.add(self._service)
        body_characters = min(self._service.body_maxlen, _MOST_CHARACTERS)
        result = sender.notify(
            title=message.title,
            body=message.text(body_characters - len(message.title) - 2),
            notify_type=_kind(message),
            body_format=apprise.NotifyFormat.TEXT,
            log_level=logging.DEBUG,
        )
        # Not the result's own verdict: with `optional=yes` in the URL, a failure counts as a success.
        if any(attempt.status is apprise.AppriseResultStatus.SUCCESS for each in result.results for attempt in each):
            return None
        reason = _reason(" ".join(entry.message for entry in result.logs()))
        if len(self._service) > 1 and not reason.startswith(ANSWER_LOST):
            return f"{ANSWER_LOST} for some of its {len(self._service)} recipients. {reason}"
        return reason


@cache
def _library() -> Any:
    apprise = import_module("apprise")
    log = logging.getLogger("apprise")
    # Its handlers, which last as long as a message, find reasons among what it says at this level.
    log.setLevel(logging.DEBUG)
    log.propagate = False
    log.addHandler(logging.NullHandler())
    return apprise


def _scheme(receiver: Receiver) -> str:
    return f"{receiver.url.partition('://')[0]}://…"


def _kind(message: Message) -> Any:
    kinds = _library().NotifyType
    if message.severity is None:
        return kinds.INFO
    return kinds.FAILURE if message.severity is Severity.CRITICAL else kinds.WARNING


def _reason(log: str) -> str:
    not_reached = _NOT_REACHED.search(log)
    if not_reached:
        return f"It cannot be reached: {not_reached[0]}."
    status = _STATUS.search(log) or _SMTP_CODE.search(log)
    if status and status[1] not in _FROM_BETWEEN:
        return f"It refused the message with the code {status[1]}."
    return f"{ANSWER_LOST}, or it refused the message without a code."
