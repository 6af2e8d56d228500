"""Roles that log in, with the privileges of `db grants` and no others."""

import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

import psycopg
import pytest
from psycopg import sql
from typer.testing import CliRunner

from metrics_pipeline.cli import app
from metrics_pipeline.embedded.installation import binaries
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.urls import DatabaseUrl


@dataclass(frozen=True)
class Role:
    """A role that may log in, and the database as it sees it."""

    name: str
    url: str

    @property
    def database(self) -> Database:
        return Database(DatabaseUrl.parse(self.url))


@pytest.fixture
def roles(server_uri: str, database: Database, database_url: str) -> Iterator[dict[str, Role]]:
    """One role per purpose, with only the privileges that the printed statements gave it through psql."""
    purposes = ("pipeline", "retention", "reader", "operator", "alerts")
    with psycopg.connect(database_url, autocommit=True) as connection, ExitStack() as made:
        roles = {purpose: made.enter_context(new_role(connection, database_url, purpose)) for purpose in purposes}
        apply(printed(database_url, *(f"--{purpose}={role.name}" for purpose, role in roles.items())), database_url)
        yield roles


@contextmanager
def new_role(connection: psycopg.Connection, database_url: str, purpose: str) -> Iterator[Role]:
    """A role that may log in and nothing else. Its name is one that has to be quoted."""
    name = f"""{purpose} "{uuid.uuid4().hex[:8]}'; --"""
    role = Role(name, urlsplit(database_url)._replace(netloc=f"{quote(name, safe='')}@").geturl())
    connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(name)))
    try:
        yield role
    finally:
        for statement in ("DROP OWNED BY {}", "DROP ROLE {}"):
            connection.execute(sql.SQL(statement).format(sql.Identifier(name)))


def printed(url: str, *options: str) -> str:
    result = CliRunner().invoke(app, ["db", "grants", *options], env={"METRICS_DATABASE_URL": url})
    assert result.exit_code == 0, result.exception
    return result.output


def apply(script: str, url: str) -> None:
    command = [str(binaries() / "psql"), "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", url]
    result = subprocess.run(command, input=script, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
