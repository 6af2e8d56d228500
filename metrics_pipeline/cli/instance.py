"""`instance`: the files of a Dagster instance for production."""

from pathlib import Path
from typing import Annotated

import typer

from metrics_pipeline.cli.tables import printable

app = typer.Typer(no_args_is_help=True, help="Set up a Dagster instance for production.")
# Otherwise Typer would take the only command for the group.
app.callback()(lambda: None)

_NEXT_STEPS = """\
Wrote {folder}/{configuration} and {folder}/{workspace}. Next:

1. Create a database for Dagster, owned by a role of its own:
     CREATE ROLE dagster LOGIN PASSWORD '…'; CREATE DATABASE dagster OWNER dagster;
2. Prepare the database of the metrics, and print the grants for the role that the runs use:
     metrics-pipeline db upgrade
     metrics-pipeline db grants --help
3. Give every service this environment, from a file that only its user can read:
     DAGSTER_HOME={folder}
     DAGSTER_POSTGRES_URL=postgresql+psycopg2://dagster:…@db.example:5432/dagster
     DAGSTER_BACKFILL_RETRY_DEFINITION_CHANGED_ERROR=1
     METRICS_DATABASE_URL=postgresql://…
4. Start the services, all as the user that owns {folder}:
     dagster api grpc --module-name metrics_pipeline.definitions --location-name metrics_pipeline --socket {socket}
     dagster-webserver --workspace {folder}/{workspace} --host 127.0.0.1 --port 3000
     dagster-daemon run --workspace {folder}/{workspace}
   The UI asks for no password: everybody who can reach its port can start runs.
"""


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Dagster's home; created if it does not exist.")],
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
) -> None:
    """Writes a commented dagster.yaml and its workspace.yaml, and prints the next steps.

    The instance keeps its runs in the PostgreSQL that DAGSTER_POSTGRES_URL names. Only you can read the files. Edit
    them as you like: they are never overwritten without --force.

    Example: `metrics-pipeline instance init /srv/dagster`
    """
    from metrics_pipeline.orchestration.instance import CONFIGURATION, SOCKET, WORKSPACE, write_instance

    write_instance(folder, force=force)
    home = folder.absolute()
    shown = printable(str(home))
    typer.echo(
        _NEXT_STEPS.format(folder=shown, configuration=CONFIGURATION, workspace=WORKSPACE, socket=f"{shown}/{SOCKET}")
    )
