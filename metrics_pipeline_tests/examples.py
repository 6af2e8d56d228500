"""How many examples Hypothesis draws for a test: all in CI, and a third elsewhere, where a person waits."""

import os

from hypothesis import settings


def examples(number: int) -> settings:
    """Settings with `number` of examples if the environment says CI=true, and with a third otherwise."""
    return settings(max_examples=number if os.environ.get("CI") == "true" else -(-number // 3))
