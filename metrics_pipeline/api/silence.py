"""Tells the receivers of METRICS_NOTIFY that Dagster's daemon gives no sign: it cannot do so itself."""

import asyncio
import logging
from dataclasses import dataclass, field

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
    """One server's watch. Who was told is known to it alone: another server tells them again."""

    context: Context
    _begun: float = field(init=False)
    _told: set[str] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        self._begun = self.context.now().timestamp()

    async def run(self) -> None:
        """Looks every minute, until it is cancelled."""
        while True:
            await asyncio.sleep(_LOOKS_EVERY_SECONDS)
            try:
                await self.look()
            except DagsterUnavailableError as error:
                # Nothing is known of the daemon then.
                _log.warning("%s", error)

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
        receivers = [
            receiver for receiver in self.context.settings.notify if (receiver.id in self._told) != bool(silent)
        ]
        if receivers:
            answered = await to_thread.run_sync(tell_daemon, receivers, silent, self.context.settings)
            self._told ^= answered
