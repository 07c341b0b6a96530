"""The cases on learning fail where nothing is learned, and where the gradient is another."""

import torch

from interp.core.dictionary import Dictionary, DictionaryConfig, View
from interp.train import activations
from interp.verify import features


def test_an_untrained_dictionary_is_no_known_answer(monkeypatch) -> None:
    view = View("in", width=12)
    config = DictionaryConfig(16, (view,), (view,), activation="relu")
    monkeypatch.setattr(features, "_trained", lambda rows, steps: Dictionary.initialise(config))
    ok, said = features.planted_features()
    assert not ok and "MCC 0." in said


def test_a_true_derivative_is_not_the_estimate(monkeypatch) -> None:
    assert features.straight_through()[0]
    monkeypatch.setattr(
        activations, "step", lambda pre, threshold, bandwidth: torch.sigmoid((pre - threshold) / bandwidth * 4)
    )
    assert not features.straight_through()[0]
