"""The cases of unlearning methods notice what they are for (that they hold is asked of the whole catalogue)."""

import pytest
import torch

from interp.verify import unlearning_methods


def test_a_loss_of_another_scale_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from interp.analyses.unlearning.methods import losses

    monkeypatch.setattr(
        losses,
        "npo_loss",
        lambda now, ref, beta: -(1 / beta) * torch.nn.functional.logsigmoid(beta * (now - ref)).mean(),
    )
    assert not unlearning_methods.npo_begins_as_ascent()[0]


def test_a_subtraction_that_is_left_out_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from interp.analyses.unlearning.methods import isolation

    monkeypatch.setattr(isolation, "top_share", lambda score, keep: torch.zeros_like(score, dtype=torch.bool))
    assert not unlearning_methods.isolation_spares_the_other_skill()[0]
