"""What a run of the tests leaves out where a person waits, and not in CI."""

import os

from hypothesis import settings

#: Whether everything is tried.
IS_CI = os.environ.get("CI") == "true"


def examples(number: int) -> settings:
    """Settings with `number` of examples in CI, and with a sixth otherwise."""
    return settings(max_examples=number if IS_CI else -(-number // 6))
