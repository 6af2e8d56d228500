"""README and docs/: the parts of them that are made from the code, and tests that the rest is true.

`python -m metrics_pipeline_tests.documents` (or `make docs`) writes the made parts anew.
"""
