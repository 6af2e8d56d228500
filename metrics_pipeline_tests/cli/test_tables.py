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
