"""Cases on hand-wired models: what was planted is found, and nothing is found where nothing was planted."""

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from interp.models import reference

if TYPE_CHECKING:
    from interp.models.base import BaseLM

PERIOD = 20


@cache
def planted(name: str, null: bool = False) -> "tuple[Any, BaseLM]":
    """A hand-wired model and the LM around it, built once."""
    made = getattr(reference, name)(null=null)
    return made, reference.as_lm(made)


def induction_heads() -> tuple[bool, str]:
    """Prefix and previous-token scores of the planted heads, and of the inert ones."""
    made, lm = planted("induction")
    scores = _head_scores(lm)
    (l1, h1), (l0, h0) = made.answers["induction"], made.answers["previous_token"]
    induction, previous = scores["induction"][l1, h1], scores["previous"][l0, h0]
    inert = max(abs(scores["induction"][pair] - reference.uniform_score(PERIOD)) for pair in made.answers["inert"])
    wanted = reference.prefix_score(PERIOD)
    ok = abs(induction - wanted) < 1e-4 and abs(previous - 1) < 1e-4 and inert < 1e-4
    return ok, f"{induction:.4f}, {previous:.4f}, inert heads {inert:.0e} off uniform"


def no_induction() -> tuple[bool, str]:
    """The same scores with random weights."""
    scores = _head_scores(planted("induction", null=True)[1])
    best = max(scores["induction"].max(), scores["previous"].max())
    return bool(best < 0.5), f"highest score {best:.2f}"


def _head_scores(lm: "BaseLM") -> dict[str, np.ndarray]:
    from interp.analyses.heads import HeadScores

    table = HeadScores(sequences=4, periods=(PERIOD,))(lm).scores()["mean"]
    return {name: table.sel(metric=name).values for name in ("induction", "previous")}


def fact_map() -> tuple[bool, str]:
    """The whole map of causal tracing, cell by cell, both corruptions' kinds and the code's window rule."""
    from interp import data
    from interp.analyses.tracing import CausalTrace

    made, lm = planted("fact")
    prompt = data.facts(made.prompts[4:5])[0]
    trace = CausalTrace(noise_samples=2)(lm, [prompt])
    share = trace.normalised("prob").isel(prompt=0)
    length = len(prompt.text.split())
    last_subject = len(prompt.text[: prompt.spans["subject"][1]].split()) - 1
    off = {
        kind: float(
            np.abs(share.sel(kind=kind).values[:length] - reference.fact_map(made, last_subject, length, kind)).max()
        )
        for kind in ("hidden", "mlp", "attn")
    }
    return max(off.values()) < 1e-5, ", ".join(f"{kind} {value:.0e}" for kind, value in off.items())


def concept_vectors() -> tuple[bool, str]:
    """Value vectors by their mean logit over their top words, and where their neurons fire."""
    made, lm = planted("concepts")
    logits = lm.weights.W_out() @ lm.weights.W_U  # [layer, neuron, vocab]
    wanted = {(c.layer, c.neuron) for c in made.answers["concepts"]}
    order = logits.topk(5, dim=-1).values.mean(dim=-1).flatten().argsort(descending=True)[: len(wanted)].tolist()
    found = {divmod(index, logits.shape[1]) for index in order}
    quiet = 0.0
    for concept in made.answers["concepts"]:
        words = [token for token in range(2, lm.spec.vocab) if token not in concept.trigger_tokens]
        site = f"blocks.{concept.layer}.mlp.hook_post"
        fired = lm.run([[token] for token in words], capture=site)[site][:, 0, concept.neuron]
        quiet = max(quiet, float(fired.abs().max()))
    return (
        found == wanted and quiet == 0.0,
        f"{len(found & wanted)} of {len(wanted)} lead the scan; {quiet:g} off their triggers",
    )


def head_channels() -> tuple[bool, str]:
    """Composition scores of single components: the planted ones, and the largest of all others."""
    made, lm = planted("channels")
    w = lm.weights
    ov = (w.W_V(0) @ w.W_O(0)).double(), (w.W_V(1) @ w.W_O(1)).double()  # [head, d, d]
    qk = (w.W_Q(1) @ w.W_K(1).mT).double()
    writes = torch.linalg.svd(ov[0]).Vh[:, : lm.spec.d_head]  # [head, component, d]
    reads = {"Q": qk, "K": qk.mT, "V": ov[1]}
    hits, rest = [], []
    for kind, matrix in reads.items():
        scores = torch.einsum("wcd,rde->wrce", writes, matrix).norm(dim=-1) / matrix.flatten(1).norm(dim=-1)[:, None]
        for channel in made.answers["channels"]:
            if channel.kind == kind:
                place = channel.writer[1], channel.reader[1], channel.component
                hits.append(float(scores[place]))
                scores[place] = 0
        rest.append(float(scores.max()))
    ok = max(abs(hit - made.answers["score"]) for hit in hits) < 1e-4 and max(rest) < 0.75 * made.answers["score"]
    return ok, f"{', '.join(f'{hit:.4f}' for hit in hits)}; any other at most {max(rest):.2f}"


def no_fact() -> tuple[bool, str]:
    """Causal tracing of the same prompts in random weights: nothing may reach the effects of the planted map, which are 1."""
    from interp import data
    from interp.analyses.tracing import CausalTrace

    made, lm = planted("fact", null=True)
    real, _ = planted("fact")
    trace = CausalTrace(noise_samples=2, kinds=("hidden",))(lm, data.facts(real.prompts[4:5]))
    best = float(np.abs(trace.peak(known=False)["effect"].values).max())
    return not made.answers and best < 0.2, f"largest effect {best:.2f}"


def no_concepts() -> tuple[bool, str]:
    """How far the largest mean logit of a value vector's five top words stands out, in random weights."""
    _, lm = planted("concepts", null=True)
    best = (lm.weights.W_out() @ lm.weights.W_U).topk(5, dim=-1).values.mean(dim=-1).flatten()  # [layer * neuron]
    ratio = float(best.max() / best.median())
    return ratio < 3, f"largest / median {ratio:.1f}"


def no_channels() -> tuple[bool, str]:
    """Composition scores of single components in random weights."""
    made, _ = planted("channels")
    _, lm = planted("channels", null=True)
    w = lm.weights
    write = torch.linalg.svd((w.W_V(0) @ w.W_O(0)).double()).Vh[:, : lm.spec.d_head]  # [head, component, d]
    qk = (w.W_Q(1) @ w.W_K(1).mT).double()
    reads = torch.cat([qk, qk.mT, (w.W_V(1) @ w.W_O(1)).double()])  # [reader, d, d]
    scores = torch.einsum("wcd,rde->wrce", write, reads).norm(dim=-1) / reads.flatten(1).norm(dim=-1)[:, None]
    best = float(scores.max())
    return best < 0.75 * made.answers["score"], f"highest score {best:.2f}"
