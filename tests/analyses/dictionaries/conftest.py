"""What several files on dictionaries borrow."""

import pytest

import interp


@pytest.fixture(scope="session")
def stories(real_models):
    """The smallest real checkpoint, loaded once."""
    return interp.load(real_models / "stories260K-llama")
