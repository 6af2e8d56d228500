"""Writes the blocks of docs/ that are generated from the code, and prints which pages changed."""

import sys

from metrics_pipeline_tests.documents.generated import renewed
from metrics_pipeline_tests.documents.pages import PROJECT, pages

for page in pages():
    before = page.read_text()
    after = renewed(before)
    if after != before:
        page.write_text(after)
        sys.stdout.write(f"Wrote {page.relative_to(PROJECT)}\n")
