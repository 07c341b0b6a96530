"""The command line's tests load the reference checkpoints once: every verb would otherwise read and check them anew."""

from typing import Any

import pytest

import interp
import interp.models.load

ORIGINAL = interp.load  # by which the session's fixtures load


@pytest.fixture(autouse=True)
def _loaded_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give out the session's `atlas` and `atlas-tuned` where they are asked for as they are; all else is loaded."""
    plain = {"backend": "transformer_lens", "device": "auto", "dtype": "auto"}

    def load(name: Any, **options: Any) -> Any:
        if name in ("atlas", "atlas-tuned") and plain | options == plain:
            return request.getfixturevalue(str(name).replace("-", "_"))
        return ORIGINAL(name, **options)

    monkeypatch.setattr(interp.models.load, "load", load)
