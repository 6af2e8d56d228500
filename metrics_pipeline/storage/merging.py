"""Several streams read at once and yielded as one."""

from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")


def merge(streams: Sequence[Generator[T]]) -> Generator[T]:
    """The items of all streams in the order in which they come, each stream's own in its order.

    Every stream is one item ahead of the reader, so no more than one item per stream waits. Raises the first exception
    of a stream. However the reading ends, all the streams are closed then.
    """
    with ThreadPoolExecutor(len(streams), thread_name_prefix="merge") as threads:
        ahead: dict[Future[tuple[T, ...]], Generator[T]] = {}

        def advance(stream: Generator[T]) -> None:
            ahead[threads.submit(_next, stream)] = stream

        try:
            for stream in streams:
                advance(stream)
            while ahead:
                for future in wait(ahead, return_when=FIRST_COMPLETED).done:
                    stream = ahead.pop(future)
                    for item in future.result():
                        advance(stream)
                        yield item
        finally:
            # A generator cannot be closed while a thread is in it.
            wait(ahead)
            for stream in streams:
                stream.close()


def _next(stream: Generator[T]) -> tuple[T, ...]:
    """The next item, or nothing at the end: a future cannot raise StopIteration."""
    for item in stream:
        return (item,)
    return ()
