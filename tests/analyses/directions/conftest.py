"""Models and labelled texts that the tests of this folder share."""

import numpy as np
import pytest

import interp
from interp.core.seed import numpy_generator
from interp.models import reference


@pytest.fixture(scope="session")
def atlas():
    return interp.load("atlas")


@pytest.fixture(scope="session")
def colours():
    return reference.labelled("atlas", "colour", 40)


@pytest.fixture(scope="session")
def stories(real_models):
    return interp.load(str(real_models / "stories260K-llama"))


def planted(rows: int = 400, width: int = 12, gap: float = 3.0, name: str = "planted"):
    """Correlated gaussian rows, labels, and the direction along which the classes lie apart."""
    rng = numpy_generator(0, name)
    unit = rng.standard_normal(width)
    unit /= np.linalg.norm(unit)
    yes = np.arange(rows) % 2 == 0
    return rng.standard_normal((rows, width)) + gap * yes[:, None] * unit, yes, unit
