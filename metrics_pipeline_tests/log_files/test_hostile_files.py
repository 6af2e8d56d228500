"""Damaged and hostile files: stored as Python's own readers see them, or refused with a message."""

import csv
import gzip
import io
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from metrics_pipeline.errors import LogFileError
from metrics_pipeline_tests.examples import examples
from metrics_pipeline_tests.test_exactness_properties import AWKWARD

COLUMNS = ("agent_id", "timestamp", "status", "latency_ms", "token_count", "cost_usd", "error_type", "metadata")

names = st.sampled_from([text for text in AWKWARD if text.strip()]) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=6
).filter(str.strip)
moments = st.datetimes(datetime(1970, 1, 2), datetime(9998, 12, 30)).map(lambda moment: moment.replace(tzinfo=UTC))
integers = st.none() | st.integers(-(2**31), 2**31 - 1)
costs = st.none() | st.decimals(-(10**20), 10**20, places=18, allow_nan=False) | st.just(Decimal("NaN"))
metadata = st.none() | st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(10**4000, 10**4000 + 3) | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)
rows_of_logs = st.lists(
    st.tuples(names, moments, names, integers, integers, costs, st.none() | names, metadata), min_size=1, max_size=6
)


def spelled(moment, way):
    """The instant as programs write it: in UTC, or on the clocks of zones east and west of it."""
    hours = (0, 0, 5, -9)[way]
    text = (moment + timedelta(hours=hours)).replace(tzinfo=None).isoformat(sep="T "[way % 2])
    return text + ("", "Z", "+05:00", "-09")[way]


def json_of(value):
    # Python's int has no more than 4,300 digits of text; these have 4,001.
    return None if value is None else json.dumps(value, ensure_ascii=False)


def as_csv(rows, way):
    buffer = io.StringIO()
    writer = csv.writer(buffer, quoting=csv.QUOTE_ALL, lineterminator=("\n", "\r\n")[way % 2])
    writer.writerow(COLUMNS)
    for agent, moment, status, latency, tokens, cost, error, data in rows:
        writer.writerow([agent, spelled(moment, way), status, latency, tokens, cost, error, json_of(data)])
    return buffer.getvalue().encode()


def as_ndjson(rows, way):
    lines = []
    for agent, moment, status, latency, tokens, cost, error, data in rows:
        values = (agent, spelled(moment, way), status, latency, tokens, None, error)
        record = {name: value for name, value in zip(COLUMNS, values, strict=False) if value is not None}
        text = json.dumps(record, ensure_ascii=bool(way % 2))
        if cost is not None:
            text = f'{text[:-1]},"cost_usd":{cost}}}'
        if data is not None:
            # A string holds the text of JSON, also of a JSON string.
            written = json.dumps(json_of(data)) if isinstance(data, str) else json_of(data)
            text = f'{text[:-1]},"metadata":{written}}}'
        lines.append(text)
    return "\n".join(lines).encode()


def as_parquet(rows, way):
    agents, moments, statuses, latencies, tokens, costs, errors, data = map(list, zip(*rows, strict=True))
    unit, zone = (("us", None), ("us", "UTC"), ("us", "Asia/Kolkata"), ("us", "-09:00"))[way]
    number = (pa.int32(), pa.int64(), pa.float64(), pa.decimal128(38, 4))[way]
    table = pa.table(
        {
            "agent_id": pa.array(agents).dictionary_encode() if way % 2 else pa.array(agents, pa.large_string()),
            "timestamp": pa.array([moment if zone else moment.replace(tzinfo=None) for moment in moments],
                                  pa.timestamp(unit, zone)),
            "status": statuses,
            "latency_ms": pa.array(latencies, pa.int64()).cast(number),
            "token_count": pa.array(tokens, pa.int64()).cast(number),
            "cost_usd": pa.array([None if cost is None else str(cost) for cost in costs], pa.string())
            if any(cost is not None and cost.is_nan() for cost in costs)
            else pa.array(costs, pa.decimal256(60, 18 + way)),
            "error_type": pa.array(errors, pa.string()),
            "metadata": pa.array([json_of(value) for value in data], pa.string()),
        }
    )  # fmt: skip
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


WRITERS = {"csv": as_csv, "ndjson": as_ndjson, "parquet": as_parquet}


@examples(60)
@given(rows=rows_of_logs, ending=st.sampled_from(list(WRITERS)), way=st.integers(0, 3))
def test_whatever_a_program_writes_is_stored_to_the_last_digit(loader, rows, ending, way):
    path = loader.folder / f"logs.{ending}"
    path.write_bytes(WRITERS[ending](rows, way))
    loader.execute("TRUNCATE agent_execution_logs, agent_registry")
    assert loader.load(path, register_unknown=True).logs_by_file == {path: len(rows)}

    def key(row):
        agent, moment, status, latency, tokens, cost, error, data = row
        # NaN equals nothing, itself included, and true equals 1.
        return (agent, moment, status, latency, tokens, str(cost and cost.normalize()), error, json.dumps(data))

    stored = Counter()
    for agent, moment, status, latency, tokens, cost, error, data in loader.stored():
        values = json.loads(data) if data is not None else None
        stored[key((agent, moment, status, latency, tokens, cost and Decimal(cost), error, ordered(values)))] += 1
    # A JSON null and no metadata at all are read alike, which is right: neither has a key.
    assert stored == Counter(key((*row[:-1], ordered(unwrapped(row[-1])))) for row in rows)


def unwrapped(value):
    """The object that a JSON string holds, or else the value itself."""
    try:
        inner = json.loads(value) if isinstance(value, str) else None
    except ValueError:
        return value
    return inner if isinstance(inner, dict) else value


def ordered(value):
    """jsonb keeps the keys of an object in an order of its own."""
    if isinstance(value, dict):
        return {name: ordered(value[name]) for name in sorted(value)}
    return [ordered(item) for item in value] if isinstance(value, list) else value


def cut(content, position, _other):
    return content[:position]


def spliced(content, position, other):
    return content[:position] + content[other:]


def repeated(content, position, other):
    return content[: max(position, other)] + content[min(position, other) :]


def inserting(what):
    return lambda content, position, _other: content[:position] + what + content[position:]


INSERTED = [
    b"\0", b"\xff", b"\xef\xbb\xbf", b"\r", b"\n", b'"', b",", b"\\", b"{", b"\\ud800", b"\xed\xa0\x80", b"NaN", b"-0",
    b"1e999", b"9" * 5000, b"[" * 100_000, b"x" * 1_000_000, b"," * 20_000, b'"' * 20_001,
]  # fmt: skip
DAMAGES = [
    cut,
    spliced,
    repeated,
    *map(inserting, INSERTED),
    lambda content, _position, _other: gzip.compress(content),
    lambda content, _position, _other: b"",
    lambda content, _position, _other: content.decode("latin-1").encode("utf-16"),
    lambda content, _position, _other: b"\xef\xbb\xbf" + content,
]


def read_plainly(content, ending):
    """(agent, status, error type) of each row as Python's own readers see them."""
    text = content.decode("utf-8-sig")
    if ending == "csv":
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    else:
        rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    return Counter((row["agent_id"], row["status"], row.get("error_type") or None) for row in rows)


@examples(150)
@given(
    ending=st.sampled_from(list(WRITERS)),
    way=st.integers(0, 3),
    damages=st.lists(st.tuples(st.sampled_from(DAMAGES), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=3),
    is_inside_gzip=st.booleans(),
)
def test_a_damaged_file_is_stored_as_a_plain_reader_sees_it_or_refused_in_a_sentence(
    loader, ending, way, damages, is_inside_gzip
):
    noon = datetime(2025, 3, 4, 12, tzinfo=UTC)
    rows = [
        ("a", noon, "success", 1, 2, Decimal("0.5"), None, {"user_id": "u"}),
        ("b", noon, "failed", None, None, None, 'it\'s "it"', [1, {"x": None}]),
        ("é😀", noon, "success", 3, 4, Decimal(1), "line\nbreak", None),
    ]
    content = WRITERS[ending](rows, way)
    for damage, position, other in damages:
        content = damage(content, int(position * len(content)), int(other * len(content)))
    is_gzip = is_inside_gzip and ending != "parquet"
    path = loader.folder / f"logs.{ending}{'.gz' if is_gzip else ''}"
    path.write_bytes(gzip.compress(content) if is_gzip else content)
    loader.execute("TRUNCATE agent_execution_logs, agent_registry")
    try:
        loaded = loader.load(path, register_unknown=True).logs_by_file[path]
    except LogFileError as refusal:
        said = str(refusal)
        assert loader.stored() == []
        assert path.name in said or "PostgreSQL refuses" in said
        assert len(said) < 20_000
        said.encode()
        return
    stored = loader.stored()
    assert len(stored) == loaded
    if ending != "parquet":
        assert Counter((row[0], row[2], row[6] or None) for row in stored) == read_plainly(content, ending)
