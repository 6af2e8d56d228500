"""Only the user of a command can read the files that it leaves, whatever the umask was."""

import subprocess

import pytest

from metrics_pipeline_tests.homes import scratch_home
from metrics_pipeline_tests.private_files import everything_in, open_to_others
from metrics_pipeline_tests.processes import CLI, bare_environment


@pytest.mark.ci
@pytest.mark.parametrize("umask", [0, 0o022])
def test_a_run_leaves_nothing_that_others_can_read(umask: int) -> None:
    with scratch_home(has_cluster=False) as home:
        command = [*CLI, "aggregate", "--date", "2025-01-02"]
        how = {"env": bare_environment(home), "cwd": home.parent, "umask": umask}
        done = subprocess.run(command, **how, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        made = everything_in(home)
        assert {path.suffix for path in made} >= {".err", ".out", ".yaml", ".log", ".lock"}
        assert open_to_others(made, {home, home / "embedded"}) == {}
