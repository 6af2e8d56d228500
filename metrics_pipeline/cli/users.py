"""`users`: what is stored of the people who use the agents."""

from typing import Annotated

import typer

from metrics_pipeline.cli.values import storable
from metrics_pipeline.metrics.wording import counted
from metrics_pipeline.pipeline.opening import open_database
from metrics_pipeline.postgres.upgrading import require_current
from metrics_pipeline.settings import Settings
from metrics_pipeline.store.forgetting import forget_user

app = typer.Typer(no_args_is_help=True, help="Manage what is stored of the people who use the agents.")
# Otherwise Typer would take the only command for the group.
app.callback()(lambda: None)


@app.command()
def forget(
    user_id: Annotated[
        str, typer.Argument(metavar="ID", callback=storable, help="The user_id in the metadata of logs.")
    ],
) -> None:
    """Removes one person from the stored distributions.

    Only a keyed hash of each user is stored. The person's hash is replaced everywhere by a random number, so the users
    of every window are counted as before, and nothing stored belongs to the person any more. Have the platform remove
    the person from its logs first: a day that is aggregated again from logs that name the person stores the hash again.
    Needs UPDATE on agent_day_distributions, which the purpose `--operator` of `metrics-pipeline db grants` has.

    Example: `metrics-pipeline users forget alice@example.com`
    """
    settings = Settings.from_environment()
    database = open_database(settings)
    with database.connect() as connection:
        require_current(connection)
    forgotten = forget_user(database, user_id, settings.user_key)
    named = f": {', '.join(map(str, forgotten.days))}" if forgotten.days else ""
    print(f"Removed from {counted(len(forgotten.days), 'day')}{named}.")
    if forgotten.unknown_keys:
        typer.echo(
            "Not searched: distributions whose users were hashed with another key, of id "
            f"{', '.join(forgotten.unknown_keys)}. Set METRICS_USER_KEY to that key and repeat the command.",
            err=True,
        )
        raise typer.Exit(1)
