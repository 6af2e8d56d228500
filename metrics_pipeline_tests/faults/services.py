"""The three services of production as processes. Each is killed with its whole control group and started again."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import dagster as dg
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import SensorInstigatorData

from metrics_pipeline.orchestration.instance import CONFIGURATION, SOCKET, WORKSPACE, write_instance
from metrics_pipeline_tests.cli.ui import Ui
from metrics_pipeline_tests.processes import bare_environment

CODE_SERVER, DAEMON, WEBSERVER = "code server", "daemon", "webserver"

_OUTPUT_CHARACTERS = 5000

_LOCATIONS = "{ workspaceOrError { ... on Workspace { locationEntries { locationOrLoadError { __typename } } } } }"

#: Production waits for minutes here, a test for seconds; but a busy machine takes half a minute to start a run.
_IMPATIENCE = {
    "poll_interval_seconds: 30": "poll_interval_seconds: 1",
    "start_timeout_seconds: 180": "start_timeout_seconds: 90",
    "free_slots_after_run_end_seconds: 300": "free_slots_after_run_end_seconds: 1",
}


def write_impatient_instance(folder: Path) -> None:
    """The instance of `instance init`, with shorter waits and nothing else changed."""
    write_instance(folder, force=False)
    configuration = (folder / CONFIGURATION).read_text()
    for patient, impatient in _IMPATIENCE.items():
        assert configuration.count(patient) == 1
        configuration = configuration.replace(patient, impatient)
    (folder / CONFIGURATION).write_text(configuration)


class Services:
    """Code server, daemon and webserver, as the units of docs/examples start them. Each leads its own process group."""

    def __init__(self, home: Path, folder: Path, environment: dict[str, str]) -> None:
        self._home = home
        self._folder = folder
        self._environment = environment
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.start(CODE_SERVER)
        self.start(DAEMON)
        self.start(WEBSERVER)

    def start(self, service: str) -> None:
        """As systemd does: it starts each service without waiting for the others."""
        workspace = ("--workspace", str(self._folder / WORKSPACE))
        if service == WEBSERVER:
            command = (sys.executable, "-m", "dagster_webserver", *workspace, "--host", "127.0.0.1")
            self.ui = Ui(self._home, command, None, **self._environment)
            return
        arguments = {
            CODE_SERVER: (
                "api", "grpc", "--module-name", "metrics_pipeline.definitions",
                "--location-name", "metrics_pipeline", "--socket", str(self._folder / SOCKET),
            ),
            DAEMON: ("run", *workspace),
        }[service]  # fmt: skip
        module = "dagster._daemon" if service == DAEMON else "dagster"
        with self._output(service).open("ab") as output:
            self._processes[service] = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                env=bare_environment(self._home) | self._environment,
                cwd=self._home.parent,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self, service: str) -> None:
        """kill -9 of the service. Of what it has started, systemd ends what is left in its control group."""
        process = self.ui.process if service == WEBSERVER else self._processes[service]
        process.kill()
        process.wait(timeout=60)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def output(self) -> str:
        written = [(service, self._output(service).read_text()) for service in self._processes]
        return "\n".join(f"{service}:\n{text[-_OUTPUT_CHARACTERS:]}" for service, text in written)

    def wait_for_the_webserver(self) -> None:
        """Until it can launch something: it has to answer, and to have loaded what the code server serves."""
        self.ui.wait_for(self._has_loaded_the_code_location)

    def _has_loaded_the_code_location(self) -> bool:
        try:
            entries = self.ui.query(_LOCATIONS)["workspaceOrError"]["locationEntries"]
        except OSError:
            return False
        return [entry["locationOrLoadError"]["__typename"] for entry in entries] == ["RepositoryLocation"]

    def stop(self) -> None:
        """As systemd does when the machine shuts down: it signals all services together and gives them a minute."""
        for process in (self.ui.process, *self._processes.values()):
            process.send_signal(signal.SIGTERM)
        for process in (self.ui.process, *self._processes.values()):
            process.wait(timeout=60)

    def _output(self, service: str) -> Path:
        return self._home.parent / f"{service.replace(' ', '-')}.txt"


@contextmanager
def running_services(home: Path, folder: Path, environment: dict[str, str]) -> Iterator[Services]:
    """The services once the webserver can launch runs. What is left of them at the end is killed."""
    services = Services(home, folder, environment)
    try:
        services.wait_for_the_webserver()
        yield services
    finally:
        print(services.output())
        for service in (WEBSERVER, DAEMON, CODE_SERVER):
            services.kill(service)


def assert_no_pool_slot_is_taken(instance: dg.DagsterInstance) -> None:
    """No run or step holds a place in a pool, waits for one or is assigned to one."""
    storage = instance.event_log_storage
    taken = {
        key: info
        for key in storage.get_concurrency_keys()
        if (info := storage.get_concurrency_info(key)).active_slot_count
        or info.pending_step_count
        or info.assigned_step_count
    }
    assert taken == {}


def let_the_interval_of_the_sensors_pass(instance: dg.DagsterInstance) -> None:
    """The daemon evaluates each sensor within seconds, as if its last tick were long ago."""
    for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR):
        data = state.instigator_data
        assert isinstance(data, SensorInstigatorData)
        due = data._replace(last_tick_timestamp=None, last_tick_start_timestamp=None)
        instance.update_instigator_state(state.with_data(due))
