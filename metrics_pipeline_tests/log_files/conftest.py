"""Files of logs written by hand, and one way to load them."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import text

from metrics_pipeline.errors import LogFileError
from metrics_pipeline.log_files.loading import load_log_files

STORED = text("""
    SELECT agent_id::text, "timestamp", status, latency_ms, token_count, cost_usd::text, error_type, metadata::text
    FROM agent_execution_logs ORDER BY "timestamp", agent_id
""")


class Loader:
    """Writes files into a folder of the test and loads them into its database, with agent "a" registered."""

    def __init__(self, engine, folder):
        self.engine = engine
        self.folder = folder
        self.execute("INSERT INTO agent_registry (id, name, status) VALUES ('a', 'a', 'active') ON CONFLICT DO NOTHING")

    def execute(self, *statements):
        with self.engine.begin() as connection:
            for statement in statements:
                connection.execute(text(statement))

    def csv(self, *lines, name="logs.csv", end="\n"):
        path = self.folder / name
        content = "".join(line + end for line in lines).encode()
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return path

    def ndjson(self, *records, name="logs.ndjson"):
        path = self.folder / name
        path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
        return path

    def parquet(self, columns, name="logs.parquet"):
        path = self.folder / name
        pq.write_table(pa.table(columns), path)
        return path

    def load(self, *paths, time_zone="UTC", **options):
        with self.engine.begin() as connection:
            return load_log_files(connection, paths, time_zone=time_zone, **options)

    def refused(self, *paths, **options):
        """The message with which the load is refused; and the database is as it was."""
        before = self.stored()
        with pytest.raises(LogFileError) as caught:
            self.load(*paths, **options)
        assert self.stored() == before
        return str(caught.value).replace(f"{self.folder}/", "")

    def stored(self):
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(STORED)]


@pytest.fixture
def loader(database, tmp_path):
    return Loader(database.engine, tmp_path)
