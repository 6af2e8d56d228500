"""Loading into a database that has logs: ids, agents, column types, one transaction."""

import csv
import os
import uuid
from datetime import UTC, date, datetime

import polars as pl
import pytest
from sqlalchemy import text

from metrics_pipeline.errors import ContractError, LogFileError
from metrics_pipeline.log_files.loading import load_log_files, load_logs, register_agents
from metrics_pipeline.sample.agents import SampleSpec
from metrics_pipeline.sample.days import sample_day

HEADER = "id,agent_id,timestamp,status,latency_ms,metadata"
ID = "00000000-0000-0000-0000-00000000000"
MARCH_4 = (datetime(2025, 3, 4, tzinfo=UTC), datetime(2025, 3, 5, tzinfo=UTC), date(2025, 3, 4))
ONE = f'{ID}1,a,2025-01-01T00:00:00Z,success,5,"{{""x"": 1}}"'
TWO = f"{ID}2,a,2025-01-01T00:00:01Z,failed,,"
NO_ID = ",a,2025-01-01T00:00:02Z,success,7,"


def test_the_same_file_twice_is_refused_and_names_the_ids(loader):
    path = loader.csv(HEADER, ONE, TWO)
    loader.load(path)
    message = loader.refused(path)
    assert f"logs.csv, line 2, id: '{ID}1' is stored already; --skip-existing leaves out" in message
    assert f"logs.csv, line 3, id: '{ID}2' is stored already" in message


def test_logs_without_an_id_are_known_by_their_values(loader):
    path = loader.csv(HEADER, NO_ID, NO_ID)
    assert loader.load(path).logs_by_file == {path: 2}
    assert "logs.csv, line 2, id: has no id, and a log with the same values is stored already" in loader.refused(path)
    assert loader.load(path, skip_existing=True).skipped_logs == 2
    assert len(loader.stored()) == 2


def test_skip_existing_stores_only_what_is_new(loader):
    loader.load(loader.csv(HEADER, ONE, NO_ID))
    more = loader.csv(HEADER, ONE, TWO, NO_ID, TWO)
    loaded = loader.load(more, skip_existing=True)
    assert (loaded.logs_by_file, loaded.skipped_logs) == ({more: 1}, 3)
    assert [row[2] for row in loader.stored()] == ["success", "failed", "success"]


@pytest.mark.parametrize("change", [("success", "failed"), (",5,", ",6,"), ('"": 1', '"": 2'), ("00Z", "09Z")])
def test_skip_existing_refuses_an_id_that_is_stored_with_other_values(loader, change):
    loader.load(loader.csv(HEADER, ONE))
    message = loader.refused(loader.csv(HEADER, ONE.replace(*change)), skip_existing=True)
    assert f"logs.csv, line 2, id: '{ID}1' is stored already, with other values" in message


def test_an_id_twice_in_the_files_is_named_at_its_second_place(loader):
    one, two = loader.csv(HEADER, ONE, name="1.csv"), loader.csv(HEADER, TWO, ONE, name="2.csv")
    assert loader.refused(one, two) == (
        f"Nothing was loaded: 1 problem in the files:\n  2.csv, line 3, id: '{ID}1' is in the files twice"
    )
    changed = loader.csv(HEADER, ONE.replace("success", "failed"), name="3.csv")
    assert f"3.csv, line 2, id: '{ID}1' is in the files twice, with other values" in loader.refused(
        one, changed, skip_existing=True
    )


def test_a_file_named_twice_is_refused(loader):
    path = loader.csv(HEADER, NO_ID)
    assert loader.refused(path, loader.folder / ".." / loader.folder.name / "logs.csv") == (
        "A file is named twice. Name each file once."
    )


def test_only_the_first_of_many_known_ids_are_named_but_all_are_counted(loader):
    path = loader.csv(HEADER, *[f"{uuid.UUID(int=n)},a,2025-01-01T00:00:00Z,success,," for n in range(100)])
    loader.load(path)
    message = loader.refused(path)
    assert message.startswith("Nothing was loaded: 100 problems in the files, of which these are the first 20:")
    assert len(message.splitlines()) == 21


def test_unregistered_agents_are_named_and_counted(loader):
    path = loader.csv(HEADER, *[NO_ID.replace("a", f"agent/{n:02}", 1) for n in range(12)], ONE)
    message = loader.refused(path)
    assert "12 of the logs' agents are not in agent_registry: 'agent/00', 'agent/01', " in message
    assert "'agent/09', …. Register them there, or load with --register-agents." in message
    assert "agent/10" not in message


def test_register_agents_registers_them_as_active_and_named_by_their_id(loader):
    path = loader.csv(HEADER, NO_ID.replace("a", "team/Bücher 'x'", 1), ONE)
    assert loader.load(path, register_unknown=True).registered_agents == ["team/Bücher 'x'"]
    with loader.engine.connect() as connection:
        rows = connection.execute(text("SELECT id, name, status FROM agent_registry ORDER BY id")).all()
    assert [tuple(row) for row in rows] == [("a", "a", "active"), ("team/Bücher 'x'", "team/Bücher 'x'", "active")]


def test_registering_agents_again_changes_nothing(loader):
    agents = pl.DataFrame({"id": ["a", "b"], "name": ["other", "b"], "status": ["inactive", "inactive"]})
    with loader.engine.begin() as connection:
        assert register_agents(connection, agents) == 1
        assert register_agents(connection, agents) == 0
        assert register_agents(connection, agents.clear()) == 0
        assert connection.execute(text("SELECT status FROM agent_registry WHERE id = 'a'")).scalar() == "active"


def test_one_bad_row_in_the_last_file_loads_nothing_of_the_others_and_registers_no_agent(loader):
    good = loader.csv(HEADER, NO_ID.replace("a", "new", 1), name="good.csv")
    bad = loader.csv(HEADER, ONE, TWO.replace("failed", ""), name="bad.csv")
    assert "bad.csv, line 3, status: is missing" in loader.refused(good, bad, register_unknown=True)
    with loader.engine.connect() as connection:
        assert connection.execute(text("SELECT id FROM agent_registry")).scalars().all() == ["a"]
        assert connection.execute(text("SELECT to_regclass('log_staging')")).scalar() is None


def test_two_loads_fit_in_one_transaction(loader):
    one, two = loader.csv(HEADER, ONE, name="1.csv"), loader.csv(HEADER, TWO, name="2.csv")
    with loader.engine.begin() as connection:
        for path in (one, two):
            load_log_files(connection, [path], time_zone="UTC")
    assert len(loader.stored()) == 2


OTHER_TABLES = {
    "naive timestamps, json, text ids": (
        "id text PRIMARY KEY DEFAULT gen_random_uuid()::text, agent_id text, timestamp timestamp, metadata json"
    ),
    "varchar agents, no primary key": (
        "id uuid DEFAULT gen_random_uuid(), agent_id varchar(40) NOT NULL, timestamp timestamptz, metadata jsonb"
    ),
    "generated cost": (
        "id uuid, agent_id text, timestamp timestamptz, metadata jsonb, "
        "cost_usd numeric GENERATED ALWAYS AS (token_count * 0.001) STORED"
    ),
    "identity ids": (
        "id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, agent_id text, timestamp timestamptz, metadata jsonb"
    ),
}


def replace_table(loader, columns, suffix="", status="text", cost="numeric"):
    loader.execute(
        "DROP TABLE agent_execution_logs",
        f"""CREATE TABLE agent_execution_logs ({columns}, status {status}, latency_ms int, token_count int,
            error_type text{"" if "cost_usd" in columns else f", cost_usd {cost}"}) {suffix}""",
    )


@pytest.mark.parametrize("columns", OTHER_TABLES.values(), ids=OTHER_TABLES)
def test_other_types_of_the_same_columns_are_filled_and_recognised(loader, columns):
    replace_table(loader, columns)
    path = loader.csv(
        "id,agent_id,timestamp,status,metadata",
        '12,a,2025-01-01T02:00:00+02:00,success,"{""b"":1, ""a"":2}"'.replace(
            "12", "12" if "bigint" in columns else ID + "1"
        ),
        ",a,2025-01-01T00:00:01.5Z,failed,",
    )
    loader.load(path)
    stored = loader.stored()
    instants = [row[1].replace(tzinfo=UTC) for row in stored]
    assert instants == [datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, 0, 0, 1, 500000, UTC)]
    assert "2 problems" in loader.refused(path)
    assert loader.load(path, skip_existing=True).skipped_logs == 2
    assert loader.stored() == stored


def test_uuid_agents_and_partitions_are_filled(loader):
    agent = "660fc2d0-a759-4f21-bed2-6048186512ad"
    loader.execute("ALTER TABLE agent_registry ALTER id TYPE uuid USING md5(id)::uuid")
    replace_table(
        loader,
        "id uuid DEFAULT gen_random_uuid(), agent_id uuid, timestamp timestamptz, metadata jsonb, "
        "PRIMARY KEY (id, timestamp)",
        "PARTITION BY RANGE (timestamp)",
    )
    loader.execute(
        "CREATE TABLE logs_2025 PARTITION OF agent_execution_logs FOR VALUES FROM ('2025-01-01Z') TO ('2026-01-01Z')"
    )
    path = loader.csv("agent_id,timestamp,status", f"{agent.upper()},2025-01-01T00:00:00Z,success")
    assert loader.load(path, register_unknown=True).registered_agents == [agent]
    assert [row[0] for row in loader.stored()] == [agent]

    assert "line 2, agent_id: 'support' is not a UUID" in loader.refused(
        loader.csv("agent_id,timestamp,status", "support,2025-01-01T00:00:00Z,success")
    )
    message = loader.refused(loader.csv("agent_id,timestamp,status", f"{agent},2026-01-01T00:00:00Z,success"))
    assert (
        'PostgreSQL refuses a log of agent_execution_logs: no partition of relation "agent_execution_logs"' in message
    )
    assert "2026-01-01" in message


@pytest.mark.parametrize(
    ("columns", "written", "problem"),
    [
        ("id uuid", "12", "line 2, id: '12' is not a UUID"),
        ("id bigint", "9223372036854775808", "is not a whole number from -9223372036854775808 to 9223372036854775807"),
        ("id integer", "2147483648", "is not a whole number from -2147483648 to 2147483647"),
    ],
)
def test_an_id_that_the_column_cannot_hold_is_named(loader, columns, written, problem):
    replace_table(loader, f"{columns}, agent_id text, timestamp timestamptz, metadata jsonb")
    path = loader.csv("id,agent_id,timestamp,status", f"{written},a,2025-01-01T00:00:00Z,success")
    assert problem in loader.refused(path)


def test_integer_ids_of_ndjson_and_parquet_are_stored_and_other_json_numbers_refused(loader):
    replace_table(loader, "id bigint, agent_id text, timestamp timestamptz, metadata jsonb")
    log = {"agent_id": "a", "timestamp": "2025-01-01T00:00:00Z", "status": "success"}
    loader.load(
        loader.ndjson({"id": 2**53 + 1} | log, {"id": "7"} | log),
        loader.parquet({"id": [8]} | {name: [value] for name, value in log.items()}),
    )
    with loader.engine.connect() as connection:
        ids = connection.execute(text("SELECT id FROM agent_execution_logs ORDER BY id")).scalars().all()
    assert ids == [7, 8, 2**53 + 1]
    message = loader.refused(loader.ndjson({"id": 9.0} | log, {"id": True} | log))
    assert "line 1, id: '9.0' is of the wrong JSON type" in message
    assert "line 2, id: 'true' is of the wrong JSON type" in message


def test_an_id_that_the_table_always_generates_is_left_to_it_or_refused_in_a_sentence(loader):
    columns = "id bigint GENERATED ALWAYS AS IDENTITY, agent_id text, timestamp timestamptz, metadata jsonb"
    replace_table(loader, columns)
    path = loader.csv(HEADER, NO_ID, NO_ID)
    assert loader.load(path).logs_by_file == {path: 2}
    assert loader.load(path, skip_existing=True).skipped_logs == 2
    message = loader.refused(loader.csv(HEADER, TWO.replace(f"{ID}2", "7")))
    assert message == (
        "Nothing was loaded: PostgreSQL refuses a log of agent_execution_logs: cannot insert a non-DEFAULT value into "
        'column "id". Column "id" is an identity column defined as GENERATED ALWAYS. Leave the column out of the '
        "files, or add --skip-column and its name."
    )


@pytest.mark.parametrize(
    "columns",
    [
        "id bigint GENERATED ALWAYS AS IDENTITY",
        "id integer GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY",
        "id serial PRIMARY KEY",
        "id uuid GENERATED ALWAYS AS (md5(agent_id)::uuid) STORED",
        "id varchar(36) PRIMARY KEY, cost_usd numeric GENERATED ALWAYS AS (token_count * 0.001) STORED",
    ],
)
def test_generated_logs_fit_tables_with_ids_of_their_own_and_are_not_stored_twice(loader, columns):
    replace_table(loader, f"{columns}, agent_id text, timestamp timestamptz(3), metadata json", cost="numeric(12,6)")
    frames = list(sample_day(SampleSpec(agents=3, logs_per_day=100), *MARCH_4))
    for new in (100, 0):
        with loader.engine.begin() as connection:
            assert load_logs(connection, frames) == new
    assert len(loader.stored()) == 100


def test_json_metadata_with_the_same_keys_in_another_order_is_the_same(loader):
    replace_table(loader, "id uuid, agent_id text, timestamp timestamptz, metadata json")
    one, same = (
        loader.csv("agent_id,timestamp,status,metadata", f'a,2025-01-01T00:00:00Z,success,"{metadata}"', name=name)
        for name, metadata in (("1.csv", '{""x"":1,""y"":2}'), ("2.csv", '{""y"": 2, ""x"": 1}'))
    )
    loader.load(one)
    assert loader.load(same, skip_existing=True).skipped_logs == 1


def test_a_value_that_its_column_would_round_is_named(loader):
    replace_table(
        loader,
        "id uuid, agent_id text, timestamp timestamptz(3), metadata jsonb",
        status="varchar(9)",
        cost="numeric(12,6)",
    )
    path = loader.csv(
        "agent_id,timestamp,status,cost_usd",
        "a,2025-01-01T00:00:00.123Z,success,0.1234560",
        "a,2025-01-01T00:00:00.1234Z,success,0.1234567",
        "a,2025-01-01T00:00:00Z,successful,",
    )
    message = loader.refused(path)
    assert "line 3, cost_usd: '0.1234567' would not be kept exactly: the table's column is numeric(12,6)" in message
    assert "line 3, timestamp: '2025-01-01 00:00:00.1234+00' would not be kept exactly" in message
    assert (
        "line 4, status: 'successful' would not be kept exactly: the table's column is character varying(9)" in message
    )
    assert "3 problems" in message
    overflow = loader.csv("agent_id,timestamp,status,cost_usd", "a,2025-01-01T00:00:00Z,success,1000000")
    assert "column cost_usd is numeric(12,6): numeric field overflow" in loader.refused(overflow)


def test_a_status_that_the_table_s_enum_lacks_is_refused(loader):
    loader.execute("CREATE TYPE outcome AS ENUM ('success', 'failed')")
    replace_table(loader, "id uuid, agent_id text, timestamp timestamptz, metadata jsonb", status="outcome")
    loader.load(loader.csv("agent_id,timestamp,status", "a,2025-01-01T00:00:00Z,success"))
    bad = loader.csv("agent_id,timestamp,status", "a,2025-01-01T00:00:00Z,cancelled")
    assert 'logs.csv, lines 2 to 2: invalid input value for enum outcome: "cancelled"' in loader.refused(bad)


def test_a_missing_table_or_column_is_named(loader):
    path = loader.csv(HEADER, ONE)
    loader.execute("ALTER TABLE agent_execution_logs DROP COLUMN metadata")
    with pytest.raises(ContractError, match="has no column metadata"):
        loader.load(path)
    loader.execute("DROP TABLE agent_execution_logs")
    with pytest.raises(ContractError, match="no table agent_execution_logs"):
        loader.load(path)


def test_frames_that_the_table_refuses_store_nothing(loader):
    frame = pl.DataFrame(
        {"id": ["x"], "agent_id": ["a"], "timestamp": [datetime(2025, 1, 1, tzinfo=UTC)], "status": ["success"]}
    )
    with pytest.raises(LogFileError, match="invalid input syntax for type uuid"), loader.engine.begin() as connection:
        load_logs(connection, [frame])
    assert loader.stored() == []


def test_the_real_executions_are_stored_as_their_file_has_them(loader, real_logs):
    loaded = loader.load(real_logs, register_unknown=True)

    with real_logs.open(newline="") as lines:
        written = sorted(csv.DictReader(lines), key=lambda log: log["id"])
    assert loaded.logs_by_file == {real_logs: 3124}
    assert (len(loaded.registered_agents), len(loaded.logs_by_day)) == (8, 15)
    query = text("""
        SELECT id::text, agent_id, to_char("timestamp", 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS timestamp, status,
               latency_ms::text, token_count::text, cost_usd::text, error_type,
               (metadata = CAST(:written AS jsonb))::text AS metadata
        FROM agent_execution_logs WHERE id = CAST(:id AS uuid)
    """)
    with loader.engine.connect() as connection:
        for log in written:
            stored = connection.execute(query, {"id": log["id"], "written": log["metadata"]}).mappings().one()
            assert {name: value or "" for name, value in stored.items()} == log | {"metadata": "true"}


def test_what_is_no_regular_file_is_refused_without_waiting_for_it(loader):
    fifo = loader.folder / "fifo.csv"
    os.mkfifo(fifo)
    endless = loader.folder / "endless.ndjson"
    endless.symlink_to("/dev/zero")
    for path in (fifo, endless):
        said = loader.refused(path)
        assert said == f"{path.name} is not a regular file. Write what it yields into one, and load that."


def test_a_type_of_the_table_may_have_any_name(loader):
    name = r'"st ::a :b %s %(x)s {y} ""q""; DROP TABLE agent_registry; --"'.replace(":", r"\:")
    loader.execute(
        f"CREATE TYPE {name} AS ENUM ('success')",
        f"ALTER TABLE agent_execution_logs ALTER status TYPE {name} USING CAST(status AS {name})",
    )
    loader.load(loader.csv("agent_id,timestamp,status", "a,2025-01-01T00:00:00Z,success"))
    assert [row[2] for row in loader.stored()] == ["success"]
