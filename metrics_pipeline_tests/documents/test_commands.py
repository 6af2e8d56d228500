"""Every command, option and variable in the documents exists."""

import re
import shlex
import sysconfig
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.main import get_command
from typer.testing import CliRunner

from metrics_pipeline.cli import app
from metrics_pipeline_tests.documents.declarations import variables
from metrics_pipeline_tests.documents.pages import DOCS, PROJECT, code_lines, inline_code, pages

_SCRIPTS = Path(sysconfig.get_path("scripts"))
_EXAMPLES = DOCS / "examples"
# What ends a command line in a shell.
_END = re.compile(r"\s(\|\|?|&&?|;|>>?|<)(\s|$)")
_VARIABLE = re.compile(r"\bMETRICS_[A-Z_]*[A-Z]\b")


def _arguments(line: str) -> list[str] | None:
    """What follows metrics-pipeline on a line of code; None if the line does not call it, or shows its usage."""
    # Variables before the command and the folder of the program are not arguments. A remark follows two spaces and #.
    call = re.search(r"(?:^|[\s/])metrics-pipeline((?: .*)?)$", line.partition("  #")[0])
    if call is None or re.search(r"\[OPTIONS\]|\b(FILE|DIR)\b", line):
        return None
    return shlex.split(_END.split(call[1] + " ")[0], comments=True)


def _parse(arguments: list[str], *, may_be_a_name: bool = False) -> None:
    """Parses as the command line does, and runs nothing. Raises typer's own errors."""
    command: Any = get_command(app)
    while hasattr(command, "commands") and arguments:
        if arguments[0] in ("--help", "-h"):
            return
        name, *arguments = arguments
        assert name in command.commands, f"no command {name!r}"
        command = command.commands[name]
    if hasattr(command, "commands") or (may_be_a_name and not arguments):
        return
    try:
        command.make_context(command.name, arguments)
    except typer.Exit:
        assert "--help" in arguments


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(PROJECT)))
def test_every_command_of_a_page_can_be_parsed(page: Path) -> None:
    wrong = {}
    for line, is_inline in [
        *((line, False) for line in code_lines(page)),
        *((code, True) for code in inline_code(page)),
    ]:
        arguments = _arguments(line)
        if arguments is not None:
            try:
                # A sentence may name a command without its required arguments.
                _parse(arguments, may_be_a_name=is_inline)
            except Exception as error:
                wrong[line] = repr(error)
    assert wrong == {}


@pytest.mark.parametrize(
    "line", ["nothing", "backfill", "backfill --from yesterday", "logs load", "db check --all", "api --port 0"]
)
def test_a_command_that_is_wrong_is_noticed(line: str) -> None:
    arguments = _arguments(f"X=1 .venv/bin/metrics-pipeline {line} | less    # a remark")
    assert arguments == line.split()
    with pytest.raises(Exception):  # noqa: B017, PT011 - typer's errors have no public base class
        _parse(arguments)


@pytest.mark.parametrize("command", ["aggregate", "backfill", "logs load"])
def test_the_help_names_each_option_in_full_on_80_columns(command: str) -> None:
    words = command.split()
    inner: Any = get_command(app)
    for word in words:
        inner = inner.commands[word]
    shown = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "80"}).output.split()
    assert {option for parameter in inner.params for option in parameter.opts if option.startswith("-")} <= set(shown)


def test_the_documents_name_exactly_the_variables_that_exist() -> None:
    texts = [path.read_text() for path in [*pages(), *filter(Path.is_file, _EXAMPLES.rglob("*"))]]
    named = {name for text in texts for name in _VARIABLE.findall(text)}
    assert named == {name for name, *_ in variables() if name.startswith("METRICS_")}


def _units() -> list[Path]:
    return sorted(_EXAMPLES.glob("*.service"))


def _command_of(unit: Path) -> list[str]:
    parser = ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(re.sub(r"\\\n\s*", "", unit.read_text()))
    return shlex.split(parser["Service"]["ExecStart"])


@pytest.mark.parametrize("unit", _units(), ids=lambda unit: unit.name)
def test_a_unit_starts_a_program_that_is_installed_with_the_package(unit: Path) -> None:
    # faults/test_services_killed.py runs Dagster's own programs; here it costs seconds to ask them for their options.
    program, *arguments = _command_of(unit)
    assert (_SCRIPTS / Path(program).name).exists()
    if Path(program).name == "metrics-pipeline":
        _parse(arguments)


@pytest.mark.parametrize("unit", _units(), ids=lambda unit: unit.name)
def test_a_unit_runs_as_the_user_and_in_the_environment_of_the_page(unit: Path) -> None:
    text = unit.read_text()
    assert "User=dagster\n" in text
    assert "EnvironmentFile=/etc/metrics-pipeline.env\n" in text
    assert "UMask=0077\n" in text


def test_the_containers_run_the_commands_of_the_units() -> None:
    services = yaml.safe_load((_EXAMPLES / "compose.yaml").read_text())["services"]
    for unit in _units():
        program, *arguments = _command_of(unit)
        in_container = shlex.split(services[unit.stem.removeprefix("metrics-pipeline-")]["command"])
        # In a container only its own network reaches 0.0.0.0; compose publishes the port on 127.0.0.1.
        assert [each.replace("0.0.0.0", "127.0.0.1") for each in in_container] == [Path(program).name, *arguments]
        assert all(port.startswith("127.0.0.1:") for service in services.values() for port in service.get("ports", []))
