"""The generated parts of the documents are current."""

from pathlib import Path

import pytest

from metrics_pipeline.orchestration.checks.assembly import build_checks
from metrics_pipeline.settings import Settings
from metrics_pipeline_tests.documents.generated import BLOCKS, blocks_of, openapi_document, renewed
from metrics_pipeline_tests.documents.pages import DOCS, PROJECT, pages


@pytest.mark.parametrize("page", [page for page in pages() if blocks_of(page.read_text())], ids=lambda page: page.name)
def test_a_page_holds_its_generated_blocks_as_the_code_has_them_now(page: Path) -> None:
    text = page.read_text()
    assert text == renewed(text), f"{page.relative_to(PROJECT)} is not current: run make docs"


def test_every_block_is_on_exactly_one_page() -> None:
    found = [block for page in pages() for block in blocks_of(page.read_text())]
    assert sorted(found) == sorted(BLOCKS)


def test_a_block_of_an_unknown_name_is_an_error() -> None:
    with pytest.raises(KeyError, match="no_such_block"):
        renewed("<!-- make docs: no_such_block -->\n<!-- end -->")


def test_a_renewed_page_keeps_its_own_words() -> None:
    page = "Before.\n\n<!-- make docs: variables -->\nstale words\n<!-- end -->\n\nAfter."
    assert renewed(page).startswith("Before.\n\n<!-- make docs: variables -->\n\n| variable |")
    assert renewed(page).endswith(" |\n\n<!-- end -->\n\nAfter.")
    assert "stale words" not in renewed(page)


def test_the_page_of_the_checks_has_a_section_for_each_check() -> None:
    checks = {key.name for check in build_checks(Settings(Path())) for key in check.check_keys} | {"no_logs_held_back"}
    headings = [line.removeprefix("### ") for line in (DOCS / "reference/checks.md").read_text().splitlines()]
    assert checks == {heading for heading in headings if heading.isidentifier()}


def test_the_page_of_the_api_has_every_path() -> None:
    page = (DOCS / "reference/api.md").read_text()
    for path, methods in openapi_document()["paths"].items():
        for method in methods:
            assert f"`{method.upper()} {path}`" in page
