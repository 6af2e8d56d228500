"""Users of an embedded server: real processes that hold a lease until they are stopped or killed."""

import subprocess
import sys
from pathlib import Path

from metrics_pipeline_tests.processes import HANGING_SECONDS

_HOLD = """
import sys
from pathlib import Path
from metrics_pipeline.embedded import acquire
print(acquire(Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""


class Holder:
    """A process that acquires the server under `home` and keeps its lease until `end` or `kill`."""

    def __init__(self, home: Path, python: str = sys.executable, **how: object) -> None:
        self.process = subprocess.Popen(
            [python, "-c", _HOLD, str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **how,
        )

    def uri(self) -> str:
        uri = self.process.stdout.readline().strip()
        assert uri, self.process.stderr.read()
        return uri

    def end(self) -> None:
        self.process.communicate(timeout=HANGING_SECONDS)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=HANGING_SECONDS)
