"""Reading OpenTelemetry traces, as the Collector's file exporter writes them: each invocation is a log."""

import base64
import gzip
import json
import struct
import uuid
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from metrics_pipeline.errors import LogFileError
from metrics_pipeline.log_files.log_file import MIB, ROW_BYTES, Reading
from metrics_pipeline.log_files.spans import Invocation, Traces, attributes_of
from metrics_pipeline.log_files.text_files import TextFile

_LENGTH = struct.Struct(">I")

_IDS = uuid.uuid5(uuid.NAMESPACE_URL, "https://opentelemetry.io/docs/specs/otel/trace/api/")


#: Of the fields of a span that are bytes, which JSON has in hexadecimal digits.
_ID_FIELDS = ("traceId", "spanId", "parentSpanId")


def otlp_file(path: Path, reading: Reading, traces: Traces) -> "OtlpFile":
    """The reader of a file of traces: of JSON if it begins with `{`, otherwise of Protobuf."""
    with path.open("rb") as raw, _decompressed(path, raw) as file:
        # The first byte of the length of a message, unless it is of 1.9 GB.
        first = file.read(4).removeprefix(b"\xef\xbb\xbf")[:1]
    kind = OtlpFile if first.isspace() or first in (b"{", b"") else OtlpProtobufFile
    return kind(path, reading, traces)


def _decompressed(path: Path, raw: BinaryIO) -> BinaryIO | gzip.GzipFile:
    return gzip.open(raw) if path.suffix.lower() == ".gz" else raw


class OtlpFile(TextFile):
    """A line is an ExportTraceServiceRequest in JSON. The log of an invocation has the line of its span."""

    _columns = ("id", "agent_id", "timestamp", "status", "latency_ms", "token_count", "error_type", "metadata")

    def __init__(self, path: Path, reading: Reading, traces: Traces) -> None:
        super().__init__(path, reading)
        self._traces = traces

    def _prepare(self, on_bytes: Callable[[int], None]) -> None:
        for number, request in self._requests(on_bytes):
            try:
                self._add(number, request())
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                self.problem(number, f"is not an OTLP trace: {error!r}")

    def _requests(self, on_bytes: Callable[[int], None]) -> Iterator[tuple[int, Callable[[], Mapping[str, Any]]]]:
        """The place of each request, and what decodes it."""
        for number, line in enumerate(self._lines(on_bytes), start=1):
            self._bytes_before_row = self._bytes_read
            if not line.isspace():
                yield number, partial(json.loads, line)

    def _add(self, number: int, request: Mapping[str, Any]) -> None:
        if "resourceSpans" not in request:
            self.problem(number, "has no resourceSpans. Export traces to a file of their own")
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


class OtlpProtobufFile(OtlpFile):
    """A message is a TracesData in Protobuf, after its length in four bytes, as the Collector's `format: proto`."""

    row_unit = "message"

    def _requests(self, on_bytes: Callable[[int], None]) -> Iterator[tuple[int, Callable[[], Mapping[str, Any]]]]:
        decode = _decoder()
        with self.path.open("rb") as raw, _decompressed(self.path, raw) as file:
            number = reported = 0
            while prefix := file.read(_LENGTH.size):
                number += 1
                length = _LENGTH.unpack(prefix)[0] if len(prefix) == _LENGTH.size else 0
                if length > ROW_BYTES:
                    self.problem(number, f"is longer than {ROW_BYTES // MIB} MiB, or the file is not an OTLP trace")
                    return
                message = file.read(length)
                if not length or len(message) < length:
                    self.problem(number, "is cut off")
                    return
                self.reading.count(1, len(prefix) + length)
                yield number, partial(decode, message)
                if (position := raw.tell()) - reported >= MIB:
                    on_bytes(position - reported)
                    reported = position
            on_bytes(raw.tell() - reported)


def _decoder() -> Callable[[bytes], Mapping[str, Any]]:
    """What makes of a message what JSON would hold. Raises LogFileError if its library is not installed."""
    try:
        from google.protobuf.json_format import MessageToDict
        from google.protobuf.message import DecodeError
        from opentelemetry.proto.trace.v1.trace_pb2 import TracesData
    except ModuleNotFoundError as error:
        raise LogFileError(
            "Nothing was loaded: traces in Protobuf need the Python package opentelemetry-proto. Install it: "
            "pip install 'metrics-pipeline[otlp]'"
        ) from error

    def decode(message: bytes) -> Mapping[str, Any]:
        try:
            request: dict[str, Any] = MessageToDict(TracesData.FromString(message))
        except DecodeError as error:
            raise ValueError(str(error)) from error
        for group in request.get("resourceSpans", ()):
            for scope in group.get("scopeSpans", ()):
                for span in scope.get("spans", ()):
                    span.update({name: base64.b64decode(span[name]).hex() for name in _ID_FIELDS if name in span})
        return request

    return decode


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
