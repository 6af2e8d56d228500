"""Unreasonably long files: loaded or refused quickly, without filling the memory."""

import gzip
import json
import time

import pytest

from metrics_pipeline.log_files import text_files

from .test_values import GOOD, HEADER, LOG


def test_whole_numbers_of_more_digits_than_python_reads_are_stored_or_named(loader):
    long = "9" * 5000
    stored = f'{{"x": {long}, "y": [-{long}]}}'
    loader.load(
        loader.ndjson(f'{json.dumps(LOG)[:-1]},"metadata":{stored}}}'),
        loader.csv(HEADER + ",metadata", GOOD + ',"{}"'.format(stored.replace('"', '""'))),
    )
    assert [row[7] for row in loader.stored()] == [stored] * 2
    for column, reason in (("latency_ms", "is no whole number"), ("cost_usd", "is no decimal number")):
        message = loader.refused(loader.ndjson(f'{json.dumps(LOG)[:-1]},"{column}":{long}}}'))
        assert f"line 1, {column}: '99999" in message
        assert f"… (5,002 characters) {reason}" in message
        assert len(message) < 400


def test_a_header_of_a_million_columns_is_refused_at_once(loader):
    names = [f"{number:x}" for number in range(1_000_000)]
    started = time.monotonic()
    message = loader.refused(loader.csv(",".join([*names, "x" * 1_000_000])))
    assert time.monotonic() - started < 10
    assert message.startswith("Nothing was loaded: 1,000,004 problems in the files, of which these are the first 20:\n")
    assert len(message) < 5000
    assert "(1,000,002 characters)" in loader.refused(loader.csv("x" * 1_000_000))
    assert "(1,000,002 characters)" in loader.refused(loader.ndjson({"x" * 1_000_000: 1}))


@pytest.mark.parametrize("name", ["logs.csv.gz", "logs.ndjson.gz"])
def test_a_line_without_an_end_is_refused_before_it_fills_the_memory(loader, name):
    path = loader.folder / name
    path.write_bytes(gzip.compress(b"[" * (16 * 2**20 + 1)))
    assert f"{name}, line 1: is longer than 16 MiB" in loader.refused(path)


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
