"""What a person sees in the Dagster UI: a real `dev`, in Chromium, on a screen of 1280 pixels."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metrics_pipeline import __version__
from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import execute
from metrics_pipeline_tests.homes import scratch_home
from metrics_pipeline_tests.processes import CLI, bare_environment

from .ui import Ui, running_ui

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DAY = "2025-07-11"
WIDTH = 1280
LOCATION = "/locations/metrics_pipeline"


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser.new_page(viewport={"width": WIDTH, "height": 1500})
        browser.close()


def shows(page: Any, *texts: str) -> None:
    for text in texts:
        page.get_by_text(text).first.wait_for(timeout=60_000)


def shows_whole_tables(page: Any, heading: str) -> None:
    """The last column of each table with that heading ends on the screen."""
    cells = page.get_by_text(heading, exact=True)
    cells.first.wait_for(timeout=60_000)
    for cell in cells.all():
        visible = cell.evaluate(
            """cell => {
                const right = cell.getBoundingClientRect().right;
                for (let box = cell.parentElement; box; box = box.parentElement)
                    if (getComputedStyle(box).overflowX !== 'visible' && box.getBoundingClientRect().right < right)
                        return false;
                return right <= window.innerWidth;
            }"""
        )
        assert visible, f"{heading} is cut"


@pytest.mark.end_to_end
@pytest.mark.long
def test_a_person_sees_days_agents_and_settings_and_nothing_that_only_programs_read(
    page: Any, logs: None, database: Database, database_url: str
) -> None:
    # So that the table of failures has rows.
    execute(database, f"UPDATE agent_execution_logs SET status = 'failed' WHERE \"timestamp\" >= '{DAY}'")
    environment = {"METRICS_DATABASE_URL": database_url, "METRICS_START_DATE": DAY, "METRICS_DIMENSIONS": "model"}
    with scratch_home() as home:
        command = [*CLI, "aggregate", "--date", DAY]
        subprocess.run(command, env=bare_environment(home) | environment, check=True, capture_output=True)
        with running_ui(home, (*CLI, "dev"), **environment) as ui:
            look(page, ui)


def look(page: Any, ui: Ui) -> None:
    def visit(path: str) -> None:
        page.goto(ui.url + path)

    # The run of a command: under its job, with its day, and without tags for programs.
    visit(f"{LOCATION}/jobs/daily_metrics_job/runs")
    shows(page, f"partition: {DAY}", "reason: manual", "Success")
    assert "metrics_process" not in page.inner_text("body")

    visit(f"/assets/agent_performance_metrics?view=partitions&partition={DAY}")
    shows(page, f"Friday, {DAY}", "executions of 8 agents", "failure_rate", "cost_per_execution_usd")
    keys = re.findall(r"^(day|in_short|executions|window|seconds_extract)$", page.inner_text("body"), re.MULTILINE)
    assert keys == ["day", "in_short", "executions", "window", "seconds_extract"]
    shows_whole_tables(page, "of")
    shows_whole_tables(page, "runs")
    shows_whole_tables(page, "USD")

    visit("/assets/agent_overview")
    shows(page, "Every run of daily_metrics_job", "1 of 7, 1 of 28", "28 d")
    shows_whole_tables(page, "±")

    visit(f"{LOCATION}/resources/database")
    shows(page, f"metrics_pipeline {__version__}", f"Time zone: UTC; first day: {DAY}", "Look-back: 14 days")

    visit(LOCATION)
    shows(page, "metrics-pipeline", __version__)

    # One click deletes nothing.
    visit(f"{LOCATION}/jobs/data_retention_job/playground")
    shows(page, "dry_run")
    page.wait_for_function("document.body.innerText.replace(/\\u200b/g, '').includes('dry_run: true')", timeout=60_000)
