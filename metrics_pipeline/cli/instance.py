"""`instance`: the files of a Dagster instance for production."""

from pathlib import Path
from typing import Annotated

import typer

from metrics_pipeline.orchestration.instance import CONFIGURATION, SOCKET, WORKSPACE, write_instance

app = typer.Typer(no_args_is_help=True, help="Set up a Dagster instance for production.")

_NEXT_STEPS = """\
Wrote {folder}/{configuration} and {folder}/{workspace}. Next:

1. Have a database made for Dagster, owned by a role of its own:
     CREATE ROLE dagster LOGIN PASSWORD '…'; CREATE DATABASE dagster OWNER dagster;
2. Prepare the database of the metrics, and print the grants for the role that the runs shall use:
     metrics-pipeline db upgrade
     metrics-pipeline db grants --help
3. Give every service this environment, in a file that only its user can read:
     DAGSTER_HOME={folder}
     DAGSTER_POSTGRES_URL=postgresql+psycopg2://dagster:…@db.example:5432/dagster
     DAGSTER_BACKFILL_RETRY_DEFINITION_CHANGED_ERROR=1
     METRICS_DATABASE_URL=postgresql://…
4. Start the services, all as the user that owns {folder}:
     dagster api grpc --module-name metrics_pipeline.definitions --location-name metrics_pipeline --socket {socket}
     dagster-webserver --workspace {folder}/{workspace} --host 127.0.0.1 --port 3000
     dagster-daemon run --workspace {folder}/{workspace}
   The UI asks nobody for a password: whoever reaches its port can start runs.
"""


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Dagster's home; made if it is missing.")],
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
) -> None:
    """Writes a commented dagster.yaml and the workspace.yaml to go with it, and says what to do next.

    The instance keeps its runs in a PostgreSQL, whose URL it takes from DAGSTER_POSTGRES_URL. The files are yours to
    edit, readable by you only, and never overwritten unless you say so.

    Example: `metrics-pipeline instance init /srv/dagster`
    """
    write_instance(folder, force=force)
    home = folder.absolute()
    typer.echo(_NEXT_STEPS.format(folder=home, configuration=CONFIGURATION, workspace=WORKSPACE, socket=home / SOCKET))


@app.callback()
def _group() -> None:
    # Typer makes the only command of a group the group itself.
    pass
