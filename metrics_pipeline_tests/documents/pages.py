"""The pages of README and docs/ as Markdown: their text, code, links and headings."""

import re
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).parents[2]
README = PROJECT / "README.md"
DOCS = PROJECT / "docs"

_FENCE = re.compile(r"^( *)```.*?^\1```$", re.MULTILINE | re.DOTALL)
_INLINE_CODE = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+?)$", re.MULTILINE)


def pages() -> list[Path]:
    """README and every page of docs/."""
    return [README, *sorted(DOCS.rglob("*.md"))]


def links(page: Path) -> list[str]:
    """The targets of the page's links and pictures, as they are written."""
    return _LINK.findall(_INLINE_CODE.sub("", _without_fences(page.read_text())))


def anchors(page: Path) -> set[str]:
    """What a link to a heading of the page may have after its #: as GitHub and most other renderers make it."""
    headings = _HEADING.findall(_without_fences(page.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-") for heading in headings}


def code_lines(page: Path) -> Iterator[str]:
    """The lines of the page's blocks of code; a line that goes on after a backslash is one."""
    for fence in _FENCE.finditer(page.read_text()):
        yield from fence.group().replace("\\\n", " ").splitlines()[1:-1]


def inline_code(page: Path) -> Iterator[str]:
    """The code within the page's sentences."""
    for inline in _INLINE_CODE.findall(_without_fences(page.read_text())):
        yield " ".join(inline.split())


def _without_fences(text: str) -> str:
    return _FENCE.sub("", text)
