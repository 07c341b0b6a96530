"""Models that several of these files look at, loaded once a file. Whoever edits one puts it back, as `edit_weights` does."""

import pytest

import interp
from interp.models import reference


@pytest.fixture(scope="module")
def planted():
    return reference.as_lm(reference.channels())


@pytest.fixture(scope="module")
def null():
    return reference.as_lm(reference.channels(null=True))


@pytest.fixture(scope="module")
def story(real_models):
    return interp.load(str(real_models / "stories260K-llama"), check=False)
