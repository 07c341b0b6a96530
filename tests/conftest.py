"""Shared fixtures: one thread (several times faster on a busy machine), offline, a private cache, the real checkpoints where present."""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from jaxtyping import install_import_hook

from tests import typecheck

install_import_hook("interp", f"{typecheck.__name__}.shapes")  # before anything of interp is imported
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test ever reads or writes the user's own activation store."""
    root = tmp_path_factory.mktemp("store")
    monkeypatch.setenv("INTERP_CACHE", str(root))
    return root


@pytest.fixture(scope="session")
def real_models() -> Path:
    """The folder of real checkpoints, or a skip with the reason."""
    root = os.environ.get("INTERP_MODELS", "")
    if not root or not Path(root).is_dir():
        pytest.skip("INTERP_MODELS is not set to a folder of real checkpoints")
    return Path(root)


@pytest.fixture(scope="session")
def atlas():
    """The embedded reference checkpoint, loaded once. It is borrowed: whoever changes it puts it back."""
    import interp

    return interp.load("atlas")


@pytest.fixture(scope="session")
def atlas_tuned():
    """The same after tuning, loaded once."""
    import interp

    return interp.load("atlas-tuned")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The notebooks first: they are the longest file, and no process should be left alone with it at the end."""
    items.sort(key=lambda item: item.path.name != "test_notebooks.py")
