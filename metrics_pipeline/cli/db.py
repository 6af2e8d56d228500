"""`db`: our tables' revision, and the contract with the tables that other systems own."""

from typing import Annotated

import typer

from metrics_pipeline.logs.contract import check_contract
from metrics_pipeline.pipeline.opening import open_database
from metrics_pipeline.postgres import upgrading
from metrics_pipeline.postgres.privileges import Purpose, grant_statements, require_privileges
from metrics_pipeline.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Prepare the database, and check that it holds what the pipeline needs.")

_ON_PARTITIONS = """\
-- Partitions that are made later need the same grants for retention. It deletes their logs; to drop whole partitions
-- instead, which is faster, its role must be a member of the role that owns agent_execution_logs and its partitions."""


@app.command()
def upgrade() -> None:
    """Creates our tables, or brings them to this version's revision. There is no downgrade.

    Other systems' tables are not touched; an existing agent_performance_metrics is adopted with its rows. Everything
    happens in one transaction, and running it again changes nothing.
    """
    database = open_database(Settings.from_environment())
    done = upgrading.upgrade(database)
    if done.before == done.after:
        typer.echo(f"Our tables in {database.description} are at revision {done.after} already.")
    else:
        typer.echo(
            f"Upgraded our tables in {database.description} from {done.before or 'none'} to revision {done.after}."
        )


@app.command()
def check() -> None:
    """Checks the tables that we read, their types and privileges, and the revision of our own tables.

    Run it as the role that the pipeline uses. Reads the catalog only. Exits with 1 and one error that names everything
    that is missing.
    """
    database = open_database(Settings.from_environment())
    with database.connect() as connection:
        typer.echo(f"Checking {database.description}")
        revision = upgrading.current_revision(connection)
        typer.echo(
            f"Our tables: {f'revision {revision}' if revision else 'missing'}, newest {upgrading.head_revision()}"
        )
        contract = check_contract(connection)
        typer.echo("Other systems' tables: all columns, types and privileges are there")
        for warning in contract.warnings:
            typer.echo(f"Warning: {warning}")
        upgrading.require_current(connection)
        require_privileges(connection, Purpose.PIPELINE)


@app.command()
def grants(
    pipeline: Annotated[
        str | None, typer.Option(metavar="ROLE", help="Who aggregates: schedule, sensor, runs.")
    ] = None,
    retention: Annotated[str | None, typer.Option(metavar="ROLE", help="Who prunes old rows.")] = None,
    reader: Annotated[str | None, typer.Option(metavar="ROLE", help="Who only reads: the API, dashboards.")] = None,
) -> None:
    """Prints the GRANT statements that give each role what it needs and nothing more.

    The roles must exist when the statements are applied, by somebody who may grant on these tables: their owners.
    One role may be named for several purposes. Without any, the roles are metrics_pipeline, metrics_retention and
    metrics_reader.

    Example: `metrics-pipeline db grants --pipeline metrics --reader dashboards | psql …`
    """
    named = {Purpose.PIPELINE: pipeline, Purpose.RETENTION: retention, Purpose.READER: reader}
    roles = {purpose: role for purpose, role in named.items() if role is not None} or {
        purpose: f"metrics_{purpose}" for purpose in Purpose
    }
    database = open_database(Settings.from_environment())
    with database.connect() as connection:
        statements = grant_statements(connection, roles)
    if Purpose.RETENTION in roles:
        typer.echo(_ON_PARTITIONS)
    # All or nothing: psql goes on after an error.
    typer.echo("\n".join(["BEGIN;", *statements, "COMMIT;"]))
