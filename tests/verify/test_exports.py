"""The case on exports fails where what is written is another dictionary."""

import pytest
import torch

from interp import verify
from interp.core.dictionary import Dictionary, Scaling
from interp.core.errors import BadInput
from interp.train.formats import sae_lens
from interp.verify import exports


def failing() -> None:
    (outcome,) = verify.run("export")
    assert not outcome.ok, str(outcome)


def test_a_scaling_that_is_not_folded_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Dictionary.folded

    def forgotten(self: Dictionary) -> Dictionary:
        kept, self.scalings = self.scalings, {"in": Scaling.none(exports.WIDTH)}
        found = own(self)
        self.scalings = kept
        return found

    monkeypatch.setattr(Dictionary, "folded", forgotten)
    failing()


def test_a_threshold_on_the_wrong_scale_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    own = sae_lens.described

    def unscaled(dictionary: Dictionary) -> object:
        config, state = own(dictionary)
        if dictionary.config.activation == "batchtopk":
            state["threshold"] = torch.full_like(state["threshold"], float(dictionary.threshold))
        return config, state

    monkeypatch.setattr(sae_lens, "described", unscaled)
    failing()


def test_it_also_runs_without_saelens(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise BadInput("not installed")

    monkeypatch.setattr(exports, "library_of", absent)
    (outcome,) = verify.run("export")
    assert outcome.ok and "SAELens is not installed" in outcome.found
