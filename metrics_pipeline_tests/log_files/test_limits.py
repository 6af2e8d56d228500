"""Unreasonably long files: loaded or refused quickly, without filling the memory."""

import gzip
import json
import time

import pytest

from metrics_pipeline.log_files import text_files
from metrics_pipeline.log_files.log_file import Reading

from .test_values import GOOD, HEADER, LOG


def test_whole_numbers_of_more_digits_than_python_reads_are_stored_or_named(loader):
    long = "9" * 5000
    stored = f'{{"x": {long}, "y": [-{long}]}}'
    loader.load(
        loader.ndjson(f'{json.dumps(LOG)[:-1]},"metadata":{stored}}}'),
        loader.csv(HEADER + ",metadata", GOOD + ',"{}"'.format(stored.replace('"', '""'))),
    )
    assert [row[7] for row in loader.stored()] == [stored] * 2
    for column, reason in (("latency_ms", "is not a whole number"), ("cost_usd", "is not a decimal number")):
        message = loader.refused(loader.ndjson(f'{json.dumps(LOG)[:-1]},"{column}":{long}}}'))
        assert f"line 1, {column}: '99999" in message
        assert f"… (5,002 characters) {reason}" in message
        assert len(message) < 400


def test_a_header_of_a_million_columns_is_refused_at_once(loader):
    names = [f"{number:x}" for number in range(1_000_000)]
    started = time.process_time()  # another process of the machine may take turns
    message = loader.refused(loader.csv(",".join([*names, "x" * 1_000_000])))
    assert time.process_time() - started < 10
    assert message.startswith("Nothing was loaded: 1,000,004 problems in the files, of which these are the first 20:\n")
    assert len(message) < 5000
    assert "(1,000,002 characters)" in loader.refused(loader.csv("x" * 1_000_000))
    assert "(1,000,002 characters)" in loader.refused(loader.ndjson({"x" * 1_000_000: 1}))


@pytest.mark.parametrize("name", ["logs.csv.gz", "logs.ndjson.gz"])
def test_a_line_without_an_end_is_refused_before_it_fills_the_memory(loader, name):
    path = loader.folder / name
    path.write_bytes(gzip.compress(b"[" * (16 * 2**20 + 1)))
    assert f"{name}, line 1: is longer than 16 MiB" in loader.refused(path)


def test_more_rows_or_decompressed_bytes_than_allowed_are_refused_while_they_are_read(loader):
    blank = loader.folder / "blank.ndjson.gz"
    blank.write_bytes(gzip.compress(b"\n" * 50_000_000))
    assert loader.refused(blank, reading=Reading(max_rows=10_000)) == (
        "Nothing was loaded: the files have more than 10,000 lines or rows, or more than 2,048 MiB when decompressed. "
        "Load fewer at once, or raise --max-rows or --max-mib."
    )
    line = loader.csv(HEADER, GOOD + "," * 2_000_000, name="long.csv.gz")
    assert "more than 1 MiB when decompressed" in loader.refused(line, reading=Reading(max_mib=1))
    good = loader.csv(HEADER, *[GOOD] * 9)
    log = {name: [value] * 20 for name, value in LOG.items()}
    long = loader.parquet(log | {"error_type": ["x" * 100_000] * 20})
    assert long.stat().st_size < 20_000
    limits = {good: ({"max_rows": 9}, {"max_rows": 10}), long: ({"max_mib": 1}, {"max_mib": 2})}
    for path, (too_few, enough) in limits.items():
        assert "Load fewer at once" in loader.refused(path, reading=Reading(**too_few))
        assert loader.load(path, reading=Reading(**enough)).logs_by_file[path] in (9, 20)
    assert "more than 29 lines or rows" in loader.refused(good, long, reading=Reading(max_rows=29))


def test_a_row_that_never_ends_is_refused_before_it_fills_the_memory(loader, monkeypatch):
    monkeypatch.setattr(text_files, "_LINES_BYTES", 1000)
    good = loader.csv(HEADER + ",error_type", *[GOOD + ',"two\nlines"'] * 100)
    assert loader.load(good).logs_by_file[good] == 100
    loader.execute("TRUNCATE agent_execution_logs")
    endless = loader.csv(HEADER, GOOD, '"', *['x","'] * 1000)
    assert "logs.csv, line 203: belongs to a row of more than" in loader.refused(endless)


def test_rows_of_the_wrong_shape_that_are_longer_than_a_batch_are_all_counted(loader, monkeypatch):
    monkeypatch.setattr(text_files, "BATCH_BYTES", 1000)
    monkeypatch.setattr(text_files, "_LINES_BYTES", 1000)
    for path in (loader.csv(HEADER, *["a,b"] * 1000, GOOD), loader.ndjson(*["[1]"] * 1000, LOG)):
        assert loader.refused(path).startswith("Nothing was loaded: 1,000 problems in the files")
    blank = loader.csv(HEADER, *[""] * 2000, GOOD)
    assert loader.load(blank).logs_by_file == {blank: 1}
    assert len(loader.stored()) == 1
