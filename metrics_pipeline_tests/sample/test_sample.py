"""The sample's agents and days: reproducible, inside the window, and with everything that real logs have."""

import json
from datetime import date, timedelta
from decimal import Decimal

import polars as pl
import pytest
from sqlalchemy import text

from metrics_pipeline.log_files.sample_logs import store_sample
from metrics_pipeline.log_files.schema import LOG_SCHEMA
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.sample.agents import SampleSpec, sample_agents
from metrics_pipeline.sample.alerts import sample_alerts
from metrics_pipeline.sample.days import BATCH_ROWS, sample_day

WEDNESDAY = date(2025, 9, 17)
SPEC = SampleSpec(seed=3, agents=24, logs_per_day=60_000)


def logs_of(spec, day, time_zone="UTC"):
    window = day_window(day, time_zone)
    return pl.concat(list(sample_day(spec, window.start, window.end, day)))


@pytest.fixture(scope="module")
def logs():
    return logs_of(SPEC, WEDNESDAY)


def test_the_same_arguments_yield_the_same_logs_and_another_seed_yields_others(logs):
    assert logs_of(SPEC, WEDNESDAY).equals(logs)
    other = logs_of(SampleSpec(seed=4, agents=24, logs_per_day=60_000), WEDNESDAY)
    assert not set(other["id"]) & set(logs["id"])


def test_batches_are_bounded_and_follow_each_other_in_time():
    window = day_window(WEDNESDAY, "UTC")
    batches = list(sample_day(SPEC, window.start, window.end, WEDNESDAY))

    assert [batch.height for batch in batches] == [BATCH_ROWS, 10_000]
    assert all(batch["timestamp"].is_sorted() for batch in batches)
    assert batches[0]["timestamp"].mean() < batches[1]["timestamp"].mean()


def test_frames_have_the_columns_of_a_log_and_distinct_ids(logs):
    assert dict(logs.schema) == dict(LOG_SCHEMA) | {"cost_usd": pl.Decimal(38, 9)}
    assert logs["id"].n_unique() == logs.height == 60_000
    assert logs.select("id", "agent_id", "timestamp", "status").null_count().row(0) == (0, 0, 0, 0)


@pytest.mark.parametrize(("day", "hours"), [(date(2025, 3, 30), 23), (date(2025, 10, 26), 25), (date(2025, 9, 17), 24)])
def test_a_day_fills_its_window_from_end_to_end(day, hours):
    window = day_window(day, "Europe/Berlin")
    times = logs_of(SPEC, day, "Europe/Berlin")["timestamp"]

    assert window.end - window.start == timedelta(hours=hours)
    assert window.start <= times.min() < window.start + timedelta(minutes=5)
    assert window.end - timedelta(minutes=5) < times.max() < window.end


def test_weekends_have_fewer_logs_and_nights_fewer_than_days(logs):
    assert logs_of(SPEC, WEDNESDAY + timedelta(days=3)).height < 0.9 * logs.height
    office = sample_agents(SPEC).filter(pl.col("rhythm") == 0, pl.col("weight") > 0)["id"].implode()
    by_hour = logs.filter(pl.col("agent_id").is_in(office)).group_by(pl.col("timestamp").dt.hour().alias("hour")).len()
    per_hour = dict(by_hour.iter_rows())
    assert per_hour[10] > 20 * per_hour[3]


def test_a_few_agents_have_most_logs_and_some_names_hold_a_slash(logs):
    by_agent = logs.group_by("agent_id").len().sort("len", descending=True)["len"]

    assert by_agent[:5].sum() > 0.5 * logs.height
    assert logs["agent_id"].str.contains("/").any()
    assert not logs["agent_id"].str.contains("/").all()


def test_some_agents_are_retired_with_logs_and_some_are_active_without(logs):
    agents = sample_agents(SPEC)
    with_logs = set(logs["agent_id"])
    retired = agents.filter(pl.col("status") == "inactive")["id"].to_list()
    active = agents.filter(pl.col("status") == "active")["id"].to_list()

    assert retired
    assert set(retired) <= with_logs
    assert set(active) - with_logs
    assert with_logs <= set(agents["id"])


@pytest.mark.parametrize("agents", [1, 7, 25, 200])
def test_agents_have_distinct_ids_whatever_their_number(agents):
    ids = sample_agents(SampleSpec(agents=agents))["id"]

    assert ids.len() == ids.n_unique() == agents


def test_one_agent_alone_has_all_logs():
    assert logs_of(SampleSpec(agents=1, logs_per_day=100), WEDNESDAY)["agent_id"].value_counts()["count"].to_list() == [
        100
    ]


def test_no_logs_per_day_yields_no_batch():
    window = day_window(WEDNESDAY, "UTC")
    assert list(sample_day(SampleSpec(logs_per_day=0), window.start, window.end, WEDNESDAY)) == []


@pytest.mark.parametrize("wrong", [{"agents": 0}, {"logs_per_day": -1}])
def test_a_spec_without_agents_or_with_negative_logs_is_refused(wrong):
    with pytest.raises(ValueError, match="at least one agent"):
        SampleSpec(**wrong)


def test_every_status_and_every_kind_of_missing_value_occurs(logs):
    assert set(logs["status"]) == {"success", "failed", "cancelled", "running", "timeout"}
    successes = logs.filter(pl.col("status") == "success")
    nulls = dict(zip(logs.columns, successes.null_count().row(0), strict=True))
    for column in ("latency_ms", "token_count", "cost_usd", "metadata"):
        assert 0 < nulls[column] < 0.5 * successes.height, column
    failed = logs.filter(pl.col("status") == "failed")
    assert 0 < failed["error_type"].null_count() < 0.2 * failed.height
    assert nulls["error_type"] == successes.height
    running = logs.filter(pl.col("status") == "running").select("latency_ms", "token_count", "cost_usd")
    assert running.null_count().row(0) == (running.height,) * 3


def test_metadata_is_json_with_every_way_of_saying_that_a_human_stepped_in(logs):
    records = [json.loads(value) for value in logs["metadata"].drop_nulls()]

    seen = {repr(record["human_intervention"]) for record in records if "human_intervention" in record}
    assert seen == {"True", "'true'", "False"}
    assert {"model", "version", "task"} <= set.intersection(*map(set, records))
    assert any("user_id" not in record for record in records)
    assert len({record.get("user_id") for record in records}) > 100


def test_cost_is_tokens_times_a_price_between_input_and_output_in_exact_decimals(logs):
    priced = logs.join(sample_agents(SPEC), left_on="agent_id", right_on="id").drop_nulls("cost_usd")

    for row in priced.sample(500, seed=1).iter_rows(named=True):
        lowest = row["token_count"] * row["input_nano_usd"] * Decimal("1e-9")
        highest = row["token_count"] * row["output_nano_usd"] * Decimal("1e-9")
        assert lowest <= row["cost_usd"] <= highest
    assert priced["cost_usd"].cast(pl.String).str.contains(r"[1-9]$").any()
    unpriced = logs.filter(~pl.col("id").is_in(priced["id"].implode()))
    assert "qwen3-coder-selfhosted" in {json.loads(m)["model"] for m in unpriced["metadata"].drop_nulls()}


def test_latency_has_a_long_tail_that_ends_at_the_time_limit(logs):
    busiest = logs.group_by("agent_id").len().sort("len").row(-1)[0]
    latency = logs.filter(pl.col("agent_id") == busiest)["latency_ms"].drop_nulls()
    limit = sample_agents(SPEC).filter(pl.col("id") == busiest)["time_limit_ms"].item()

    assert latency.quantile(0.99) > 3 * latency.median()
    assert latency.max() <= limit
    assert "timeout" in set(logs["error_type"])


def test_each_week_a_release_takes_over_and_fails_more_or_less_often_than_the_one_before():
    week = [logs_of(SPEC, WEDNESDAY + timedelta(days=number)) for number in range(7)]
    logs = pl.concat(week).with_columns(version=pl.col("metadata").str.json_path_match("$.version"))
    shares = [
        day.select(pl.col("metadata").str.json_path_match("$.version").eq("2025.38").mean()).item() for day in week
    ]
    assert shares[0] == pytest.approx(0.2, abs=0.02)
    assert shares[1] == pytest.approx(0.6, abs=0.02)
    assert shares[2:] == [1.0] * 5
    by_version = logs.drop_nulls("version").group_by("version").agg((pl.col("status") == "failed").mean())
    rates = dict(by_version.iter_rows())
    assert set(rates) == {"2025.37", "2025.38"}
    assert not 0.67 < rates["2025.37"] / rates["2025.38"] < 1.5


def test_an_incident_makes_one_agent_fail_for_minutes_with_one_error_type():
    week = pl.concat(logs_of(SPEC, WEDNESDAY + timedelta(days=n)) for n in range(3))
    spans = (
        week.with_columns(pl.col("timestamp").dt.truncate("10m"))
        .group_by("agent_id", "timestamp")
        .agg(
            pl.len(),
            failed=(pl.col("status") == "failed").mean(),
            errors=pl.col("error_type").filter(pl.col("error_type") != "timeout").n_unique(),
        )
        .filter(pl.col("len") >= 10)
    )
    bursts = spans.filter(pl.col("failed") > 0.45)

    assert 0 < bursts.height < 0.1 * spans.height
    assert bursts["errors"].min() == 1


def test_storing_a_sample_twice_adds_nothing(database):
    spec = SampleSpec(agents=5, logs_per_day=200)
    days = [WEDNESDAY, WEDNESDAY + timedelta(days=1)]
    heard = []

    stored = store_sample(database, spec, days, "UTC", lambda day, logs: heard.append((day, logs)))
    again = store_sample(database, spec, days, "UTC", lambda day, logs: None)

    assert (stored, again) == (400, 0)
    assert heard == [(days[0], 200), (days[1], 200)]
    with database.engine.connect() as connection:
        counts = connection.execute(
            text("SELECT (SELECT count(*) FROM agent_execution_logs), (SELECT count(*) FROM agent_registry)")
        ).one()
    assert tuple(counts) == (400, 5)


def test_a_stored_sample_equals_what_was_generated(database):
    spec = SampleSpec(agents=5, logs_per_day=300)
    store_sample(database, spec, [WEDNESDAY], "UTC", lambda day, logs: None)

    with database.engine.connect() as connection:
        stored = connection.execute(
            text("""SELECT id::text, agent_id, "timestamp", status, latency_ms, token_count, cost_usd, error_type,
                           metadata FROM agent_execution_logs ORDER BY id""")
        ).all()

    expected = [
        (*row[:-1], None if row[-1] is None else json.loads(row[-1]))
        for row in logs_of(spec, WEDNESDAY).sort("id").iter_rows()
    ]
    assert [tuple(row) for row in stored] == expected


def test_an_outage_fails_most_executions_of_one_agent_for_half_a_day_and_changes_no_other(logs):
    window = day_window(WEDNESDAY, "UTC")
    with_outage = pl.concat(list(sample_day(SPEC, window.start, window.end, WEDNESDAY, has_outage=True)))
    assert with_outage["id"].equals(logs["id"])
    changed = with_outage.filter(with_outage["status"] != logs["status"])
    assert changed["agent_id"].n_unique() == 1
    agent = changed["agent_id"][0]
    assert sample_agents(SPEC).filter(id=agent)["status"].item() == "active"
    within = pl.col("timestamp").dt.hour().is_between(6, 17) & (pl.col("agent_id") == agent)
    failed = with_outage.filter(within)["status"] == "failed"
    assert failed.mean() == pytest.approx(0.7, abs=0.05)
    assert with_outage.filter(pl.col("agent_id") != agent).equals(logs.filter(pl.col("agent_id") != agent))


def test_each_incident_has_an_alert_and_only_that_of_an_outage_is_open(logs):
    window = day_window(WEDNESDAY, "UTC")
    usual, alerts = (
        sample_alerts(SPEC, window.start, WEDNESDAY, has_outage=has_outage) for has_outage in (False, True)
    )
    assert 0 < usual.height <= alerts.height
    assert usual["agent_id"].is_in(logs["agent_id"].implode()).all()
    assert usual["resolved_at"].null_count() == 0
    assert (usual["resolved_at"] > usual["triggered_at"]).all()
    assert usual["triggered_at"].is_between(window.start, window.end + timedelta(minutes=5)).all()
    (outage,) = alerts.filter(pl.col("resolved_at").is_null()).to_dicts()
    assert (outage["severity"], outage["message"]) == (
        "critical",
        "70% of executions fail, most of them with upstream_5xx",
    )
    assert outage["triggered_at"] == window.start + timedelta(hours=6, minutes=5)
