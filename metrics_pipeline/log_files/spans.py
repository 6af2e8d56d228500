"""The spans of OpenTelemetry traces: which invoke an agent, and which tokens, models and users are theirs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from metrics_pipeline.logs import span_attributes as names

#: The status code of a failed span, as a number and by its name.
_ERROR = (2, "STATUS_CODE_ERROR")


@dataclass
class Invocation:
    """A span of an agent or a workflow, and where it was read.

    tokens, models: of the calls that count for it. tokens is None if no call reported any.
    """

    file: object
    line: int
    trace_id: str
    span_id: str
    agent: str | None
    start: str
    latency_ms: int | None
    has_failed: bool
    error_type: str | None
    version: str | None
    conversation: str | None
    user: str | None = None
    tokens: int | None = None
    models: set[str] = field(default_factory=set)


class Traces:
    """The spans of all files of a command, because rotated files and batches cut traces apart.

    Kept of each span: its parent. Kept of those that matter: the invocation, the tokens and model, the user.
    """

    def __init__(self) -> None:
        self._parents: dict[int, int] = {}
        self._invocations: dict[int, Invocation] = {}
        self._usage: dict[int, tuple[int, str | None]] = {}
        self._users: dict[int, str] = {}
        self._is_complete = False

    def add(self, file: object, line: int, span: Mapping[str, Any], resource: Mapping[str, Any]) -> None:
        """Adds a span. One that is exported twice counts once. Raises ValueError for a span without valid ids."""
        trace_id, span_id = span["traceId"].lower(), span["spanId"].lower()
        key, parent = _key(trace_id, span_id), span.get("parentSpanId")
        if parent:
            self._parents[key] = _key(trace_id, parent.lower())
        attributes = attributes_of(span)
        if (user := _first(attributes, *names.USER)) is not None:
            self._users[key] = user
        counts = [_first(attributes, *tokens) for tokens in (names.INPUT_TOKENS, names.OUTPUT_TOKENS)]
        if any(count is not None for count in counts):
            self._usage[key] = (sum(int(count or 0) for count in counts), _first(attributes, *names.MODEL))
        if attributes.get(names.OPERATION) in names.INVOCATIONS:
            status = span.get("status") or {}
            self._invocations[key] = Invocation(
                file,
                line,
                trace_id,
                span_id,
                _first(attributes, *names.AGENT),
                str(span["startTimeUnixNano"]),
                _latency_ms(int(span["startTimeUnixNano"]), int(span.get("endTimeUnixNano") or 0)),
                status.get("code") in _ERROR,
                _first(attributes, names.ERROR_TYPE) or _exception(span),
                _first(attributes, names.AGENT_VERSION) or _first(resource, names.SERVICE_VERSION),
                _first(attributes, names.CONVERSATION),
            )

    def invocations(self, file: object) -> Iterator[Invocation]:
        """The invocations of one of the files, after all files were added.

        Each token counts once: a span's tokens count if no span below it has any, because frameworks, agents and
        libraries report the same call again. They count for the nearest agent around the call.
        """
        if not self._is_complete:
            self._is_complete = True
            self._attribute()
        yield from (invocation for invocation in self._invocations.values() if invocation.file is file)

    def _attribute(self) -> None:
        reported_below: set[int] = set()
        for key in self._usage:
            for above in self._above(key):
                if above in reported_below:
                    break
                reported_below.add(above)
        for key, (tokens, model) in self._usage.items():
            if key not in reported_below:
                nearest = next((each for each in (key, *self._above(key)) if each in self._invocations), None)
                if nearest is not None:
                    invocation = self._invocations[nearest]
                    invocation.tokens = (invocation.tokens or 0) + tokens
                    invocation.models |= {model} if model is not None else set()
        for key, invocation in self._invocations.items():
            # The user is often an attribute of the request around the agent.
            invocation.user = next(
                (self._users[each] for each in (key, *self._above(key)) if each in self._users), None
            )

    def _above(self, key: int) -> Iterator[int]:
        seen = {key}
        while (parent := self._parents.get(key)) is not None and parent not in seen:
            seen.add(parent)
            yield parent
            key = parent


def _key(trace_id: str, span_id: str) -> int:
    # One number takes a third of the memory of two texts.
    if len(trace_id) != 32 or len(span_id) != 16:
        raise ValueError(f"trace id {trace_id!r} and span id {span_id!r} are not 32 and 16 hexadecimal digits")
    return int(trace_id + span_id, 16)


def attributes_of(owner: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes that are a text or a number. JSON has integers of 64 bits as text."""
    return {
        attribute["key"]: attribute["value"].get("stringValue", attribute["value"].get("intValue"))
        for attribute in owner.get("attributes", ())
    }


def _first(attributes: Mapping[str, Any], *names: str) -> str | None:
    return next((str(attributes[name]) for name in names if attributes.get(name) not in (None, "")), None)


def _exception(span: Mapping[str, Any]) -> str | None:
    events = (event for event in span.get("events", ()) if event.get("name") == "exception")
    return next((_first(attributes_of(event), names.EXCEPTION_TYPE) for event in events), None)


def _latency_ms(start: int, end: int) -> int | None:
    """Whole milliseconds, half away from zero. A span that has not ended has none."""
    if end == 0:
        return None
    nanoseconds = end - start
    half_up = (abs(nanoseconds) + 500_000) // 1_000_000
    return half_up if nanoseconds >= 0 else -half_up
