"""Tables fit a terminal, and are complete in a pipe; the same rows as CSV and JSON have every digit."""

import csv
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal

import pytest

from metrics_pipeline.cli.tables import Column, Format, say, show

COLUMNS = (
    Column("day", is_text=True),
    Column("state", is_text=True, style=lambda state: "yellow" if state == "dirty" else ""),
    Column("why", is_folded=True),
    Column("logs"),
    Column("agent", is_text=True, rank=1),
    Column("cost_usd", "cost USD", rank=2),
    Column("run_id", "run", is_text=True, rank=3),
)
WHY = "logs +1,234, failed +1,234, latency +123,400 ms, tokens +12,340, cost +861.09 USD"
DIRTY = {
    "day": date(2025, 7, 10),
    "state": "dirty",
    "why": WHY,
    "logs": 1_234_567,
    "agent": "support-triage/claude-opus-4.1 äöü",
    "cost_usd": Decimal("12345.678900000"),
    "run_id": "01234567",
    "seen_at": datetime(2025, 7, 11, 2, 3),
}
SEALED = dict.fromkeys(DIRTY) | {"day": date(2025, 7, 11), "state": "sealed", "cost_usd": Decimal("1E-9")}

NARROW = """\
Days

 day          state    why                                                 logs
 ──────────────────────────────────────────────────────────────────────────────
 2025-07-10   dirty    logs +1,234, failed +1,234, latency +123,400   1,234,567
                       ms, tokens +12,340, cost +861.09 USD
 2025-07-11   sealed

Left out, because the terminal is narrow: agent, cost USD, run."""

Shown = Callable[..., list[str]]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shown:
    """The lines that are printed on a terminal of so many columns; with 0, into a pipe."""

    def lines(columns: int, rows: Sequence[Mapping[str, object]] = (DIRTY, SEALED), title: str = "Days") -> list[str]:
        monkeypatch.setenv("COLUMNS", str(columns or 20))
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setenv("FORCE_COLOR", "1" if columns else "")
        show(title, COLUMNS, rows)
        return [line.rstrip() for line in capsys.readouterr().out.split("\n")[:-1]]

    return lines


def plain(lines: Sequence[str]) -> list[str]:
    """Without styles."""
    return [re.sub("\x1b\\[[0-9;]*m", "", line).rstrip() for line in lines]


def test_at_80_columns_sentences_are_folded_and_the_least_important_columns_left_out(shown: Shown) -> None:
    assert plain(shown(80)) == NARROW.splitlines()


@pytest.mark.parametrize(("columns", "left_out"), [(64, "agent, cost USD, run"), (120, "run"), (150, ""), (200, "")])
def test_a_table_fits_its_terminal_and_no_number_is_truncated(shown: Shown, columns: int, left_out: str) -> None:
    lines = plain(shown(columns))
    assert max(map(len, lines)) <= columns
    assert lines[-1] == (f"Left out, because the terminal is narrow: {left_out}." if left_out else "")
    assert "1,234,567" in lines[4]
    assert ("12,345.678900000" in lines[4], "01234567" in lines[4]) == ("cost" not in left_out, not left_out)


def test_states_have_colours_on_a_terminal_only(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    assert any("\x1b[33mdirty" in line for line in shown(80))
    assert not any("\x1b" in line for line in shown(0))
    monkeypatch.setenv("NO_COLOR", "1")
    assert not any("\x1b[33m" in line for line in shown(80))


def test_a_pipe_gets_all_columns_and_a_line_for_each_row(shown: Shown) -> None:
    assert shown(0) == [
        "Days",
        f"day         state   why{' ' * 85}logs  agent                                       cost USD  run",
        f"2025-07-10  dirty   {WHY}  1,234,567  support-triage/claude-opus-4.1 äöü  12,345.678900000  01234567",
        f"2025-07-11  sealed  {' ' * len(WHY)}{' ' * 54}0.000000001",
    ]


def test_the_formats_for_programs_have_every_key_and_digit(capsys: pytest.CaptureFixture[str]) -> None:
    show("Days", COLUMNS, [DIRTY, SEALED], Format.JSON)
    printed = capsys.readouterr().out
    assert '"cost_usd": 12345.678900000' in printed
    assert [list(row) for row in json.loads(printed)] == [list(DIRTY)] * 2
    assert json.loads(printed)[1]["logs"] is None
    show("Days", COLUMNS, [DIRTY, SEALED], Format.CSV)
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["cost_usd"] for row in rows] == ["12345.678900000", "0.000000001"]
    assert [row["logs"] for row in rows] == ["1234567", ""]
    assert rows[0]["seen_at"] == "2025-07-11T02:03:00"
    show("Days", COLUMNS, [], Format.CSV)
    assert capsys.readouterr().out == "day,state,why,logs,agent,cost_usd,run_id\n"


@pytest.mark.parametrize(
    ("agent", "said"),
    [
        ("[red]x[/red] [link=http://h]y", "[red]x[/red] [link=http://h]y"),
        (":smile: :warning:", ":smile: :warning:"),
        ("a\nb\r\n2025-07-11", "a\\nb\\r\\n2025-07-11"),
        ("\x1b[2J\x1b[31mred\x07\x08\t\x7f\x9b", "\\x1b[2J\\x1b[31mred\\x07\\x08\\t\\x7f\\x9b"),
        ("\u202egpj\u2066 \u2028 \u200b", "\\u202egpj\\u2066 \\u2028 \\u200b"),
        ("日本語 äöü 🙂 'quoted' \\", "日本語 äöü 🙂 'quoted' \\"),
    ],
)
@pytest.mark.parametrize("columns", [0, 200])
def test_a_hostile_name_stays_in_its_row_and_commands_nothing(
    shown: Shown, agent: str, said: str, columns: int
) -> None:
    lines = plain(shown(columns, [SEALED | {"agent": agent}], title=f"T {agent}"))
    (row,) = [line for line in lines if "sealed" in line]
    assert row.split("sealed")[1].removesuffix("0.000000001").strip() == said
    assert lines[0] == f"T {said}"


def test_decimals_of_a_column_have_the_places_that_one_of_them_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    costs = [Decimal("10472.818000000"), Decimal("0E-9"), None, Decimal("100")]
    show("Costs", [Column("cost")], [{"cost": cost} for cost in costs])
    assert capsys.readouterr().out == "Costs\n      cost\n10,472.818\n     0.000\n\n   100.000\n"
    show("Costs", [Column("cost")], [{"cost": Decimal(5)}])
    assert capsys.readouterr().out.endswith("5.00\n")


def test_a_terminal_gets_a_sentence_folded_between_words_and_a_command_in_one_piece(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sentence, command = "Two days are missing.\x1b[2J Store them:", "metrics-pipeline backfill --from 2025-07-10"
    monkeypatch.setenv("FORCE_COLOR", "")
    say(sentence, command)
    assert capsys.readouterr().out == f"Two days are missing.\\x1b[2J Store them: {command}\n"
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "30")
    say(sentence, command)
    assert capsys.readouterr().out == f"Two days are missing.\\x1b[2J \nStore them:\n  {command}\n"
