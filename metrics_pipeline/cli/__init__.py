"""metrics-pipeline: the command line. One module per group of commands; this one puts them together."""

import io
import os
import sys
from typing import Annotated

import typer

from metrics_pipeline import __version__
from metrics_pipeline.cli import (
    agents,
    alerts,
    api,
    days,
    db,
    demo,
    dev,
    history,
    instance,
    logs,
    notify,
    report,
    retention,
    runs,
    users,
)
from metrics_pipeline.cli.tables import printable
from metrics_pipeline.cli.usage import Commands
from metrics_pipeline.errors import PipelineError
from metrics_pipeline.settings import VARIABLES, read_env_file


def _environment() -> str:
    return "\n".join(
        f"- `{variable.name}`: {variable.description}" + f" Default: {variable.default}." * bool(variable.default)
        for variable in VARIABLES.values()
    )


app = typer.Typer(
    name="metrics-pipeline",
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=f"""Daily metrics of AI agents, exact to the last digit.

Start with `metrics-pipeline demo`, then open the Dagster UI with `metrics-pipeline dev`.

**Environment**

{_environment()}
""",
)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"metrics-pipeline {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    # The options before a command; the help is the app's.
    pass


app.command("demo")(demo.demo)
app.command("dev")(dev.dev)
app.command("aggregate")(runs.aggregate)
app.command("backfill")(runs.backfill)
app.command("retention")(retention.retention)
app.command("status")(history.status)
app.command("seal")(days.seal)
app.command("clear")(days.clear)
app.command("restatements")(history.restatements)
app.command("report")(report.report)
app.command("api")(api.api)
app.add_typer(logs.app, name="logs")
app.add_typer(db.app, name="db")
app.add_typer(instance.app, name="instance")
app.add_typer(alerts.app, name="alerts")
app.add_typer(agents.app, name="agents")
app.add_typer(users.app, name="users")
app.add_typer(notify.app, name="notify")


def main() -> None:
    """Runs the command line. An error of ours is one message on stderr and exit code 1.

    Only the user who runs a command can read the files that it and its children create.
    """
    for stream in (sys.stdout, sys.stderr):
        # Escape the characters that the terminal's encoding lacks: the work is done, and its report must not fail.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # Dagster makes the output of runs, and in /tmp the sockets of its code servers, with the modes that the umask
    # leaves: under umask 0 every user of the machine could make a code server run any code.
    previous = os.umask(0o077)
    try:
        read_env_file()
        app()
    except PipelineError as error:
        print("\n".join(map(printable, f"Error: {error}".split("\n"))), file=sys.stderr)
        sys.exit(1)
    finally:
        os.umask(previous)
