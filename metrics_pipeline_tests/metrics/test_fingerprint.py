from dataclasses import fields, replace

import pytest

from metrics_pipeline.metrics.fingerprint import SourceFingerprint

STORED = SourceFingerprint(
    logs=10, successful=7, failed=2, latency_ms=12_345, tokens=678, cost_nano_usd=-(10**30), content_hash=2**100
)
NAMES = [field.name for field in fields(SourceFingerprint) if field.name not in ("further", "kind")]


def test_its_text_gives_back_numbers_of_any_size() -> None:
    assert SourceFingerprint.from_text(STORED.to_text()) == STORED


def test_its_text_is_json_of_its_kind_and_integers_in_a_fixed_order() -> None:
    assert STORED.to_text() == (
        '{"engine": "postgresql", "version": 1, '
        '"logs": 10, "successful": 7, "failed": 2, "latency_ms": 12345, "tokens": 678, '
        '"cost_nano_usd": -1000000000000000000000000000000, "content_hash": 1267650600228229401496703205376}'
    )


@pytest.mark.parametrize("name", NAMES)
def test_two_that_differ_in_one_number_are_unequal_and_say_so(name: str) -> None:
    present = replace(STORED, **{name: getattr(STORED, name) - 3})
    assert present != STORED
    expected = {
        "content_hash": "values corrected without a change of any total",
        "latency_ms": "latency -3 ms",
        "cost_nano_usd": "cost -0.000000003 USD",
    }
    assert STORED.differences(present) == [expected.get(name, f"{name} -3")]


@pytest.mark.parametrize(
    ("nano_usd", "said"),
    [
        (-861_091_585_738, "cost -861.09 USD"),
        (12_345_678_000_000_000, "cost +12,345,678.00 USD"),
        (10_000_000, "cost +0.01 USD"),
        (9_216_000, "cost +0.009216 USD"),
        (10**38, "cost +100,000,000,000,000,000,000,000,000,000.00 USD"),
    ],
)
def test_money_is_said_in_dollars_and_cents_and_less_than_a_cent_with_all_digits(nano_usd: int, said: str) -> None:
    assert SourceFingerprint.of_no_logs().differences(
        replace(SourceFingerprint.of_no_logs(), cost_nano_usd=nano_usd)
    ) == [said]


def test_differences_name_every_total_that_changed_and_not_the_hash() -> None:
    present = replace(STORED, logs=11, failed=3, content_hash=5)
    assert STORED.differences(present) == ["logs +1", "failed +1"]
    assert STORED.differences(STORED) == []


def test_the_sum_of_two_keeps_the_cost_as_a_fingerprint_of_all_logs_does() -> None:
    half = replace(STORED, cost_nano_usd=4 * 10**36)
    assert half + half == replace(
        STORED, logs=20, successful=14, failed=4, latency_ms=24_690, tokens=1356, cost_nano_usd=-2 * 10**36,
        content_hash=2**101,
    )  # fmt: skip


def test_a_text_without_a_kind_is_of_the_first_one() -> None:
    before_there_were_kinds = (
        '{"logs": 10, "successful": 7, "failed": 2, "latency_ms": 12345, "tokens": 678, '
        '"cost_nano_usd": -1000000000000000000000000000000, "content_hash": 1267650600228229401496703205376}'
    )
    assert SourceFingerprint.from_text(before_there_were_kinds) == STORED


def test_numbers_that_a_newer_version_added_are_kept_and_what_is_no_number_is_ignored() -> None:
    newer = SourceFingerprint.from_text(STORED.to_text().replace("}", ', "cache_hits": 4, "note": "x", "parts": [1]}'))
    assert newer == replace(STORED, further={"cache_hits": 4})
    assert SourceFingerprint.from_text(newer.to_text()) == newer


def test_a_number_that_one_of_two_lacks_is_not_compared_and_one_that_both_have_is() -> None:
    newer = replace(STORED, further={"cache_hits": 4})
    assert STORED.equals(newer)
    assert newer.equals(STORED)
    assert newer.differences(replace(newer, further={"cache_hits": 5})) == [
        "values corrected without a change of any total"
    ]
    assert (newer + newer).further == {"cache_hits": 8}


def test_fingerprints_of_two_kinds_are_never_equal() -> None:
    assert not STORED.equals(replace(STORED, kind=("postgresql", 2)))
    assert not STORED.equals(replace(STORED, kind=("another engine", 1)))
    other = replace(STORED, kind=("another engine", 3))
    assert SourceFingerprint.from_text(other.to_text()) == other


@pytest.mark.parametrize("text", ["{}", "", "[]", "7", "null", '{"logs": 10}', "not JSON"])
def test_a_text_that_is_not_a_fingerprint_equals_none(text: str) -> None:
    unreadable = SourceFingerprint.from_text(text)
    assert unreadable.kind == ("an unreadable text", 0)
    assert not unreadable.equals(STORED)
    assert not unreadable.equals(SourceFingerprint.of_no_logs())
