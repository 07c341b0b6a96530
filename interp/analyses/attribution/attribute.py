"""The options of attribution patching, what they may be together, and what a call costs."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from interp.core.analysis import Analysis, Cost
from interp.core.errors import BadInput, one_of
from interp.core.lm import LM
from interp.core.progress import track
from interp.core.site import Site
from interp.core.spec import BYTES

from ..pairs import pair_groups, token_pairs
from .attributor import Attributor
from .backward import RULES
from .metric import METRICS
from .nodes import NODES, check_nodes, sizes
from .qkfix import passes
from .reading import refuse_unread
from .result import AttributionResult, assemble

FORMS = ("noising", "denoising")
CHEAP = 1000
"""Cells of a prompt's map up to which all of them are patched to check the attribution."""
SOME = 64
"""Best cells, and as many random others, that are patched where there are more."""


@dataclass(frozen=True)
class Attribution(Analysis[AttributionResult]):
    """Attribution patching of every node at once, by gradients, with the true effects of patching beside it."""

    takes: ClassVar[str] = "pairs"

    nodes: Literal["resid_post", "attn_out", "mlp_out", "z", "q", "k", "v", "mlp_post", "neuron"] = "z"
    """What gets a number: streams and outputs a layer and position, z, q, k, v a head and position, mlp_post a layer's neurons summed,
    neuron each neuron over all positions."""
    method: Literal["atp", "ig"] = "atp"
    """atp: one gradient at the end that is patched into; ig: the mean gradient along a path between the two runs."""
    forms: tuple[str, ...] = ("noising", "denoising")
    """noising (clean run, corrupted values put in) and denoising (the other way round): different questions, both by default."""
    metric: Literal["logit_diff", "logprob", "prob"] = "logit_diff"
    """What is attributed; the logit difference is the most nearly linear."""
    qk_fix: bool = False
    """For q and k: recompute the attention row with the patched query or key instead of its gradient, which saturates."""
    graddrop: bool = False
    """Also rank nodes by gradients with one layer's outputs cut at a time: shows what cancels at this point. No effect size."""
    freeze_norms: bool = False
    """Hold the scale of every norm of the stream constant in the gradient (a linear share of the logits), instead of letting it vary (the
    true slope). Norms of queries and keys inside attention vary in both."""
    path: Literal["embedding", "activations"] = "embedding"
    """For ig: interpolate the embedding, or each layer's own nodes with everything before them held."""
    steps: int = 10
    """For ig: points on the path."""
    rule: Literal["midpoint", "left", "right"] = "midpoint"
    """For ig: where in each step the gradient is taken; left has the corrupted end and an error of order 1/steps, midpoint 1/steps^2."""
    verify: int | None = None
    """Cells to patch truly: this many of the best and as many random others a group and form; 0 for none; by default all of up to 1000."""
    bound: int = 0
    """Random halves of the cells that were not verified, patched together to bound their effects; 0 for none, 20 or more to be of use."""
    answers: Literal["single", "first"] = "single"
    """Refuse answers of several tokens, or score their first token."""
    bos: bool | None = None
    """Put a BOS before each prompt; None follows the model's tokenizer."""
    rows: int = 16
    """Pairs whose gradients are held at once; changes memory and speed, and, where not all cells are verified, which ones are."""
    seed: int = 0
    """Names the random cells and halves."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "forms", (self.forms,) if isinstance(self.forms, str) else tuple(self.forms))
        one_of("nodes", self.nodes, NODES)
        one_of("method", self.method, ("atp", "ig"))
        one_of("metric", self.metric, METRICS)
        one_of("path", self.path, ("embedding", "activations"))
        one_of("rule", self.rule, RULES)
        one_of("answers", self.answers, ("single", "first"))
        for form in self.forms:
            one_of("forms", form, FORMS)
        if not self.forms or len(set(self.forms)) < len(self.forms):
            raise BadInput(f"`forms` must name each form once; not {self.forms!r}.")
        for name, least in (("steps", 1), ("rows", 1), ("bound", 0), ("verify", 0)):
            if (value := getattr(self, name)) is not None and value < least:
                raise BadInput(f"`{name}` must be at least {least}; not {value}.")
        if self.bound == 1:
            raise BadInput("`bound=1`: one random half has no spread. Give 0 for none, or 20 or more.")
        self._check_together()

    def _check_together(self) -> None:
        if self.qk_fix and self.nodes not in ("q", "k"):
            raise BadInput(
                f"`qk_fix` is for nodes='q' or 'k', whose gradients pass a softmax; not {self.nodes!r}. Drop it."
            )
        if self.graddrop and self.nodes == "resid_post":
            raise BadInput(
                "`graddrop` cuts what layers add to the stream, and nodes='resid_post' are the stream. Use other nodes."
            )
        for name in ("qk_fix", "graddrop", "freeze_norms"):
            if getattr(self, name) and self.method == "ig":
                raise BadInput(
                    f"`{name}` changes the gradient at one point; method='ig' takes it along a path. Drop one of the two."
                )
        if self.qk_fix and self.freeze_norms:
            raise BadInput("`qk_fix` and `freeze_norms` answer different questions. Drop one of the two.")

    def check(self, lm: LM, data: Any) -> None:
        """Refuse pairs and models that cannot be used, before anything is computed."""
        check_nodes(lm, self.nodes)
        if self.freeze_norms:
            refuse_unread(lm, "`freeze_norms=True`")
        if self.graddrop and lm.spec.n_layers < 2:
            raise BadInput(f"`graddrop` compares layers; {lm.spec.name} has one. Drop it.")
        if self.graddrop and not {Site("attn_out", 0), Site("mlp_out", 0)} <= {info.site for info in lm.sites()}:
            raise BadInput(
                f"`graddrop` cuts what attention and MLP add; {lm.spec.name} ({lm.spec.family}) does not show both. Drop it."
            )
        token_pairs(lm, data, bos=self.bos, answers=self.answers)

    def run(self, lm: LM, data: Any, store: Any = None) -> AttributionResult:
        """Attribute group by group."""
        groups = pair_groups(lm, data, bos=self.bos, answers=self.answers, max_rows=self.rows)
        parts = [Attributor(self, lm, group).part() for group in track(groups, "attribution", total=len(groups))]
        return assemble(self, lm, parts)

    def cost(self, lm: LM, data: Any = None) -> Cost:
        """Passes over all pairs: a backward pass counts as two forward passes, a patched cell as what is recomputed of one."""
        self.check(lm, data)
        pairs = token_pairs(lm, data, bos=self.bos, answers=self.answers)
        lengths = [len(pair.clean) for pair in pairs]
        forwards = sum(self._passes(lm, length) for length in lengths) / len(lengths)
        tokens = sum(int(self._passes(lm, length) * length) for length in lengths)
        spec, width = lm.spec, max(lengths)
        held = (
            min(self.rows, len(lengths))
            * width
            * (12 * spec.n_layers * spec.d_model + 3 * spec.vocab)
            * BYTES[spec.dtype]
        )
        plain = int(np.prod(sizes(self.nodes, spec, width)))
        return Cost(
            forwards,
            tokens,
            held,
            note=f"{len(pairs)} pairs; {self.verified(plain):,} of {plain:,} cells patched a form",
        )

    def _passes(self, lm: LM, width: int) -> float:
        """Forward passes a pair of this many tokens."""
        spec, forms = lm.spec, len(self.forms)
        cells = int(np.prod(sizes(self.nodes, spec, width)))
        paths = 1 if self.path == "embedding" else spec.n_layers * forms
        gradient = 3.0 * forms if self.method == "atp" else 3.0 * self.steps * paths + 2
        extra = forms * ((2.0 * spec.n_layers + 1) * self.graddrop + passes(self.nodes, width) * self.qk_fix)
        return 2 + gradient + extra + forms * (self.verified(cells) / 4 + self.bound)

    def verified(self, cells: int) -> int:
        """How many of a map's cells are patched truly, in each form."""
        wanted = (cells if cells <= CHEAP else SOME) if self.verify is None else self.verify
        return min(2 * wanted, cells)
