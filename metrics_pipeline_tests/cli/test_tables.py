"""Tables are complete at any width."""

import pytest

from metrics_pipeline.cli.tables import print_table

HEADINGS = ("agent", *(f"a rather long heading {n}" for n in range(8)))
ROWS = [("support-triage/claude-opus-4.1 äöü", *(f"{n:,}" for n in range(1_000_000_000, 1_000_000_008)))]


@pytest.mark.parametrize("columns", ["20", "80", "500"])
def test_no_cell_is_cut_or_broken_over_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    print_table("Numbers", HEADINGS, ROWS)
    title, _, headings, rule, row, _ = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert title == "Numbers"
    assert all(heading in headings for heading in HEADINGS)
    assert all(cell in row for cell in ROWS[0])
    assert set(rule.replace(" ", "")) == {"─"}


def test_the_first_column_is_aligned_left_and_numbers_right(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("T", ("agent", "logs"), [("a", "1"), ("bcd", "1,000,000")])
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines[4:6] == [" a               1", " bcd     1,000,000"]


def test_a_cell_that_looks_like_markup_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("[bold]", ("agent", "logs"), [("[red]x[/red] [link=http://h]y", "1")])
    printed = capsys.readouterr().out
    assert "[red]x[/red] [link=http://h]y" in printed


@pytest.mark.parametrize(
    ("agent", "shown"),
    [
        (":smile: :warning:", ":smile: :warning:"),
        ("a\nb\r\n2025-07-11", "a\\nb\\r\\n2025-07-11"),
        ("\x1b[2J\x1b[31mred\x07\x08\t\x7f\x9b", "\\x1b[2J\\x1b[31mred\\x07\\x08\\t\\x7f\\x9b"),
        ("\u202egpj\u2066 \u2028 \u200b", "\\u202egpj\\u2066 \\u2028 \\u200b"),
        ("日本語 äöü 🙂 'quoted' \\", "日本語 äöü 🙂 'quoted' \\"),
    ],
)
@pytest.mark.parametrize("columns", ["8", "200"])
def test_a_hostile_name_stays_in_its_row_and_commands_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], agent: str, shown: str, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    print_table("T", ("agent", "logs"), [(agent, "1,234,567")])
    _, _, _, _, row, _ = capsys.readouterr().out.split("\n")[:-1]
    assert row.strip() == f"{shown}   1,234,567"
