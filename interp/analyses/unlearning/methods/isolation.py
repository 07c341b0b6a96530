"""Parameter isolation: the weights that the concept's texts lean on and other texts do not, pruned or scaled.

    S_ij = |W_ij| sum over texts of |x_i|_2          score of a weight: its size times the length of its input over the tokens of a text
    mask = top_p(S forget) and not top_p(S retain)   p of each matrix's weights, not of each row's
    W  <- factor W where the mask is, else W         0 prunes, 1.1 scales up

No gradients, no labels: one forward pass a text. Embeddings, norms and biases are left alone, and so is the unembedding.

Source. Christ et al. 2024, "Math Neurosurgery: Isolating Language Models' Math Reasoning Abilities Using Only Forward Passes"
(MathNeuro, arXiv 2410.16930), section 3; the score is that of Wanda (Sun et al. 2023, arXiv 2306.11695). There, p is swept over
1e-4 to 0.15, 500 texts are used, and every number is a mean over five draws of texts. Deviations: query, key and value are matrices
of their own, also where a family packs them into one. With `draws` above 1 texts are drawn anew with replacement each time, and a
weight is taken where most draws isolate it.

Controls. `control="wanda"` leaves the subtraction out: top_p(S forget), which should hurt everything. `control="random"` takes as
many weights of each matrix as are isolated, anywhere in it.

When it misleads. Pruning what one topic leans on hurts other topics that nobody put into the retain texts. In a small model, where
topics share neurons, little is left after the subtraction (`log["isolated"]`), and less than p says.

On `atlas` (colour; held-out questions still answered, on it and on other things) 0.7 % of the weights are isolated, and pruning them
leaves 0.90 and 1.00; as many random weights leave 1.00 and 1.00; `wanda` at p = 0.1 leaves 0.00 and 0.03. A larger p forgets no more.
These numbers were in view when the defaults were chosen. On kingdom and craft they leave 0.93 and 0.97.

    from interp.analyses.unlearning.methods.isolation import ParameterIsolation
    concepts = interp.models.reference.concept_set("atlas", texts=20)
    revision = ParameterIsolation(keep=0.05).unlearn(lm, concepts.get("colour"), concepts.others("colour"))
    revision.log["isolated"], revision.log["agreement"]
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from interp.core.errors import BadInput, one_of
from interp.core.lm import LM
from interp.core.seed import generator
from interp.data.concepts import Concept

from ..revision import Revision, Unlearner
from .inputs import Linear, feature_norms, linears
from .pieces import pieces
from .training import forget_texts, retain_texts, whole

CONTROLS = ("none", "wanda", "random")


@dataclass(frozen=True)
class ParameterIsolation(Unlearner):
    """Weights that only the concept's texts lean on, pruned or scaled."""

    name: ClassVar[str] = "isolation"

    keep: float = 0.05
    """p: the share of each matrix's weights that counts as leaned on."""
    factor: float = 0.0
    """What isolated weights are multiplied by: 0 prunes; 1.1 is the published scaling up."""
    draws: int = 1
    """1 uses each text once; more draw texts anew (with replacement), and take the weights that most draws isolate."""
    samples: int | None = 500
    """Texts of either kind at most, drawn by seed; None takes all."""
    matrices: Literal["all", "mlp"] = "all"
    """Every linear map of the blocks, or those of the MLPs."""
    control: Literal["none", "wanda", "random"] = "none"
    """`wanda`: no subtraction. `random`: as many weights of each matrix, anywhere."""
    max_tokens: int | None = None
    """Tokens of a text at most; longer ones are cut up. None is 500, or the context where that is less."""

    def __post_init__(self) -> None:
        if not 0 < self.keep < 1:
            raise BadInput(f"`keep` is a share of weights and must lie between 0 and 1; not {self.keep}.")
        if not 0 <= self.factor < math.inf:
            raise BadInput(f"`factor` must be 0 or more; not {self.factor}.")
        whole(self, "draws", *(("samples",) if self.samples is not None else ()))
        one_of("matrices", self.matrices, ["all", "mlp"])
        one_of("control", self.control, CONTROLS)

    def unlearn(self, lm: LM, concept: Concept, retain: Sequence[str], *, seed: int = 0) -> Revision:
        """The matrices with the isolated weights scaled. Raises `BadInput`, `UnsupportedArchitecture`."""
        maps = linears(lm, mlp_only=self.matrices == "mlp")
        texts = {"forget": forget_texts(self, concept), "retain": retain_texts(self, retain)}
        norms = {}
        for kind, given in texts.items():
            what = f"texts of {concept.name!r}" if kind == "forget" else "retain texts"
            rows = pieces(lm, given, what=what, max_tokens=self.max_tokens)
            norms[kind] = feature_norms(lm, rows.some(self.samples, seed, "isolation", kind))
        draws = {
            kind: self._draws(len(next(iter(found.values()))), seed, kind, concept.name)
            for kind, found in norms.items()
        }
        values: dict[str, Tensor] = {}
        counts, agreement, total = list[int](), list[float](), 0
        for linear in maps:
            matrix = matrix_of(lm, linear)
            place = (linear.layer, linear.source)
            masks = [
                self._mask(matrix, norms["forget"][place][one].sum(dim=0), norms["retain"][place][two].sum(dim=0))
                for one, two in zip(draws["forget"], draws["retain"], strict=True)
            ]
            mask = torch.stack(masks).float().mean(dim=0) > 0.5
            agreement += [_overlap(one, mask) for one in masks]
            if self.control == "random":
                mask = _elsewhere(mask, generator(seed, "isolation", "random", linear.key))
            counts.append(int(mask.sum()))
            total += mask.numel()
            if counts[-1]:
                values[linear.key] = torch.where(mask, self.factor * matrix, matrix)
        log: dict[str, Any] = {
            "method": self.name,
            "control": self.control,
            "isolated": sum(counts) / total,
            "by_matrix": {linear.key: count for linear, count in zip(maps, counts, strict=True)},
            "agreement": sum(agreement) / len(agreement),
            "texts": [len(next(iter(found.values()))) for found in norms.values()],
        }
        return Revision(values, log)

    def _mask(self, matrix: Tensor, forget: Tensor, retain: Tensor) -> Tensor:
        """The weights of one matrix that one draw isolates, bool in its shape."""
        leaned = top_share(scores(matrix, forget), self.keep)
        return leaned if self.control == "wanda" else leaned & ~top_share(scores(matrix, retain), self.keep)

    def _draws(self, n: int, seed: int, *names: str) -> list[Tensor]:
        """Row numbers of each draw."""
        if self.draws == 1:
            return [torch.arange(n)]
        return [
            torch.randint(n, (n,), generator=generator(seed, "isolation", "draw", draw, *names))
            for draw in range(self.draws)
        ]


def scores(matrix: Tensor, norms: Tensor) -> Tensor:
    """|W| times the length of each weight's input, in W's shape: [in, out], [head, in, out] or [head, d_head, out]."""
    if matrix.ndim == 3 and norms.numel() != matrix.shape[1]:
        norms = norms.reshape(matrix.shape[:2])  # W_O: each head has inputs of its own
    return matrix.detach().double().abs().cpu() * norms[..., None]


def top_share(score: Tensor, keep: float) -> Tensor:
    """The `keep` largest of a whole matrix, bool in its shape; of equal scores the first. At least one weight."""
    flat = score.flatten()
    chosen = torch.zeros_like(flat, dtype=torch.bool)
    chosen[flat.argsort(descending=True, stable=True)[: max(1, round(keep * flat.numel()))]] = True
    return chosen.reshape(score.shape)


def matrix_of(lm: LM, linear: Linear) -> Tensor:
    """A copy of a map's weights on the CPU, as `lm.weights` gives them."""
    name, _, layer = linear.key.partition(".")
    found: Tensor = getattr(lm.weights, name)(int(layer))
    return found.detach().cpu().clone()


def _overlap(one: Tensor, other: Tensor) -> float:
    """Jaccard overlap of two masks; 1 where both are empty."""
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 1.0


def _elsewhere(mask: Tensor, rng: torch.Generator) -> Tensor:
    """As many weights as the mask has, anywhere in the matrix."""
    chosen = torch.zeros(mask.numel(), dtype=torch.bool)
    chosen[torch.randperm(mask.numel(), generator=rng)[: int(mask.sum())]] = True
    return chosen.reshape(mask.shape)
