"""README and docs/: the parts that are generated from the code, and tests of the rest.

`python -m metrics_pipeline_tests.documents` (or `make docs`) writes the generated parts again.
"""
