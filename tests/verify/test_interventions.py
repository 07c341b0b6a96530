"""The cases on interventions fail where what they check is broken or absent."""

from dataclasses import replace

import pytest

from interp import verify
from interp.analyses.das import DASResult
from interp.models import reference


def failing(name: str) -> str:
    (outcome,) = verify.run(name)
    assert not outcome.ok, str(outcome)
    return outcome.found


def test_a_logit_that_no_head_writes_fails(monkeypatch):
    real, null = reference.induction(), reference.induction(null=True)
    monkeypatch.setattr(reference, "induction", lambda null_=False, **_: replace(real, module=null.module))
    assert "by head 1.0" in failing("direct logits")


@pytest.mark.parametrize("always", [True, False])
def test_illusions_that_are_told_everywhere_or_nowhere_fail(always, monkeypatch):
    real = DASResult.illusion
    monkeypatch.setattr(DASResult, "illusion", lambda self, margin=0.3: real(self, margin) * 0 + int(always))
    assert f"illusion {always} and {always}" in failing("subspaces")


def test_random_heads_are_not_the_planted_ones(monkeypatch):
    real, null = reference.tracker(), reference.tracker(null=True)
    monkeypatch.setattr(reference, "tracker", lambda **_: replace(real, module=null.module))
    assert not failing("component masks").startswith("4 of 4")


def test_twins_do_not_differ(monkeypatch):
    base, _ = reference.sharpened()
    monkeypatch.setattr(reference, "sharpened", lambda **_: (base, base))
    assert "standard error" in failing("models apart")
