"""The cases on writing and training fail where what they check is broken."""

import pytest
import torch

from interp import verify
from interp.models import generate, tuning
from interp.verify.case import Outcome


def failing(name: str) -> Outcome:
    (outcome,) = verify.run(name)
    assert not outcome.ok
    return outcome


def test_a_batch_whose_padding_is_seen_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    own = generate.Batch.padded
    monkeypatch.setattr(generate.Batch, "padded", lambda rows, **options: own(rows, **{**options, "side": "right"}))
    failing("generation")


def test_edits_that_act_on_the_prompt_only_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    own = generate.Tape
    monkeypatch.setattr(
        generate, "Tape", lambda batch, sites, edits: own(batch, sites, edits if batch.tokens.shape[1] > 1 else ())
    )
    failing("generation")


def test_training_that_stays_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = verify.invariants.random_lm()
    saved = {name: parameter.detach().clone() for name, parameter in lm.module.named_parameters()}
    monkeypatch.setattr(tuning, "_check_restored", lambda *_: None)
    monkeypatch.setattr(tuning, "_digest", lambda _: "")
    monkeypatch.setattr(torch.Tensor, "copy_", lambda self, other: self)
    try:
        assert "ANOTHER" in failing("tuning").found
    finally:
        monkeypatch.undo()
        with torch.no_grad():
            for name, parameter in lm.module.named_parameters():
                parameter.copy_(saved[name])
