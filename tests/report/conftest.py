"""One report on the reference checkpoint, small, shared by the tests that only read it."""

from pathlib import Path

import pytest

from interp.models import reference


@pytest.fixture(scope="session")
def facts(atlas):
    return reference.facts("atlas", 4)


@pytest.fixture(scope="session")
def written(atlas, facts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from interp.cache import Store
    from interp.report import report

    folder = tmp_path_factory.mktemp("reports")
    store = Store(folder / "store")
    text = reference.text("atlas", 20)
    return report(atlas, folder / "card", facts=facts, text=text, static=False, max_tokens=900, store=store).parent
