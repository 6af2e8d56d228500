"""`notify`: the receivers of messages about alerts."""

import typer

from metrics_pipeline.cli.tables import say
from metrics_pipeline.errors import PermanentError
from metrics_pipeline.pipeline.delivery import send_test
from metrics_pipeline.settings import VARIABLES, Settings

app = typer.Typer(no_args_is_help=True, help="Look after those who are told of alerts.")
# Otherwise Typer would take the only command for the group.
app.callback()(lambda: None)


@app.command()
def test() -> None:
    """Sends every receiver of METRICS_NOTIFY and of the summaries a test message, and says who got it.

    Run it with the environment of the code server, from which alerts are sent. No URL is shown, because it holds
    secrets: a receiver is called by its service, and by the digest that metric_alert_deliveries names it with. The exit
    code is 1 if a receiver was not told.

    Example: `METRICS_NOTIFY="slack://…" metrics-pipeline notify test`
    """
    settings = Settings.from_environment()
    if not (settings.notify or settings.notify_daily or settings.notify_weekly):
        raise PermanentError(
            "METRICS_NOTIFY is not set, nor are METRICS_NOTIFY_DAILY and METRICS_NOTIFY_WEEKLY, so nobody is told of "
            f"anything. Set {VARIABLES['notify'].accepts}."
        )
    errors = []
    for outcome in send_test(settings):
        if outcome.error is None:
            say(f"{outcome.receiver} got the message.")
        else:
            errors.append(f"{outcome.receiver} did not get the message. {outcome.error}")
    if errors:
        raise PermanentError("\n".join(errors))
