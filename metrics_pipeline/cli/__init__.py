"""metrics-pipeline: the command line. One module per group of commands; this one puts them together."""

import io
import os
import sys

import typer

from metrics_pipeline.cli import api, db, demo, dev, history, instance, logs, retention, runs
from metrics_pipeline.cli.tables import printable
from metrics_pipeline.errors import PipelineError

app = typer.Typer(
    name="metrics-pipeline",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Daily metrics of AI agents, exact to the last digit.

Start with `metrics-pipeline demo`, then open the Dagster UI with `metrics-pipeline dev`.

**Environment**

- `METRICS_DATABASE_URL`: the PostgreSQL with logs and metrics; unset, an embedded server is used
- `METRICS_PIPELINE_HOME`: where the embedded server and the Dagster instance live
- `METRICS_TIME_ZONE`: the zone whose calendar days are aggregated (default UTC)
- `METRICS_START_DATE`: the first day (default 2025-01-01)
- `METRICS_LOOKBACK_DAYS`: how many days back missing, late and corrected logs are looked for (default 14)
- `METRICS_RETENTION_RAW_LOG_DAYS`, `METRICS_RETENTION_METRIC_DAYS`, `METRICS_RETENTION_ALERT_DAYS`: how long raw logs
  (default 30), metrics (365) and resolved alerts (90) are kept

- `METRICS_OWNERS`: whom the Dagster UI names as owners (email addresses and team:NAME)

- `METRICS_API_TOKENS`, `METRICS_API_DATABASE_URL`, `DAGSTER_WEBSERVER_URL`: see `metrics-pipeline api --help`
- `DAGSTER_HOME`: a Dagster instance of your own
""",
)
app.command("demo")(demo.demo)
app.command("dev")(dev.dev)
app.command("aggregate")(runs.aggregate)
app.command("backfill")(runs.backfill)
app.command("retention")(retention.retention)
app.command("status")(history.status)
app.command("restatements")(history.restatements)
app.command("api")(api.api)
app.add_typer(logs.app, name="logs")
app.add_typer(db.app, name="db")
app.add_typer(instance.app, name="instance")


def main() -> None:
    """Runs the command line; an error of ours is one sentence on stderr and exit code 1.

    What a command and its children create is their user's alone.
    """
    for stream in (sys.stdout, sys.stderr):
        # What the terminal's encoding lacks is escaped; the work was done, and its report must not fail.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # Dagster makes the output of runs, and in /tmp the sockets of its code servers, with the modes that the umask
    # leaves: under umask 0 everybody on the machine could have a code server run what they like.
    previous = os.umask(0o077)
    try:
        app()
    except PipelineError as error:
        print("\n".join(map(printable, f"Error: {error}".split("\n"))), file=sys.stderr)
        sys.exit(1)
    finally:
        os.umask(previous)
