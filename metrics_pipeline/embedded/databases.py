"""Further databases on the embedded server, beside `postgres`, which holds logs and metrics."""

from contextlib import suppress
from urllib.parse import urlsplit

import psycopg
from psycopg import errors, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from metrics_pipeline.embedded.dialing import own_parameters


def ensure_database(uri: str, name: str) -> str:
    """Creates the database `name` on the server of `uri` unless it exists, and returns its URI."""
    with psycopg.connect(
        make_conninfo("", **{**own_parameters(), **conninfo_to_dict(uri)}), autocommit=True
    ) as connection:
        found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone()
        if found is None:
            # If another process was faster, one of these errors is raised, depending on how close the race was.
            with suppress(errors.DuplicateDatabase, errors.UniqueViolation):
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return urlsplit(uri)._replace(path=f"/{name}").geturl()
