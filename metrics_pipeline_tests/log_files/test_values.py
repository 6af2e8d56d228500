"""The rules for values: what is taken and how it is stored, and what is refused with its place."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pyarrow as pa
import pytest

HEADER = "agent_id,timestamp,status"
GOOD = "a,2025-01-01T00:00:00Z,success"


def csv_of(loader, column, *values):
    """A file with one good log per second, but for the given values of one column."""
    fields = {"agent_id": "a", "timestamp": "", "status": "success"}
    rows = [
        fields | {"timestamp": f"2025-01-01T00:00:{second:02}Z"} | {column: value}
        for second, value in enumerate(values)
    ]
    quoted = [",".join('"{}"'.format(field.replace('"', '""')) for field in row.values()) for row in rows]
    return loader.csv(",".join(rows[0]), *quoted)


def assert_each_is_named(message, column, values, reason):
    """Each value has its own line in the message, in the order of the file's lines."""
    expected = [f"  logs.csv, line {line}, {column}: {value!r} {reason}" for line, value in enumerate(values, start=2)]
    assert [named[: len(start)] for named, start in zip(message.splitlines()[1:], expected, strict=True)] == expected


TIMESTAMPS = {
    "1970-01-01T00:00:00Z": datetime(1970, 1, 1, tzinfo=UTC),
    "2024-02-29t00:00:00z": datetime(2024, 2, 29, tzinfo=UTC),
    "2025-07-11T01:11:52+05:30": datetime(2025, 7, 10, 19, 41, 52, 0, UTC),
    "2025-07-11T19:11": datetime(2025, 7, 11, 19, 11, 0, 0, UTC),
    "2025-07-11 19:11:52": datetime(2025, 7, 11, 19, 11, 52, 0, UTC),
    "2025-07-11 19:11:52.38+00": datetime(2025, 7, 11, 19, 11, 52, 380000, UTC),
    "2025-07-11T19:11:52.380072Z": datetime(2025, 7, 11, 19, 11, 52, 380072, UTC),
    "2025-07-11T23:59:59.999999999Z": datetime(2025, 7, 11, 23, 59, 59, 999999, UTC),
    "2025-07-11T19:11:52,5-0930": datetime(2025, 7, 12, 4, 41, 52, 500000, UTC),
    "1755088000": datetime(2025, 8, 13, 12, 26, 40, 0, UTC),
    "1755088001.5": datetime(2025, 8, 13, 12, 26, 41, 500000, UTC),
    "1755088002123": datetime(2025, 8, 13, 12, 26, 42, 123000, UTC),
    "1755088003123.4567": datetime(2025, 8, 13, 12, 26, 43, 123456, UTC),
    "1755088004123456": datetime(2025, 8, 13, 12, 26, 44, 123456, UTC),
    "1755088005123456999": datetime(2025, 8, 13, 12, 26, 45, 123456, UTC),
}


def test_iso_8601_timestamps_are_stored_as_the_instant_they_name(loader):
    loader.load(csv_of(loader, "timestamp", *TIMESTAMPS))
    assert [row[1] for row in loader.stored()] == list(TIMESTAMPS.values())


def test_nanoseconds_of_parquet_are_cut_to_microseconds(loader):
    nanoseconds = pa.array([1_735_689_600_123_456_999], pa.timestamp("ns"))
    loader.load(loader.parquet({"agent_id": ["a"], "timestamp": nanoseconds, "status": ["success"]}))
    assert loader.stored()[0][1] == datetime(2025, 1, 1, 0, 0, 0, 123456, UTC)


BAD_TIMESTAMPS = [
    "2025-02-30T00:00:00Z",
    "2025-01-01T24:00:00Z",
    "2025-01-01T00:60:00Z",
    "2025-01-01T00:00:60Z",
    "2025-01-01",
    "2025-01-01T00:00:00+16:00",
    "2025-01-01T00:00:00 UTC",
    "01/02/2025 00:00",
    "999999999",
    "2025071119",
    "17550880001",
    "-1755088000",
    "1969-12-31T23:59:59Z",
    "9999-01-01T00:00:00Z",
    "0000-01-01T00:00:00Z",
    "٢٠٢٥-01-01T00:00:00Z",
    "now",
    " 2025-01-01T00:00:00Z",
]


def test_a_bad_timestamp_is_named_with_its_line(loader):
    message = loader.refused(csv_of(loader, "timestamp", *BAD_TIMESTAMPS))
    assert_each_is_named(message, "timestamp", BAD_TIMESTAMPS, "is not an ISO 8601 timestamp")


@pytest.mark.parametrize(("column", "position"), [("latency_ms", 3), ("token_count", 4)])
def test_whole_numbers_of_four_bytes_are_taken(loader, column, position):
    loader.load(csv_of(loader, column, "2147483647", "-2147483648", "+007", "123.0", "5.", "0", ""))
    assert [row[position] for row in loader.stored()] == [2147483647, -2147483648, 7, 123, 5, 0, None]


@pytest.mark.parametrize("column", ["latency_ms", "token_count"])
def test_what_is_no_whole_number_of_four_bytes_is_named(loader, column):
    bad = ["2147483648", "-2147483649", "1.5", "1e3", "12ms", "9" * 30, "nan", "0x10", "٣", "1 0", "-"]
    message = loader.refused(csv_of(loader, column, *bad))
    assert_each_is_named(message, column, bad, "is not a whole number from -2147483648 to 2147483647")


def test_costs_are_stored_to_their_last_digit(loader):
    costs = ["0.000000001", "12345678901234567890.123456789012345678901234567890", "1E-9", "-.5", "7.", "0", "1.50"]
    loader.load(csv_of(loader, "cost_usd", *costs))
    assert [Decimal(row[5]) for row in loader.stored()] == [Decimal(cost) for cost in costs]


def test_a_cost_that_is_not_a_number_is_stored_as_such(loader):
    loader.load(csv_of(loader, "cost_usd", "NaN", "nan"))
    assert [row[5] for row in loader.stored()] == ["NaN", "NaN"]


def test_a_cost_that_is_no_decimal_is_named(loader):
    bad = ["Infinity", "-inf", "$5", "1,5", "1e9999", ".", "e5", "--1", "1_000", "-NaN"]
    message = loader.refused(csv_of(loader, "cost_usd", *bad))
    assert_each_is_named(message, "cost_usd", bad, "is not a decimal number of at most 1000 characters, nor NaN")
    assert "(1,003 characters) is not a decimal" in loader.refused(csv_of(loader, "cost_usd", "1" * 1001))


@pytest.mark.parametrize("column", ["agent_id", "timestamp", "status"])
def test_a_required_value_that_is_missing_or_blank_is_named(loader, column):
    message = loader.refused(csv_of(loader, column, "", " \t"))
    assert f"logs.csv, line 2, {column}: is missing" in message
    assert f"logs.csv, line 3, {column}: ' \\t' is " in message


@pytest.mark.parametrize("column", ["agent_id", "status", "error_type"])
def test_a_nul_character_is_named(loader, column):
    assert f"line 2, {column}: 'x\\x00y' " in loader.refused(csv_of(loader, column, "x\0y"))


def test_metadata_that_postgresql_cannot_hold_is_named(loader):
    bad = {
        "{": "is not JSON: Expecting property name",
        "{'a': 1}": "is not JSON: Expecting property name",
        '{"a": NaN}': "is not JSON: NaN is not a JSON value",
        "-Infinity": "is not JSON: -Infinity is not a JSON value",
        '{"a": "\\u0000"}': "holds a NUL character",
        '{"a": "\\\\\\u0000"}': "holds a NUL character",
        '{"a": "\\ud800"}': "holds half of a surrogate pair",
        '{"a": "\t"}': "is not JSON: Invalid control character",
        '{"a": 1} x': "is not JSON: Extra data",
    }
    message = loader.refused(csv_of(loader, "metadata", *bad, "[" * 100_000))
    named = message.splitlines()[1:]
    assert_each_is_named("\n".join(["", *named[:-1]]), "metadata", bad, "")
    assert all(reason in line for reason, line in zip(bad.values(), named[:-1], strict=True))
    assert "(100,002 characters) is not JSON: " in named[-1]


def test_metadata_may_be_any_json_value(loader):
    values = {
        '{"path": "C:\\\\u0000"}': '{"path": "C:\\\\u0000"}',
        '"\\ud83d\\ude00"': '"😀"',
        "[1,null]": "[1, null]",
        "5": "5",
        "1.10": "1.10",
        "null": "null",
        "": None,
    }
    loader.load(csv_of(loader, "metadata", *values))
    assert [row[7] for row in loader.stored()] == list(values.values())


def test_metadata_of_a_long_conversation_is_stored(loader):
    long = f'"{"x" * 1_000_000}"'
    loader.load(csv_of(loader, "metadata", long))
    assert loader.stored()[0][7] == long


def test_a_number_beyond_what_jsonb_holds_is_refused_by_the_rows_it_stands_in(loader):
    message = loader.refused(csv_of(loader, "metadata", '{"a": 1e999999}'))
    assert "PostgreSQL refuses a log of logs.csv, lines 2 to 2: value overflows numeric format" in message


def test_a_byte_that_is_no_utf_8_is_named_with_line_and_column(loader):
    path = loader.csv(HEADER, GOOD)
    path.write_bytes(path.read_bytes() + b"a,2025-01-01T00:00:00Z,caf\xe9\n")
    message = loader.refused(path)
    assert message == (
        "Nothing was loaded: 1 problem in the files:\n  logs.csv, line 3, status: 'caf\\udce9' is not text in UTF-8"
    )


def test_a_byte_that_is_no_utf_8_in_parquet_is_named_with_row_and_column(loader):
    bad = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0\4\0\0\0"), pa.py_buffer(b"ok\xff\xfe")]
    )
    path = loader.parquet({"agent_id": ["a", "a"], "timestamp": ["2025-01-01T00:00Z"] * 2, "status": bad})
    assert "logs.parquet, row 2, status: '\\udcff\\udcfe' is not text in UTF-8" in loader.refused(path)


def test_the_first_twenty_problems_are_named_in_the_order_of_the_file_and_all_are_counted(loader):
    lines = [GOOD if n % 2 else f"a,bad{n},," for n in range(60)]
    path = loader.csv(HEADER + ",latency_ms", *[line if line.endswith(",") else line + ",1" for line in lines])
    message = loader.refused(path)

    assert message.startswith("Nothing was loaded: 60 problems in the files, of which these are the first 20:\n")
    named = message.splitlines()[1:]
    assert (
        named[0] == "  logs.csv, line 2, timestamp: 'bad0' is not an ISO 8601 timestamp from 1970 on, "
        "such as 2025-07-11T19:11:52.380072Z, nor an epoch time from 2001 on, such as 1752261112"
    )
    assert named[1] == "  logs.csv, line 2, status: is missing"
    assert [line.split(",")[1] for line in named] == [f" line {2 + 2 * (n // 2)}" for n in range(20)]


def test_lines_are_counted_through_quoted_line_breaks_and_blank_lines(loader):
    path = loader.csv(HEADER + ",error_type", "", GOOD + ',"two\nlines"', "", "a,bad,success,")
    assert "logs.csv, line 6, timestamp: 'bad'" in loader.refused(path)


def test_rows_beyond_the_first_batch_keep_their_numbers(loader):
    good = ["2025-01-01T00:00:00Z"] * 120_000
    stamps = [*good, "bad"]
    path = loader.parquet({"agent_id": ["a"] * 120_001, "timestamp": stamps, "status": ["success"] * 120_001})
    assert "logs.parquet, row 120001, timestamp: 'bad'" in loader.refused(path)
    csv = loader.csv(HEADER, *[GOOD] * 120_000, "a,bad,success")
    assert "logs.csv, line 120002, timestamp: 'bad'" in loader.refused(csv)


def test_a_long_value_is_cut_in_the_message(loader):
    message = loader.refused(csv_of(loader, "metadata", "x" * 10_000))
    assert len(message) < 400
    assert "(10,002 characters)" in message


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ([], "logs.csv, line 1: is missing: the file is empty, without a header"),
        (
            [HEADER + ",colour", GOOD + ",red"],
            "logs.csv: has the unknown column 'colour'\nThe columns of a log are id, agent_id, ",
        ),
        ([HEADER + ",status", GOOD + ",x"], "logs.csv: has the column 'status' twice"),
        (["agent_id,status", "a,success"], "logs.csv: lacks the column 'timestamp'"),
        ([HEADER, GOOD, "a,b"], "logs.csv, line 3: has 2 fields, but the header names 3 columns"),
        ([HEADER, GOOD, 'a,"b'], "logs.csv, line 3: is not CSV: unexpected end of data"),
        ([HEADER, GOOD, 'a,"b"c,d'], "logs.csv, line 3: is not CSV: ',' expected after '\"'"),
    ],
)
def test_a_csv_of_the_wrong_shape_is_refused(loader, lines, problem):
    assert problem in loader.refused(loader.csv(*lines))


LOG = {"agent_id": "a", "timestamp": "2025-01-01T00:00:00Z", "status": "success"}


BAD_RECORDS = [
    ("{", "is not JSON: "),
    ("[1]", "is JSON, but no object"),
    ("[" * 100_000, "is not JSON: "),
    (LOG | {"colour": 1}, "has the unknown column 'colour'"),
]
BAD_RECORD_VALUES = [
    ({"latency_ms": True}, "latency_ms: 'true' is of the wrong JSON type"),
    ({"latency_ms": 1.5}, "latency_ms: '1.5' is not a whole number"),
    ({"latency_ms": 10**30}, "latency_ms: '1000000000000000000000000000000' is not a whole number"),
    ({"status": 200}, "status: '200' is of the wrong JSON type"),
    ({"agent_id": ["a"]}, "agent_id: '[\"a\"]' is of the wrong JSON type"),
    ({"timestamp": 86400}, "timestamp: '86400' is not an ISO 8601 timestamp from 1970 on"),
    ({"timestamp": True}, "timestamp: 'true' is of the wrong JSON type; write it as text"),
    ({"timestamp": None}, "timestamp: is missing"),
    ({"metadata": {"x": float("nan")}}, "metadata: '{\"x\":NaN}' is not JSON: NaN"),
    ({"metadata": {"x": "\0"}}, 'metadata: \'{"x":"\\\\u0000"}\' holds a NUL character'),
    ({"metadata": {"x": "\ud800"}}, 'metadata: \'{"x":"\\ud800"}\' is not text in UTF-8'),
    ({"error_type": "\ud800"}, "error_type: '\\ud800' is not text in UTF-8"),
]


def test_a_line_of_ndjson_that_is_no_log_is_named(loader):
    message = loader.refused(loader.ndjson(LOG, *[record for record, _ in BAD_RECORDS], LOG))
    expected = [f"  logs.ndjson, line {line}: {reason}" for line, (_, reason) in enumerate(BAD_RECORDS, start=2)]
    *named, remedy = message.splitlines()[1:]
    assert [line[: len(start)] for line, start in zip(named, expected, strict=True)] == expected
    assert remedy.endswith("which to leave out: --skip-column colour")


def test_a_bad_value_of_ndjson_is_named_with_its_line_and_column(loader):
    message = loader.refused(loader.ndjson(LOG, *[LOG | wrong for wrong, _ in BAD_RECORD_VALUES], LOG))
    assert message.startswith(f"Nothing was loaded: {len(BAD_RECORD_VALUES)} problems in the files:\n")
    for line, (_, reason) in enumerate(BAD_RECORD_VALUES, start=2):
        assert f"  logs.ndjson, line {line}, {reason}" in message


def test_a_column_that_a_line_of_ndjson_names_twice_is_refused_and_a_repeated_key_of_metadata_is_as_in_postgresql(
    loader,
):
    good = json.dumps(LOG)
    twice = [good[:-1] + ',"status":"failed"}', '{"cost_usd":1,"cost_usd":2,' + good[1:]]
    message = loader.refused(loader.ndjson(*twice))
    assert [line.strip() for line in message.splitlines()[1:]] == [
        "logs.ndjson, line 1: names a column twice",
        "logs.ndjson, line 2: names a column twice",
    ]
    metadata = '{"user_id":"u","a":{"b":1,"b":[{"c":1,"c":2.50}]},"user_id":"v"}'
    path = loader.ndjson(good[:-1] + f',"metadata":{metadata}}}')
    loader.load(path, loader.csv(HEADER + ",metadata", GOOD + ',"{}"'.format(metadata.replace('"', '""'))))
    stored = [row[7] for row in loader.stored()]
    assert stored == ['{"a": {"b": [{"c": 2.50}]}, "user_id": "v"}'] * 2


def test_a_float_is_exact_in_ndjson_costs_and_metadata(loader):
    digits = "0.1000000000000000055511151231257827"
    loader.load(loader.ndjson(f'{{"agent_id":"a","timestamp":"2025-01-01T00:00Z","status":"success","cost_usd":{digits},'
                              f'"metadata":{{"x":[{digits},1E+2]}}}}'))  # fmt: skip
    assert loader.stored()[0][5] == digits
    assert loader.stored()[0][7] == f'{{"x": [{digits}, 100]}}'


def test_parquet_columns_of_the_wrong_type_are_refused(loader):
    wrong = {
        "latency_ms": pa.array([True]),
        "timestamp": pa.array([1], pa.date32()),
        "metadata": pa.array([{"user_id": "u"}]),
        "status": pa.array([1]),
        "id": pa.array([b"0123456789abcdef"], pa.binary(16)),
        "cost_usd": pa.array([timedelta(seconds=1)]),
    }
    message = loader.refused(loader.parquet({"agent_id": ["a"]} | wrong))
    for column, values in wrong.items():
        assert f"logs.parquet, {column}: has type {values.type}; write it as text" in message


def test_a_file_that_is_not_what_its_ending_says_is_refused(loader):
    text = loader.csv(HEADER, GOOD, name="logs.parquet")
    assert "logs.parquet: cannot be read: Parquet magic bytes not found" in loader.refused(text)
    plain = loader.folder / "logs.csv.gz"
    plain.write_text(HEADER)
    assert "logs.csv.gz: cannot be read: Not a gzipped file" in loader.refused(plain)


def test_a_gzip_that_was_cut_off_is_refused(loader):
    path = loader.csv(HEADER, *[GOOD] * 10_000, name="logs.csv.gz")
    path.write_bytes(path.read_bytes()[:-20])
    assert "logs.csv.gz: cannot be read: " in loader.refused(path)


def test_a_file_that_is_missing_or_of_an_unknown_format_is_refused(loader):
    assert loader.refused(loader.folder / "none.csv") == "none.csv cannot be opened: No such file or directory."
    assert loader.refused(loader.folder).endswith(
        "Known are .csv, .csv.gz, .tsv, .tsv.gz, .ndjson, .ndjson.gz, .jsonl, .jsonl.gz, .json, .parquet."
    )
    folder = loader.folder / "folder.csv"
    folder.mkdir()
    assert loader.refused(folder) == "folder.csv cannot be opened: Is a directory."


def test_problems_of_several_files_come_in_one_error(loader):
    one = loader.csv(HEADER, "a,bad,success", name="one.csv")
    two = loader.csv(HEADER, GOOD, "a,worse,success", name="two.csv")
    message = loader.refused(one, two)
    assert "one.csv, line 2, timestamp: 'bad'" in message
    assert "two.csv, line 3, timestamp: 'worse'" in message
