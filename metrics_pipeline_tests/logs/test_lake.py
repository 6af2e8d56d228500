"""Logs in a lake: equal to those of PostgreSQL in every cell."""

import sys
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy import text

from metrics_pipeline.errors import ContractError, PermanentError
from metrics_pipeline.logs import lake_buckets, lake_tables
from metrics_pipeline.logs.lake_digest import text_hash
from metrics_pipeline.logs.lake_logs import LakeLogs
from metrics_pipeline.metrics.calculator import merge_partials
from metrics_pipeline.metrics.dimensions import parse_dimensions
from metrics_pipeline.metrics.fingerprint import SourceFingerprint
from metrics_pipeline.metrics.windows import DayWindow, day_window
from metrics_pipeline.pipeline.aggregation import AggregatedDay, AggregationOptions, compute_day, store_day
from metrics_pipeline.pipeline.opening import open_logs
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.store.publishing import Reason
from metrics_pipeline_tests.days import (
    DAY,
    NOON,
    WINDOW,
    Log,
    assert_exact,
    column,
    empty,
    execute,
    query,
    store_agents,
    store_logs,
)
from metrics_pipeline_tests.examples import examples
from metrics_pipeline_tests.logs.lakes import frame, iceberg_catalog, write_parquet
from metrics_pipeline_tests.oracle import expected_values, stored_values
from metrics_pipeline_tests.pipeline import test_breakdowns as breakdowns
from metrics_pipeline_tests.test_exactness_properties import days
from metrics_pipeline_tests.test_exactness_properties import logs as logs_of

NEXT_DAY = day_window(DAY + timedelta(days=1), "UTC")
LOGS = [Log(latency_ms=1, cost_usd="1", timestamp=window.start) for window in (WINDOW, WINDOW, NEXT_DAY)]


DECLARED = "model,user=metadata.user_id,nested=metadata.metadata.user_id,first=metadata.user_id.0,latency=latency_ms"
#: The value of each dimension in SQL, and whether it is a list.
VALUES = {
    name: (f"metadata #>> '{path}'", f"jsonb_typeof(metadata #> '{path}') IN ('array', 'object')")
    for name, path in {
        "model": "{model}", "user": "{user_id}", "nested": "{metadata,user_id}", "first": "{user_id,0}"
    }.items()
} | {"latency": ("latency_ms::text", "false")}  # fmt: skip


def aggregate(database: Database, lake: LakeLogs, window: DayWindow = WINDOW, **options: bool) -> AggregatedDay:
    computed = compute_day(database, lake, window, AggregationOptions(**options))
    return store_day(database, computed, run_id="a run", reason=Reason.MANUAL)


@examples(40)
@given(day=days(), include_inactive=st.booleans())
def test_any_day_is_as_exact_from_a_lake_as_from_postgresql(
    loose_database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    day: tuple[DayWindow, dict[str, str], list[Log]],
    include_inactive: bool,
) -> None:
    window, agents, logs = day
    empty(loose_database)
    store_agents(loose_database, agents)
    store_logs(loose_database, logs)
    lake = LakeLogs(write_parquet(tmp_path, logs), {})
    aggregated = aggregate(loose_database, lake, window, include_inactive_agents=include_inactive)
    assert_exact(loose_database, window, include_inactive=include_inactive)
    with loose_database.snapshot() as snapshot:
        of_lake, of_postgres = (
            source.read_day(snapshot, window, include_inactive_agents=True)
            for source in (lake, open_logs(loose_database))
        )
    # Also what no metric shows: who the users are.
    merged = (merge_partials(each.partials).by_agent for each in (of_lake, of_postgres))
    users = [{agent: sorted(ids) for agent, ids in each.select("agent_id", "user_ids").rows()} for each in merged]
    assert users[0] == users[1]
    assert aggregated.computed.metrics.fingerprint.kind == ("polars", 2)
    # In several buckets and parts, as a large day.
    with monkeypatch.context() as small, loose_database.snapshot() as snapshot:
        small.setattr(lake_buckets, "_LOGS_PER_BUCKET", 2)
        small.setattr(lake_tables, "_GROUP_BYTES", 1)
        small.setattr(lake_tables, "_PART_ROWS", 3)
        found = lake.fingerprints(snapshot, [window], ("polars", 2))
    assert found == {window.metric_date: aggregated.computed.metrics.fingerprint}


# The oracle of values does not shorten error types; that of agents does.
dense_logs = logs_of(WINDOW, ["a", "b"]).map(
    lambda log: replace(log, error_type=log.error_type and log.error_type[:200], timestamp=NOON)
)


# An irregular cost before a regular one, below 0: what the first is rounded up by must not be taken off the second.
@examples(8)
@example(
    logs=[Log(timestamp=NOON, cost_usd="0.0000000005"), Log(timestamp=NOON, latency_ms=0, cost_usd="-0.000000001")]
)
@given(logs=st.lists(dense_logs, min_size=5, max_size=20))
def test_any_logs_have_the_values_that_postgresql_finds_in_them(
    loose_database: Database, tmp_path: Path, logs: list[Log]
) -> None:
    empty(loose_database)
    store_agents(loose_database, {"a": "active", "b": "active"})
    store_logs(loose_database, logs)
    aggregate(loose_database, LakeLogs(write_parquet(tmp_path, logs), {}, dimensions=parse_dimensions(DECLARED)))
    assert_exact(loose_database)
    with loose_database.engine.connect() as connection:
        for name, (value, is_list) in VALUES.items():
            expected = expected_values(connection, WINDOW.start, WINDOW.end, value, is_list)
            stored = stored_values(connection, DAY, name)
            # Costs that are finer than a nano-dollar add up to the agent's, and each is wrong by less than that.
            for keys, row in expected.items():
                assert abs(row.pop("total_cost_usd") - stored[keys].pop("total_cost_usd")) <= Decimal("1e-9")
            assert stored == expected


@pytest.mark.parametrize("logs_per_bucket", [1_000, 20], ids=["one bucket", "buckets in files"])
def test_the_logs_by_the_values_of_dimensions_are_those_of_postgresql(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logs_per_bucket: int
) -> None:
    monkeypatch.setattr(lake_buckets, "_LOGS_PER_BUCKET", logs_per_bucket)
    monkeypatch.setattr(lake_tables, "_PART_ROWS", 7)
    store_agents(database, {"a": "active", "b": "active", "idle": "active", "retired": "inactive"})
    logs = [
        *breakdowns.LOGS,
        # What the quick way must leave to the parser: escapes, further keys, keys of inner objects and after lists.
        *(
            Log("c", metadata=metadata)
            for metadata in (
                r'{"model": "\u006d"}', r'{"mod\u0065l": "escaped"}', '{"model": "first", "model": "last"}',
                '{"x": {"model": "inner"}}', '{"x": {"model": "inner"}, "model": "outer"}', '{"x": [], "model": "m"}',
                '{"x": "{", "model": "m"}', '{"model": "m", "x": {"y": ["model"]}}', '{"model" : "spaced"}',
                '{"x": "model", "y": "n"}', '{"model":"m"}', '{"model":""}', '["model", "m"]', '{"model": {}}',
                '{"user_id": "u", "model": 1.50, "release": {"v": [1, 2]}}', ' { "model": "m" } ', '{"model": null}',
            )
        ),
        *(Log("c", cost_usd=cost, metadata='{"model": "dear"}') for cost in ("9223372036.854775808", "1e-9")),
        # More values than are kept.
        *(Log("d", cost_usd="0.1", metadata=f'{{"model": "m{number}", "user_id": "u"}}') for number in range(60)),
    ]  # fmt: skip
    store_agents(database, {"c": "active", "d": "active"})
    store_logs(database, logs)
    dimensions = parse_dimensions("model,version=metadata.release.v,latency=latency_ms,item=metadata.release.v.0")
    lake = LakeLogs(write_parquet(tmp_path, logs), {}, dimensions=dimensions)
    stored = aggregate(database, lake).computed.metrics.fingerprint
    monkeypatch.setattr(lake_buckets, "_LOGS_PER_BUCKET", 10)
    with database.snapshot() as snapshot:
        assert lake.fingerprints(snapshot, [WINDOW], ("polars", 2)) == {DAY: stored}
    item = ("metadata #>> '{release,v,0}'", "false")
    values = {"model": breakdowns.MODEL, "version": breakdowns.VERSION, "latency": breakdowns.LATENCY, "item": item}
    breakdowns.assert_values_exact(database, **values)
    kinds = query(database, "SELECT value_kind, count(*) FROM agent_dimension_metrics GROUP BY 1 ORDER BY 1")
    assert [kind for kind, _ in kinds] == ["list", "none", "other", "value"]
    # A corrected value makes the day dirty, of its own dimension only.
    corrected = [replace(log, metadata=log.metadata and log.metadata.replace('"m0"', '"m00"')) for log in logs]
    url = write_parquet(tmp_path, corrected)
    with database.snapshot() as snapshot:
        present = [
            LakeLogs(url, {}, dimensions=parse_dimensions(each)).fingerprints(snapshot, [WINDOW], ("polars", 2))[DAY]
            for each in ("model", "version=metadata.release.v")
        ]
    assert [stored.equals(each) for each in present if isinstance(each, SourceFingerprint)] == [False, True]


@pytest.fixture
def loose_database(database: Database) -> Database:
    execute(
        database,
        "ALTER TABLE agent_execution_logs ALTER COLUMN agent_id DROP NOT NULL, ALTER COLUMN status DROP NOT NULL",
        "ALTER TABLE agent_registry ALTER COLUMN status DROP NOT NULL",
    )
    return database


def test_a_percentile_is_interpolated_as_postgresql_does_and_not_as_engines_do(
    database: Database, tmp_path: Path
) -> None:
    # The position of 148 latencies' 95th percentile is 139.65. (hi - pos) * low + (pos - lo) * high is 14834.
    logs = [Log(latency_ms=latency) for latency in [0] * 139 + [14698] + [14908] * 8]
    store_agents(database, {"a": "active"})
    store_logs(database, logs)
    aggregate(database, LakeLogs(write_parquet(tmp_path, logs), {}))
    assert column(database, "p95_latency_ms") == [14835]
    assert_exact(database)


def test_no_transaction_is_left_open_for_the_time_that_the_files_are_read(database: Database, tmp_path: Path) -> None:
    lake = LakeLogs(write_parquet(tmp_path, LOGS), {})
    with database.snapshot() as snapshot:
        lake.read_day(snapshot, WINDOW, include_inactive_agents=False)
        assert not snapshot.in_transaction()
        # As the callers of fingerprints do: they read the ledger first.
        snapshot.execute(text("SELECT 1"))
        lake.fingerprints(snapshot, [WINDOW], lake.fingerprint_kinds[0])
        assert not snapshot.in_transaction()


@pytest.mark.parametrize("dtype", [pl.Decimal(38, 9), pl.Decimal(38, 12), pl.Decimal(18, 4)], ids=str)
def test_costs_are_added_in_the_decimals_of_the_lake(database: Database, tmp_path: Path, dtype: pl.Decimal) -> None:
    costs = {9: "0.000000001", 12: "0.000000000500", 4: "0.0001"}
    logs = [
        Log("a", cost_usd=costs[dtype.scale]),
        Log("a", cost_usd="-3.5"),
        Log("b", cost_usd="12345678.25"),
        Log("b"),
    ]
    store_agents(database, {"a": "active", "b": "active"})
    store_logs(database, logs)
    frame(logs).with_columns(pl.col("cost_usd").cast(dtype)).write_parquet(tmp_path / "logs.parquet")
    aggregate(database, LakeLogs(f"parquet://{tmp_path}/*.parquet", {}))
    assert_exact(database)


def test_columns_may_have_other_names_and_types_and_metadata_columns_of_its_own(
    database: Database, tmp_path: Path
) -> None:
    logs = [
        Log("a", "success", 5, 7, "1.5", None, '{"user_id": "u", "human_intervention": true}'),
        Log("a", "failed", 6, 8, "2.5", "timeout", '{"user_id": "v"}'),
    ]
    store_agents(database, {"a": "active"})
    store_logs(database, logs)
    # Naive timestamps are UTC. Integers of 64 bits are what many writers write.
    theirs = frame(logs).select(
        pl.col("agent_id").cast(pl.Categorical).alias("agent"),
        pl.col("timestamp").dt.replace_time_zone(None).cast(pl.Datetime("ns")).alias("at"),
        "status",
        pl.col("latency_ms").cast(pl.Int64).alias("ms"),
        pl.col("token_count").cast(pl.Int64),
        pl.col("cost_usd").cast(pl.Decimal(20, 9)),
        "error_type",
        user=pl.Series(["u", "v"]),
        helped=pl.Series([True, None]),
    )
    theirs.write_parquet(tmp_path / "logs.parquet")
    columns = {
        "agent_id": "agent",
        "timestamp": "at",
        "latency_ms": "ms",
        "user_id": "user",
        "human_intervention": "helped",
    }
    aggregate(database, LakeLogs(f"parquet://{tmp_path}/**/*.parquet", columns))
    assert_exact(database)
    nested = frame(logs).with_columns(
        metadata=pl.struct(user_id=pl.Series(["u", "v"]), human_intervention=pl.Series([True, None]))
    )
    nested.write_parquet(tmp_path / "logs.parquet")
    unchanged = aggregate(database, LakeLogs(f"parquet://{tmp_path}/*.parquet", {})).published
    assert (unchanged.changed, unchanged.unchanged) == (0, 1)


def test_keys_of_json_are_read_as_postgresql_reads_them(database: Database, tmp_path: Path) -> None:
    values = ['"u"', "7", "-0", "1.50", "1e2", "123456789012345678901", "true", "null", "[1, 2]", "[1,2]", "[1.0, 2]"]
    values += ['{"b": 1, "a": 2}', '{"a": 2, "b": 1}', '"\\ud83d\\ude00"', '"\\\\u0041"', '"\\u0041"', '" "', '"null"']
    values += [
        "-0.0",
        "0e5",
        "[12.5e15, -0.0, 1.50e-3]",
        '{"bb": 1, "é": 1, "a": [{"d": "\\u2028\\u0001", "c": 2e2}], "z": 1}',
    ]
    values += ["-5", "123456789012345", "1234567890123456", '"a, b}"', '""', '"true"', "0", "[]"]
    # A text with an inner object is left to the parser.
    texts = [f'{{{start}"user_id": {value}}}' for value in values for start in ('"x": {"user_id": "inner"}, ', "")]
    texts += ['{"user_id":"u","x":1}', '{"user_id":-7,"x":[]}', '{"user_id": "u" }', '{"user_id": "u", "user_id": 5}']
    texts += ['{"user_id": "a", "user_id": "b"}', '{"\\u0075ser_id": "escaped"}', '"user_id"', "[1]", "null", "{}"]
    logs = [Log(str(number), metadata=metadata) for number, metadata in enumerate(texts)]
    # One agent has all of them, so that values which are one in PostgreSQL must be one here.
    logs += [Log("all", metadata=metadata) for metadata in texts]
    store_agents(database, dict.fromkeys((log.agent_id for log in logs), "active"))
    store_logs(database, logs)
    aggregate(database, LakeLogs(write_parquet(tmp_path, logs), {}))
    assert_exact(database)


def test_everything_that_a_lake_lacks_is_named_in_one_error(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"No file matches .*nothing/\*.parquet, which METRICS_LOGS_URL names"):
        LakeLogs(f"parquet://{tmp_path}/nothing/*.parquet", {})
    wrong = frame([]).drop("status").with_columns(pl.col("cost_usd").cast(pl.Float64))
    wrong.write_parquet(tmp_path / "logs.parquet")
    with pytest.raises(ContractError) as error:
        LakeLogs(f"parquet://{tmp_path}/*.parquet", {"agent_id": "agent"})
    assert (
        "does not hold what the pipeline reads: column agent (as agent_id) is missing; column status is missing; "
        "column cost_usd has type Float64, accepted: Decimal, " in str(error.value)
    )


def test_a_day_of_a_zone_is_read_from_the_folders_of_all_its_dates(database: Database, tmp_path: Path) -> None:
    window = day_window(DAY, "America/New_York")
    edge = timedelta(microseconds=1)
    logs = [Log(timestamp=at) for at in (window.start - edge, window.start, window.end - edge, window.end)]
    store_agents(database, {"a": "active"})
    store_logs(database, logs)
    lake = LakeLogs(write_parquet(tmp_path, logs), {})
    aggregate(database, lake, window)
    assert column(database, "total_executions") == [2]
    assert_exact(database, window)


def test_folders_may_be_named_by_parts_of_the_date_and_incomplete_files_are_ignored(
    database: Database, tmp_path: Path
) -> None:
    for name in (
        "2025/03/04/a.parquet",
        "2025/03/04/_temporary/b.parquet",
        "2025/03/04/.c.parquet",
        "2025/03/06/d.parquet",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        frame(LOGS[:1]).write_parquet(tmp_path / name)
    lake = LakeLogs(f"parquet://{tmp_path}/{{date:%Y/%m/%d}}/*.parquet", {})
    with database.snapshot() as snapshot:
        assert lake.counts(snapshot, [WINDOW, NEXT_DAY]) == {DAY: 1, NEXT_DAY.metric_date: 0}


def test_the_digest_of_users_is_the_one_that_is_computed_from_their_bytes() -> None:
    """In another version of Polars it must be the same, or each stored day would become dirty."""

    def mixed(number: int, factor: int) -> int:
        for each in (factor, 0xBF58476D1CE4E5B9):
            number = number * each % 2**64
            number ^= number >> 32
        return number

    texts = ["", "a", "user-1", "12345678", "123456789", "é" * 20, "日本語😀", "x" * 64]
    factors = [0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1,
               0x510E527FADE682D1, 0x9B05688C2B3E6C1F, 0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179]  # fmt: skip
    expected = []
    for each in texts:
        data = each.encode().ljust(64, b"\0")
        words = [int.from_bytes(data[start : start + 8], "little") for start in range(0, 64, 8)]
        total = sum(map(mixed, words, factors)) + len(each.encode()) + 1
        expected.append(mixed(total % 2**64, 0xBF58476D1CE4E5B9))
    assert text_hash(pl.Series(texts)).tolist() == expected
    # Shorter texts alone are padded to fewer words.
    assert text_hash(pl.Series(texts[:5])).tolist() == expected[:5]


def test_a_lake_whose_library_is_missing_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deltalake", None)
    with pytest.raises(
        PermanentError, match=r"needs the Python package deltalake. Install it: pip install 'metrics-pipeline\[lake\]'"
    ):
        LakeLogs("delta:///nowhere", {})


def test_a_table_of_delta_or_iceberg_gives_the_same_fingerprints_and_its_new_files_touch_only_their_day(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("deltalake", reason="the extra [lake] is not installed")

    def typed(logs: list[Log]) -> pl.DataFrame:
        return frame(logs).with_columns(pl.col("cost_usd").cast(pl.Decimal(20, 9)))

    late = replace(LOGS[0], cost_usd="2")
    iceberg = iceberg_catalog(tmp_path, monkeypatch).create_table("ops.logs", schema=typed([]).to_arrow().schema)
    windows = [WINDOW, NEXT_DAY]
    lakes: dict[str, LakeLogs] = {}
    marks: dict[str, Any] = {}
    with database.snapshot() as snapshot:
        for logs, present in ((LOGS, LOGS), ([late], [*LOGS, late])):
            typed(logs).write_delta(str(tmp_path / "delta"), mode="append")
            iceberg.append(typed(logs).to_arrow())
            expected = LakeLogs(write_parquet(tmp_path, present), {}).fingerprints(snapshot, windows, ("polars", 2))
            for url in (f"delta://{tmp_path}/delta", "iceberg:lake/ops.logs"):
                lake = lakes.setdefault(url, LakeLogs(url, {}))
                before, now = marks.get(url, {}), lake.marks(snapshot, windows)
                assert lake.fingerprints(snapshot, windows, ("polars", 2)) == expected
                assert lake.first_log_at(snapshot) == WINDOW.start
                # The first files hold logs of both days.
                assert [*lake.unchanged(snapshot, windows, before, now)] == ([NEXT_DAY.metric_date] if before else [])
                marks[url] = now
