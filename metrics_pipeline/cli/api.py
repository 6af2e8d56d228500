"""`api`: the metrics over HTTP."""

from contextlib import suppress
from typing import Annotated, Any

import typer
from pythonjsonlogger.core import RESERVED_ATTRS

from metrics_pipeline.cli.values import listen
from metrics_pipeline.errors import SettingsError
from metrics_pipeline.pipeline.opening import open_database
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline.settings import Settings

_LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "json": {
            "()": "pythonjsonlogger.json.JsonFormatter",
            "fmt": ["levelname", "name", "message"],
            "rename_fields": {"levelname": "level", "name": "logger"},
            "timestamp": "time",
            "reserved_attrs": [*RESERVED_ATTRS, "color_message"],
        }
    },
    "handlers": {"stdout": {"class": "logging.StreamHandler", "formatter": "json", "stream": "ext://sys.stdout"}},
    "loggers": {
        "metrics_pipeline": {"handlers": ["stdout"], "level": "INFO", "propagate": False},
        "uvicorn": {"handlers": ["stdout"], "level": "INFO", "propagate": False},
    },
}


def api(
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port.")] = 8000,
    host: Annotated[
        str,
        typer.Option(
            help="The address to listen on. Without METRICS_API_TOKENS it must be localhost, 127.0.0.1 or ::1."
        ),
    ] = "127.0.0.1",
    root_path: Annotated[
        str,
        typer.Option(
            help="The path prefix under which a proxy serves the API, and which it removes, such as /metrics-api."
        ),
    ] = "",
    trusted_proxy: Annotated[
        list[str] | None,
        typer.Option(help="The address or network of a proxy whose X-Forwarded-For is believed. May be repeated."),
    ] = None,
) -> None:
    """Serves the metrics over HTTP: a page to look at, and the API with series, windows, days and Dagster runs.

    The page is at /, the documentation of the API at /docs. Without METRICS_API_TOKENS every user of this machine may
    read and start runs.
    METRICS_API_DATABASE_URL and DAGSTER_WEBSERVER_URL are described by `metrics-pipeline --help`. The log has one JSON
    object per line. Stop the API with Ctrl-C.

    **Examples**

    - `metrics-pipeline api`, then `curl http://127.0.0.1:8000/api/v1/metrics`
    - `METRICS_API_TOKENS=grafana:read:… metrics-pipeline api --host 0.0.0.0`
    - `metrics-pipeline api --root-path /agents --trusted-proxy 10.0.0.0/8`
    """
    # Imported here: FastAPI takes 0.2 s to import, and no other command needs it.
    from metrics_pipeline.api.app import LOOPBACK_HOSTS, build_app
    from metrics_pipeline.api.server import build_server

    settings = Settings.from_environment()
    if not settings.api_tokens and host not in LOOPBACK_HOSTS:
        raise SettingsError(
            "Without METRICS_API_TOKENS the API listens on a loopback address only (localhost, 127.0.0.1 or ::1), "
            f"and --host is {host}. "
            "Set METRICS_API_TOKENS to name:role:token, …, or omit --host."
        )
    with listen("The API", host, port) as listener:
        database = (
            Database(DatabaseUrl.parse(settings.api_database_url, "METRICS_API_DATABASE_URL"))
            if settings.api_database_url is not None
            else open_database(settings)
        )
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        typer.echo(f"Page: {address}   API: {address}/docs   (Ctrl-C stops them)", err=True)
        # Uvicorn raises KeyboardInterrupt again after the last request is answered.
        with suppress(KeyboardInterrupt):
            app = build_app(settings, database)
            server = build_server(app, _LOGGING, root_path=root_path.rstrip("/"), trusted_proxies=trusted_proxy or ())
            server.run(sockets=[listener])
