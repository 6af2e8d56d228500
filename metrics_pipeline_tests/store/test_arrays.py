"""The packed form of distributions: its bytes by hand, and that every number comes back."""

import struct

import polars as pl
import pytest

from metrics_pipeline.store.arrays import packed, unpacked


@pytest.mark.parametrize(
    ("latencies", "executions", "bytes_of_each"),
    [
        ([0, 255], [255, 1], (1, 1)),
        ([0, 65_535], [256, 1], (2, 2)),
        ([0, 65_536], [65_536, 1], (4, 4)),
        ([-1, 2**31 - 1], [2**31 - 1, 1], (4, 4)),
        ([-(2**31), 5], [1, 1], (4, 1)),
        ([], [], (1, 1)),
    ],
)
def test_numbers_are_packed_in_as_few_bytes_as_they_need(
    latencies: list[int], executions: list[int], bytes_of_each: tuple[int, int]
) -> None:
    # Between two rows of other types.
    rows = [[70_000], latencies, [7]]
    counts = [[1], executions, [300]]
    users = [[3], [-(2**63), -5, 2**63 - 1], []]
    forms = list(
        packed(
            pl.Series([*rows[0], *latencies, *rows[2]], dtype=pl.Int32),
            pl.Series([*counts[0], *executions, *counts[2]], dtype=pl.Int32),
            pl.Series([len(row) for row in rows]),
            pl.Series(users, dtype=pl.List(pl.Int64)),
        )
    )
    assert len(forms[1]) == 4 + len(latencies) * sum(bytes_of_each) + 3 * 8
    found = unpacked([b"digest" + form for form in forms], len(b"digest"))
    assert [[each.tolist() for each in arrays] for arrays in found] == [rows, counts, users]


def test_the_packed_form_by_hand() -> None:
    of_one = pl.Series([258], dtype=pl.Int32), pl.Series([3], dtype=pl.Int32)
    assert [*packed(*of_one, pl.Series([1]), pl.Series([[-2]], dtype=pl.List(pl.Int64)))] == [
        b"\x01\x00\x02\x01" + b"\x02\x01" + b"\x03" + b"\xfe" + b"\xff" * 7
    ]
    # With 32 bits for every number.
    latencies, executions, users = unpacked([struct.pack("<i2i2iq", 2, -9, 70_000, 1, 2, 5)], 0)
    assert [each.tolist() for (each,) in (latencies, executions, users)] == [[-9, 70_000], [1, 2], [5]]
