"""The page in a real browser: its numbers are the API's, gaps are gaps, and nothing is asked of another host."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2
import psycopg
import pytest

from metrics_pipeline.metrics.dimensions import parse_dimensions
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.pipeline.aggregation import AggregationOptions, compute_day, store_day
from metrics_pipeline.pipeline.opening import open_logs
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline.store.publishing import Reason
from metrics_pipeline_tests.databases import scratch_database
from metrics_pipeline_tests.days import DAY, Log, aggregate, execute, judged, store_agents, store_logs

from .alerts import store_alerts
from .serving import Serve, serving
from .test_access import READ, TOKENS

CHROMIUM = Path("/usr/bin/chromium")
if not CHROMIUM.exists():
    pytest.skip("Chromium is not installed (Debian's package chromium)", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = pytest.mark.end_to_end

FIRST = DAY - timedelta(days=5)
MISSING, DIRTY = DAY - timedelta(days=2), DAY - timedelta(days=1)
#: An agent's name is foreign text: as markup it would be a script, as an address it would need escapes.
HOSTILE = "<img src=x onerror=alert(1)>/a&b=c d"
WINDOW = f"from={FIRST}&to={DAY}"
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # The network is cut.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


@pytest.fixture(scope="module")
def stored(server_uri: str, _template: str, _server_connection: psycopg.Connection) -> Iterator[Database]:
    """Six days of two agents: one day was never aggregated, and one has a late log."""
    with scratch_database(server_uri, _template, _server_connection) as uri:
        database = Database(DatabaseUrl.parse(uri))
        days = [FIRST + timedelta(days=number) for number in range(6)]
        store_agents(database, {"a": "active", HOSTILE: "active", "gone": "inactive"})
        store_logs(
            database,
            [
                Log(
                    agent,
                    status,
                    latency,
                    7,
                    cost,
                    error,
                    json.dumps({"user_id": user, "model": model}),
                    day_window(day, "UTC").start,
                )
                for day in days
                for agent, status, latency, cost, error, user, model in [
                    ("a", "success", 100 + day.day, "0.1", None, f"u{day.day}", "small"),
                    ("a", "failed", 900, "0.000000001", "timeout", "u1", "<i>large"),
                    (HOSTILE, "failed", 35, "12345678901.5", "<b>bold</b>", "u2", None),
                    ("gone", "success", 1, None, None, "u3", None),
                ]
            ],
        )
        # The first day was stored before a dimension was declared.
        aggregate(database, day_window(FIRST, "UTC"))
        for day in days[1:]:
            if day != MISSING:
                _aggregate_by_model(database, day, "a run")
        for day in (DIRTY, DAY):
            store_logs(database, [Log("a", "success", 50, timestamp=day_window(day, "UTC").start)])
        _aggregate_by_model(database, DAY, "the run that replaced it")
        judged(database, *days)
        execute(database, "INSERT INTO metric_acknowledged_agents VALUES ('a', 'In May')")
        store_alerts(database, "a")
        yield database
        database.engine.dispose()


def _aggregate_by_model(database: Database, day: date, run_id: str) -> None:
    logs = open_logs(database, parse_dimensions("model"))
    computed = compute_day(database, logs, day_window(day, "UTC"), AggregationOptions())
    store_day(database, computed, run_id=run_id, reason=Reason.MANUAL)


@pytest.fixture(scope="module")
def serve_page(stored: Database) -> Iterator[Serve]:
    with serving(stored) as start:
        yield start


@pytest.fixture(scope="module")
def api(serve_page: Serve) -> httpx2.Client:
    return serve_page()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        yield browser
        browser.close()


@dataclass
class Tab:
    """A tab of the browser, and everything in it that went wrong."""

    page: Any
    base: str
    wrong: list[str] = field(default_factory=list)

    def open(self, query: str = "") -> None:
        self.page.goto(f"{self.base}/?{query}")
        self.page.wait_for_selector("html[data-ready=all]")

    def texts(self, selector: str) -> list[str]:
        return [" ".join(text.split()) for text in self.page.locator(selector).all_inner_texts()]

    def values(self, selector: str) -> list[str]:
        """The digits that programs read."""
        return [each.get_attribute("value") for each in self.page.locator(f"{selector} data").all()]


@pytest.fixture
def tab(chromium: Any, api: httpx2.Client) -> Iterator[Tab]:
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    tab = Tab(context.new_page(), str(api.base_url))
    tab.page.on("console", lambda message: tab.wrong.append(message.text))
    tab.page.on("pageerror", lambda error: tab.wrong.append(str(error)))

    def note(request: Any) -> None:
        if urlsplit(request.url).hostname != "127.0.0.1":
            tab.wrong.append(request.url)

    tab.page.on("request", note)
    yield tab
    context.close()
    # Violations of the Content-Security-Policy are messages on the console.
    assert tab.wrong == []


def activity(api: httpx2.Client, query: str) -> list[dict[str, Any]]:
    answer = api.get(f"/api/v1/activity?start_date={FIRST}&end_date={DAY}&{query}")
    return json.loads(answer.text, parse_float=Decimal)


def test_the_fleet_has_the_numbers_of_the_api(tab: Tab, api: httpx2.Client) -> None:
    tab.open(f"{WINDOW}&sort=agent_id")
    (total,) = activity(api, "")
    names = ["total_executions", "success_rate", "total_cost_usd", "cost_per_unassisted_success",
             "human_interventions", "unique_users"]  # fmt: skip
    shown = tab.values(".cards dd:not(.more)")
    assert [Decimal(digits) for digits in shown[:6]] == [Decimal(total[name]) for name in names]
    assert shown[6:] == [str(total[f"p{q}_latency_ms"]) for q in (50, 95, 99)]
    rows = activity(api, "group_by=agent")
    assert tab.texts("#agents tbody th a") == [row["agent_id"] for row in rows] == [HOSTILE, "a"]
    for number, row in enumerate(rows, start=1):
        cells = tab.values(f"#agents tbody tr:nth-child({number})")
        shown = [
            "total_executions", "success_rate", None, "total_cost_usd", None, "cost_per_unassisted_success",
            "human_interventions", "unique_users", "p50_latency_ms", "p95_latency_ms", "p99_latency_ms",
        ]  # fmt: skip
        digits = ["" if name is None or row[name] is None else str(row[name]) for name in shown]
        assert cells == digits
    # 5 of 15 executions succeeded, and each digit of the money is kept.
    assert "$61,728,394,508.00" in tab.texts(".cards dd")
    assert tab.texts(".notice strong") == ["✕ 1 day is missing", "≠ 1 day is dirty"]
    assert tab.texts("#agents tbody .mark") == ["retired"]
    tab.page.get_by_role("searchbox").fill("retired")
    assert tab.texts("#agents tbody th a") == ["a"]
    tab.page.get_by_role("searchbox").fill("IMG")
    assert tab.texts("#agents tbody th a") == [HOSTILE]
    tab.page.get_by_role("button", name="Cost", exact=True).click()
    assert "sort=-total_cost_usd" in tab.page.url
    tab.page.get_by_role("link", name=HOSTILE).click()
    tab.page.wait_for_selector("html[data-ready=all]")
    assert tab.texts("h1") == [HOSTILE]


def test_what_the_logs_did_not_have_is_unknown_and_the_days_without_it_are_counted(tab: Tab, stored: Database) -> None:
    execute(
        stored,
        "UPDATE metric_day_ledger SET unlogged = '{human_intervention}'",
        f"UPDATE metric_day_ledger SET unlogged = unlogged || '{{cost_usd}}' WHERE metric_date = '{DAY}'",
    )
    try:
        tab.open(f"{WINDOW}&sort=agent_id")
        said = "The logs did not have cost_usd on 1 day, human_intervention on 5 days: figures"
        assert said in tab.texts(".note")[0]
        shown = tab.texts(".cards dd:not(.more)")
        assert (shown[2][0], shown[3:5], shown[5]) == ("$", ["–", "–"], "6")
        tab.open(f"agent=a&{WINDOW}")
        titles = tab.texts("figcaption h3")
        assert ("Cost" in titles, "Users" in titles, "Human interventions" in titles) == (True, True, False)
    finally:
        execute(stored, "UPDATE metric_day_ledger SET unlogged = '{}'")
        judged(stored, *(FIRST + timedelta(days=number) for number in range(6)))


def test_a_year_of_500_agents_is_scrolled_searched_and_downloaded_and_nothing_jumps(tab: Tab, stored: Database) -> None:
    execute(
        stored,
        """INSERT INTO agent_performance_metrics (agent_id, metric_date, total_executions, successful_executions,
               failed_executions, success_rate, avg_latency_ms, p50_latency_ms, p95_latency_ms, p99_latency_ms,
               total_tokens, total_cost_usd, avg_cost_per_execution, error_distribution, human_interventions,
               unique_users)
           SELECT 'agent-' || n, '2025-02-01'::date - day, n, n, 0, 1, 0, 0, 0, 0, 0, 0, 0, '{}', 0, 0
           FROM generate_series(1, 500) AS n, generate_series(0, 364) AS day""",
    )
    tab.page.add_init_script(
        """window.moved = [];
        new PerformanceObserver((list) => window.moved.push(...list.getEntries().map(({ value }) => value))).observe({
            type: 'layout-shift', buffered: true });"""
    )
    tab.open("from=2024-02-03&to=2025-02-01")
    rows = tab.page.locator("#agents tbody tr")
    assert rows.first.inner_text().startswith("agent-500")
    assert rows.count() < 200
    # What arrives later finds its place: columns may become wider by a digit.
    assert tab.page.evaluate("window.moved.reduce((sum, each) => sum + each, 0)") < 0.001
    cost = tab.page.locator("figure", has=tab.page.get_by_role("heading", name="Cost by agent and week"))
    with tab.page.expect_download() as download:
        cost.get_by_role("link", name="CSV").click()
    lines = Path(download.value.path()).read_text().splitlines()
    # 53 weeks, in three pages of the API.
    assert len(lines) == 1 + 500 * 53
    assert [line for line in lines if line.startswith("agent_id,")] == lines[:1]
    tab.page.get_by_role("region", name="Agents").press("End")
    rows.nth(200).wait_for()
    # The mouse would first scroll to the button, and rows that are made meanwhile push it away.
    tab.page.get_by_role("button", name="Show all 500").dispatch_event("click")
    assert rows.count() == 500
    tab.page.get_by_role("searchbox").fill("nt-49")
    assert tab.texts("output.note")[0] == "11 of 500 agents"
    execute(stored, "DELETE FROM agent_performance_metrics WHERE agent_id LIKE 'agent-%'")


def test_what_is_shown_stays_when_the_server_stops_answering(tab: Tab) -> None:
    tab.page.route("**/api/v1/activity?*group_by=error_type*", lambda route: route.abort())
    tab.page.goto(f"{tab.base}/?{WINDOW}")
    host = urlsplit(tab.base).netloc
    words = f"{host} does not answer. Look whether the server runs and the network is up. Try again"
    tab.page.get_by_role("alert").wait_for()
    assert tab.texts("[role=alert]") == [words]
    assert tab.texts(".cards dd:not(.more)")[0] == "16"
    # What has not come is no number.
    assert tab.texts(".cards dd:not(.more)")[5:] == ["–", "–"]
    tab.page.route("**/api/v1/info*", lambda route: route.abort())
    tab.page.goto(f"{tab.base}/?{WINDOW}")
    tab.page.get_by_role("alert").wait_for()
    assert tab.texts("main") == [f"No answer {words}"]
    assert {*tab.wrong} == {"Failed to load resource: net::ERR_FAILED"}
    tab.wrong.clear()


def test_a_second_visit_asks_only_what_may_have_changed(tab: Tab, stored: Database) -> None:
    def transferred() -> list[int]:
        tab.open(WINDOW)
        entries = "performance.getEntriesByType('resource').filter(each => each.name.includes('/activity?'))"
        sizes: list[int] = tab.page.evaluate(f"{entries}.map(each => each.transferSize)")
        assert len(sizes) > 5
        return sizes

    assert 0 not in transferred()
    assert {*transferred()} == {0}
    # Stored again without a change, the day has the same numbers, but nobody could know.
    _aggregate_by_model(stored, DAY, "the run that replaced it")
    assert 0 not in transferred()
    # The states of days change without one being stored: the copy is replaced.
    execute(stored, f"DELETE FROM metric_day_verifications WHERE metric_date = '{DIRTY}'")
    tab.open(WINDOW)
    tab.page.get_by_text("1 day is dirty").wait_for(state="detached")
    judged(stored, DIRTY, DAY)


def test_a_missing_day_of_an_agent_is_a_gap_and_replaced_values_name_their_run(tab: Tab, api: httpx2.Client) -> None:
    tab.open(f"agent=a&{WINDOW}")
    chart = tab.page.locator("figure", has=tab.page.get_by_role("heading", name="Success rate", exact=True))
    # Days 1 to 3 are one line, and the two after the missing one another.
    lines = [each.get_attribute("d") for each in chart.locator("path.line").all()]
    assert [line.count("L") + 1 for line in lines] == [3, 2]
    chart.get_by_text("Table", exact=True).click()
    chart.locator("tbody tr").first.wait_for()
    cells = chart.locator("tbody tr").all_inner_texts()
    days = {row["metric_date"]: row for row in activity(api, "group_by=day&agent_id=a")}
    assert [line.split("\t")[:3] for line in cells] == [
        [str(day), state, str(days[str(day)]["success_rate"]) if str(day) in days else "–"]
        for day, state in (
            (
                FIRST + timedelta(days=number),
                ["aggregated", "aggregated", "aggregated", "missing", "dirty", "aggregated"][number],
            )
            for number in range(6)
        )
    ]
    users = tab.page.locator("figure", has=tab.page.get_by_role("heading", name="Users", exact=True))
    assert users.locator(".tick").all_text_contents() == ["0", "1", "2"]
    svg = chart.locator("svg[role=img]")
    svg.focus()
    svg.press("End")
    svg.press("ArrowLeft")
    assert tab.texts("figure:first-of-type output")[0].startswith(
        "Mon 3 Mar 2025: 50.00% (9.45–90.55%) of 2 executions (dirty"
    )
    assert "total_executions: 2 → 3" in tab.texts(".differences li")
    link = tab.page.locator(".restatements td a").first.get_attribute("href")
    assert link == f"http://127.0.0.1:3000/runs/{quote('the run that replaced it')}"
    address = chart.get_by_role("link", name="CSV").get_attribute("href")
    assert api.get(f"/{address}").text.count("\n") == 6


def test_open_alerts_are_on_top_and_lead_to_the_agent_whose_charts_have_a_mark(tab: Tab) -> None:
    tab.open(WINDOW)
    assert tab.texts("#open-alerts") == ["2 open alerts"]
    assert tab.texts(".alerts li") == [
        (
            "▲ critical a: unusual success rate success rate 50.00% (usual: 93.15% to 100.00%) of 60 executions "
            "since 4 Mar 2025"
        ),
        (
            "△ warning All agents: budget total cost usd $12,345,678,901.50 (allowed: at most $10.00) of 60 executions"
            "; projected for the whole month: $13.00 ($12.00 to $14.00) since 3 Mar 2025"
        ),
    ]
    assert tab.values(".alerts") == ["0.5", "12345678901.500000001"]
    tab.page.locator(".alerts").get_by_role("link", name="a", exact=True).click()
    tab.page.wait_for_selector("html[data-ready=all]")
    # The withdrawn alert is in the table, and marks no day.
    assert [text.split(" ", 1)[0] for text in tab.texts("#alerts tbody tr")] == ["2025-03-04", "2025-03-01"]
    assert tab.texts("#alerts tbody tr:last-child td:last-child") == [
        "withdrawn 2025-03-05 06:00 UTC, because a day was restated"
    ]
    chart = tab.page.locator("figure", has=tab.page.get_by_role("heading", name="Success rate", exact=True))
    assert chart.locator(".alert").count() == tab.page.locator(".alert").count() == 1
    chart.locator("svg[role=img]").press("End")
    words = "▲ critical: unusual success rate, usual: 93.15% to 100.00%"
    assert tab.texts("figure:first-of-type output")[0].endswith(f". {words}")
    chart.get_by_text("Table", exact=True).click()
    assert chart.locator("tbody tr").last.inner_text().endswith(words)


def test_the_values_of_a_dimension_have_the_numbers_of_the_api_and_two_are_compared(
    tab: Tab, api: httpx2.Client
) -> None:
    tab.open(f"agent=a&{WINDOW}&sort=value")
    rows = sorted(activity(api, "agent_id=a&group_by=model&decimals=string"), key=lambda row: row["value"])
    assert tab.texts("#values tbody th") == [row["value"] for row in rows] == ["(none)", "<i>large", "small"]
    names = ["total_executions", "success_rate", "total_cost_usd", "cost_per_unassisted_success", "human_interventions",
             "unique_users", "p50_latency_ms", "p95_latency_ms", "p99_latency_ms", "failed_executions"]  # fmt: skip
    for number, row in enumerate(rows, start=1):
        digits = ["" if row[name] is None else str(row[name]) for name in names]
        assert tab.values(f"#values tbody tr:nth-child({number})") == digits
    assert tab.texts("#values tbody tr:nth-child(2) td")[-1] == "timeout 4"
    assert "1 stored day is not broken down by model" in tab.texts(".breakdown .notice")[0]
    chart = tab.page.locator("figure", has=tab.page.get_by_role("heading", name="Share of each model by day"))
    chart.get_by_text("Table", exact=True).click()
    chart.locator("tbody tr").first.wait_for()
    lines = [line.split("\t") for line in chart.locator("tbody tr").all_inner_texts()]
    # Day, state, executions, and those of each value. A day without the dimension and a missing one have none.
    assert [line[1:] for line in lines] == [
        ["without dimension", "–", "–", "–", "–"],
        ["aggregated", "2", "1", "1", "0"],
        ["aggregated", "2", "1", "1", "0"],
        ["missing", "–", "–", "–", "–"],
        ["dirty", "2", "1", "1", "0"],
        ["aggregated", "3", "1", "1", "1"],
    ]
    tab.page.get_by_label("better than").select_option("small")
    tab.page.locator("select[name=b]").select_option("<i>large")
    tab.page.get_by_role("button", name="Compare").click()
    tab.page.wait_for_url("**by=model&b=%3Ci%3Elarge&a=small#compare")
    tab.page.wait_for_selector("html[data-ready=all]")

    def few(counted: str, minimum: int) -> str:
        return f"too few {counted}: each side needs {minimum}"

    assert tab.texts("#comparison tr") == [
        "Metric small <i>large Difference 95% interval Below 0 · above Shown",
        f"Success rate 100.00% of 4 executions 0.00% of 4 executions −100.00 pp – {few('executions', 30)}",
        f"p95 124 ms of 4 latencies 900 ms of 4 latencies +776 ms – {few('latencies', 100)}",
    ]
    rates = tab.page.locator("figure", has=tab.page.get_by_role("heading", name="Success rate by day"))
    # Of each value two days, the missing one as a gap, and two days.
    assert rates.locator("path.line").count() == 4


def test_the_calendar_and_a_day_prove_that_no_log_is_lost(tab: Tab) -> None:
    tab.open("days=2025")
    day = tab.page.get_by_label("Sun 2 Mar 2025: missing, never aggregated, 4 logs")
    assert day.get_attribute("href") == f"?day={MISSING}"
    assert tab.page.get_by_label("Wed 5 Mar 2025: not over").count() == 1
    tab.open("days=2024")
    assert tab.texts("main")[0].endswith(" Days that need a look None.")
    tab.open(f"day={DAY}")
    assert tab.values(".facts") == ["5", "4", "1", "2"]
    assert tab.texts(".proof li")[:2] == [
        "✓ logs read 5 = aggregated + skipped 5 (4 + 1)",
        "✓ aggregated 4 = executions of 2 agents 4",
    ]
    assert tab.texts("#skipped tbody tr") == ["gone inactive in the registry now 1 20.00%"]
    assert tab.page.locator(".proof .fails").count() == 0
    for unknown in (MISSING, DAY + timedelta(days=1)):
        tab.open(f"day={unknown}")
        assert tab.page.locator(".proof").count() == 0


def test_it_is_readable_on_a_phone_and_in_the_dark(tab: Tab) -> None:
    tab.page.emulate_media(color_scheme="dark")
    tab.page.set_viewport_size({"width": 360, "height": 700})
    for query in (WINDOW, f"agent=a&{WINDOW}", "days=2025", f"day={DAY}"):
        tab.open(query)
        assert tab.page.evaluate("document.documentElement.scrollWidth") == 360, query
        assert tab.page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(20, 24, 29)"


def test_with_tokens_it_holds_no_data_until_it_has_one(chromium: Any, serve_page: Serve) -> None:
    guarded = serve_page(api_tokens=TOKENS)
    page = guarded.get("/")
    policy = page.headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    context = chromium.new_context()
    tab = Tab(context.new_page(), str(guarded.base_url))
    tab.page.goto(f"{tab.base}/?{WINDOW}")
    box = tab.page.get_by_label("Read token")
    box.wait_for()
    assert tab.texts("main")[0].endswith(" kept in this tab only. Read token Open")
    box.fill("wrong")
    box.press("Enter")
    tab.page.get_by_role("alert").wait_for()
    tab.page.get_by_label("Read token").fill(READ)
    tab.page.get_by_role("button", name="Open").click()
    tab.page.wait_for_selector("html[data-ready=all]")
    assert tab.values(".cards")[0] == "16"
    with tab.page.expect_download() as download:
        tab.page.get_by_role("link", name="CSV").first.click()
    assert Path(download.value.path()).read_text().startswith("agent_id,total_executions,")
    # Another tab begins without it.
    other = context.new_page()
    other.goto(tab.base)
    other.get_by_label("Read token").wait_for()
    context.close()


def test_the_documentation_shows_the_digits_of_the_server(chromium: Any, api: httpx2.Client) -> None:
    page = chromium.new_page()
    page.goto(f"{api.base_url.join('/docs')}#/metrics/agent_days")
    operation = page.locator(".opblock.is-open")
    operation.locator("tr[data-param-name=agent_id] input").fill("a")
    operation.locator("tr[data-param-name=start_date] input").fill(str(FIRST))
    operation.get_by_role("button", name="Execute").click()
    shown = operation.locator(".live-responses-table .microlight").first.inner_text()
    page.close()
    answer = api.get(f"/api/v1/metrics/a?start_date={FIRST}").text
    rates = re.findall(r'"success_rate":([^,]*),', answer)
    assert "0.500000" in rates
    assert re.findall(r'"success_rate": ([^,]*),', shown) == rates


def test_its_files_may_be_kept_until_they_change(api: httpx2.Client) -> None:
    page = api.get("/").text
    version = page.split('src="page/')[1].split("/")[0]
    names = {file.name for file in files("metrics_pipeline.api.pages").joinpath("files").iterdir()} - {"index.html"}
    assert {part.split('"')[0] for part in page.split(f"page/{version}/")[1:]} < names
    for name in names:
        file = api.get(f"/page/{version}/{name}")
        assert file.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert file.headers["Content-Encoding" if len(file.content) > 1000 else "X-Request-ID"]
    assert api.get("/page/of-another-version/main.js").status_code == 404
