"""Every option and argument of every command, with any value: a result or an error message, never a traceback."""

import re
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import uvicorn
from hypothesis import example, given
from hypothesis import strategies as st

from metrics_pipeline.cli import app, dev, main
from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import DAY, aggregate, store_agents
from metrics_pipeline_tests.examples import examples, variants
from metrics_pipeline_tests.retention.runs import contents

HOSTILE = [
    "", " ", "-", "--", "'", '"', "'; DROP TABLE agent_registry; --", '"; DROP ROLE postgres; --', "a\nb", "\x1b[31m",
    "%s", "%(x)s", ":name", "{0}", "[bold]", "../../etc/passwd", "/dev/null", "/proc/self/mem", "~nosuchuser/x", "é😀",
    "\u202e", "caf\udce9", "x" * 5000, "NaN", "inf", "-1", "0", "1e9", "9" * 40, "-" + "9" * 5000, "٣", "0x10", "1_0",
    "0001-01-01", "1969-12-31", "9998-12-31", "9999-12-31", "10000-01-01", "2025-02-30", "2025-1-32", "today",
    "Mars/Base", "postgresql://u:p@h/d", "a..b", "999.999.999.999", "::", "fe80::1%nosuch",
]  # fmt: skip

# Hypothesis also tries texts of this module, and `aggregate` would store a day that is one.
texts = st.sampled_from(HOSTILE) | st.text(st.characters(exclude_characters="\0"), max_size=12).filter(
    lambda text: not text.startswith("20")
)

#: What a command needs besides the tested option, so that it does not write or ask if it runs. Only DAY can be cleared.
HARMLESS = {"retention": ["--dry-run"], "backfill": ["--preview"], "clear": ["--yes"]}
NEEDED = "2025-01-05"


def parameters() -> dict[str, tuple[list[str], Any]]:
    """Every parameter that takes a value, with the words of its command, by a name for the test."""
    found = {}
    commands: list[tuple[list[str], Any]] = [([], typer.main.get_command(app))]
    for words, command in commands:
        if hasattr(command, "commands"):
            commands += [([*words, name], inner) for name, inner in command.commands.items()]
            continue
        for parameter in command.params:
            if not getattr(parameter, "is_flag", False):
                found[" ".join([*words, parameter.opts[0]])] = (words, parameter)
    return found


PARAMETERS = parameters()


def arguments(words: list[str], tried: Any, value: str) -> list[str]:
    """The command with the value and with its other required options."""
    given = [*words, *HARMLESS.get(words[-1], [])]
    for other, parameter in PARAMETERS.values():
        if other == words and (parameter is tried or parameter.required):
            text = value if parameter is tried else NEEDED
            given += [text] if parameter.param_type_name == "argument" else [parameter.opts[0], text]
    return given


class Server:
    """Replaces uvicorn's, which would serve until the end of the test."""

    def __init__(self, _config: object) -> None:
        pass

    def run(self, sockets: list[socket.socket]) -> None:
        assert sockets


@pytest.fixture
def environment(
    database_url: str, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, object]:
    """One stored day, and a folder to stand in; returns what the tables hold."""
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    (tmp_path / "dagster").mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("METRICS_DATABASE_URL", database_url)
    monkeypatch.setenv("METRICS_PIPELINE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    monkeypatch.setattr(dev.supervisor, "run", lambda *_, **__: 0)
    monkeypatch.setattr(uvicorn, "Server", Server)
    store_agents(database, {"a": "active"})
    aggregate(database)
    return contents(database)


def test_the_walk_finds_options_and_arguments_of_commands_and_of_groups() -> None:
    assert {"aggregate --date", "retention --metric-days", "logs load files", "db grants --pipeline"} <= set(PARAMETERS)


@pytest.mark.parametrize("command", variants(sorted({" ".join(words) for words, _ in PARAMETERS.values()})))
def test_any_value_gives_a_result_or_one_clear_error_and_writes_nothing(
    command: str,
    environment: dict[str, object],
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    @examples(12)
    @given(value=texts)
    @example(value="caf\udce9")
    @example(value="9" * 40)
    @example(value="9999-12-31")
    @example(value="\x1b[31m")
    def attempt(parameter: Any, value: str) -> None:
        monkeypatch.setattr(sys, "argv", ["metrics-pipeline", *arguments(command.split(), parameter, value)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capfd.readouterr()
        assert ended.value.code in (0, 1, 2, None)
        assert "Traceback" not in printed.out + printed.err
        if ended.value.code == 1:
            assert printed.err.startswith("Error: ")
            assert printed.err.rstrip().endswith((".", "--register-agents")), printed.err
        elif ended.value.code == 2:
            assert "Error" in printed.err
            # The words of Typer's library for checking values.
            assert not re.search(r"Value error|Input should", printed.err)
        # The terminal gets no control sequence, neither in a message nor in a table.
        assert "\x1b[31m" not in printed.out + printed.err
        assert contents(database) == environment

    if command == "clear":
        # Not stored. `aggregate` would store it.
        attempt = example(value="2025-01-01")(attempt)
    for words, parameter in PARAMETERS.values():
        if words == command.split():
            attempt(parameter=parameter)


@pytest.mark.parametrize("days", [("0001-01-01", "9999-12-31"), (str(DAY), "2025-03-03"), ("9999-12-31", "9999-12-31")])
@pytest.mark.parametrize("command", ["backfill", "restatements", "alerts list"])
def test_ranges_at_the_ends_of_the_calendar_and_backwards_give_a_result_or_a_sentence(
    command: str,
    days: tuple[str, str],
    environment: dict[str, object],
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["metrics-pipeline", *command.split(), "--from", days[0], "--to", days[1]])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capfd.readouterr()
    if days[0] > days[1]:
        backwards = f"Error: The first day, {days[0]}, comes after the last, {days[1]}. Correct --from or --to.\n"
        assert (ended.value.code, said.out, said.err) == (1, "", backwards)
    elif command == "backfill":
        assert (ended.value.code, said.out) == (1, "")
        assert said.err.startswith("Error: ")
    else:
        assert said.out in ("No stored value was replaced.\n", "No alert is open.\n")
    assert contents(database) == environment
