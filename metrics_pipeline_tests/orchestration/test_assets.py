"""What a run of the asset stores, and what it reports to Dagster about each day, also about one that fails."""

from datetime import timedelta

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CODE_VERSION_TAG, DATA_VERSION_TAG
from dagster._core.storage.tags import PARTITION_NAME_TAG

from metrics_pipeline.metrics.catalog import DEFINITION_VERSION
from metrics_pipeline.postgres.database import Database

from .nights import waiting_run
from .runs import DAYS, KEY, Run, assert_equal_to_oracle, execute, ledger, partitions, restatement_reasons

FRIDAY, SATURDAY, SUNDAY = DAYS
KEYS = [day.isoformat() for day in DAYS]
MOVE = """UPDATE metric_day_ledger SET time_zone = 'Asia/Tokyo', window_start = window_start - interval '9 h'
           WHERE metric_date = :day"""
SEAL = "UPDATE metric_day_ledger SET raw_pruned_at = now(), raw_pruned_logs = 7 WHERE metric_date = :day"


def test_a_run_of_one_day_stores_and_materialises_that_day_alone(
    run: Run, logs: None, database: Database, instance: dg.DagsterInstance
) -> None:
    ended = run(FRIDAY)
    assert ended.succeeded
    assert ended.days == [KEYS[0]]
    assert ledger(database) == {FRIDAY: ended.run.run_id}
    assert partitions(instance) == ({KEYS[0]}, set())
    assert_equal_to_oracle(database, FRIDAY)


def test_a_run_of_a_range_materialises_each_day_in_order_when_it_is_committed(
    run: Run, logs: None, database: Database, instance: dg.DagsterInstance
) -> None:
    ended = run(FRIDAY, SUNDAY)
    assert ended.succeeded
    assert ended.days == KEYS
    assert list(ledger(database)) == DAYS
    assert partitions(instance) == (set(KEYS), set())
    assert_equal_to_oracle(database, *DAYS)


def test_an_empty_day_says_as_much_of_itself_as_a_full_one(run: Run, logs: None) -> None:
    full, _, _ = run(FRIDAY, SUNDAY).materializations
    (empty,) = run(FRIDAY - timedelta(days=1)).materializations
    assert list(full.metadata) == list(empty.metadata)
    kinds = {(type(value), type(empty.metadata[name])) for name, value in full.metadata.items()}
    # An empty table is text.
    assert {pair for pair in kinds if pair[0] is not pair[1]} == {(dg.MarkdownMetadataValue, dg.TextMetadataValue)}
    values = {name: value.value for name, value in empty.metadata.items()}
    assert values["logs_read"] == values["executions"] == values["tokens"] == 0
    assert values["success_rate"] == 1.0
    assert values["cost_usd"] == 0.0
    assert values["agents"] == values["rows_inserted"] == 8
    assert values["agents_with_most_failures"] == values["agents_with_worst_p95"] == "None."
    assert values["unique_users"] == values["p95_latency_ms"] == values["error_types"] == 0


def test_the_metadata_are_sums_over_the_stored_rows(run: Run, logs: None, database: Database) -> None:
    (materialization,) = run(FRIDAY).materializations
    values = {name: value.value for name, value in materialization.metadata.items()}
    with database.engine.connect() as connection:
        stored = connection.exec_driver_sql(
            "SELECT sum(total_executions), sum(failed_executions), sum(total_tokens), sum(total_cost_usd), "
            "sum(human_interventions), sum(successful_executions) FROM agent_performance_metrics"
        ).one()
        whole_day = connection.exec_driver_sql(
            "SELECT percentile_cont(0.95) WITHIN GROUP (ORDER BY latency_ms)::int, "
            "count(DISTINCT metadata->>'user_id') "
            "FROM agent_execution_logs JOIN agent_registry AS agent ON agent.id = agent_id "
            "WHERE agent.status = 'active' AND \"timestamp\" < '2025-07-12'"
        ).one()
        errors = connection.exec_driver_sql(
            "SELECT key, sum(value::bigint)::int FROM agent_performance_metrics, jsonb_each_text(error_distribution) "
            "GROUP BY key"
        ).all()
    executions, failed, tokens, cost, humans, successful = stored
    assert values["executions"] == values["logs_aggregated"] == executions
    assert values["failed_executions"] == failed
    assert values["tokens"] == tokens
    assert values["cost_usd"] == pytest.approx(float(cost))
    assert values["human_interventions"] == humans
    assert (values["p95_latency_ms"], values["unique_users"]) == tuple(whole_day)
    assert values["error_distribution"] == dict(map(tuple, errors))
    assert values["error_types"] == len(errors)
    assert sum(values["error_distribution"].values()) == failed
    assert values["success_rate"] == pytest.approx(float(successful / executions))
    assert values["logs_read"] == 200 == values["logs_aggregated"] + values["logs_skipped"]
    assert sum(agent["logs"] for agent in values["skipped_agents"]) == values["logs_skipped"] > 0
    assert values["definition_version"] == DEFINITION_VERSION
    assert values["window"] == "2025-07-11 (UTC: 2025-07-11 00:00Z to 2025-07-12 00:00Z)"


def test_the_data_version_changes_with_the_logs_and_only_with_them(run: Run, logs: None, database: Database) -> None:
    def tags() -> dict[str, str]:
        (materialization,) = run(FRIDAY).materializations
        return dict(materialization.tags)

    first, again = tags(), tags()
    execute(database, 'UPDATE agent_execution_logs SET cost_usd = 1 WHERE "timestamp" < :day', day=SATURDAY)
    changed = tags()
    assert first == again
    assert first[CODE_VERSION_TAG] == DEFINITION_VERSION
    assert first[DATA_VERSION_TAG] != changed[DATA_VERSION_TAG]


def test_the_instance_knows_the_data_version_of_each_day(run: Run, logs: None, instance: dg.DagsterInstance) -> None:
    ended = run(FRIDAY, SATURDAY)
    for key, materialization in zip(KEYS, ended.materializations, strict=False):
        event = instance.get_latest_data_version_record(KEY, partition_key=key)
        assert event.asset_materialization.tags[DATA_VERSION_TAG] == materialization.tags[DATA_VERSION_TAG]


def test_a_sealed_day_of_a_range_is_left_out_named_and_green(
    run: Run, logs: None, database: Database, instance: dg.DagsterInstance
) -> None:
    (stored,) = run(SATURDAY).materializations
    execute(database, SEAL, day=SATURDAY)
    execute(database, "UPDATE agent_execution_logs SET latency_ms = latency_ms + 1")
    instance.report_run_failed(
        waiting_run(instance, dg.DagsterRunStatus.STARTED, {PARTITION_NAME_TAG: SATURDAY.isoformat()})
    )
    assert partitions(instance) == ({KEYS[1]}, {KEYS[1]})
    ended = run(FRIDAY, SUNDAY)
    assert ended.succeeded
    assert set(ended.days) == set(KEYS)
    assert partitions(instance) == (set(KEYS), set())
    assert_equal_to_oracle(database, FRIDAY, SUNDAY)
    (left_out,) = [each for each in ended.materializations if "left_out" in each.metadata]
    assert left_out.partition == KEYS[1]
    assert left_out.metadata["left_out"].value.startswith("2025-07-12 is sealed: 7 of its raw logs were pruned")
    assert {**left_out.metadata, "left_out": None} == {**stored.metadata, "left_out": None}
    assert left_out.tags == stored.tags
    assert any(
        entry.user_message.startswith("Left out: 2025-07-12 is sealed") for entry in instance.all_logs(ended.run.run_id)
    )

    alone = run(SATURDAY)
    assert alone.succeeded
    assert alone.days == [KEYS[1]]


def test_a_day_that_fails_for_good_is_named_and_stops_no_other(
    run: Run, logs: None, database: Database, instance: dg.DagsterInstance
) -> None:
    run(SATURDAY)
    execute(database, MOVE, day=SATURDAY)
    execute(database, "UPDATE agent_execution_logs SET latency_ms = latency_ms + 1")
    ended = run(FRIDAY, SUNDAY)
    assert not ended.succeeded
    assert ended.days == [KEYS[0], KEYS[2]]
    assert "2025-07-12 is stored as a day of Asia/Tokyo" in ended.failure
    assert partitions(instance) == (set(KEYS), {KEYS[1]})  # stored earlier, and failed since
    assert_equal_to_oracle(database, FRIDAY, SUNDAY)


def test_several_days_that_fail_for_good_are_all_named(run: Run, logs: None, database: Database) -> None:
    run(FRIDAY, SATURDAY)
    for day in (FRIDAY, SATURDAY):
        execute(database, MOVE, day=day)
    ended = run(FRIDAY, SUNDAY)
    assert ended.days == [KEYS[2]]
    assert ended.failure.startswith("2 days failed and stay as they were; the others are stored.\n2025-07-11 is ")
    assert "\n2025-07-12 is stored as a day of Asia/Tokyo" in ended.failure


def test_a_database_without_our_tables_fails_before_any_day_and_names_the_remedy(
    run: Run, database: Database, instance: dg.DagsterInstance
) -> None:
    execute(database, "DROP TABLE metrics_pipeline_alembic_version")
    ended = run(FRIDAY, SUNDAY)
    assert "metrics-pipeline db upgrade" in ended.failure
    assert (ended.days, ended.retries) == ([], 0)
    assert partitions(instance) == (set(), set(KEYS))


def test_a_warning_of_the_contract_check_reaches_the_runs_log(
    run: Run, database: Database, instance: dg.DagsterInstance
) -> None:
    execute(database, "DROP INDEX agent_execution_logs_timestamp")
    ended = run(FRIDAY)
    assert ended.succeeded
    assert any(
        "No index of agent_execution_logs" in entry.user_message for entry in instance.all_logs(ended.run.run_id)
    )


def test_inactive_agents_are_aggregated_on_request_only(run: Run, logs: None, database: Database) -> None:
    run(FRIDAY)
    assert_equal_to_oracle(database, FRIDAY)
    ended = run(FRIDAY, config={"include_inactive_agents": True})
    assert_equal_to_oracle(database, FRIDAY, include_inactive=True)
    assert ended.materializations[0].metadata["logs_skipped"].value == 0
    assert ended.materializations[0].metadata["rows_inserted"].value == 1


def test_a_run_config_that_is_no_boolean_is_refused(run: Run) -> None:
    with pytest.raises(dg.DagsterInvalidConfigError, match="include_inactive_agents"):
        run(FRIDAY, config={"include_inactive_agents": "perhaps"})


def test_a_restatement_says_why_its_run_was_started(run: Run, logs: None, database: Database) -> None:
    run(FRIDAY)
    for cost, tags, reason in (
        (1, {}, "manual"),
        (2, {"dagster/backfill": "abc"}, "backfill"),
        (3, {"reason": "late logs"}, "late logs"),
        (4, {"reason": "manual", "dagster/backfill": "abc"}, "manual"),
    ):
        execute(database, "DELETE FROM metric_restatements")
        execute(database, "UPDATE agent_execution_logs SET cost_usd = :cost", cost=cost)
        ended = run(FRIDAY, tags=tags)
        assert restatement_reasons(database) == {reason}
        assert ended.materializations[0].tags.get("dagster/backfill") == tags.get("dagster/backfill")


def test_a_reason_that_is_none_fails_the_run_in_a_sentence_and_stores_nothing(
    run: Run, logs: None, database: Database
) -> None:
    ended = run(DAYS[0], tags={"reason": "because"})
    assert ended.failure == (
        "The tag reason is 'because', which is not one of late logs, backfill, "
        "manual, definition change. Start the run without it."
    )
    assert ledger(database) == {}
