import threading
from collections.abc import Generator

import pytest

from metrics_pipeline.storage.merging import merge


def test_every_item_of_every_stream_comes_once_and_in_its_streams_order() -> None:
    merged = list(merge([(("a", n) for n in range(100)), (("b", n) for n in range(3)), (_ for _ in ())]))
    assert [n for name, n in merged if name == "a"] == list(range(100))
    assert [n for name, n in merged if name == "b"] == [0, 1, 2]
    assert len(merged) == 103


def test_the_streams_are_read_at_the_same_time() -> None:
    # Neither passes the barrier without the other; one after the other they would break it.
    barrier = threading.Barrier(2, timeout=30)

    def stream(name: str) -> Generator[str]:
        for _ in range(10):
            barrier.wait()
            yield name

    assert sorted(merge([stream("a"), stream("b")])) == ["a"] * 10 + ["b"] * 10


def test_an_error_of_one_stream_is_raised_and_closes_the_others() -> None:
    closed = []

    def failing() -> Generator[int]:
        yield 1
        raise ValueError("the second item")

    def endless() -> Generator[int]:
        try:
            while True:
                yield 0
        finally:
            closed.append("endless")

    with pytest.raises(ValueError, match="the second item"):
        list(merge([endless(), failing()]))
    assert closed == ["endless"]


def test_a_reader_that_stops_early_closes_the_streams() -> None:
    closed = []

    def endless(name: str) -> Generator[str]:
        try:
            while True:
                yield name
        finally:
            closed.append(name)

    merged = merge([endless("a"), endless("b")])
    next(merged)
    merged.close()
    assert sorted(closed) == ["a", "b"]
