"""Models that the tests of unlearning share."""

from typing import Any

import pytest


@pytest.fixture(scope="session")
def lm(atlas: Any) -> Any:
    """The reference checkpoint; every method gives it back bit for bit."""
    return atlas
