"""The embedded server of a benchmark: made for it, gone after it; and what several benchmarks have it do."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import text

from metrics_pipeline.embedded import release, server_pid
from metrics_pipeline.postgres.database import Database

#: Logs from :start on, spread over :span. Made in the server, because tens of millions are.
LOAD_LOGS = text("""
INSERT INTO agent_execution_logs
    (agent_id, "timestamp", status, latency_ms, token_count, cost_usd, error_type, metadata)
SELECT 'agent-' || n % 500, CAST(:start AS timestamptz) + n * (CAST(:span AS interval) / :logs),
       CASE WHEN n % 20 = 0 THEN 'failed' ELSE 'success' END, (n * 7919) % 10000, (n * 104729) % 5000,
       ((n * 15485863) % 1000000)::numeric / 1000000, CASE WHEN n % 20 = 0 THEN 'timeout' END,
       jsonb_build_object('user_id', 'user-' || n % 1000, 'session', md5(n::text))
FROM generate_series(0, CAST(:logs AS bigint) - 1) AS n""")


@contextmanager
def temporary_home() -> Iterator[Path]:
    """A home whose server, once something acquires it, ends with the block; the block's data goes with it."""
    home = Path(tempfile.mkdtemp(prefix="bench"))
    try:
        yield home
    finally:
        release(home)
        # The server removes this file as its last act.
        while server_pid(home) is not None or any(home.rglob("postmaster.pid")):
            time.sleep(0.05)
        shutil.rmtree(home)


def autocommit(database: Database, *statements: str) -> None:
    """Executes what no transaction may hold, such as VACUUM."""
    with database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        for statement in statements:
            connection.execute(text(statement))
