"""Logs that Spark reads: the tests of every source, and what tables and views of Spark may hold."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from metrics_pipeline.errors import ContractError, PermanentError, TransientError
from metrics_pipeline.logs import spark_partials
from metrics_pipeline.logs.source import LogSource
from metrics_pipeline.logs.spark_logs import KIND, SparkLogs
from metrics_pipeline.logs.spark_partials import SparkCounts
from metrics_pipeline.logs.spark_session import Spark
from metrics_pipeline.metrics.dimensions import parse_dimensions
from metrics_pipeline.metrics.fingerprint import SourceFingerprint
from metrics_pipeline.metrics.verification import Unreadable
from metrics_pipeline.metrics.windows import DayWindow
from metrics_pipeline.pipeline.aggregation import AggregationOptions, compute_day, store_day
from metrics_pipeline.pipeline.opening import open_logs
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.store.publishing import Reason
from metrics_pipeline_tests.days import DAY, WINDOW, Log, assert_exact, column, store_agents, store_logs
from metrics_pipeline_tests.logs.lakes import frame
from metrics_pipeline_tests.logs.spark_sessions import LOCAL, STARTS_SPARK, session_of
from metrics_pipeline_tests.logs.test_source import (  # noqa: F401 - played here, with the source of the fixture `fill`
    AGENTS,
    LOGS,
    NEXT_DAY,
    Fill,
    empty_of_logs,
    test_a_day_is_delivered_in_parts_that_hold_each_of_its_logs_once,
    test_a_value_that_was_corrected_changes_the_fingerprint,
    test_days_of_any_source_are_stored_as_the_oracle_has_them_and_a_correction_makes_one_dirty,
    test_logs_and_costs_of_each_agent_are_told_by_day,
    test_suspicious_values_are_counted_and_the_newest_shown,
    test_the_fingerprints_of_days_are_those_that_follow_from_reading_them,
    test_the_first_log_is_the_oldest_one,
)
from metrics_pipeline_tests.pipeline import test_breakdowns as breakdowns
from metrics_pipeline_tests.test_exactness_variants import UUIDS, difficult_day

pytest.importorskip("pyspark", reason="the extra [spark] is not installed")
pytestmark = STARTS_SPARK


@pytest.fixture(scope="module")
def session() -> Iterator[Any]:
    with session_of(LOCAL) as session:
        yield session


def files(folder: Path, logs: Sequence[Log]) -> str:
    """Replaces the files in `folder` by one with these logs, and returns their METRICS_LOGS_TABLE."""
    frame(logs).write_parquet(folder / "part-0.parquet")
    return f"parquet.`{folder}`"


@pytest.fixture
def fill(session: Any, database: Database, tmp_path: Path) -> Fill:
    """Gives Spark these logs. They are stored in PostgreSQL too, for the oracle."""

    def filled(agents: Mapping[str, str], logs: Sequence[Log]) -> LogSource:
        empty_of_logs(database)
        store_agents(database, agents)
        store_logs(database, logs)
        return SparkLogs(LOCAL, files(tmp_path, logs), {})

    return filled


def aggregate(database: Database, source: SparkLogs, window: DayWindow = WINDOW) -> None:
    computed = compute_day(database, source, window, AggregationOptions())
    store_day(database, computed, run_id="a run", reason=Reason.MANUAL)


def test_keys_of_json_are_read_as_postgresql_reads_them(session: Any, database: Database, tmp_path: Path) -> None:
    values = ['"u"', "7", "-0", "1.50", "1e2", "123456789012345678901", "true", "null", "[1, 2]", "[1,2]", "[1.0, 2]"]
    values += ['{"b": 1, "a": 2}', '{"a": 2, "b": 1}', '"\\ud83d\\ude00"', '"\\\\u0041"', '"\\u0041"', '" "', '"null"']
    values += ["-0.0", "0e5", "12345678901234567", '{"é": 1, "a": [{"d": "\\u2028\\u0001", "c": 2e2}]}', '"tab\\t"']
    texts = [f'{{"x": {{"user_id": "inner"}}, "user_id": {value}}}' for value in values]
    texts += ['{"user_id": "a", "user_id": "b"}', '{"user_id": "a", "user_id": null}', '{"\\u0075ser_id": "escaped"}']
    texts += ['"user_id"', '[{"user_id": "in a list"}]', "null", "{}", ' \n{"user_id": "after space"}']
    texts += ['{"human_intervention": "true"}', '{"human_intervention": true, "user_id": 1e0}', '{"a": "true"}']
    logs = [Log(str(number), metadata=metadata) for number, metadata in enumerate(texts)]
    # One agent has all of them, so that values which are one in PostgreSQL must be one here.
    logs += [Log("all", metadata=metadata) for metadata in texts]
    store_agents(database, dict.fromkeys((log.agent_id for log in logs), "active"))
    store_logs(database, logs)
    aggregate(database, SparkLogs(LOCAL, files(tmp_path, logs), {}))
    assert_exact(database)


def test_a_view_may_have_other_names_and_types(session: Any, database: Database, tmp_path: Path) -> None:
    logs = [
        Log("a", "ok", 5, 7, "1.5", None, '{"user_id": "u", "human_intervention": true}'),
        Log("a", "failed", 6, 8, "12345678.000000001", "time`out", '{"user_id": "v"}'),
        Log("b", "failed", 6, 8, "-0.000000000500", "it's", '{"user_id": "v"}'),
        # What is a zero byte there: PostgreSQL cannot store one.
        Log("b", "failed", 6, 8, "0", "it's", '{"user_id": "\ufffd"}'),
    ]
    store_agents(database, {"a": "active", "b": "active"})
    store_logs(database, logs)
    session.sql(
        f"""CREATE OR REPLACE TEMPORARY VIEW their_logs AS
        SELECT agent_id AS `the ``agent`, CAST(`timestamp` AS TIMESTAMP_NTZ) AS at, status, error_type,
               CAST(latency_ms AS BIGINT) AS ms, CAST(token_count AS SMALLINT) AS token_count,
               CAST(cost_usd AS DECIMAL(30, 12)) AS cost_usd, get_json_object(metadata, '$.user_id') AS user_id,
               named_struct('human_intervention', CAST(get_json_object(metadata, '$.human_intervention') AS BOOLEAN),
                            'user_id', replace(get_json_object(metadata, '$.user_id'), '\ufffd', chr(0))) AS metadata
        FROM {files(tmp_path, logs)}"""
    )
    columns = {"agent_id": "the `agent", "timestamp": "at", "latency_ms": "ms"}
    statuses = {"ok": "success"}
    dimensions = parse_dimensions("user=metadata.user_id,helped=metadata.human_intervention,error=error_type")
    spark = SparkLogs(LOCAL, "their_logs", columns, statuses, dimensions)
    aggregate(database, spark)
    assert column(database, "successful_executions") == [1, 0]
    of_spark, of_postgres = (
        compute_day(database, source, WINDOW, AggregationOptions())
        for source in (spark, open_logs(database, dimensions, statuses))
    )
    assert of_spark.metrics.metrics.equals(of_postgres.metrics.metrics)
    assert of_spark.breakdown.metrics.equals(of_postgres.breakdown.metrics)


def test_texts_with_a_collation_are_told_apart_as_in_postgresql(
    session: Any, database: Database, tmp_path: Path
) -> None:
    logs = [
        Log("a", "failed", 1, cost_usd="1e-10", error_type="Timeout", metadata='{"user_id": "U", "x": [1]}'),
        Log("a", "Failed", 2, cost_usd="0.5", error_type="timeout", metadata='{"USER_ID": "nobody"}'),
        Log("a", "failed", 3, cost_usd="1E-10", error_type="timeout", metadata='{"user_id": "u", "X": [1]}'),
        # Read here, not by Spark.
        Log("A", "SUCCESS", metadata='{"user_id": ["V"]}'),
        Log("A", "success", metadata='{"user_id": ["v"]}'),
    ]
    store_agents(database, {"a": "active", "A": "active"})
    store_logs(database, logs)
    texts = ("agent_id", "status", "cost_usd", "error_type", "metadata")
    session.sql(
        f"""CREATE OR REPLACE TEMPORARY VIEW collated AS
        SELECT * EXCEPT ({", ".join(texts)}), {", ".join(f"{name} COLLATE UTF8_LCASE AS {name}" for name in texts)}
        FROM {files(tmp_path, logs)}"""
    )
    aggregate(database, SparkLogs(LOCAL, "collated", {}))
    assert column(database, "unique_users") == [2, 2]
    assert_exact(database)


def test_settings_of_the_cluster_do_not_change_what_our_statements_mean(
    session: Any, database: Database, tmp_path: Path
) -> None:
    logs = [Log(agent, cost_usd="1e-10", error_type="e") for agent in ("it's", "back\\slash", "${spark.app.name}")]
    store_agents(database, {log.agent_id or "": "active" for log in logs})
    store_logs(database, logs)
    session.sql(
        f"""CREATE OR REPLACE TEMPORARY VIEW patterns AS
        SELECT * EXCEPT (agent_id), agent_id AS `agent.id`, 'another' AS `agent_id` FROM {files(tmp_path, logs)}"""
    )
    theirs = {
        "spark.sql.ansi.enabled": "false",
        "spark.sql.session.timeZone": "Asia/Tokyo",
        "spark.sql.parser.escapedStringLiterals": "true",
        "spark.sql.parser.quotedRegexColumnNames": "true",
        "spark.sql.variable.substitute": "true",
    }
    for name, value in theirs.items():
        session.conf.set(name, value)
    aggregate(database, SparkLogs(LOCAL, "patterns", {"agent_id": "agent.id"}))
    assert_exact(database)


def test_metadata_may_be_a_variant(session: Any, database: Database, tmp_path: Path) -> None:
    values = ['{"user_id": "u", "human_intervention": true}', '{"user_id": 7}', '{"user_id": "7"}', "null", None]
    logs = [Log(metadata=metadata) for metadata in values]
    store_agents(database, {"a": "active"})
    store_logs(database, logs)
    session.sql(
        f"""CREATE OR REPLACE TEMPORARY VIEW variants AS
        SELECT * EXCEPT (metadata), parse_json(metadata) AS metadata FROM {files(tmp_path, logs)}"""
    )
    aggregate(database, SparkLogs(LOCAL, "variants", {}))
    assert column(database, "unique_users") == [2]
    assert_exact(database)


def test_the_logs_by_the_values_of_dimensions_are_those_of_postgresql(
    session: Any, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In two parts.
    monkeypatch.setattr(spark_partials, "_LOGS_PER_BUCKET", 250)
    texts = [
        # Not read by Spark: values that it writes otherwise, and places of lists.
        r'{"model": "\u006d"}', r'{"mod\u0065l": "escaped"}', '{"model": "first", "model": "last"}',
        '{"x": {"model": "inner"}}', '{"x": {"model": "inner"}, "model": "outer"}', '{"model": ["m"]}',
        '{"x": "{", "model": "m"}', '{"x": "model", "y": "n"}', '{"model":""}', '["model", "m"]', '{"model": {}}',
        '{"model": 1.50, "user_id": 1e2}', '{"model": "1.50", "user_id": "1e2"}', '{"model": null}', '{"model" : "m"}',
        '{"x": {"model": "1.5"}, "model": 1.5}', '{"model": "[m]"}', '{"model": "12345678901234567"}',
        '{"release": {"v": "2.0.1"}}', '{"release": {"v": 2.0}}', '{"release": {"v": [1, 2]}}', '{"release": "v"}',
        r'{"release": "{\"v\": 3}"}', '{"release": {"v": {"v": 4}}}', '{"v": 5, "release": {}}',
        '{"release": [{"v": 6}]}',
        r'{"release": "{\u0022v\u0022: 7}"}', '{"release": {"v": true}}', '{"release": {"v": [[8], {"v": 9}]}}',
    ]  # fmt: skip
    logs = [
        *breakdowns.LOGS,
        *(Log("c", latency_ms=7, metadata=metadata) for metadata in texts),
        *(Log("c", cost_usd=cost, metadata='{"model": "dear"}') for cost in ("1e-12", "1e-9", "9223372036.854775808")),
        # More values than are kept.
        *(Log("d", cost_usd="0.1", metadata=f'{{"model": "m{number}", "user_id": "u"}}') for number in range(60)),
    ]
    store_agents(database, {"a": "active", "b": "active", "c": "active", "d": "active", "idle": "active"})
    store_logs(database, logs)
    dimensions = parse_dimensions("model,version=metadata.release.v,latency=latency_ms,item=metadata.release.v.0")
    spark = SparkLogs(LOCAL, files(tmp_path, logs), {}, dimensions=dimensions)
    stored = compute_day(database, spark, WINDOW, AggregationOptions())
    store_day(database, stored, run_id="a run", reason=Reason.MANUAL)
    item = ("metadata #>> '{release,v,0}'", "jsonb_typeof(metadata #> '{release,v,0}') IN ('array', 'object')")
    values = {"model": breakdowns.MODEL, "version": breakdowns.VERSION, "latency": breakdowns.LATENCY, "item": item}
    breakdowns.assert_values_exact(database, **values)
    # A corrected value makes the day dirty, of its own dimension only.
    corrected = [replace(log, metadata=log.metadata and log.metadata.replace('"m0"', '"m00"')) for log in logs]
    # The next day has no logs.
    days = {DAY: stored, NEXT_DAY.metric_date: compute_day(database, spark, NEXT_DAY, AggregationOptions())}
    with database.snapshot() as snapshot:
        found = spark.fingerprints(snapshot, [WINDOW, NEXT_DAY], KIND)
        assert found == {day: computed.metrics.fingerprint for day, computed in days.items()}
        table = files(tmp_path, corrected)
        present = [
            SparkLogs(LOCAL, table, {}, dimensions=parse_dimensions(each)).fingerprints(snapshot, [WINDOW], KIND)[DAY]
            for each in ("model", "version=metadata.release.v")
        ]
    assert [stored.metrics.fingerprint.equals(each) for each in present if isinstance(each, SourceFingerprint)] == [
        False,
        True,
    ]


def test_the_users_of_a_large_day_arrive_in_parts_and_spark_keeps_nothing_of_it(
    session: Any, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spark_partials, "_LOGS_PER_BUCKET", 80)
    store_agents(database, dict.fromkeys(UUIDS[:3], "active"))
    store_logs(database, difficult_day())
    aggregate(database, SparkLogs(LOCAL, files(tmp_path, difficult_day()), {}))
    assert_exact(database)
    assert session._jsparkSession.sharedState().cacheManager().isEmpty()


@pytest.mark.parametrize("name", ["default.late_logs", "`default`.`late_logs`"])
def test_a_late_file_of_a_table_is_counted(session: Any, database: Database, tmp_path: Path, name: str) -> None:
    files(tmp_path, [Log()])
    session.sql("DROP TABLE IF EXISTS late_logs")
    session.sql(f"CREATE TABLE late_logs USING parquet LOCATION '{tmp_path}'")
    spark = SparkLogs(LOCAL, name, {})
    with database.snapshot() as snapshot:
        assert spark.counts(snapshot, [WINDOW, NEXT_DAY]) == {DAY: 1, NEXT_DAY.metric_date: 0}
        frame([Log()]).write_parquet(tmp_path / "late.parquet")
        assert spark.counts(snapshot, [WINDOW]) == {DAY: 2}


def test_a_day_whose_logs_change_while_it_is_read_is_tried_again(
    session: Any, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spark = SparkLogs(LOCAL, files(tmp_path, [Log(error_type="before")]), {})
    by_agent = SparkCounts.by_agent

    def write_and_read(*of: Any) -> pl.DataFrame:
        # A transaction that waited for Spark would be ended after half an hour.
        assert not snapshot.in_transaction()
        # The counts and sums are the same afterwards, but not the log.
        files(tmp_path, [Log(metadata='{"user_id": "after"}')])
        return by_agent(*of)

    monkeypatch.setattr(SparkCounts, "by_agent", write_and_read)
    with (
        database.snapshot() as snapshot,
        pytest.raises(TransientError, match=f"Logs of {DAY} changed while they were read"),
    ):
        spark.read_day(snapshot, WINDOW, include_inactive_agents=False)


def test_a_latency_of_more_than_32_bits_makes_only_its_own_day_unreadable(
    session: Any, database: Database, tmp_path: Path
) -> None:
    logs = frame([Log(timestamp=WINDOW.start), Log(timestamp=NEXT_DAY.start)])
    latency = pl.when(pl.col("timestamp") == WINDOW.start).then(2**31).alias("latency_ms")
    logs.with_columns(latency).write_parquet(tmp_path / "part-0.parquet")
    spark = SparkLogs(LOCAL, f"parquet.`{tmp_path}`", {})
    with database.snapshot() as snapshot:
        found = spark.fingerprints(snapshot, [WINDOW, NEXT_DAY], spark.fingerprint_kinds[0])
        quality = spark.quality(snapshot, [WINDOW, NEXT_DAY], future_from=NEXT_DAY.end, examples=1)
        with pytest.raises(PermanentError, match=r"holds logs that cannot be read: .*CAST_OVERFLOW"):
            spark.read_day(snapshot, WINDOW, include_inactive_agents=False)
    of_day, of_next = found.values()
    assert isinstance(of_day, Unreadable)
    assert "CAST_OVERFLOW" in of_day.reason
    assert not isinstance(of_next, Unreadable)
    assert (quality.logs, [*quality.unreadable]) == (1, [DAY])


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("metadata", '{"user_id', "metadata is not JSON"), ("cost_usd", "1,5", "the cost '1,5' is not a number")],
)
def test_a_value_that_cannot_be_read_is_named(
    session: Any, database: Database, tmp_path: Path, name: str, value: str, words: str
) -> None:
    table = files(tmp_path, [Log(**{name: value})])
    with database.snapshot() as snapshot, pytest.raises(PermanentError, match=words):
        SparkLogs(LOCAL, table, {}).read_day(snapshot, WINDOW, include_inactive_agents=False)


def test_everything_that_a_table_lacks_is_named_in_one_error(session: Any, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"does not hold what METRICS_LOGS_TABLE names: .*nobodys_logs"):
        SparkLogs(LOCAL, "nobodys_logs", {})
    frame([]).drop("status").with_columns(pl.col("cost_usd").cast(pl.Float64)).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(ContractError) as error:
        SparkLogs(LOCAL, f"parquet.`{tmp_path}`", {"agent_id": "agent"})
    message = str(error.value)
    assert (
        "column agent (as agent_id) is missing; column status is missing; column cost_usd has type Float64" in message
    )
    assert "or logs that have them in METRICS_LOGS_TABLE" in message


def test_a_column_that_spark_cannot_deliver_is_named_with_its_type_if_it_is_read(session: Any, tmp_path: Path) -> None:
    session.sql(
        f"""CREATE OR REPLACE TEMPORARY VIEW intervals AS
        SELECT *, make_interval(1) AS pause, named_struct('user_id', 1, 'user_id', 2) AS twice
        FROM {files(tmp_path, [Log()])}"""
    )
    assert SparkLogs(LOCAL, "intervals", {}).warnings == ()
    with pytest.raises(ContractError) as error:
        SparkLogs(LOCAL, "intervals", {"error_type": "pause", "metadata": "twice"})
    assert "column pause of type interval" in str(error.value)
    assert "column twice of type struct<user_id:int,user_id:int>" in str(error.value)


def test_a_session_that_the_cluster_has_ended_is_opened_again(session: Any) -> None:
    session.sparkContext._jsc.sc().stop()
    assert Spark(LOCAL).frame("SELECT 1 AS one").item() == 1
