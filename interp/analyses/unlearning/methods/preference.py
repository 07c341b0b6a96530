"""Unlearning as preference: the forget texts are the rejected answers. NPO has no preferred ones, DPO prefers the retain texts.

    NPO     -(2/b) ln sigma(b (l_f - l_f ref))  [+ kl KL(ref || model) on retain]
    DPO     -(2/b) ln sigma(b ((l_f - l_f ref) - (l_r - l_r ref)))               l: summed cross-entropy of a text; b = 0.1

Both begin at (2/b) ln 2 with the gradient of ascent on l_f (DPO: less that on l_r), and fade where a text has become unlikely by
many times 1/b: that is their advantage over ascent, and why a long text is done after a few steps (l is a sum over its tokens).

Source. Zhang et al. 2024, "Negative Preference Optimization: From Catastrophic Collapse to Effective Unlearning" (arXiv
2404.05868), equation 3; Rafailov et al. 2023 (arXiv 2305.18290), equation 7; the scale 2/b for both, retain texts as preferred
answers, b and the stop at a loss of 0 from the program of Hong et al. 2024 (ConceptVectors, arXiv 2406.11614). `NPO(kl=1)` is its
NPO_KL. The loss is positive until it underflows, so `stop_loss=0` stops only once no gradient is left; a larger one stops earlier.

When it misleads. A preferred and a rejected text here are not two answers to one question, so DPO is content when retain texts
become more likely instead of the forget texts less likely. Both losses can fall while the concept's words stay the likeliest: look
at accuracy.

    from interp.analyses.unlearning.methods.preference import NPO
    concepts = interp.models.reference.concept_set("atlas")
    revision = NPO(steps=2, kl=1.0).unlearn(lm, concepts.get("colour"), concepts.others("colour"))
    revision.log["loss"][0]                                  # 20 ln 2 = 13.9, and 0 for the KL
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from interp.core.errors import BadInput

from .losses import dpo_loss, kl_to, nll, npo_loss
from .training import Step, Trained, positive


@dataclass(frozen=True)
class Preference(Trained):
    """What NPO and DPO share."""

    compares: ClassVar[bool] = True

    beta: float = 0.1
    """b: how soon a text counts as forgotten; ascent for b -> 0."""
    stop_loss: float = 0.0
    """Stop once the loss is this or less."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "beta")
        if not self.stop_loss >= 0:
            raise BadInput(f"`stop_loss` must be 0 or more; not {self.stop_loss}.")

    def _stop(self, loss: float) -> str:
        return "loss" if loss <= self.stop_loss else ""


@dataclass(frozen=True)
class NPO(Preference):
    """Negative preference optimisation, with a KL to the model as it was on retain texts where `kl` is above 0."""

    name: ClassVar[str] = "npo"

    kl: float = 1.0
    """Weight of KL(reference || model) a token of the retain texts: 1 is the published NPO_KL, 0 plain NPO, which needs no retain texts."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.kl >= 0:
            raise BadInput(f"`kl` must be 0 or more; not {self.kl}.")

    @property
    def _retains(self) -> bool:
        return self.kl > 0

    @property
    def _drifts(self) -> bool:
        return self.kl > 0

    def _terms(self, step: Step) -> dict[str, Tensor]:
        assert step.forget_ref is not None
        now = nll(step.forget_logits, step.forget, step.only)
        terms = {"forget": npo_loss(now, step.forget_ref.to(now), self.beta)}
        if step.retain is not None and step.retain_logits is not None and step.retain_before is not None:
            terms["retain"] = self.kl * kl_to(step.retain_before, step.retain_logits, step.retain)
        return terms


@dataclass(frozen=True)
class DPO(Preference):
    """Direct preference optimisation with retain texts as the preferred answers, forget texts as the rejected ones."""

    name: ClassVar[str] = "dpo"
    needs_retain: ClassVar[bool] = True

    lr: float = 1e-4
    """AdamW's step size. Published: 1e-5 to 5e-5 for 7B models."""

    def _terms(self, step: Step) -> dict[str, Tensor]:
        assert step.retain is not None and step.retain_logits is not None
        assert step.forget_ref is not None and step.retain_ref is not None
        forget, retain = nll(step.forget_logits, step.forget, step.only), nll(step.retain_logits, step.retain)
        return {"forget": dpo_loss(forget, step.forget_ref.to(forget), retain, step.retain_ref.to(retain), self.beta)}
