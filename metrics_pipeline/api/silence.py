"""Whether Dagster's daemon gives signs, for readiness and the receivers of METRICS_NOTIFY.

The daemon sends all other messages, so it cannot report that it is silent.
"""

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Literal

from anyio import to_thread

from metrics_pipeline.api.context import Context
from metrics_pipeline.api.dagster_runs import DagsterUnavailableError
from metrics_pipeline.pipeline.delivery import tell_daemon

_LOOKS_EVERY_SECONDS = 60
#: The daemon gives a sign every 30 seconds. A restart, or a deployment, takes less.
_SILENT_SECONDS = 10 * 60

_log = logging.getLogger("metrics_pipeline.api")


@dataclass
class SilenceWatch:
    """One server's watch. Who was told is known to it alone: another server tells them again.

    daemon: what the last look found; unknown before the first, and while Dagster's webserver does not answer.
    """

    context: Context
    daemon: Literal["ok", "silent", "unknown"] = "unknown"
    _begun: float = field(init=False)
    _has_answered: bool = field(init=False, default=True)
    _told: set[str] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        self._begun = self.context.now().timestamp()

    async def run(self) -> None:
        """Looks every minute, until it is cancelled."""
        try:
            while True:
                await asyncio.sleep(_LOOKS_EVERY_SECONDS)
                try:
                    await self.look()
                    self._has_answered = True
                except DagsterUnavailableError as error:
                    self.daemon = "unknown"
                    if self._has_answered:
                        _log.warning("Nothing is known of Dagster's daemon: %s", error)
                    self._has_answered = False
        finally:
            self.daemon = "unknown"

    async def look(self) -> None:
        """Tells each receiver once that a daemon has been silent for ten minutes, and once that all are back.

        Who does not answer is told by the next look. Raises DagsterUnavailableError.
        """
        now = self.context.now()
        state = await self.context.dagster.state(now)
        silent = [
            name
            for name, at in sorted(state.heartbeats.items())
            if now.timestamp() - max(at, self._begun) > _SILENT_SECONDS
        ]
        self.daemon = "silent" if silent else "ok"
        receivers = [
            receiver for receiver in self.context.settings.notify if (receiver.id in self._told) != bool(silent)
        ]
        if receivers:
            answered = await to_thread.run_sync(tell_daemon, receivers, silent, self.context.settings)
            self._told ^= answered
