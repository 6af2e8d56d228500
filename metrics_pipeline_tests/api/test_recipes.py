"""The recipes of docs/howto/api-clients.md give every digit: each is run as it is printed, against a server."""

import json
import re
import shutil
import subprocess
import urllib.request
from datetime import date, timedelta
from decimal import Decimal
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import DAY, Log, aggregate, store_agents, store_logs

from .alerts import store_alerts
from .serving import Serve

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "api-clients.md"
RECIPES = dict(re.findall(r"<!-- recipe: (\w+) -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL))
#: More digits than a binary float has, and an agent whose name a CSV reader could take for a missing value.
COST, AGENT = "12345678901.123456789", "NULL"


@pytest.fixture
def address(serve: Serve, database: Database) -> str:
    store_agents(database, {AGENT: "active", "a": "active"})
    store_logs(database, [Log(AGENT, "failed", 5, 7, COST, "timeout"), Log("a", cost_usd="0.1")])
    aggregate(database)
    return str(serve().base_url).rstrip("/")


def run(recipe: str, address: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    code = RECIPES[recipe].replace("http://127.0.0.1:8000", address).replace("2025-07-11", str(DAY))
    exec(compile(code, recipe, "exec"), names)
    return names


@pytest.mark.parametrize("library", ["pandas", "polars", "duckdb"])
def test_a_table_library_reads_every_digit_and_every_name(library: str, address: str) -> None:
    day = run(library, address)["day"]
    if library == "pandas":
        rows = day.to_dict("records")
    elif library == "polars":
        rows = day.to_dicts()
    else:
        rows = [dict(zip(day.columns, row, strict=True)) for row in day.fetchall()]
    costs = {row["agent_id"]: row["total_cost_usd"] for row in rows}
    assert costs == {AGENT: Decimal(COST), "a": Decimal("0.1")}
    assert all(isinstance(cost, Decimal) for cost in costs.values())


@pytest.mark.skipif(shutil.which("Rscript") is None, reason="R is not installed")
def test_r_reads_every_digit_and_every_name(address: str) -> None:
    (code,) = re.findall(r"<!-- recipe: r -->\n```r\n(.*?)```", PAGE.read_text(), re.DOTALL)
    code = code.replace("http://127.0.0.1:8000", address).replace("2025-07-11", str(DAY))
    code += 'cat(paste(day$agent_id, day$total_cost_usd), sep = "\\n")'
    printed = subprocess.run(["Rscript", "-e", code], capture_output=True, text=True, check=True).stdout
    assert sorted(printed.splitlines()) == [f"{AGENT} {COST}", "a 0.100000000"]


@pytest.mark.skipif(shutil.which("soffice") is None, reason="LibreOffice Calc is not installed")
def test_a_spreadsheet_shows_every_name_as_it_is_and_computes_no_formula(
    address: str, database: Database, tmp_path: Path
) -> None:
    store_agents(database, {'=HYPERLINK("x")': "active", "日本語": "active"})
    aggregate(database)
    (code,) = re.findall(r"<!-- recipe: spreadsheet -->\n```\n(.*?)```", PAGE.read_text(), re.DOTALL)
    code = code.replace("http://127.0.0.1:8000", address).replace("2025-07-11", str(DAY))
    code = code.replace("soffice", f"soffice -env:UserInstallation={(tmp_path / 'profile').as_uri()}")
    subprocess.run(["sh", "-ec", code], cwd=tmp_path, capture_output=True, check=True)
    sheet = (tmp_path / "day.fods").read_text()
    # LibreOffice escapes quotes and apostrophes, and has 15 digits.
    for shown in ("&apos;=HYPERLINK(&quot;x&quot;)", "日本語", AGENT, "12345678901.1235", "0.1", str(DAY)):
        assert f"<text:p>{shown}</text:p>" in sheet
    assert "table:formula" not in sheet


def test_a_panel_of_grafana_finds_each_of_its_columns_with_the_type_that_it_is_told(
    address: str, database: Database
) -> None:
    aggregate(database, day_window(DAY - timedelta(days=1), "UTC"))
    store_alerts(database, "a")
    (table,) = re.findall(r"<!-- recipe: infinity -->\n\n(.*?)\n\n", PAGE.read_text(), re.DOTALL)
    panels = re.findall(r"\| `(/[^`]+)` \| (.*) \|", table)
    assert len(panels) == 7
    for path, columns in panels:
        url = f"{address}{path.replace('${agent}', AGENT)}{'&' if '?' in path else '?'}start_date={DAY}&end_date={DAY}"
        with urllib.request.urlopen(url) as answer:
            rows = json.load(answer)
        for selector, kind in re.findall(r"`([\w.]+)` (\w+)", columns):
            found = [reduce(lambda part, name: part[name], selector.split("."), row) for row in rows]
            values = [value for value in found if value is not None]
            assert values, (path, selector)
            for value in values:
                if kind == "Time":
                    assert date.fromisoformat(value)
                else:
                    assert isinstance(value, str if kind == "String" else (int, float)), (path, selector)


def test_a_copy_is_complete_and_can_be_brought_up_to_date(
    address: str, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for agents in (2, 3):
        copy = run("copy", address)["copy"]
        assert copy.execute("SELECT count(*) FROM metrics").fetchone() == (agents,)
        copy.close()
        store_agents(database, {"b": "active"}) if agents == 2 else None
        aggregate(database)
