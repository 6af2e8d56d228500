"""`dev`: the Dagster UI and daemon on the shared instance, and the page beside them."""

import socket
import sys
from typing import Annotated

import typer

from metrics_pipeline.cli import supervisor
from metrics_pipeline.cli.values import listen
from metrics_pipeline.settings import Settings


def dev(
    port: Annotated[int, typer.Option(min=1, max=65535, help="The UI's port.")] = 3000,
    host: Annotated[str, typer.Option(help="The address the UI listens on.")] = "127.0.0.1",
    page_port: Annotated[
        int, typer.Option(min=1, max=65535, help="The port of the page and the API, on 127.0.0.1 only.")
    ] = 8000,
) -> None:
    """Opens the Dagster UI with its daemon, so that schedules and sensors run, and serves the page of the metrics.

    Runs and events are kept in the embedded PostgreSQL under METRICS_PIPELINE_HOME, for the next time. Stop it with
    Ctrl-C. However it ends, none of its processes is left.
    """
    from metrics_pipeline.orchestration.instance import claimed_for_dev, instance_folder, workspace_file

    settings = Settings.from_environment()
    with listen("The UI", host, port):
        pass
    folder = instance_folder(settings)
    with claimed_for_dev(folder) as claim:
        print(f"Dagster UI: http://{host}:{port} (Ctrl-C stops it)", flush=True)
        environment = settings.child_environment(folder)
        # The page links runs to the UI; to METRICS_DAGSTER_URL where a browser reaches the UI only through a proxy.
        environment.setdefault("DAGSTER_WEBSERVER_URL", f"http://{f'[{host}]' if ':' in host else host}:{port}")
        page = _page(page_port)
        if page:
            # And the UI links days to the page.
            environment.setdefault("METRICS_API_URL", f"http://127.0.0.1:{page_port}")
        exit_code = supervisor.run(
            # Dagster recommends its `dg dev` instead, which does the same and would need one more package.
            [sys.executable, "-W", "ignore:Function `dev_command` is superseded", "-m", "dagster", "dev",
             "--workspace", str(workspace_file(settings)), "--host", host, "--port", str(port),
             "--log-level", "warning"],
            environment,
            beside=page,
            claim=claim,
        )  # fmt: skip
    raise typer.Exit(exit_code)


def _page(port: int) -> list[str]:
    """The command that serves the page; empty if its port is in use, for example by `metrics-pipeline api`."""
    try:
        with socket.create_server(("127.0.0.1", port)):
            pass
    except OSError as error:
        print(f"The page is not served: port {port}: {error.strerror}. Choose another with --page-port.", flush=True)
        return []
    return [sys.executable, "-P", "-m", "metrics_pipeline", "api", "--port", str(port)]
