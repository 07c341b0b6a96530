"""The checks of channel use fail when what they check is not there, or is wrong."""

from dataclasses import replace

import pytest

from interp import verify
from interp.verify import mechanisms

REAL = mechanisms.planted


def failing(name: str) -> str:
    (outcome,) = verify.run(name)
    assert not outcome.ok
    return outcome.found


@pytest.mark.parametrize("case", ["channel use", "component words"])
def test_nothing_is_found_where_nothing_is_planted(case, monkeypatch):
    real, null = REAL("channels")[0], REAL("channels", null=True)
    monkeypatch.setattr(
        mechanisms, "planted", lambda name, null_=False: (replace(real, module=null[0].module), null[1])
    )
    failing(case)


def test_a_contribution_that_is_off_is_caught(monkeypatch):
    from interp.analyses.channels.use.listening import ReaderHead

    right = ReaderHead.images
    monkeypatch.setattr(ReaderHead, "images", lambda self, kind, heard, linear: 1.01 * right(self, kind, heard, linear))
    assert "off" in failing("channel use")
