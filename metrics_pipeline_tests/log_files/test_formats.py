"""CSV, NDJSON and Parquet: what each may look like, and that all of them store the same."""

import gzip
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_pipeline.errors import LogFileError
from metrics_pipeline.log_files.log_file import ROW_BYTES, Reading
from metrics_pipeline.log_files.parquet_file import ParquetFile

ID = "00000000-0000-0000-0000-00000000000"
FIRST = datetime(2025, 1, 2, 3, 4, 5, 600000, tzinfo=UTC)
SECOND = datetime(2025, 1, 3, tzinfo=UTC)
EXPECTED = [
    ("a", FIRST, "failed", 12, 34, "0.123456789012345678901", 'say "no"\n', '{"n": 0.10, "user_id": "ü"}'),
    ("a", SECOND, "success", None, None, None, None, None),
]


def test_csv_takes_columns_in_any_order_with_quotes_line_breaks_and_empty_fields(loader):
    path = loader.csv(
        "status,cost_usd,agent_id,timestamp,metadata,error_type,token_count,latency_ms,id",
        'failed,0.123456789012345678901,a,2025-01-02T03:04:05.6Z,"{""user_id"":""ü"",""n"":0.10}",'
        f'"say ""no""\n",34,12,{ID}1',
        f"success,,a,2025-01-03T00:00:00Z,,,,,{ID}2",
    )
    assert loader.load(path).logs_by_file == {path: 2}
    assert loader.stored() == EXPECTED


def test_ndjson_takes_objects_numbers_and_text_and_skips_blank_lines(loader):
    path = loader.ndjson(
        '{"agent_id":"a","timestamp":"2025-01-02T03:04:05.6Z","status":"failed","latency_ms":12,"token_count":"34",'
        '"cost_usd":0.123456789012345678901,"error_type":"say \\"no\\"\\n","metadata":{"user_id":"ü","n":0.10}}',
        "",
        {"agent_id": "a", "timestamp": "2025-01-03T00:00:00Z", "status": "success", "metadata": None},
    )
    assert loader.load(path).logs_by_file == {path: 2}
    assert loader.stored() == EXPECTED


def test_parquet_takes_typed_columns(loader):
    path = loader.parquet(
        {
            "agent_id": pa.array(["a", "a"]).dictionary_encode(),
            "timestamp": pa.array([FIRST, SECOND], pa.timestamp("ns", "America/New_York")),
            "status": ["failed", "success"],
            "latency_ms": pa.array([12, None], pa.int16()),
            "token_count": pa.array([34.0, None], pa.float64()),
            "cost_usd": pa.array([Decimal("0.123456789012345678901"), None], pa.decimal128(38, 21)),
            "error_type": pa.array(['say "no"\n', None], pa.large_string()),
            "metadata": ['{"user_id":"ü","n":0.10}', None],
        }
    )
    assert loader.load(path).logs_by_file == {path: 2}
    assert loader.stored() == EXPECTED


def test_parquet_takes_text_naive_times_and_float_costs_at_their_shortest_decimal(loader):
    loader.load(
        loader.parquet(
            {
                "agent_id": pa.array(["a"], pa.string_view()),
                "timestamp": pa.array([datetime(2025, 1, 2, 3, 4, 5, 600000)], pa.timestamp("ms")),
                "status": ["success"],
                "latency_ms": ["12"],
                "cost_usd": pa.array([1.1e-7], pa.float64()),
                "error_type": pa.nulls(1),
            }
        )
    )
    assert loader.stored() == [("a", FIRST, "success", 12, None, "0.00000011", None, None)]


@pytest.mark.parametrize(("separator", "name"), [(";", "logs.csv"), ("\t", "logs.tsv")])
def test_semicolons_and_tabs_separate_fields_as_commas_do(loader, separator, name):
    header, log = "agent_id,timestamp,status,error_type", "a,2025-01-03T00:00:00Z,success,"
    loader.load(loader.csv(header.replace(",", separator), log.replace(",", separator) + '"x, y"', name=name))
    assert loader.stored() == [(*EXPECTED[1][:6], "x, y", None)]


def test_names_of_columns_are_matched_renamed_or_left_out_in_every_format(loader):
    log = {
        " Agent-ID": "a",
        "When": "2025-01-03T00:00:00Z",
        "STATUS": "success",
        "Latency ms": 5,
        "id": "x",
        "a b": [1],
    }
    reading = Reading({"When": "timestamp", "id": None, "a b": None})
    csv = {name: f'"{value}"' for name, value in log.items()}
    paths = [
        loader.csv(",".join(csv), ",".join(csv.values())),
        loader.ndjson(log),
        loader.parquet({name: [value] for name, value in log.items()}),
    ]
    loader.load(*paths, reading=reading)
    assert loader.stored() == [("a", SECOND, "success", 5, None, None, None, None)] * 3


def test_each_missing_and_unknown_column_is_named_once_a_file_with_its_option_and_missing_ones_first(loader):
    trace = {"hash ids": [1, 2], "timestamp": 0, "it's": 3}
    paths = [
        loader.ndjson(*[trace] * 50, {"agent_id": "a", "status": "x", "timestamp": "2025-01-03T00:00Z", "colour": 1}),
        loader.csv("timestamp,hash ids,status,STATUS", *["0,1,2,3"] * 50),
        loader.parquet({name: [value] for name, value in trace.items()}),
    ]
    *problems, remedy = loader.refused(*paths).splitlines()
    assert problems == [
        "Nothing was loaded: 12 problems in the files:",
        "  logs.ndjson, line 1: lacks the column 'agent_id'",
        "  logs.ndjson, line 1: lacks the column 'status'",
        "  logs.ndjson, line 1: has the unknown column 'hash ids'",
        '  logs.ndjson, line 1: has the unknown column "it\'s"',
        "  logs.ndjson, line 51: has the unknown column 'colour'",
        "  logs.csv: lacks the column 'agent_id'",
        "  logs.csv: has the column 'status' twice",
        "  logs.csv: has the unknown column 'hash ids'",
        "  logs.parquet: lacks the column 'agent_id'",
        "  logs.parquet: lacks the column 'status'",
        "  logs.parquet: has the unknown column 'hash ids'",
        '  logs.parquet: has the unknown column "it\'s"',
    ]
    assert remedy == (
        "The columns of a log are id, agent_id, timestamp, status, latency_ms, token_count, cost_usd, error_type, "
        "metadata. Say which columns of the files hold them, and which to leave out: --column agent_id=NAME "
        """--column status=NAME --skip-column 'hash ids' --skip-column 'it'"'"'s' --skip-column colour"""
    )


def test_epoch_times_are_understood_as_numbers_of_json_and_parquet(loader):
    loader.load(
        loader.ndjson('{"agent_id":"a","timestamp":1735873200.0,"status":"success"}'),
        loader.parquet({"agent_id": ["a"], "timestamp": pa.array([1735873200000], pa.int64()), "status": ["success"]}),
    )
    assert [row[1] for row in loader.stored()] == [datetime(2025, 1, 3, 3, tzinfo=UTC)] * 2


def test_an_object_inside_a_json_string_is_stored_as_the_object_and_other_strings_as_they_are(loader):
    texts = {'{"user_id": "u"}': '{"user_id": "u"}', "{user_id}": '"{user_id}"', "[1]": '"[1]"', '{"x": NaN}': None}
    log = {"agent_id": "a", "timestamp": "2025-01-03T00:00:00Z", "status": "success"}
    loader.load(loader.ndjson(*[log | {"metadata": json.dumps(text)} for text in texts]))
    assert [row[7] for row in loader.stored()] == [stored or json.dumps(text) for text, stored in texts.items()]


@pytest.mark.parametrize("name", ["logs.csv.gz", "LOGS.CSV"])
def test_the_ending_decides_the_format_whatever_its_case(loader, name):
    path = loader.csv("agent_id,timestamp,status", "a,2025-01-03T00:00:00Z,success", name=name)
    if not name.endswith("gz"):
        path.rename(loader.folder / name)
    loader.load(path)
    assert loader.stored() == [EXPECTED[1]]


def test_an_array_of_json_is_read_with_every_digit_and_its_faults_are_named_by_their_log(loader):
    path = loader.folder / "my logs.json"
    log = (
        '{"agent_id":"a","timestamp":"2025-01-03T00:00:00Z","status":"success","metadata":{"user_id":9007199254740993}}'
    )
    path.write_text(f"[\n  {log},\n\n{log} ]\n")
    assert loader.load(path).logs_by_file == {path: 2}
    assert {row[7] for row in loader.stored()} == {'{"user_id": 9007199254740993}'}

    path.write_text(f'[{log}, null, {{"agent_id": "a", "colour": 1}}, {log.replace("2025", "x")}]')
    *named, bad_timestamp, _ = loader.refused(path).splitlines()[1:]
    assert [line.strip() for line in named] == [
        "my logs.json, log 2: is JSON, but no object",
        "my logs.json, log 3: lacks the column 'timestamp'",
        "my logs.json, log 3: lacks the column 'status'",
        "my logs.json, log 3: has the unknown column 'colour'",
    ]
    assert "my logs.json, log 4, timestamp: 'x-01-03T00:00:00Z' is not an ISO 8601" in bad_timestamp
    path.write_text(f"{log}\n{log}\n")
    assert "name a file that has a log a line .ndjson" in loader.refused(path)
    for blank in (" " * 1024, " " * 1023 + "\n"):
        path.write_text(f"[{log}{blank * (ROW_BYTES // 1024)}]")
        assert loader.refused(path).endswith("with jq 1.7 or newer: jq -c '.[]' 'my logs.json' > logs.ndjson")


def test_gzipped_ndjson_is_read(loader):
    path = loader.folder / "logs.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"agent_id":"a","timestamp":"2025-01-03T00:00:00Z","status":"success"}'))
    loader.load(path)
    assert loader.stored() == [EXPECTED[1]]


def test_csv_takes_a_byte_order_mark_windows_line_ends_and_blank_lines(loader):
    path = loader.csv("\ufeffagent_id,timestamp,status", "", "a,2025-01-03T00:00:00Z,success", "", end="\r\n")
    loader.load(path)
    assert loader.stored() == [EXPECTED[1]]


def test_a_file_without_rows_loads_nothing(loader):
    header = loader.csv("agent_id,timestamp,status")
    empty = loader.ndjson()
    none = loader.parquet({"agent_id": pa.nulls(0), "timestamp": pa.nulls(0), "status": pa.nulls(0)})
    assert set(loader.load(header, empty, none).logs_by_file.values()) == {0}


def test_an_empty_text_in_ndjson_stays_one_and_in_csv_is_null(loader):
    loader.load(
        loader.ndjson({"agent_id": "a", "timestamp": "2025-01-01T00:00Z", "status": "failed", "error_type": ""}),
        loader.csv("agent_id,timestamp,status,error_type", 'a,2025-01-02T00:00Z,failed,""'),
    )
    assert [row[6] for row in loader.stored()] == ["", None]


def test_bytes_of_every_format_are_reported_to_the_end(loader):
    log = {"agent_id": "a", "timestamp": "2025-01-01T00:00Z", "status": "success"}
    paths = [
        loader.csv("agent_id,timestamp,status", *["a,2025-01-01T00:00Z,success"] * 70_000),
        loader.ndjson(*[log] * 100),
        loader.parquet({name: [value] * 100 for name, value in log.items()}),
    ]
    heard = []
    loader.load(*paths, on_bytes=heard.append)
    size = sum(path.stat().st_size for path in paths)
    assert size - 100 <= sum(heard) <= size
    assert len(heard) >= 4


def test_days_are_counted_in_the_given_time_zone(loader):
    path = loader.csv(
        "agent_id,timestamp,status",
        "a,2025-01-01T18:29:59Z,success",
        "a,2025-01-01T18:30:00Z,success",
        "a,2025-01-01T18:31:00Z,failed",
    )
    assert loader.load(path, time_zone="Asia/Kolkata").logs_by_day == {date(2025, 1, 1): 1, date(2025, 1, 2): 2}


COSTS = st.decimals(allow_infinity=False, allow_nan=False, min_value=-(10**12), max_value=10**12, places=15)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.decimals(allow_nan=False, allow_infinity=False, places=20) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)


def json_text(value):
    """JSON with decimals written in all their digits."""
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, list):
        return f"[{','.join(map(json_text, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{json.dumps(k)}:{json_text(v)}' for k, v in value.items())}}}"
    return json.dumps(value)


@given(cost=COSTS, error=TEXTS.filter(bool), metadata=JSONS.filter(lambda value: isinstance(value, dict)))
def test_any_cost_text_and_metadata_are_stored_exactly_and_alike_from_every_format(loader, cost, error, metadata):
    log = {"agent_id": "a", "timestamp": "2025-01-01T00:00:00Z", "status": "failed"}
    written = json_text(metadata)
    quoted = ['"{}"'.format(value.replace('"', '""')) for value in (error, written)]
    files = [
        loader.csv(
            "agent_id,timestamp,status,cost_usd,error_type,metadata",
            f"a,2025-01-01T00:00:00Z,failed,{cost:f},{','.join(quoted)}",
        ),
        loader.ndjson(
            f'{json.dumps(log)[:-1]},"cost_usd":{cost:f},"error_type":{json.dumps(error)},"metadata":{written}}}'
        ),
        loader.parquet(
            {name: [value] for name, value in log.items()}
            | {"cost_usd": pa.array([cost], pa.decimal128(38, 15)), "error_type": [error], "metadata": [written]}
        ),
    ]
    loader.load(*files)
    rows = loader.stored()
    loader.execute("TRUNCATE agent_execution_logs")

    assert len(rows) == 3
    assert len(set(rows)) == 1
    assert Decimal(rows[0][5]) == cost
    assert rows[0][6] == error
    assert json.loads(rows[0][7], parse_float=Decimal) == json.loads(written, parse_float=Decimal)


@given(st.binary(max_size=200), st.sampled_from(["csv", "csv.gz", "ndjson", "jsonl.gz", "json", "parquet"]))
def test_any_bytes_are_loaded_or_refused_with_a_sentence(loader, content, ending):
    path = loader.folder / f"noise.{ending}"
    path.write_bytes(content)
    try:
        loaded = loader.load(path).logs_by_file
    except LogFileError as refusal:
        loaded = refusal
    assert loaded == {path: 0} or "noise" in str(loaded)


@given(
    st.lists(st.tuples(TEXTS, TEXTS | st.just("2025-01-01T00:00Z"), st.binary(max_size=6)), max_size=4), st.booleans()
)
def test_any_values_are_stored_or_refused_with_a_sentence(loader, rows, is_csv):
    header = b"agent_id,timestamp,status\n"
    if is_csv:
        path = loader.folder / "noise.csv"
        path.write_bytes(header + b"\n".join(b",".join((a.encode(), t.encode(), s)) for a, t, s in rows))
    else:
        path = loader.folder / "noise.ndjson"
        path.write_bytes(
            b"\n".join(
                b'{"agent_id":%s,"timestamp":%s,"status":"%s"}' % (json.dumps(a).encode(), json.dumps(t).encode(), s)
                for a, t, s in rows
            )
        )
    try:
        loaded = loader.load(path, register_unknown=True, skip_existing=True).logs_by_file[path]
    except LogFileError as refusal:
        loaded = refusal
    assert "noise" in str(loaded) or loaded <= len(rows)


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_parquet_file_is_loaded_or_refused_with_a_sentence(loader, damage):
    log = {"agent_id": "a", "timestamp": "2025-01-01T00:00Z", "status": "success", "cost_usd": 1.5}
    path = loader.parquet({name: [value] * 50 for name, value in log.items()})
    content = bytearray(path.read_bytes())
    for position, byte in damage:
        content[position % len(content)] = byte
    path.write_bytes(content)
    try:
        loaded = loader.load(path, register_unknown=True, skip_existing=True).logs_by_file[path]
    except LogFileError as refusal:
        loaded = refusal
    assert "logs.parquet" in str(loaded) or loaded <= 50


def test_a_damaged_column_name_in_parquet_is_refused(loader):
    path = loader.parquet({"agent_id": ["a"], "timestamp": ["2025-01-01T00:00Z"], "status": ["success"]})
    path.write_bytes(path.read_bytes().replace(b"status", b"stat\xe9s"))
    assert "logs.parquet: cannot be read: 'utf-8' codec can't decode byte 0xe9" in loader.refused(path)


@pytest.mark.parametrize("width", [pa.float16(), pa.float32(), pa.float64()])
def test_a_whole_number_in_a_narrow_float_is_stored_as_that_number(loader, width):
    whole = {pa.float16(): 65504, pa.float32(): 2_147_483_520, pa.float64(): 2_147_483_647}[width]
    numbers = pa.array([float(whole), -float(whole), None], width)
    loader.load(
        loader.parquet(
            {"agent_id": ["a"] * 3, "timestamp": ["2025-01-01T00:00Z"] * 3, "status": ["x"] * 3}
            | {"latency_ms": numbers, "token_count": numbers}
        )
    )
    assert {row[3:5] for row in loader.stored()} == {(whole, whole), (-whole, -whole), (None, None)}


def test_one_long_text_that_a_small_file_repeats_is_read_in_pieces_and_one_too_long_is_named(loader):
    count = 3000
    long = pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array(["x" * 100_000]))
    columns = {"agent_id": ["a"] * count, "timestamp": ["2025-01-01T00:00Z"] * count, "status": ["s"] * count}
    path = loader.parquet(columns | {"error_type": long})
    assert path.stat().st_size < 50_000
    frames = list(ParquetFile(path, Reading()).batches(lambda _: None))
    # A row has 100,019 bytes of text, so 64 MiB end in row 671, 128 MiB in row 1342, and so on.
    starts = [1, 671, 1342, 2013, 2684, 3001]
    assert [frame["row"].to_list() for frame in frames] == [list(range(*pair)) for pair in pairwise(starts)]
    assert {text for frame in frames for text in frame["error_type"]} == {"x" * 100_000}

    texts = ["short", "x" * (17 * 2**20), "short", None, "x" * (17 * 2**20)]
    statuses = ["s", "s", "s", None, "s"]
    path = loader.parquet(
        {name: values[:5] for name, values in columns.items()} | {"error_type": texts, "status": statuses}
    )
    message = loader.refused(path)
    assert [line.strip() for line in message.splitlines()[1:]] == [
        "logs.parquet, row 2: is longer than 16 MiB",
        "logs.parquet, row 5: is longer than 16 MiB",
        "logs.parquet, row 4, status: is missing",
    ]


def test_a_page_of_parquet_that_its_checksum_contradicts_is_refused(loader):
    path = loader.folder / "logs.parquet"
    table = pa.table({"agent_id": ["a"], "timestamp": ["2025-01-01T00:00Z"], "status": ["success"]})
    pq.write_table(table, path, write_page_checksum=True, compression="none", write_statistics=False)
    path.write_bytes(path.read_bytes().replace(b"success", b"succesS"))
    assert "logs.parquet: cannot be read: " in loader.refused(path)
