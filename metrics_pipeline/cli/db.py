"""`db`: the revision of our tables, the contract with the tables of other systems, and the grants on both."""

from typing import Annotated

import typer

from metrics_pipeline.logs.contract import check_contract
from metrics_pipeline.pipeline.opening import open_database
from metrics_pipeline.postgres import upgrading
from metrics_pipeline.postgres.privileges import Purpose, grant_statements, require_privileges
from metrics_pipeline.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Prepare the database, and check that it has what the pipeline needs.")

_ON_PARTITIONS = """\
-- Retention needs the same grants on partitions that are created later. It drops whole partitions, which is faster than
-- deleting their rows, only if its role is a member of the role that owns the logs and the partitions."""


@app.command()
def upgrade() -> None:
    """Creates our tables, or upgrades them to the revision of this version. A downgrade is not possible.

    The tables of other systems are not changed. An existing agent_performance_metrics is adopted with its rows. The
    upgrade is one transaction, and running it again changes nothing.
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

    Run it as the role that the pipeline uses. It reads only the catalog. If something is missing, one error names all
    of it and the exit code is 1.
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
        str | None, typer.Option(metavar="ROLE", help="The role that aggregates: schedule, sensor, runs.")
    ] = None,
    retention: Annotated[str | None, typer.Option(metavar="ROLE", help="The role that deletes old rows.")] = None,
    reader: Annotated[str | None, typer.Option(metavar="ROLE", help="The role that reads: API, dashboards.")] = None,
) -> None:
    """Prints the GRANT statements that give each role what it needs and nothing more.

    Apply the statements as the owner of the tables; the roles must exist by then. One role may serve several purposes.
    If no role is named, the roles are metrics_pipeline, metrics_retention and metrics_reader.

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
    # One transaction, because psql continues after an error.
    typer.echo("\n".join(["BEGIN;", *statements, "COMMIT;"]))
