"""Which format an answer has, and that numbers have all their digits."""

import csv
import io
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from metrics_pipeline.api.formats import Decimals, Form, Format, negotiate, render_rows, to_json
from metrics_pipeline.api.problems import ProblemError


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, Format.JSON),
        ("", Format.JSON),
        ("*/*", Format.JSON),
        ("application/*", Format.JSON),
        ("text/*", Format.CSV),
        ("text/csv", Format.CSV),
        ("application/x-ndjson", Format.NDJSON),
        ("TEXT/CSV; charset=utf-8", Format.CSV),
        ("text/html, text/csv;q=0.5, */*;q=0.1", Format.CSV),
        ("application/json;q=0.2, text/csv; q=0.3", Format.CSV),
        ("text/csv, application/json", Format.JSON),
        # The most specific media range decides, not the one with the highest quality.
        ("application/json;q=0, */*", Format.NDJSON),
        ("*/*, application/json;q=0.1, application/x-ndjson;q=0.2", Format.CSV),
    ],
)
def test_the_most_welcome_form_is_given(accept: str | None, expected: Format) -> None:
    assert negotiate(None, accept) is expected
    assert negotiate(Format.NDJSON, accept) is Format.NDJSON


@pytest.mark.parametrize("accept", ["text/html", "image/*", "*/*;q=0", "text/csv;q=much", ";", "application/xml"])
def test_what_cannot_be_given_is_a_406_unless_the_format_is_named(accept: str) -> None:
    with pytest.raises(ProblemError) as raised:
        negotiate(None, accept)
    assert raised.value.status == 406
    assert negotiate(Format.CSV, accept) is Format.CSV


def test_decimals_are_json_numbers_without_an_exponent() -> None:
    value = {"a": Decimal("1E-9"), "b": [Decimal("0E-9"), None, 2**70], "c": Decimal("-12345678901.100000000")}
    assert (
        to_json(value) == '{"a":0.000000001,"b":[0.000000000,null,1180591620717411303424],"c":-12345678901.100000000}'
    )
    assert (
        to_json([date(2025, 3, 4), datetime(2025, 3, 4, 1, tzinfo=UTC)]) == '["2025-03-04","2025-03-04T01:00:00+00:00"]'
    )
    with pytest.raises(TypeError):
        to_json({"a": object()})


def test_csv_has_the_digits_of_the_json_and_objects_stay_json() -> None:
    row = (
        '{"small":0.000000100,"large":1180591620717411303424,"money":-12345678901.10,"none":null,"flag":false,'
        '"text":"x,\\"y\\"\\n","object":{"a\u2028\\n\u00fc": 1, "cost": 0.100000000, "none": null}}'
    )
    names = ["small", "large", "money", "none", "flag", "text", "object"]
    assert render_rows([row], names, Form(Format.CSV), {}).body.decode() == (
        "small,large,money,none,flag,text,object\r\n"
        '0.000000100,1180591620717411303424,-12345678901.10,,false,"x,""y""\n",'
        '"{""a\u2028\\n\u00fc"": 1, ""cost"": 0.100000000, ""none"": null}"\r\n'
    )
    assert render_rows([row, row], names, Form(Format.JSON), {}).body.decode() == f"[{row},{row}]"
    assert render_rows([row, row], names, Form(Format.NDJSON), {}).body.decode() == f"{row}\n{row}\n"


def test_csv_is_exact_and_csv_for_a_spreadsheet_has_a_mark_and_no_formula() -> None:
    texts = ['=HYPERLINK("http://evil")', "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "'=1", "a=1", " =1", ""]
    rows = [to_json({"text": text, "number": -1, "money": Decimal("-0.50"), "count": {"=1": 2}}) for text in texts]
    names = ["text", "number", "money", "count"]

    def table(form: Form) -> list[list[str]]:
        answer = render_rows(rows, names, form, {}).body.decode()
        assert answer.startswith("\ufeff") is form.is_for_excel
        return list(csv.reader(io.StringIO(answer, newline="")))[1:]

    exact, neutral = table(Form(Format.CSV)), table(Form(Format.CSV, is_for_excel=True))
    assert [row[0] for row in exact] == texts
    assert [row[0] for row in neutral] == [f"'{text}" for text in texts[:8]] + texts[8:]
    assert {tuple(row[1:]) for row in exact + neutral} == {("-1", "-0.50", '{"=1": 2}')}


def test_decimals_can_be_strings_with_the_same_digits() -> None:
    row = '{"rate":0.980000,"money":-12345678901.100000000,"whole":1180591620717411303424,"a":{"=1.5":2,"c":0.5}}'
    media_types = [
        render_rows([row], [], Form(Format.JSON, decimals), {}).headers["Content-Type"] for decimals in Decimals
    ]
    assert media_types == ["application/json", "application/vnd.metrics-pipeline.decimals-as-text+json"]
    answer = render_rows([row], [], Form(Format.NDJSON, Decimals.STRING), {}).body.decode()
    assert answer == (
        '{"rate":"0.980000","money":"-12345678901.100000000","whole":1180591620717411303424,"a":{"=1.5":2,"c":"0.5"}}\n'
    )
