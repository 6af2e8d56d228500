"""`db`: the revision of our tables, the contract with the tables of other systems, and the grants on both."""

import os
import shutil
import signal
import subprocess
from collections import defaultdict
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated

import typer
from sqlalchemy import Connection, text

from metrics_pipeline.cli.adapting import adapt
from metrics_pipeline.cli.tables import printable, printable_sql
from metrics_pipeline.embedded.installation import binaries
from metrics_pipeline.errors import PermanentError
from metrics_pipeline.logs.change_feed import describe_feed, trigger_statements
from metrics_pipeline.logs.contract import SOURCE_TABLES, UpstreamContract, check_contract
from metrics_pipeline.logs.inspection import describe_data, require_tables_to_open
from metrics_pipeline.logs.postgres_logs import PostgresLogs
from metrics_pipeline.logs.table_counters import describe_view
from metrics_pipeline.metrics.windows import day_window, last_complete_day
from metrics_pipeline.metrics.wording import counted
from metrics_pipeline.names import ALERTS_TABLE, LOGS_TABLE
from metrics_pipeline.pipeline.opening import open_database, open_source
from metrics_pipeline.pipeline.reconciling import first_day, why_start_later
from metrics_pipeline.postgres import upgrading
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.privileges import Purpose, grant_statements, require_privileges
from metrics_pipeline.settings import Settings
from metrics_pipeline.store.distributions import hashed_otherwise, user_key

app = typer.Typer(no_args_is_help=True, help="Prepare the database, and check that it has what the pipeline needs.")
app.command()(adapt)

# The tables of other systems that each purpose reads.
_TABLES = {
    Purpose.PIPELINE: SOURCE_TABLES,
    Purpose.RETENTION: (LOGS_TABLE, ALERTS_TABLE),
    Purpose.READER: SOURCE_TABLES,
    Purpose.OPERATOR: SOURCE_TABLES,
    Purpose.ALERTS: (ALERTS_TABLE,),
}

_SERVER = text("""
    SELECT pg_is_in_recovery() AS is_standby,
           quote_ident(current_user) AS role,
           quote_ident(current_schema()) AS schema,
           has_schema_privilege(current_schema(), 'CREATE') AS may_create
""")

_ON_PARTITIONS = """\
-- Retention needs the same grants on partitions that are created later. It drops whole partitions, which is faster than
-- deleting their rows, only if its role is a member of the role that owns the logs and the partitions."""


_FEED = """\
-- The change feed of metrics-pipeline: for the owner of the logs. When a row older than half an hour changes, its
-- triggers note in metric_log_changes which time was changed, if the day was aggregated already. So a look for late
-- logs reads only the days that were changed. Cost: a comparison for each row, some microseconds more for an old row.
-- An error of the feed never fails a writer's statement, and writers never wait for each other. These statements lock
-- the logs for milliseconds; behind a transaction that uses the logs they give up after 2 seconds: apply them again.
-- To remove the feed: metrics-pipeline db watch --remove | psql ...
BEGIN;
SET LOCAL lock_timeout = '2s';
SET LOCAL client_min_messages = warning;"""


@app.command()
def upgrade(
    *,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print what would be done, and what stands in the way. Change nothing.")
    ] = False,
) -> None:
    """Creates our tables, or upgrades them to the revision of this version. A downgrade is not possible.

    The tables of other systems are not changed. An existing agent_performance_metrics is adopted with its rows. The
    upgrade is one transaction, and running it again changes nothing. If somebody uses a table that has to change, it
    tries several times for 5 seconds each, and then names who does. Proposes METRICS_START_DATE as `status` does.
    """
    settings = Settings.from_environment()
    database = open_database(settings)
    if plan:
        _print_plan(database)
        return
    done = upgrading.upgrade(database)
    if done.before == done.after:
        typer.echo(f"Our tables in {printable(database.description)} are at revision {done.after} already.")
    else:
        typer.echo(
            f"Upgraded our tables in {printable(database.description)} from {done.before or 'none'} to revision "
            f"{done.after}."
        )
    if later := _why_start_later(database, settings):
        typer.echo(later)


def _why_start_later(database: Database, settings: Settings) -> str:
    """The proposal of why_start_later(); empty where `check`, which names the reason, could not make it either."""
    if settings.start_date != Settings.start_date or settings.logs_url is not None:
        return ""
    # The role that upgrades need not be able to read the logs, and they may come later than our tables.
    with suppress(PermanentError), database.connect() as connection:
        contract = check_contract(connection, (LOGS_TABLE,))
        return why_start_later(settings, first_day(connection, PostgresLogs(database, contract), settings.time_zone))
    return ""


def _print_plan(database: Database) -> None:
    plan = upgrading.plan_upgrade(database)
    already = "" if plan.revisions else " already"
    typer.echo(f"Our tables in {printable(database.description)} are at revision {plan.before or 'none'}{already}.")
    for revision, sentence in plan.revisions:
        typer.echo(f"{revision}: {sentence}")
    if plan.adoption:
        typer.echo(
            f"An existing agent_performance_metrics would be adopted: about {counted(plan.rows, 'row')}, {plan.size}"
        )
        for command in plan.adoption.commands:
            typer.echo(f"{command};")
        for name, rows in plan.adoption.filled.items():
            typer.echo(f"{name} would get a value in {counted(rows, 'row that has', 'rows that have')} none")
        if plan.adoption.triggers:
            typer.echo(f"Its triggers would be tried with two rows: {printable(plan.adoption.triggers)}")
    if plan.problems:
        raise PermanentError(f"The upgrade would be refused: {'; '.join(plan.problems)}.")


@app.command()
def check(
    purposes: Annotated[
        list[Purpose] | None,
        typer.Option(
            "--for",
            metavar="PURPOSE",
            help="What the role is for: pipeline, retention, reader, operator or alerts. May be repeated.",
            show_default="pipeline and retention",
        ),
    ] = None,
) -> None:
    """Checks the tables that we read, their types and privileges, and the revision of our own tables.

    Run it as the role that the pipeline uses. It also looks at the newest logs and warns of statuses and agents that
    would not be counted. It changes nothing. If something is missing, the error names all of it, and what the role can
    therefore not be used for; the exit code is 1.
    """
    settings = Settings.from_environment()
    database = open_database(settings)
    has_lake = settings.logs_url is not None
    with database.connect() as connection:
        typer.echo(printable(f"Checking {database.description}"))
        revision = upgrading.current_revision(connection)
        typer.echo(
            f"Our tables: {f'revision {revision}' if revision else 'missing'}, newest {upgrading.head_revision()}"
        )
        server = connection.execute(_SERVER).one()
        if revision is None and not server.may_create:
            grant = printable_sql(f"GRANT CREATE ON SCHEMA {server.schema} TO {server.role}")
            typer.echo(
                printable(
                    f"Warning: Role {server.role} cannot create our tables. Have the owner of the schema apply: {grant}"
                )
            )
        contracts: dict[Purpose, UpstreamContract] = {}
        errors = defaultdict(list)
        for purpose in purposes or (Purpose.PIPELINE, Purpose.RETENTION):
            try:
                contracts[purpose] = _require_ready_for(
                    connection, purpose, is_standby=server.is_standby, has_lake=has_lake
                )
                typer.echo(f"Ready for {purpose}: all tables, columns, types and privileges are there")
                if purpose is Purpose.RETENTION and not _has_alerts(connection):
                    typer.echo(f"{ALERTS_TABLE} does not exist, so no alert is deleted")
            except PermanentError as error:
                errors[str(error)].append(str(purpose))
        warnings = [warning for contract in contracts.values() for warning in contract.warnings]
        if Purpose.PIPELINE in contracts:
            warnings += filter(None, [hashed_otherwise(connection, user_key(connection, settings.user_key))])
        reading = contracts.get(Purpose.PIPELINE) or contracts.get(Purpose.READER)
        if reading and not has_lake:
            reading = replace(reading, statuses=settings.statuses)
            found, suspicious = describe_data(connection, reading, datetime.now(UTC))
            feed, incomplete = describe_feed(connection)
            found += [feed, *describe_view(connection)]
            first = first_day(connection, PostgresLogs(database, reading), settings.time_zone)
            found += filter(None, [why_start_later(settings, first)])
            warnings += suspicious + incomplete
            for sentence in found:
                typer.echo(printable(sentence))
    if has_lake:
        try:
            typer.echo(printable(_describe_lake(database, settings)))
        except PermanentError as error:
            errors[str(error)].append("the lake")
    for warning in dict.fromkeys(warnings):
        typer.echo(printable(f"Warning: {warning}"))
    if errors:
        raise PermanentError(
            "\n".join(f"Not ready for {' and '.join(names)}: {message}" for message, names in errors.items())
        )


def _describe_lake(database: Database, settings: Settings) -> str:
    logs = open_source(database, settings)
    day = last_complete_day(datetime.now(UTC), settings.time_zone)
    with database.snapshot() as snapshot:
        count = logs.counts(snapshot, [day_window(day, settings.time_zone)])[day]
    return f"Ready: {logs.name} has all columns in their types, and {counted(count, 'log')} of {day}"


def _require_ready_for(
    connection: Connection, purpose: Purpose, *, is_standby: bool, has_lake: bool
) -> UpstreamContract:
    if is_standby and purpose is not Purpose.READER:
        raise PermanentError(
            "The server is a standby, which can be read but not written. Name the primary in METRICS_DATABASE_URL."
        )
    tables = [
        table
        for table in _TABLES[purpose]
        if (table != ALERTS_TABLE or _has_alerts(connection)) and (table != LOGS_TABLE or not has_lake)
    ]
    contract = check_contract(connection, tables)
    require_tables_to_open(connection, contract, tables)
    upgrading.require_current(connection)
    require_privileges(connection, purpose)
    return contract


def _has_alerts(connection: Connection) -> bool:
    return connection.scalar(text("SELECT to_regclass(:table) IS NOT NULL"), {"table": ALERTS_TABLE}) is True


@app.command()
def grants(
    pipeline: Annotated[
        str | None, typer.Option(metavar="ROLE", help="The role that aggregates: schedule, sensor, runs.")
    ] = None,
    retention: Annotated[str | None, typer.Option(metavar="ROLE", help="The role that deletes old rows.")] = None,
    reader: Annotated[str | None, typer.Option(metavar="ROLE", help="The role that reads: API, dashboards.")] = None,
    operator: Annotated[
        str | None, typer.Option(metavar="ROLE", help="The role of a person who aggregates, seals and clears days.")
    ] = None,
    alerts: Annotated[
        str | None,
        typer.Option(metavar="ROLE", help="The pipeline's role, if METRICS_ALERTS_TO has it write into alert_history."),
    ] = None,
) -> None:
    """Prints the GRANT statements that give each role what it needs and nothing more.

    Apply the statements as the owner of the tables; the roles must exist by then. One role may serve several purposes.
    If no role is named, the roles are metrics_pipeline, metrics_retention and metrics_reader.

    Example: `metrics-pipeline db grants --pipeline metrics --reader dashboards | psql …`
    """
    named = {
        Purpose.PIPELINE: pipeline,
        Purpose.RETENTION: retention,
        Purpose.READER: reader,
        Purpose.OPERATOR: operator,
        Purpose.ALERTS: alerts,
    }
    roles = {purpose: role for purpose, role in named.items() if role is not None} or {
        purpose: f"metrics_{purpose}" for purpose in (Purpose.PIPELINE, Purpose.RETENTION, Purpose.READER)
    }
    database = open_database(Settings.from_environment())
    with database.connect() as connection:
        statements = grant_statements(connection, roles)
    if Purpose.RETENTION in roles:
        typer.echo(_ON_PARTITIONS)
    # One transaction, because psql continues after an error.
    print(printable_sql("\n".join(["BEGIN;", *statements, "COMMIT;"])))


@app.command()
def url() -> None:
    """Prints the database's address for other programs, without a password.

    The embedded server runs as long as a command of ours does, such as `dev`; `metrics-pipeline db shell` starts it.

    Example: `psql "$(metrics-pipeline db url)"`
    """
    typer.echo(open_database(Settings.from_environment()).url.without_secrets())


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def shell(context: typer.Context) -> None:
    """Opens psql on the database, also on the embedded one. What follows is passed on to psql.

    psql comes with the embedded PostgreSQL; otherwise the one in your PATH is used.

    **Examples**

    - `metrics-pipeline db shell`
    - `metrics-pipeline db shell -c 'TABLE metric_day_ledger' --csv`
    """
    database = open_database(Settings.from_environment())
    # psql handles Ctrl-C itself. Not SIG_IGN, which it would inherit.
    signal.signal(signal.SIGINT, lambda _signal, _frame: None)
    environment = {**os.environ, **database.url.environment()}
    raise typer.Exit(subprocess.run([_psql(), *context.args], env=environment, check=False).returncode)


def _psql() -> str:
    # The wheel's first: an older psql does not know the catalog of a newer server.
    try:
        bundled = binaries() / "psql"
    except PermanentError:
        bundled = None
    program = str(bundled) if bundled is not None and bundled.is_file() else shutil.which("psql")
    if program is None:
        raise PermanentError(
            "There is no psql: neither in PATH nor with the embedded PostgreSQL. Install PostgreSQL's client programs, "
            "or connect another client to what `metrics-pipeline db url` prints."
        )
    return program


@app.command()
def watch(
    *,
    remove: Annotated[bool, typer.Option("--remove", help="Print the statements that remove the change feed.")] = False,
) -> None:
    """Prints the triggers of the change feed, for the owner of the logs. Changes nothing itself.

    With the feed, a look for late logs reads only the days whose logs were changed. Applying the statements again
    changes nothing; `metrics-pipeline db check` says whether the feed is complete.

    Example: `metrics-pipeline db watch | psql …`
    """
    database = open_database(Settings.from_environment())
    with database.connect() as connection:
        contract = check_contract(connection, (LOGS_TABLE,))
        statements = trigger_statements(connection, contract, remove=remove)
    print(printable_sql("\n".join([_FEED, *statements, "COMMIT;"])))
