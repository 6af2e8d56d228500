"""What a run of the tests leaves out where a person waits, and not in CI."""

import os
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import settings

#: Whether everything is tried.
IS_CI = os.environ.get("CI") == "true"


def examples(number: int) -> settings:
    """Settings with `number` of examples in CI, and with a sixth otherwise."""
    return settings(max_examples=number if IS_CI else -(-number // 6))


def variants(parameters: Iterable[Any]) -> list[Any]:
    """Parameters of one test, of which the first and every third after it are played, and in CI all."""
    return [each if number % 3 == 0 else _in_ci(each) for number, each in enumerate(parameters)]


def _in_ci(parameter: Any) -> Any:
    if hasattr(parameter, "marks"):
        return pytest.param(*parameter.values, marks=[*parameter.marks, pytest.mark.ci], id=parameter.id)
    return pytest.param(*(parameter if isinstance(parameter, tuple) else (parameter,)), marks=pytest.mark.ci)
