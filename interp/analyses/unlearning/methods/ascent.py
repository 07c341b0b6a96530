"""Gradient ascent on the forget texts, alone (`gradient-ascent`) or against descent on the retain texts (`gradient-difference`).

    ascent        -CE_f
    difference    -CE_f + retain_weight CE_r        retain_weight 1.5

Source. Jang et al. 2023, "Knowledge Unlearning for Mitigating Privacy Risks in Language Models" (arXiv 2210.01504), section 3; Liu
et al. 2022, "Continual Learning and Private Unlearning" (arXiv 2203.12817), section 3; the weight 1.5 and the settings from the
program of Hong et al. 2024 (ConceptVectors, arXiv 2406.11614), where nothing but the number of epochs stops it; here
`ceiling` does too.

When it misleads. Ascent alone unlearns everything: what a sentence on colours shares with other sentences, such as its grammar,
goes up in loss with it. Read the unrelated accuracy and the perplexity beside it.

    from interp.analyses.unlearning.methods.ascent import GradientAscent
    colour = interp.models.reference.concept_set("atlas").get("colour")
    revision = GradientAscent(steps=2).unlearn(lm, colour, [])
    revision.log["stopped"], revision.log["nll"]
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .losses import mean_nll
from .training import Step, Trained, positive


@dataclass(frozen=True)
class GradientAscent(Trained):
    """The forget texts made unlikely, by gradient ascent on their cross-entropy."""

    name: ClassVar[str] = "gradient-ascent"

    def _terms(self, step: Step) -> dict[str, Tensor]:
        return {"forget": -mean_nll(step.forget_logits, step.forget, step.only)}


@dataclass(frozen=True)
class GradientDifference(GradientAscent):
    """Ascent on the forget texts and descent on the retain texts at once."""

    name: ClassVar[str] = "gradient-difference"
    needs_retain: ClassVar[bool] = True

    retain_weight: float = 1.5
    """Weight of the retain texts' cross-entropy."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "retain_weight")

    def _terms(self, step: Step) -> dict[str, Tensor]:
        assert step.retain is not None and step.retain_logits is not None
        return super()._terms(step) | {"retain": self.retain_weight * mean_nll(step.retain_logits, step.retain)}
