"""OpenTelemetry traces: spans written by hand, and the logs that they are."""

import base64
import gzip
import json
import struct
from datetime import UTC, datetime

import pytest
from google.protobuf.json_format import ParseDict
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from metrics_pipeline.adapters.product import Installed
from metrics_pipeline.adapters.products import PRODUCTS
from metrics_pipeline.adapters.views import product_queries
from metrics_pipeline.log_files.log_file import Reading
from metrics_pipeline.log_files.spans import Traces

TRACE = "5b8efff798038103d269b633813fc60c"
#: 2025-11-20 00:00:00 UTC, in nanoseconds.
START = 1_763_596_800_000_000_000


def span(number, parent=None, operation=None, *, ms=1.0, failed=False, events=(), trace=TRACE, **attributes):
    """A span whose id is `number`. Underscores between the words of an attribute are written as two."""
    named = {name.replace("__", "."): value for name, value in attributes.items()}
    if operation is not None:
        named["gen_ai.operation.name"] = operation
    return {
        "traceId": trace,
        "spanId": f"{number:016x}",
        **({} if parent is None else {"parentSpanId": f"{parent:016X}"}),
        "name": "a span",
        "startTimeUnixNano": str(START),
        "endTimeUnixNano": str(START + round(ms * 1_000_000)),
        "attributes": [
            {"key": key, "value": {"stringValue": value} if isinstance(value, str) else {"intValue": str(value)}}
            for key, value in named.items()
        ],
        "events": list(events),
        "status": {"code": 2} if failed else {},
    }


def agent(number, parent=None, name="a", operation="invoke_agent", **rest):
    return span(number, parent, operation, gen_ai__agent__name=name, **rest)


def call(number, parent, tokens, **rest):
    """A call of a model that used `tokens` and ten more."""
    return span(number, parent, "chat", gen_ai__usage__input_tokens=tokens, gen_ai__usage__output_tokens=10, **rest)


def request(*spans, version=None):
    resource = [{"key": "service.version", "value": {"stringValue": version}}] if version else []
    return {"resourceSpans": [{"resource": {"attributes": resource}, "scopeSpans": [{"spans": list(spans)}]}]}


def in_postgres(loader, spans, version=None):
    """The logs that `db adapt otel` finds in a table of these spans, by the last digit of the span's id."""

    def attributes(owner):
        return {each["key"]: next(iter(each["value"].values())) for each in owner["attributes"]}

    query = product_queries(PRODUCTS["otel"], Installed("public", {}, 16))["agent_execution_logs"]
    with loader.engine.begin() as connection:
        connection.exec_driver_sql("""CREATE TABLE otel_traces ("Timestamp" timestamp, "TraceId" text, "SpanId" text,
            "ParentSpanId" text, "SpanAttributes" jsonb, "ResourceAttributes" jsonb, "Duration" bigint,
            "StatusCode" text, "Events" jsonb)""")
        for each in spans:
            events = [{"name": event["name"], "attributes": attributes(event)} for event in each["events"]]
            duration = int(each["endTimeUnixNano"]) - int(each["startTimeUnixNano"])
            connection.exec_driver_sql(
                "INSERT INTO otel_traces VALUES ('2025-11-20', %s, %s, %s, %s, %s, %s, %s, %s)",
                (
                    each["traceId"],
                    each["spanId"],
                    each.get("parentSpanId", "").lower(),
                    json.dumps(attributes(each)),
                    json.dumps({"service.version": version}),
                    duration,
                    "Error" if each["status"] else "Unset",
                    json.dumps(events),
                ),
            )
        rows = connection.exec_driver_sql(query.replace("%", "%%")).mappings().all()
    return {row["id"][-1]: dict(row) for row in rows}


@pytest.fixture
def load(loader):
    """Loads requests, a line each, and returns what is stored."""

    def load(*requests, **options):
        path = loader.ndjson(*requests, name="spans.jsonl")
        return loader.load(path, reading=Reading(traces=Traces()), register_unknown=True, **options)

    return load


def tokens(loader):
    with loader.engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT agent_id, token_count FROM agent_execution_logs")
        return dict(map(tuple, rows))


def test_an_invocation_is_a_log_with_its_time_latency_error_user_model_and_version(load, loader):
    exception = {"name": "exception", "attributes": [{"key": "exception.type", "value": {"stringValue": "ValueError"}}]}
    spans = [
        # The request around the agent knows the user, and the call below it the model.
        span(1, user__id="u1"),
        agent(2, 1, ms=1234.5, gen_ai__conversation__id="c1"),
        call(3, 2, 5, gen_ai__request__model="m", gen_ai__response__model="m-2"),
        agent(4, ms=0.4999, failed=True, error__type="timeout", gen_ai__agent__version="7"),
        agent(5, failed=True, events=[exception]),
    ]
    load(request(*spans, version="1.4"))
    at = datetime(2025, 11, 20, tzinfo=UTC)
    stored = {json.loads(row[-1])["span_id"][-1]: row for row in loader.stored()}
    assert stored["2"][:-1] == ("a", at, "success", 1235, 15, None, None)
    assert stored["4"][:-1] == ("a", at, "failed", 0, None, None, "timeout")
    assert stored["5"][:-1] == ("a", at, "failed", 1, None, None, "ValueError")
    assert json.loads(stored["2"][-1]) == {
        "user_id": "u1",
        "model": "m-2",
        "version": "1.4",
        "conversation_id": "c1",
        "trace_id": TRACE,
        "span_id": "0000000000000002",
    }
    assert json.loads(stored["4"][-1])["version"] == "7"
    # The same spans in a table.
    for number, row in in_postgres(loader, spans, "1.4").items():
        agent_id, at, *figures = stored[number][:5]
        expected = dict(zip(("agent_id", "status", "latency_ms", "token_count"), (agent_id, *figures), strict=True))
        expected |= dict.fromkeys(("user_id", "model", "conversation_id")) | json.loads(stored[number][-1])
        expected |= {"id": f"{TRACE}-{expected.pop('span_id')}", "error_type": stored[number][6]}
        assert row.pop("timestamp").replace(tzinfo=UTC) == at
        assert row | {"trace_id": expected["trace_id"]} == expected


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([agent(1), call(2, 1, 20), call(3, 1, 30)], {"a": 70}),
        # A framework's call around the library's call: both report.
        ([agent(1), call(2, 1, 20), call(3, 2, 20), span(4, 1, "execute_tool"), call(5, 4, 30)], {"a": 70}),
        # A workflow reports the sum of its agents, and an agent the sum of its calls.
        (
            [
                agent(1, name="w", operation="invoke_workflow", gen_ai__usage__input_tokens=70),
                agent(2, 1, gen_ai__usage__input_tokens=30),
                call(3, 2, 20),
                agent(4, 1, "b"),
                call(5, 4, 30),
            ],
            {"w": None, "a": 30, "b": 40},
        ),
        # Nobody below reports, and the names are the old ones.
        ([agent(1, gen_ai__usage__prompt_tokens=60, gen_ai__usage__completion_tokens=10)], {"a": 70}),
        # Calls outside of any agent are nobody's.
        ([agent(1), call(2, 1, 60), call(3, None, 30), call(4, 99, 30)], {"a": 70}),
        # Parents in a circle.
        ([agent(1, 2), call(2, 1, 60)], {"a": 70}),
    ],
    ids=["flat", "calls in calls", "agents in a workflow", "agents only", "calls outside", "circle"],
)
def test_each_token_counts_once_for_the_nearest_agent(load, loader, spans, expected):
    load(*map(request, reversed(spans)))
    assert tokens(loader) == expected
    assert {row["agent_id"]: row["token_count"] for row in in_postgres(loader, spans).values()} == expected


def test_different_models_are_a_list(load, loader):
    load(request(agent(1), call(2, 1, 1, gen_ai__request__model="x"), call(3, 1, 1, gen_ai__request__model="w")))
    assert json.loads(loader.stored()[0][-1])["model"] == ["w", "x"]


def test_loading_again_adds_nothing_and_a_span_that_was_exported_twice_counts_once(load, loader):
    spans = [request(agent(1), call(2, 1, 20)), request(agent(1), call(2, 1, 20))]
    assert sum(load(*spans).logs_by_file.values()) == 1
    before = loader.stored()
    assert load(*spans, skip_existing=True).skipped_logs == 1
    assert loader.stored() == before
    assert tokens(loader) == {"a": 30}


def test_a_trace_may_be_spread_over_the_files_of_a_command(loader):
    first = loader.ndjson(request(call(3, 2, 20)), request(agent(1)), name="spans-1.json")
    second = loader.folder / "spans-2.jsonl.gz"
    second.write_bytes(gzip.compress(json.dumps(request(agent(2, 1, "b"))).encode()))
    loaded = loader.load(first, second, reading=Reading(traces=Traces()), register_unknown=True)
    assert loaded.logs_by_file == {first: 1, second: 1}
    assert tokens(loader) == {"a": None, "b": 30}


def test_traces_in_protobuf_are_the_same_logs_as_in_json(load, loader):
    requests = [
        request(span(1, user__id="u1"), agent(2, 1, ms=1234.5, failed=True), call(3, 2, 5), version="1.4"),
        request(call(4, 2, 7, gen_ai__response__model="m"), agent(5)),
    ]
    load(*requests)
    stored = loader.stored()
    messages = []
    for each in requests:
        for one in each["resourceSpans"][0]["scopeSpans"][0]["spans"]:
            for name in {"traceId", "spanId", "parentSpanId"} & one.keys():
                one[name] = base64.b64encode(bytes.fromhex(one[name])).decode()
        messages.append(ParseDict(each, TracesData()).SerializeToString())
    path = loader.folder / "spans.proto.gz"
    path.write_bytes(gzip.compress(b"".join(struct.pack(">I", len(each)) + each for each in messages)))
    assert loader.load(path, reading=Reading(traces=Traces()), skip_existing=True).skipped_logs == 2
    with loader.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM agent_execution_logs")
    loader.load(path, reading=Reading(traces=Traces()))
    assert loader.stored() == stored


def test_what_is_no_message_of_traces_is_refused_with_its_number(loader):
    good = TracesData().SerializeToString() or b"\x12\x00"
    for number, (content, reason) in enumerate(
        [
            (struct.pack(">I", 2) + b"\xff\xff", "message 1: is not an OTLP trace: "),
            (struct.pack(">I", len(good)) + good + b"\x00\x00\x01", "message 2: is cut off"),
            (struct.pack(">I", 9) + b"\x12", "message 1: is cut off"),
            (b"\x28\xb5\x2f\xfd", "message 1: is longer than 16 MiB"),
        ]
    ):
        path = loader.folder / f"{number}.proto"
        path.write_bytes(content)
        assert reason in loader.refused(path, reading=Reading(traces=Traces()))


def test_what_is_no_trace_is_refused_with_its_line(loader):
    path = loader.ndjson(
        {"resourceMetrics": []},
        "[1]",
        "{",
        request({**agent(1), "spanId": "12"}),
        request({**agent(1), "startTimeUnixNano": None}),
        request(
            {**agent(1), "attributes": [{"key": "gen_ai.operation.name", "value": {"stringValue": "invoke_agent"}}]}
        ),
        request({**agent(2), "startTimeUnixNano": "5"}),
        name="spans.txt",
    )
    message = loader.refused(path, reading=Reading(traces=Traces()))
    for part in (
        "8 problems",
        "spans.txt, line 1: has no resourceSpans. Export traces",
        "spans.txt, line 2: has no resourceSpans.",
        "spans.txt, line 3: is not an OTLP trace: ",
        "and span id '12' are not 32 and 16 hexadecimal digits",
        "spans.txt, line 5: is not an OTLP trace: ",
        "spans.txt, line 6, agent_id: is missing",
        "spans.txt, line 7, timestamp: '5' is not an ISO 8601 timestamp",
    ):
        assert part in message, message
    assert "more than 2 lines" in loader.refused(
        loader.ndjson(request(agent(1), agent(2))), reading=Reading(traces=Traces(), max_rows=2)
    )
