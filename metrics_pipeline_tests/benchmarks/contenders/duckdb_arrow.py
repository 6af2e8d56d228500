"""What a user would write with DuckDB: the rows as a stream of Arrow batches, one query over them, upsert."""

from datetime import date, timedelta

import adbc_driver_postgresql.dbapi
import duckdb
import psycopg
from psycopg.types.json import Jsonb

from metrics_pipeline_tests.benchmarks.contenders.rows import DUCKDB_METRICS, UPSERT, with_quotients

# Cost as text, because ADBC sends numeric as text in any case.
_LOGS = """
SELECT agent_id, status, latency_ms, token_count, cost_usd::text AS cost_usd, error_type,
       metadata->>'human_intervention' = 'true' AS human_intervention, metadata->>'user_id' AS user_id
FROM agent_execution_logs WHERE "timestamp" >= '{start}' AND "timestamp" < '{end}'"""


def run(url: str, day: str) -> dict[str, float]:
    """The batches are kept, because the query reads them twice."""
    start = date.fromisoformat(day)
    with (
        adbc_driver_postgresql.dbapi.connect(url) as source,
        source.cursor() as cursor,
        duckdb.connect() as duck,
        psycopg.connect(url) as target,
    ):
        cursor.execute(_LOGS.format(start=start, end=start + timedelta(days=1)))
        duck.register("logs", cursor.fetch_arrow_table())
        agents = target.execute("SELECT id FROM agent_registry WHERE status = 'active'").fetchall()
        result = duck.execute(DUCKDB_METRICS, {"active": [agent for (agent,) in agents]}).to_arrow_table()
        rows = [
            row | {"metric_date": start, "error_distribution": Jsonb(dict(row["error_distribution"]))}
            for row in result.to_pylist()
        ]
        target.cursor().executemany(UPSERT, with_quotients(rows))
    return {}
