"""metrics-pipeline: the command line. One module per group of commands; this one puts them together."""

import sys

import typer

from metrics_pipeline.cli import api, db, demo, dev, history, logs, runs
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
- `METRICS_API_TOKENS`, `METRICS_API_DATABASE_URL`, `DAGSTER_WEBSERVER_URL`: see `metrics-pipeline api --help`
- `DAGSTER_HOME`: a Dagster instance of your own
""",
)
app.command("demo")(demo.demo)
app.command("dev")(dev.dev)
app.command("aggregate")(runs.aggregate)
app.command("backfill")(runs.backfill)
app.command("status")(history.status)
app.command("restatements")(history.restatements)
app.command("api")(api.api)
app.add_typer(logs.app, name="logs")
app.add_typer(db.app, name="db")


def main() -> None:
    """Runs the command line; an error of ours is one sentence on stderr and exit code 1."""
    try:
        app()
    except PipelineError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)
