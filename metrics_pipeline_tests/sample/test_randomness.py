"""Random columns: which values, and how they are distributed."""

import hashlib
import uuid

import pytest

from metrics_pipeline.sample.randomness import normal, uniform, uuids


def test_uniform_values_are_the_upper_53_bits_of_the_hash_of_their_key():
    digest = hashlib.shake_128(b"('a', 7)").digest(24)
    expected = [(int.from_bytes(digest[i : i + 8], "little") >> 11) / 2**53 for i in (0, 8, 16)]

    assert uniform(3, "a", 7).to_list() == expected


def test_uniform_values_spread_evenly_over_zero_to_one():
    values = uniform(100_000, "spread")

    assert 0 <= values.min() < 0.001
    assert 0.999 < values.max() < 1
    assert values.mean() == pytest.approx(0.5, abs=0.005)
    assert values.std() == pytest.approx(12**-0.5, abs=0.005)


def test_normal_values_have_the_moments_of_the_standard_normal_distribution():
    values = normal(100_000, "normal")

    assert values.mean() == pytest.approx(0, abs=0.02)
    assert values.std() == pytest.approx(1, abs=0.02)
    assert ((values > -1.96) & (values < 1.96)).mean() == pytest.approx(0.95, abs=0.005)


def test_uuids_are_distinct_and_of_version_8():
    ids = uuids(10_000, "ids")

    assert ids.n_unique() == 10_000
    parsed = [uuid.UUID(text) for text in ids]
    assert {(one.version, one.variant) for one in parsed} == {(8, uuid.RFC_4122)}
    assert [str(one) for one in parsed] == ids.to_list()
