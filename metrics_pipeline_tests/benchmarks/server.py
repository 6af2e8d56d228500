"""The embedded server of a benchmark: made for it, gone after it."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from metrics_pipeline.embedded import release, server_pid


@contextmanager
def temporary_home() -> Iterator[Path]:
    """A home whose server, once something acquires it, ends with the block; the block's data goes with it."""
    home = Path(tempfile.mkdtemp(prefix="bench"))
    try:
        yield home
    finally:
        release(home)
        # The server removes this file as its last act.
        while server_pid(home) is not None or any(home.rglob("postmaster.pid")):
            time.sleep(0.05)
        shutil.rmtree(home)
