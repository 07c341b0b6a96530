"""Models that the tests of unlearning share."""

from typing import Any

import pytest

import interp


@pytest.fixture(scope="session")
def lm() -> Any:
    """The reference checkpoint; every method gives it back bit for bit."""
    return interp.load("atlas")
