from dataclasses import fields, replace

import pytest

from metrics_pipeline.metrics.fingerprint import SourceFingerprint

STORED = SourceFingerprint(
    logs=10, successful=7, failed=2, latency_ms=12_345, tokens=678, cost_nano_usd=-(10**30), content_hash=2**100
)
NAMES = [field.name for field in fields(SourceFingerprint)]


def test_its_text_gives_back_numbers_of_any_size() -> None:
    assert SourceFingerprint.from_text(STORED.to_text()) == STORED


def test_its_text_is_json_of_integers_in_a_fixed_order() -> None:
    assert STORED.to_text() == (
        '{"logs": 10, "successful": 7, "failed": 2, "latency_ms": 12345, "tokens": 678, '
        '"cost_nano_usd": -1000000000000000000000000000000, "content_hash": 1267650600228229401496703205376}'
    )


@pytest.mark.parametrize("name", NAMES)
def test_two_that_differ_in_one_number_are_unequal_and_say_so(name: str) -> None:
    present = replace(STORED, **{name: getattr(STORED, name) - 3})
    assert present != STORED
    expected = "values corrected without a change of any total" if name == "content_hash" else f"{name} -3"
    assert STORED.differences(present) == [expected]


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
