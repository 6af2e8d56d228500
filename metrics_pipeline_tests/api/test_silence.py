"""The API tells the receivers once that Dagster's daemon is silent, and once that it is back."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from metrics_pipeline.api import silence
from metrics_pipeline.api.silence import SilenceWatch
from metrics_pipeline.settings import Settings
from metrics_pipeline_tests.processes import wait_until
from metrics_pipeline_tests.receivers import receivers, web_server

from .serving import Serve
from .webserver import Webserver

NOW = datetime(2025, 7, 14, 3, 0, tzinfo=UTC)


def test_a_silent_daemon_is_told_once_and_that_it_is_back_and_who_does_not_answer_is_told_later() -> None:
    heartbeats = {"SCHEDULER": 0.0, "SENSOR": 0.0}
    clock = [NOW]

    class Dagster:
        async def state(self, _now: datetime) -> Any:
            return SimpleNamespace(heartbeats=heartbeats)

    def look(minutes: int, *silent: str) -> None:
        clock[0] = NOW + timedelta(minutes=minutes)
        heartbeats.update({name: 0.0 if name in silent else clock[0].timestamp() for name in heartbeats})
        asyncio.run(watch.look())

    with web_server() as first, web_server() as second:
        urls = [f"json://127.0.0.1:{inbox.port}" for inbox in (first, second)]
        context = SimpleNamespace(
            settings=Settings(Path("/nowhere"), notify=receivers(*urls)), dagster=Dagster(), now=lambda: clock[0]
        )
        watch = SilenceWatch(cast("Any", context))
        # The services have just been started, the API first.
        assert watch.daemon == "unknown"
        look(10, "SCHEDULER", "SENSOR")
        assert watch.daemon == "ok"
        assert first.messages == []
        second.code = 503
        look(11, "SENSOR")
        second.code = 200
        look(12, "SENSOR")
        look(13, "SENSOR")
        assert watch.daemon == "silent"
        look(14)
        look(15)
        assert watch.daemon == "ok"
        titles = ["Dagster's daemon gives no sign", "Dagster's daemon is back"]
        assert [message["title"] for message in first.messages] == titles
        assert [message["title"] for message in second.messages if message["code"] == 200] == titles
        assert "of SENSOR." in first.messages[0]["message"]


def test_readiness_says_what_the_last_look_has_found(
    serve: Serve, webserver: Webserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silence, "_LOOKS_EVERY_SECONDS", 0.02)
    api = serve(dagster_webserver_url=webserver.url)
    wait_until(lambda: api.get("/readyz").json()["daemon"] == "ok")
