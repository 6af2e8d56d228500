"""Reading OpenTelemetry traces in JSON, as the Collector's file exporter writes them: each invocation is a log."""

import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from metrics_pipeline.log_files.log_file import Reading
from metrics_pipeline.log_files.spans import Invocation, Traces, attributes_of
from metrics_pipeline.log_files.text_files import TextFile

_IDS = uuid.uuid5(uuid.NAMESPACE_URL, "https://opentelemetry.io/docs/specs/otel/trace/api/")


class OtlpFile(TextFile):
    """A line is an ExportTraceServiceRequest in JSON. The log of an invocation has the line of its span."""

    _columns = ("id", "agent_id", "timestamp", "status", "latency_ms", "token_count", "error_type", "metadata")

    def __init__(self, path: Path, reading: Reading, traces: Traces) -> None:
        super().__init__(path, reading)
        self._traces = traces

    def _prepare(self, on_bytes: Callable[[int], None]) -> None:
        for number, line in enumerate(self._lines(on_bytes), start=1):
            self._bytes_before_row = self._bytes_read
            if not line.isspace():
                try:
                    self._add(number, json.loads(line))
                except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                    self.problem(number, f"is no OTLP trace in JSON: {error!r}")

    def _add(self, number: int, request: Mapping[str, Any]) -> None:
        if "resourceSpans" not in request:
            self.problem(number, "has no resourceSpans. Export traces, in the format json, to a file of their own")
            return
        for group in request["resourceSpans"]:
            resource = attributes_of(group.get("resource") or {})
            for scope in group.get("scopeSpans", ()):
                for span in scope.get("spans", ()):
                    self.reading.count(1, 0)
                    self._traces.add(self, number, span, resource)

    def _rows(self, _lines: Iterator[str]) -> Iterator[tuple[int, list[str | None]]]:
        for invocation in self._traces.invocations(self):
            yield invocation.line, _row(invocation)


def _row(invocation: Invocation) -> list[str | None]:
    models = sorted(invocation.models)
    metadata = {
        "user_id": invocation.user,
        "model": models[0] if len(models) == 1 else models or None,
        "version": invocation.version,
        "conversation_id": invocation.conversation,
        "trace_id": invocation.trace_id,
        "span_id": invocation.span_id,
    }
    return [
        str(uuid.uuid5(_IDS, f"{invocation.trace_id}-{invocation.span_id}")),
        invocation.agent,
        invocation.start,
        "failed" if invocation.has_failed else "success",
        _text(invocation.latency_ms),
        _text(invocation.tokens),
        invocation.error_type,
        json.dumps({key: value for key, value in metadata.items() if value is not None}),
    ]


def _text(number: int | None) -> str | None:
    return None if number is None else str(number)
