"""Runs a command without a fault, to learn its messages, and then with a fault at a message that the seed chooses."""

import fcntl
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from random import Random

import dagster as dg

from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline_tests.forked import Forked
from metrics_pipeline_tests.homes import HOME_VARIABLE
from metrics_pipeline_tests.processes import HANGING_SECONDS, kill

from .proxy import Action, Proxy
from .wire import BULK

Start = Callable[..., Forked]

#: A share of the faults lies within rows on their way; the others are spread over all other messages.
_BULK_SHARE = 0.25


@dataclass(frozen=True)
class Play:
    """A command, and what is in its database. With `template` None the database has all tables."""

    command: Sequence[object]
    prepare: Callable[[Database], None]
    template: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Ended:
    """A command that has ended, and where its faults struck."""

    exit_code: int
    stdout: str
    stderr: str
    struck: list[str]


def nothing() -> None:
    """The action of a fault that is only a cut."""


class Stage:
    """One case: its random choices, its databases, its Dagster instance, and its commands."""

    def __init__(
        self,
        scenario: str,
        random: Random,
        instance: dg.DagsterInstance,
        start: Start,
        new_database: Callable[[str | None], str],
    ) -> None:
        self.random = random
        self.instance = instance
        self._scenario = scenario
        self._start = start
        self._new_database = new_database

    def prepared(self, play: Play) -> tuple[str, Database]:
        """A separate database, in the state that the command needs."""
        url = self._new_database(play.template)
        database = Database(DatabaseUrl.parse(url))
        play.prepare(database)
        return url, database

    def rehearsed(self, play: Play) -> list[str]:
        """The messages of the command when nothing goes wrong. Learnt once per session, by one worker."""
        path = Path(os.environ[HOME_VARIABLE], f"{self._scenario}.json")
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                url, _ = self.prepared(play)
                with Proxy(url) as proxy:
                    proxy.serve()
                    ended = self.run(proxy, *play.command, **play.environment)
                assert ended.exit_code == 0
                path.write_text(json.dumps(proxy.passed))
        return json.loads(path.read_text())

    def draw(self, messages: Sequence[str]) -> int:
        """The number of a message. Consecutive rows count as one message, otherwise most faults would fall on rows."""
        groups = [(label, list(group)) for label, group in groupby(range(len(messages)), key=messages.__getitem__)]
        bulk = [group for label, group in groups if label in BULK and len(group) > 1]
        if bulk and self.random.random() < _BULK_SHARE:
            return self.random.choice(self.random.choice(bulk))
        return self.random.choice(self.random.choice(groups)[1])

    def start(self, url: str, *command: object, **environment: str) -> Forked:
        return self._start(*command, METRICS_DATABASE_URL=url, COLUMNS="200", **environment)

    def run(self, proxy: Proxy, *command: object, **environment: str) -> Ended:
        """Runs a command to its end behind a proxy that serves already."""
        return self.end(self.start(proxy.url, *command, **environment), proxy)

    def killed(self, play: Play, url: str) -> Ended:
        """Kills the command's process at a seeded message."""
        return self.struck(play, url, lambda process: lambda: kill(process.pid))

    def struck(self, play: Play, url: str, fault: Callable[[Forked], Action], times: int = 1) -> Ended:
        """Lets a fault happen to the command at seeded messages, each of which is lost with its connection."""
        messages = self.rehearsed(play)
        points = [self.draw(messages) for _ in range(times)]
        with Proxy(url) as proxy:
            process = self.start(proxy.url, *play.command, **play.environment)
            proxy.serve(dict.fromkeys(points, fault(process)), is_resetting=self.random.random() < 0.5)
            ended = self.end(process, proxy)
        assert ended.struck, f"no message {points} of {len(messages)}, only {len(proxy.passed)}"
        return ended

    def end(self, process: Forked, proxy: Proxy) -> Ended:
        stdout, stderr = process.communicate(timeout=HANGING_SECONDS)
        # Part of what pytest shows of a failing case, and the way to see where seeds lead.
        print(f"exit code {process.returncode}, faults at {proxy.struck}\n{stdout}{stderr}")
        assert process.returncode is not None
        return Ended(process.returncode, stdout, stderr, proxy.struck)
