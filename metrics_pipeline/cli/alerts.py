"""`alerts`: what is unusual and since when, by which rules, and computing all of it again."""

from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any

import simplejson
import typer

from metrics_pipeline.cli.tables import Column, Format, FormatOption, in_words, show
from metrics_pipeline.cli.values import day_option, require_known, require_order, storable
from metrics_pipeline.metrics.alert_rules import RULES
from metrics_pipeline.metrics.wording import counted
from metrics_pipeline.pipeline.opening import open_database, require_ready
from metrics_pipeline.settings import Settings
from metrics_pipeline.store.alerts import replay_alerts
from metrics_pipeline.store.answers.alerts import WantedState, alerts_page

app = typer.Typer(no_args_is_help=True, help="Show what is unusual of agents, the fleet and the pipeline.")

_STYLES = {"critical": "bold red", "warning": "yellow"}
_LIST = (
    Column("opened_on", "since", is_text=True, rank=2),
    Column("severity", is_text=True, rank=3, style=lambda severity: _STYLES.get(severity, "")),
    Column("about", is_text=True),
    Column("rule", is_text=True, rank=1),
    Column("state", is_text=True, rank=4),
    Column("found", is_folded=True),
)
_RULES = (
    Column("applies_to", "applies to", is_text=True),
    Column("rule", is_text=True),
    Column("setting", is_text=True),
    Column("meaning", is_folded=True, rank=1),
)


@app.command("list")
def list_alerts(
    state: Annotated[WantedState, typer.Option(help="open, resolved, withdrawn or all.")] = WantedState.OPEN,
    agent: Annotated[str | None, typer.Option(callback=storable, help="Only this agent. Default: all.")] = None,
    first: Annotated[date | None, day_option("--from", help="Only those open on this day or later.")] = None,
    last: Annotated[date | None, day_option("--to", help="Only those opened on this day or before.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="The maximum number of rows, newest first.")] = 100,
    form: FormatOption = Format.TABLE,
) -> None:
    """Shows the alerts, the newest first: since when, how bad, about what, and the value beside its usual range.

    An alert is withdrawn if a day was restated or cleared and the alert does not follow from the metrics any more.

    Example: `metrics-pipeline alerts list --state all --agent support-triage --from 2025-07-01`
    """
    first, last = first or date.min, last or date.max
    require_order(first, last)
    database = open_database(Settings.from_environment())
    require_ready(database)
    with database.connect() as connection:
        page = alerts_page(connection, first, last, state=state, agent_id=agent, limit=limit, offset=0)
        if not page.rows:
            # Those that were withdrawn outlive the agent's metrics.
            require_known(connection, agent)
    found = [simplejson.loads(row, use_decimal=True) for row in page.rows]
    if form is not Format.TABLE:
        show("", _LIST, found, form)
    elif not found:
        print("There is no such alert." if state is not WantedState.OPEN else "No alert is open.")
    else:
        rows = [alert | {"about": alert["agent_id"] or alert["scope"], "found": _in_words(alert)} for alert in found]
        show(f"Alerts in {database.description}", _LIST, rows)


@app.command("rules")
def list_rules(form: FormatOption = Format.TABLE) -> None:
    """Shows the rules that apply: the defaults, and what the file in METRICS_ALERT_RULES sets.

    Example: `metrics-pipeline alerts rules --format csv`
    """
    rows = [
        {
            "applies_to": section,
            "rule": rule,
            "setting": "off" if setting is None else _setting_in_words(setting),
            "meaning": RULES[rule].meaning,
        }
        for section, settings in Settings.from_environment().alert_rules.effective().items()
        for rule, setting in settings.items()
    ]
    show("Rules of alerts", _RULES, rows, form)


@app.command()
def replay() -> None:
    """Computes all alerts again from the stored metrics, without telling anybody.

    The result is the same as before, unless another program changed the metrics, or the rules were changed and no day
    was stored since. Alerts about the data and the pipeline, such as a missing day, do not follow from the metrics and
    stay as they are. Needs the privileges of `db grants --operator`.

    Example: `metrics-pipeline alerts replay`
    """
    settings = Settings.from_environment()
    database = open_database(settings)
    require_ready(database)
    with database.begin() as connection:
        changed = replay_alerts(connection, settings.alert_rules)
    print(f"{counted(changed, 'alert')} changed.")


def _setting_in_words(setting: Mapping[str, object]) -> str:
    given = [
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in setting.items()
        if value is not None
    ]
    return ", ".join(given) or "on"


def _in_words(alert: dict[str, Any]) -> str:
    """The value and its usual range, or what the rule says in a sentence of its own."""
    details = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in alert["details"].items())
    if alert["value"] is None:
        return str(alert["details"].get("said", details))
    sides = [
        f"{word} {in_words(alert[name])}"
        for word, name in (("from", "usual_low"), ("up to", "usual_high"))
        if alert[name] is not None
    ]
    usual = f" (usual {' '.join(sides)})" if sides else ""
    return f"{alert['metric']} {in_words(alert['value'])}{usual}{f', {details}' if details else ''}"
