"""The logs of a day in buckets of agents, with texts as numbers: two buckets at once fit into memory."""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import polars as pl

from metrics_pipeline.logs.lake_columns import HAS_FAILED, IS_SUCCESSFUL, stored_error_type, stored_user_id
from metrics_pipeline.metrics.catalog import UNKNOWN_ERROR_TYPE
from metrics_pipeline.metrics.dimensions import Dimension, log_schema
from metrics_pipeline.metrics.upstream import FLAGS

# On average. A log takes 40 bytes, and four times as many while it is grouped. A user is hashed in each of his buckets.
_LOGS_PER_BUCKET = 2_000_000
# Where one part begins or ends, a processor would be idle.
_PARTS_AT_ONCE = 2


@contextmanager
def log_buckets(
    logs: pl.LazyFrame, parts: Iterable[pl.LazyFrame], dimensions: Sequence[Dimension]
) -> Iterator[list[pl.LazyFrame]]:
    """The logs of a log_frame(), which its parts have too, in the columns of log_schema(); token_count in 64 bits.

    All logs of an agent are in the same bucket. Several buckets are written to files of a temporary folder first, with
    numbers in place of texts, 32 bytes for each log. A text is kept once, for as long as a frame refers to it.
    """
    number_of_logs = logs.select(pl.len()).collect(engine="streaming").item()
    buckets = -(-number_of_logs // _LOGS_PER_BUCKET)
    if buckets <= 1:
        yield [_compact(logs, dimensions).collect(engine="streaming").lazy()]
        return
    texts = [name for name, dtype in log_schema(dimensions).items() if dtype == pl.Categorical]
    # Numbers keep their texts for as long as any frame has a text of Polars' only category.
    kept = pl.Series(["a text"], dtype=pl.Categorical)
    bucket = (pl.col("agent_id").fill_null(0) % buckets).alias("bucket")
    with tempfile.TemporaryDirectory(prefix="metrics-pipeline-") as folder:

        def write(number: int, part: pl.LazyFrame) -> None:
            numbers = _compact(part, dimensions).with_columns(pl.col(texts).to_physical())
            files = pl.PartitionBy(f"{folder}/{number}", key=bucket, include_key=False)
            numbers.sink_ipc(files, compression="uncompressed", maintain_order=False)

        with ThreadPoolExecutor(_PARTS_AT_ONCE) as threads:
            for _ in threads.map(write, count(), parts):
                pass
        names = sorted({of_bucket.name for of_bucket in Path(folder).glob("*/*")})
        numbers = [pl.scan_ipc(f"{folder}/*/{name}/*.ipc") for name in names]
        yield [of_bucket.with_columns(pl.col(texts).cat.to(kept.dtype)) for of_bucket in numbers]


def _compact(logs: pl.LazyFrame, dimensions: Sequence[Dimension]) -> pl.LazyFrame:
    schema = {**log_schema(dimensions), "token_count": pl.Int64()}
    return logs.with_columns(
        has_failed=HAS_FAILED.fill_null(False),
        is_successful=IS_SUCCESSFUL.fill_null(False),
        **{f"is_{key}": pl.col(f"is_{key}").fill_null(False) for key in FLAGS},
        token_count=pl.col("token_count").fill_null(0),
        user_id=stored_user_id(pl.col("user_id")),
        error_type=pl.when(HAS_FAILED).then(stored_error_type(pl.col("error_type")).fill_null(UNKNOWN_ERROR_TYPE)),
    ).select(pl.col(name).cast(dtype) for name, dtype in schema.items())
