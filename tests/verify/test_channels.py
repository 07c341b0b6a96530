"""Each check of planted channels fails when what it checks is not there, or is wrong."""

import importlib
from contextlib import contextmanager
from dataclasses import replace

import pytest

from interp import verify
from interp.verify import mechanisms

REAL = mechanisms.planted


def failing(name: str) -> str:
    (outcome,) = verify.run(name)
    assert not outcome.ok
    return outcome.found


@pytest.mark.parametrize(
    ("case", "model"),
    [
        ("channel list", "channels"),
        ("closed channel", "channels"),
        ("pointer", "pointer"),
        ("rotary channels", "rotary_channels"),
    ],
)
def test_nothing_is_found_where_nothing_is_planted(case, model, monkeypatch):
    """The null variant with the planted answers."""
    real, null = REAL(model)[0], REAL(model, null=True)
    assert not null[0].answers
    monkeypatch.setattr(
        mechanisms, "planted", lambda name, null_=False: (replace(real, module=null[0].module), null[1])
    )
    failing(case)


def test_a_null_case_fails_where_something_is_planted(monkeypatch):
    monkeypatch.setattr(mechanisms, "planted", lambda name, null=False: REAL(name))
    failing("channel list, null")


def test_an_edit_that_does_nothing_is_caught(monkeypatch):
    room = importlib.import_module("interp.analyses.channels")

    @contextmanager
    def elsewhere(lm, names, **options):
        yield  # nothing is edited

    monkeypatch.setattr(room, "edit_components", elsewhere)
    assert "0.0000 of" in failing("closed channel")


def test_a_rotation_the_wrong_way_round_is_caught(monkeypatch):
    from interp.models.weights import Weights

    right = Weights.rotation
    monkeypatch.setattr(Weights, "rotation", lambda self, layer, offset: right(self, layer, offset).T)
    failing("rotary channels")


def test_what_is_let_through_is_caught(monkeypatch):
    factors = importlib.import_module("interp.analyses.channels.factors")
    monkeypatch.setattr(factors, "_check_offset", lambda lm, offset: None)
    assert failing("channels, refused") == "5 of 6 refused"
