"""One difficult day on every kind of upstream tables that the contract allows, equal to the oracle each time."""

import json
import time
from datetime import timedelta
from pathlib import Path

import pytest

from metrics_pipeline.errors import ContractError, PermanentError
from metrics_pipeline.logs.lake_logs import LakeLogs
from metrics_pipeline.metrics.dimensions import parse_dimensions
from metrics_pipeline.metrics.reconciliation import DayState
from metrics_pipeline.pipeline.aggregation import AggregatedDay, AggregationOptions, compute_day, store_day
from metrics_pipeline.pipeline.opening import open_logs
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.settings import Settings
from metrics_pipeline.store.publishing import Reason
from metrics_pipeline_tests.days import (
    WINDOW,
    Log,
    aggregate,
    assert_exact_twice,
    empty,
    execute,
    judged,
    present,
    query,
    store_agents,
    store_logs,
)
from metrics_pipeline_tests.logs.lakes import write_parquet

UUIDS = [f"0000000{digit}-0000-4000-8000-0000000000ab" for digit in range(4)]

_PARTITIONED = (
    "DROP TABLE agent_execution_logs",
    """CREATE TABLE agent_execution_logs (
           id bigint GENERATED ALWAYS AS IDENTITY, agent_id text, "timestamp" timestamptz NOT NULL, status text,
           latency_ms int, token_count int, cost_usd numeric, error_type text, metadata jsonb
       ) PARTITION BY RANGE ("timestamp")""",
    'CREATE INDEX ON agent_execution_logs ("timestamp")',
    # The day lies in two partitions, and one is split once more.
    """CREATE TABLE before PARTITION OF agent_execution_logs FOR VALUES FROM (MINVALUE) TO ('2025-03-04 11:00Z')
       PARTITION BY LIST (agent_id)""",
    "CREATE TABLE before_rest PARTITION OF before DEFAULT",
    "CREATE TABLE after PARTITION OF agent_execution_logs FOR VALUES FROM ('2025-03-04 11:00Z') TO (MAXVALUE)",
)

VARIANTS = {
    "as we make them": (),
    "json metadata": ("ALTER TABLE agent_execution_logs ALTER metadata TYPE json",),
    "naive timestamps": (
        """ALTER TABLE agent_execution_logs ALTER "timestamp" TYPE timestamp USING "timestamp" AT TIME ZONE 'UTC'""",
    ),
    "uuid agents": (
        "ALTER TABLE agent_execution_logs ALTER agent_id TYPE uuid USING agent_id::uuid",
        "ALTER TABLE agent_registry ALTER id TYPE uuid USING id::uuid",
    ),
    "uuid logs of text agents": ("ALTER TABLE agent_execution_logs ALTER agent_id TYPE uuid USING agent_id::uuid",),
    "enum labels": (
        "CREATE TYPE outcome AS ENUM ('running', 'failed', 'success')",
        "CREATE TYPE standing AS ENUM ('inactive', 'active')",
        "CREATE TYPE fault AS ENUM ('timeout', 'it''s', 'unknown', '')",
        "ALTER TABLE agent_execution_logs ALTER status TYPE outcome USING status::outcome",
        "ALTER TABLE agent_execution_logs ALTER error_type TYPE fault USING error_type::fault",
        "ALTER TABLE agent_registry ALTER status TYPE standing USING status::standing",
    ),
    "small types": (
        "ALTER TABLE agent_execution_logs ALTER latency_ms TYPE smallint, ALTER token_count TYPE smallint",
        "ALTER TABLE agent_execution_logs ALTER cost_usd TYPE numeric(30, 15)",
        "ALTER TABLE agent_execution_logs ALTER agent_id TYPE varchar(40), ALTER status TYPE varchar(10)",
    ),
    "domains": (
        "CREATE DOMAIN usd AS numeric CHECK (VALUE > -1000)",
        "CREATE DOMAIN milliseconds AS bigint",
        "ALTER TABLE agent_execution_logs ALTER cost_usd TYPE usd, ALTER latency_ms TYPE milliseconds",
    ),
    "floating point": (
        "ALTER TABLE agent_execution_logs ALTER latency_ms TYPE double precision",
        "ALTER TABLE agent_execution_logs ALTER token_count TYPE bigint, ALTER cost_usd TYPE real",
    ),
    "a wide table": (
        "ALTER TABLE agent_execution_logs " + ", ".join(f"ADD extra_{n} text DEFAULT 'extra'" for n in range(60)),
        "ALTER TABLE agent_execution_logs ADD content_hash bigint DEFAULT 7, ADD user_id text DEFAULT 'u'",
        "ALTER TABLE agent_execution_logs ADD human_intervention boolean DEFAULT true, DROP extra_30",
        "ALTER TABLE agent_registry ADD agent_id text DEFAULT 'x', ADD metric_date date DEFAULT '2025-03-04'",
    ),
    "partitions": _PARTITIONED,
    "partitions of naive timestamps and json": tuple(
        statement.replace("timestamptz", "timestamp").replace("jsonb", "json") for statement in _PARTITIONED
    ),
}


def difficult_day() -> list[Log]:
    microsecond = timedelta(microseconds=1)
    moments = [WINDOW.start - microsecond, WINDOW.start, WINDOW.start + timedelta(hours=11), WINDOW.end - microsecond]
    moments.append(WINDOW.end)
    statuses = ["success", "failed", "running"]
    costs = [None, "NaN", "0.000000001", "-1.5", "0.1234567891"]
    errors = [None, "timeout", "it's", "unknown", ""]
    metadata = [
        None,
        '{"user_id": "u", "human_intervention": true}',
        '{"user_id": 1, "human_intervention": "true"}',
        "[]",
        '"text"',
        "null",
        '{ "user_id": {"a": [1,  2]} }',
    ]
    return [
        Log(
            agent_id=UUIDS[number % 4],
            timestamp=moments[number % len(moments)],
            status=statuses[number % len(statuses)],
            latency_ms=None if number % 11 == 0 else number * 37 % 1009,
            token_count=None if number % 13 == 0 else number,
            cost_usd=costs[number // 3 % len(costs)],
            error_type=errors[number // 2 % len(errors)],
            metadata=metadata[number % len(metadata)],
        )
        for number in range(210)
    ]


@pytest.fixture
def difficult(database: Database, request: pytest.FixtureRequest) -> Database:
    execute(database, *request.param)
    store_agents(database, {UUIDS[0]: "active", UUIDS[1]: "active", UUIDS[2]: "inactive"})
    store_logs(database, difficult_day())
    return database


@pytest.mark.parametrize("difficult", VARIANTS.values(), ids=VARIANTS, indirect=True)
def test_a_difficult_day_is_exact_on(difficult: Database) -> None:
    day = assert_exact_twice(difficult)
    assert query(difficult, "SELECT unique_users FROM agent_performance_metrics") == [(3,), (3,)]
    assert day.computed.metrics.skipped["agent_id"].sort().to_list() == UUIDS[2:]


@pytest.mark.parametrize("difficult", [()], indirect=True)
def test_a_difficult_day_is_exact_on_a_view_with_another_order_of_columns(difficult: Database) -> None:
    execute(
        difficult,
        "ALTER TABLE agent_execution_logs RENAME TO stored_logs",
        """CREATE VIEW agent_execution_logs AS
           SELECT metadata, error_type, cost_usd, token_count, latency_ms, status, "timestamp", agent_id, id
             FROM stored_logs""",
    )
    assert_exact_twice(difficult)


@pytest.mark.parametrize("difficult", [()], indirect=True)
def test_columns_in_place_of_metadata_are_read_as_its_keys(difficult: Database) -> None:
    of_metadata = assert_exact_twice(difficult).computed.metrics.fingerprint
    execute(
        difficult,
        "ALTER TABLE agent_execution_logs RENAME TO stored_logs",
        """CREATE VIEW agent_execution_logs AS
           SELECT id, agent_id, "timestamp", status, latency_ms, token_count, cost_usd, error_type,
                  metadata ->> 'user_id' AS user_id, metadata ->> 'human_intervention' AS human_intervention
             FROM stored_logs""",
    )
    assert assert_exact_twice(difficult).computed.metrics.fingerprint == of_metadata


@pytest.mark.parametrize("difficult", [()], indirect=True)
def test_columns_that_the_logs_do_not_have_are_null(difficult: Database) -> None:
    execute(
        difficult,
        "ALTER TABLE agent_execution_logs RENAME TO stored_logs",
        'CREATE VIEW agent_execution_logs AS SELECT id, agent_id, "timestamp", status FROM stored_logs',
    )
    assert_exact_twice(difficult)
    assert query(
        difficult,
        "SELECT DISTINCT p99_latency_ms, total_tokens, total_cost_usd, unique_users FROM agent_performance_metrics",
    ) == [(0, 0, 0, 0)]
    logs = open_logs(difficult)
    with difficult.snapshot() as snapshot:
        found = logs.quality(snapshot, [WINDOW], future_from=WINDOW.end, examples=1).suspicions
        assert logs.logs_by_agent(snapshot, [WINDOW])
        # A dimension of metadata is nowhere; one of a column that exists is.
        with pytest.raises(ContractError, match=r"model=metadata\.model: there is no column metadata"):
            open_logs(difficult, parse_dimensions("model"))
        assert open_logs(difficult, parse_dimensions("kind=status")).dimensions
    assert {kind for kind, suspicion in found.items() if suspicion.logs} == set()
    assert [verdict.state for verdict in judged(difficult, WINDOW.metric_date)] == [DayState.AGGREGATED]


@pytest.mark.parametrize("latency_type", ["double precision", "numeric"])
@pytest.mark.parametrize("cost_type", ["double precision", "real"])
def test_binary_costs_count_by_their_shortest_text_and_fractions_of_latencies_are_rounded_half_away_from_zero(
    latency_type: str, cost_type: str, database: Database
) -> None:
    execute(
        database,
        f"ALTER TABLE agent_execution_logs ALTER latency_ms TYPE {latency_type}, ALTER cost_usd TYPE {cost_type}",
        """INSERT INTO agent_execution_logs (agent_id, "timestamp", status, latency_ms, cost_usd) VALUES
           ('a', '2025-03-04 10:00Z', 'success', 2.5, 0.1), ('a', '2025-03-04 10:00Z', 'success', -0.5, 0.2),
           ('a', '2025-03-04 10:00Z', 'success', 1000000.4999999999, 0.7),
           ('a', '2025-03-04 10:00Z', 'success', 4, 1e-9),
           ('a', '2025-03-04 10:00Z', 'success', 'NaN', 'Infinity'),
           ('a', '2025-03-04 10:00Z', 'failed', NULL, 'NaN')""",
    )
    store_agents(database, {"a": "active"})
    assert_exact_twice(database)
    # Of -1, 3, 4 and 1000000. Added up as binary numbers, 0.1 + 0.2 + 0.7 is not 1.
    assert query(
        database, "SELECT p50_latency_ms, avg_latency_ms, total_cost_usd::text FROM agent_performance_metrics"
    ) == [(4, 250002, "1.000000001")]
    assert [verdict.state for verdict in judged(database, WINDOW.metric_date)] == [DayState.AGGREGATED]


def test_further_statuses_count_as_success_or_failed_in_a_table_and_in_a_lake(
    database: Database, tmp_path: Path
) -> None:
    settings = Settings.from_environment(
        {"METRICS_SUCCESS_STATUSES": "ok, SUCCESS", "METRICS_FAILED_STATUSES": "error"}
    )
    statuses = ["ok", "ok", "SUCCESS", "success", "error", "failed", "OK", "running"]
    logs = [Log(status=status, error_type=f"error of {status}") for status in statuses]
    store_agents(database, {"a": "active"})
    store_logs(database, logs)
    sources = (
        open_logs(database, statuses=settings.statuses),
        LakeLogs(write_parquet(tmp_path, logs), {}, settings.statuses),
    )
    for source in sources:
        store_day(
            database, compute_day(database, source, WINDOW, AggregationOptions()), run_id="a run", reason=Reason.MANUAL
        )
        assert query(
            database,
            """SELECT total_executions, successful_executions, failed_executions, error_distribution
               FROM agent_performance_metrics""",
        ) == [(8, 4, 2, {"error of error": 1, "error of failed": 1})]
        with database.snapshot() as snapshot:
            quality = source.quality(snapshot, [WINDOW], future_from=WINDOW.end, examples=3)
        assert [log.value for log in quality.suspicions["unknown_status"].examples] == ["OK"]


def test_a_latency_of_more_than_32_bits_makes_its_day_unreadable_and_names_the_logs_of_its_instant_with_their_agents(
    database: Database,
) -> None:
    execute(database, "ALTER TABLE agent_execution_logs ALTER latency_ms TYPE bigint, ALTER token_count TYPE bigint")
    store_agents(database, {"a": "active"})
    store_logs(database, [Log(), Log(latency_ms=2**31)])
    first, second = query(database, "SELECT id::text FROM agent_execution_logs ORDER BY id")
    [verdict] = judged(database, WINDOW.metric_date)
    assert verdict.state == DayState.UNREADABLE
    assert verdict.reason == (
        f"one of the 2 logs of 12:00:00.000000Z ({first[0]} of agent a, {second[0]} of agent a) cannot be read: "
        "integer out of range (SQLSTATE 22003)"
    )
    execute(
        database, "ALTER TABLE agent_execution_logs DROP id CASCADE", "ALTER TABLE agent_execution_logs ADD id json"
    )
    [verdict] = judged(database, WINDOW.metric_date)
    assert "(NULL of agent a, NULL of agent a) cannot be read" in verdict.reason


@pytest.mark.parametrize("logs_beside", [0, 100_000])
def test_a_run_names_the_agent_and_the_log_whose_tokens_overflow_also_if_several_connections_read(
    logs_beside: int, database: Database
) -> None:
    execute(
        database,
        "ALTER TABLE agent_execution_logs ALTER id TYPE text, ALTER token_count TYPE bigint",
        """INSERT INTO agent_execution_logs (id, agent_id, "timestamp", status, token_count)
           VALUES ('r1', 'b', '2025-03-04 23:00Z', 'success', 2147483648)""",
        f"""INSERT INTO agent_execution_logs (id, agent_id, "timestamp", status)
           SELECT i, 'a', timestamptz '2025-03-04' + i * interval '0.8 s', 'success'
             FROM generate_series(1, {logs_beside}) AS i""",
        "ANALYZE agent_execution_logs",
    )
    with pytest.raises(PermanentError, match=r"^log r1 of agent b at 23:00:00Z cannot be read: integer out of range"):
        aggregate(database)


@pytest.fixture
def json_database(database: Database) -> Database:
    """Metadata in a json column, which keeps texts that jsonb refuses, of one agent."""
    execute(database, "ALTER TABLE agent_execution_logs ALTER metadata TYPE json")
    store_agents(database, {"a": "active"})
    return database


def test_a_json_text_that_holds_nul_counts_with_the_replacement_character_and_its_day_is_stored(
    json_database: Database,
) -> None:
    metadata = [
        r'{"user_id": "\u0000\u0000x"}',
        r'{"user_id": "other\ufffd\ufffd"}',
        r'{"user_id": "other\u0000\u0000"}',
        r'{"user_id": "plain \\u0000"}',
        r'{"user_id": "u", "human_intervention": "true", "note": "\u0000"}',
        r'{"user_id": "u", "human_intervention": "true\u0000"}',
    ]
    store_logs(json_database, [Log(metadata=value) for value in metadata])
    first = aggregate(json_database)
    assert counted(json_database) == (6, 1, 4)
    assert_same_fingerprint(json_database, first)


def test_half_of_a_surrogate_pair_in_a_json_text_counts_as_the_replacement_character_and_whole_pairs_as_they_are(
    json_database: Database,
) -> None:
    users = {
        r"\ud800": "\ufffd",
        r"\uDFFF": "\ufffd",
        r"\ud83d\ude00": "😀",
        r"\uD83D\uDE00 and half \uD83D": "😀 and half \ufffd",
        r"\ud83d\ud83d\ude00": "\ufffd😀",
        r"\ud83d\ude00\ude00": "😀\ufffd",
        r"\ude00\ud83d": "\ufffd\ufffd",
        r"\ud83d\\ude00": "\ufffd\\ude00",
        r"\\ud83d\ude00": "\\ud83d\ufffd",
        r"\\\ud83d\ude00": "\\😀",
        r"\\\\ud83d\u0000\ude00": "\\\\ud83d\ufffd\ufffd",
        r"\\x\\y\"\\\u0041\ud83d": '\\x\\y"\\A\ufffd',
    }
    for written, read in users.items():
        empty(json_database)
        store_agents(json_database, {"a": "active"})
        same = json.dumps(read, ensure_ascii=False)
        store_logs(
            json_database,
            [
                Log(metadata=f'{{"user_id": "{written}", "human_intervention": true}}'),
                Log(metadata=f'{{"user_id": {same}}}'),
                Log(metadata=f'{{"user_id": {{"\\\\": 1}}, "{written}": 2}}'),
                Log(metadata=r'{"user_id": {"\\": 1}}'),
            ],
        )
        first = aggregate(json_database)
        assert counted(json_database) == (4, 1, 2), written
        assert_same_fingerprint(json_database, first)


def test_a_megabyte_of_halves_of_surrogate_pairs_takes_no_minutes(json_database: Database) -> None:
    store_logs(json_database, [Log(metadata=f'{{"user_id": "{half * 150_000}"}}') for half in (r"\ude00", r"\ud83d")])
    started = time.monotonic()
    aggregate(json_database)
    assert time.monotonic() - started < 30
    assert counted(json_database) == (2, 0, 1)


def counted(database: Database) -> tuple[int, int, int]:
    """Executions, human interventions and users of the only agent."""
    [row] = query(database, "SELECT total_executions, human_interventions, unique_users FROM agent_performance_metrics")
    return row


def assert_same_fingerprint(database: Database, day: AggregatedDay) -> None:
    """The server, which reads the same texts without Polars, has the same fingerprint of the day."""
    assert present(database, WINDOW)[WINDOW.metric_date] == day.computed.metrics.fingerprint
