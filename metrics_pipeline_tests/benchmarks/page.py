"""`python -m metrics_pipeline_tests.benchmarks.page`: how long people wait for the fleet view, as a Markdown table.

Stores --days of --agents on an embedded server, each day of an agent with 200 executions. Chromium (Debian's package)
opens the page: cold is a server that was just started and a browser without a copy of anything; again is the same view
in the same tab. Seconds are those from the navigation to the first frame with the numbers in it, medians of --rounds.
"""

import argparse
import statistics
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright
from sqlalchemy import text

from metrics_pipeline.metrics.windows import last_complete_day
from metrics_pipeline.pipeline.opening import open_database
from metrics_pipeline.settings import Settings
from metrics_pipeline_tests.benchmarks.api import STORE_LEDGER, server
from metrics_pipeline_tests.benchmarks.server import temporary_home
from metrics_pipeline_tests.benchmarks.windows import store_windows

_EXECUTIONS = 200
_TARGETS = {"cold": 1.5, "again": 0.3}
# The page says in data-ready what is in the document; the second frame after that has been drawn.
_WATCH = """
window.shown = {};
new MutationObserver(() => {
    const what = document.documentElement.dataset.ready;
    requestAnimationFrame(() => requestAnimationFrame(() => {
        window.shown[what] ??= performance.now() / 1000;
        document.documentElement.dataset.drawn = what;
    }));
}).observe(document, { subtree: true, attributeFilter: ["data-ready"] });
"""


def main() -> None:
    """Prints a row per period and part of the view, beside the target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=500, help="(default %(default)s)")
    parser.add_argument("--days", type=int, default=365, help="(default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(default %(default)s)")
    options = parser.parse_args()
    with temporary_home() as home, sync_playwright() as playwright:
        print(f"Storing {options.days} days of {options.agents} agents", flush=True)
        database = open_database(Settings(home=home))
        last = last_complete_day(datetime.now(UTC), "UTC")
        store_windows(database, options.agents, options.days, _EXECUTIONS)
        with database.begin() as connection:
            parameters = {"agents": options.agents, "days": options.days, "last": last}
            connection.execute(text(STORE_LEDGER), parameters)
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        print("\n| fleet view | cold s | target | again s | target |\n| --- | ---: | ---: | ---: | ---: |")
        for days in (30, options.days):
            _measure(home, browser, f"from={last - timedelta(days=days - 1)}&to={last}", days, options.rounds)


def _measure(home: Path, browser: Any, query: str, days: int, rounds: int) -> None:
    found: dict[str, list[dict[str, float]]] = {"cold": [], "again": []}
    for _ in range(rounds):
        with server(home) as url:
            context = browser.new_context(viewport={"width": 1280, "height": 900})
            context.add_init_script(_WATCH)
            page = context.new_page()
            for name in found:
                page.goto(f"{url}/?{query}")
                page.wait_for_selector("html[data-drawn=all]", timeout=60_000)
                found[name].append(page.evaluate("window.shown"))
            context.close()
    for part, what in (("sums", "totals and table"), ("all", "everything")):
        line = [f"{days} days: {what}"]
        for name, target in _TARGETS.items():
            line += [f"{statistics.median(each[part] for each in found[name]):.2f}", f"{target}"]
        print(f"| {' | '.join(line)} |", flush=True)


if __name__ == "__main__":
    main()
