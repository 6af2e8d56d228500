"""No agent's name changes the layout of a table."""

import dagster as dg
import pytest

from metrics_pipeline.orchestration.markdown import markdown_table, markdown_text

HOSTILE = "x|y\n| `<b>`"
HOSTILE_IN_A_CELL = "x&#124;y&#10;&#124; &#96;&#60;b&#62;&#96;"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (HOSTILE, HOSTILE_IN_A_CELL),
        ("plain-name v1.2, 3", "plain-name v1.2, 3"),
        ("[a](https://b.example) _c_", "&#91;a&#93;&#40;https&#58;&#47;&#47;b.example&#41; &#95;c&#95;"),
        ("Zoë 东京", "Zoë 东京"),
        ("\x1b\u202e", "&#27;&#8238;"),
        ("x" * 300, "x" * 200 + "…"),
        (None, "NULL"),
        (12, "12"),
    ],
)
def test_text_stays_text_on_one_line(value: object, text: str) -> None:
    assert markdown_text(value) == text


def test_a_table_has_one_line_per_row_and_says_how_many_are_left_out() -> None:
    assert markdown_table(("a", "b"), [("x|", 1), ("\n", 2)], nothing="None.", more=3).value.split("\n") == [
        "| a | b |",
        "| --- | --- |",
        "| x&#124; | 1 |",
        "| &#10; | 2 |",
        "",
        "and 3 more",
    ]
    assert markdown_table(("a",), [(1,)], nothing="None.", more=-9).value == "| a |\n| --- |\n| 1 |"


def test_an_empty_table_is_text_that_needs_no_click() -> None:
    empty = markdown_table(("a",), [], nothing="None.")
    assert (type(empty), empty.value) == (dg.TextMetadataValue, "None.")
