"""What `make audit` makes of the reports of pip-audit, written here as version 2.10 writes them."""

import json

import pytest

from metrics_pipeline_tests.audit import judge

FINE = {"name": "alembic", "version": "1.20.1", "vulns": []}
BAD = {
    "name": "jinja2",
    "version": "2.4.1",
    "vulns": [{"id": "PYSEC-2014-8", "fix_versions": ["2.7.2"], "aliases": ["CVE-2014-1402"], "description": "…"}],
}
UNMENDED = {"name": "six", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": []}]}
SKIPPED = {"name": "polars", "skip_reason": "Dependency not found on PyPI and could not be audited: polars (2.1.0)"}


def verdict(*dependencies: dict[str, object]) -> tuple[int, str]:
    return judge(json.dumps({"dependencies": dependencies, "fixes": []}), "No known vulnerabilities found")


def test_a_known_vulnerability_fails_and_is_named_with_the_version_that_mends_it() -> None:
    code, said = verdict(FINE, BAD, UNMENDED, SKIPPED)
    assert code == 1
    assert said.splitlines() == [
        "jinja2 2.4.1: PYSEC-2014-8, fixed in 2.7.2",
        "six 1.0: PYSEC-1, fixed in no version yet",
        "3 of 4 dependencies were audited.",
        "1 could not be audited: Dependency not found on PyPI and could not be audited: polars (2.1.0)",
    ]


def test_versions_without_a_known_vulnerability_pass() -> None:
    assert verdict(FINE, FINE) == (0, "No known vulnerability\n2 of 2 dependencies were audited.")


def test_a_service_that_knows_no_version_gives_no_clean_bill_and_fails_nothing() -> None:
    code, said = verdict(SKIPPED, SKIPPED)
    assert code == 0
    assert said.startswith("0 of 2 dependencies were audited.\n2 could not be audited: Dependency not found")
    assert "No known vulnerability" not in said


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ("WARNING:x\nERROR:pip_audit._cli:Could not connect to PyPI's vulnerability feed\n", "Could not connect to"),
        ("", "pip-audit said nothing"),
    ],
)
def test_a_service_that_cannot_be_reached_is_said_and_fails_nothing(messages: str, reason: str) -> None:
    code, said = judge("", messages)
    assert code == 0
    assert said.startswith("The dependencies could not be audited: ")
    assert reason in said
