"""Links of the documents lead to existing pages and headings, and README is short."""

from pathlib import Path

import pytest

from metrics_pipeline_tests.documents.pages import DOCS, PROJECT, README, anchors, links, pages

_README_BYTES = 8192


def _target(page: Path, link: str) -> tuple[Path, str]:
    path, _, anchor = link.partition("#")
    return ((page.parent / path).resolve() if path else page), anchor


def _relative_links(page: Path) -> list[str]:
    return [link for link in links(page) if "://" not in link]


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(PROJECT)))
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page: Path) -> None:
    broken = []
    for link in _relative_links(page):
        target, anchor = _target(page, link)
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_every_page_is_reached_from_the_index() -> None:
    reached: set[Path] = set()
    waiting = [DOCS / "index.md"]
    while waiting:
        page = waiting.pop()
        if page not in reached:
            reached.add(page)
            waiting += [
                target
                for target, _ in (_target(page, link) for link in _relative_links(page))
                if target.suffix == ".md"
            ]
    assert set(pages()) - {README} <= reached


def test_every_picture_and_example_is_used_by_a_page() -> None:
    used = {_target(page, link)[0] for page in pages() for link in _relative_links(page)}
    files = {path for path in DOCS.rglob("*") if path.is_file() and path.suffix != ".md"}
    assert files <= used


def test_readme_is_short() -> None:
    assert len(README.read_bytes()) <= _README_BYTES


def test_a_link_to_a_heading_is_made_as_renderers_make_it(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# `db grants`, and who\n\n```\n# no heading\n[no](link)\n```\n\n[a](b.md#c) `[no](link)`\n")
    assert anchors(page) == {"db-grants-and-who"}
    assert links(page) == ["b.md#c"]
