"""`agents`: agents that the checks leave out, because somebody knows of them."""

from typing import Annotated

import typer

from metrics_pipeline.cli.tables import Column, Format, FormatOption, say, show
from metrics_pipeline.cli.values import storable, storable_each
from metrics_pipeline.errors import PermanentError
from metrics_pipeline.pipeline.opening import open_database
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.upgrading import require_current
from metrics_pipeline.settings import Settings
from metrics_pipeline.store.acknowledgements import acknowledge as store_acknowledgements
from metrics_pipeline.store.acknowledgements import acknowledgements, take_back

app = typer.Typer(no_args_is_help=True, help="Tell the checks of agents that were retired on purpose.")

_COLUMNS = (
    Column("agent", is_text=True),
    Column("registry", "in agent_registry", is_text=True, rank=1),
    Column("acknowledged_at", "since (UTC)", is_text=True, rank=2),
    Column("reason", is_folded=True),
)


_IDS = typer.Argument(metavar="ID", callback=storable_each, help="The ids of the agents.")


@app.command()
def acknowledge(
    agents: Annotated[list[str], _IDS],
    reason: Annotated[str, typer.Option(callback=storable, help="Why, for the next reader of the list.")],
) -> None:
    """Lets the checks be green in spite of agents that were retired on purpose.

    no_skipped_logs no longer turns yellow because of their logs, and no_unusual_changes because they fell silent or
    changed. Their logs are treated as before: those of an inactive agent are counted as skipped. A repetition replaces
    the reason. Needs the privileges of `db grants --operator`.

    Example: `metrics-pipeline agents acknowledge sql-assistant --reason "Retired in May, one client still calls it"`
    """
    if not reason.strip():
        raise PermanentError("--reason is empty. Say why, for the next reader of the list.")
    database = _opened()
    with database.begin() as connection:
        store_acknowledgements(connection, agents, reason)
        unknown = [
            each.agent_id for each in acknowledgements(connection) if each.agent_id in agents and each.status is None
        ]
    say(f"Acknowledged: {', '.join(dict.fromkeys(agents))}. All are shown by:", "metrics-pipeline agents list")
    if unknown:
        say(f"Not in agent_registry, so look for typing errors: {', '.join(unknown)}.")


@app.command()
def unacknowledge(agents: Annotated[list[str], _IDS]) -> None:
    """Takes acknowledgements back: the checks look at the agents again.

    Example: `metrics-pipeline agents unacknowledge sql-assistant`
    """
    with _opened().begin() as connection:
        taken = take_back(connection, agents)
        missing = [agent for agent in dict.fromkeys(agents) if agent not in taken]
        if missing:
            raise PermanentError(
                f"Nothing is changed, because these are not acknowledged: {', '.join(missing)}. metrics-pipeline "
                "agents list shows those that are."
            )
    say(f"No longer acknowledged: {', '.join(taken)}.")


@app.command("list")
def list_acknowledged(form: FormatOption = Format.TABLE) -> None:
    """Shows the acknowledged agents, since when and why.

    Example: `metrics-pipeline agents list --format csv`
    """
    database = _opened()
    with database.connect() as connection:
        found = acknowledgements(connection)
    if not found and form is Format.TABLE:
        print("No agent is acknowledged.")
        return
    rows = [
        {
            "agent": each.agent_id,
            "registry": each.status or "not registered",
            "acknowledged_at": each.acknowledged_at,
            "reason": each.reason,
        }
        for each in found
    ]
    show(f"Acknowledged agents in {database.description}", _COLUMNS, rows, form)


def _opened() -> Database:
    database = open_database(Settings.from_environment())
    with database.connect() as connection:
        require_current(connection)
    return database
