"""Fidelity: does this model, seen through the workbench, compute what plain transformers computes?

Every backend wraps a model, and every wrapper can be wrong in silence: a mask that ignores padding, positions that are not shifted, a
hook at a tensor that nobody reads any more. This runs a few rows of seeded random tokens and compares.

    lm.fidelity().line
    # fidelity: Δlogit 6e-07, Δlog-prob 7e-07, stream 1 ± 2e-07, batch 0, padding 0 left 0 right, 15 of 15 sites act, float32 eager: ok

- logits and log-probs against `module(ids)`, the transformers model itself without any hook;
- the residual stream after each layer: cosine and ratio of norms to what a bare forward hook sees;
- a row alone against the same row in a batch, and padded on the left and on the right;
- one perturbation at each kind of site, in the middle layer: it must move the logits exactly as far as the same perturbation put in
  by raw hooks does. An edit may truly do nothing (a silent MLP); what is wrong is an edit that should and does not;
- dtype and attention implementation, against what `spec` claims.

Differences are judged relative to the largest logit, with a tolerance by dtype: attention is computed by another routine (eager against
sdpa), which in bfloat16 alone moves logits by percents. In a mixture of experts such a difference may send a token to another expert,
and then logits differ by much: that is reported, because it is so; `backend="nnsight"` attends as the plain model does. It says
nothing about whether the checkpoint is any good.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.core.batch import At, Batch
from interp.core.edit import Edit, add, scale
from interp.core.errors import InterpError
from interp.core.seed import generator
from interp.core.site import Site, SiteInfo

if TYPE_CHECKING:
    from .base import BaseLM
    from .plain import PlainModel

TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
"""Largest difference that rounding explains, relative to the largest logit (absolute below 1)."""
LENGTHS = (12, 9, 5)


@dataclass(frozen=True)
class Fidelity:
    """How closely a model agrees with plain transformers. `ok`, `line` and `problems` say it in one bit, one line, and words."""

    logits: float
    """Largest absolute difference of a logit."""
    log_probs: float
    """Largest absolute difference of a log-probability."""
    scale: float
    """Largest absolute logit, at least 1."""
    cosine: tuple[float, ...]
    """Lowest cosine of resid_post to the plain model's, a layer."""
    norm_ratio: tuple[float, ...]
    """Ratio of norms that is furthest from 1, a layer."""
    batch: float
    """Largest difference of a logit between a row alone and in a batch."""
    left: float
    """The same, padded on the left."""
    right: float
    """The same, padded on the right."""
    acting: tuple[str, ...]
    """Kinds of sites where a perturbation moves the logits, as it does in the plain model."""
    silent: tuple[str, ...]
    """Kinds of sites where it moves nothing, in the plain model neither."""
    failing: tuple[str, ...]
    """Kinds of sites where it does something else than in the plain model."""
    skipped: tuple[str, ...]
    """Kinds of sites that this backend can only read."""
    claims: tuple[str, ...]
    """What `spec` claims wrongly about dtype or attention."""
    dtype: str
    attention: str
    tolerance: float
    """Relative to `scale`; see `TOLERANCE`."""

    @property
    def problems(self) -> list[str]:
        """What is beyond tolerance, in words; empty when all is well."""
        limit = self.tolerance * self.scale
        found = [
            f"{name} differ by {value:.1e}, more than {limit:.1e}"
            for name, value in (
                ("logits", self.logits), ("log-probs", self.log_probs), ("logits in a batch", self.batch),
                ("logits with left padding", self.left), ("logits with right padding", self.right),
            )
            if not value <= limit  # NaN is a problem too
        ]  # fmt: skip
        for layer, (cosine, ratio) in enumerate(zip(self.cosine, self.norm_ratio, strict=True)):
            if not (cosine >= 1 - self.tolerance and abs(ratio - 1) <= self.tolerance):
                found.append(
                    f"the residual stream after layer {layer} has cosine {cosine:.6f} and norm ratio {ratio:.6f}"
                )
                break
        if self.failing:
            found.append(f"perturbing {', '.join(self.failing)} does not do what it does in the plain model")
        return found + list(self.claims)

    @property
    def ok(self) -> bool:
        """Whether everything is within tolerance."""
        return not self.problems

    @property
    def line(self) -> str:
        """One line for a log or a report."""
        spread = max(max(1 - c, abs(r - 1)) for c, r in zip(self.cosine, self.norm_ratio, strict=True))
        sites = f"{len(self.acting)} of {len(self.acting) + len(self.silent) + len(self.failing)} sites act"
        verdict = "ok" if self.ok else "NOT OK: " + "; ".join(self.problems)
        return (
            f"fidelity: Δlogit {_short(self.logits)}, Δlog-prob {_short(self.log_probs)}, stream 1 ± {_short(spread)}, "
            f"batch {_short(self.batch)}, padding {_short(self.left)} left {_short(self.right)} right, {sites}, "
            f"{self.dtype} {self.attention}: {verdict}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, with the verdict."""
        return asdict(self) | {"ok": self.ok, "problems": self.problems}

    def __str__(self) -> str:
        return self.line


@torch.no_grad()
def fidelity(lm: "BaseLM", *, seed: int = 0) -> Fidelity:
    """Compare `lm` with the plain transformers model that it wraps. About forty passes over a dozen tokens."""
    rows = _rows(lm, seed)
    batch = Batch.of(rows)
    layers = [Site("resid_post", layer) for layer in range(lm.spec.n_layers)]
    run = lm.run(batch, capture=layers)
    reference, stream = _plain(lm, batch.tokens)
    assert run.logits is not None
    ours = run.logits.double().cpu()
    cosine, ratio = zip(*(_compare(run[site], stream[site]) for site in layers), strict=True)
    alone = [_logits(lm, Batch.of(row[None, :length]))[0] for row, length in zip(rows, _lengths(lm), strict=True)]
    return Fidelity(
        logits=_gap(ours, reference),
        log_probs=_gap(ours.log_softmax(-1), reference.log_softmax(-1)),
        scale=max(1.0, float(reference.abs().max())),
        cosine=cosine,
        norm_ratio=ratio,
        batch=_gap(ours[0], alone[0]),
        left=_padding(lm, rows, alone, "left"),
        right=_padding(lm, rows, alone, "right"),
        **_perturb(lm, Batch.of(rows[:1]), seed),
        claims=_claims(lm),
        dtype=lm.spec.dtype,
        attention=lm.spec.attention,
        tolerance=TOLERANCE[lm.spec.dtype],
    )


def _short(value: float) -> str:
    return f"{value:.0e}" if value else "0"


def _lengths(lm: "BaseLM") -> list[int]:
    return [max(1, min(length, lm.spec.n_ctx - 1)) for length in LENGTHS]


def _rows(lm: "BaseLM", seed: int) -> Tensor:
    """Random ids [row, pos], without the padding id."""
    low = min(3, lm.spec.vocab - 1)
    high = max(low + 1, min(lm.spec.vocab, lm.tokenizer.vocab))
    return torch.randint(low, high, (len(LENGTHS), max(_lengths(lm))), generator=generator(seed, "fidelity"))


def _plain(lm: "BaseLM", tokens: Tensor) -> tuple[Tensor, dict[Site, Tensor]]:
    """Logits and residual streams of the bare transformers model."""
    kept: dict[Site, Tensor] = {}

    def keep(site: Site) -> Any:
        return lambda _m, _a, out: kept.update({site: out[0] if isinstance(out, tuple) else out})

    with _hooks(
        (lm.module.get_submodule(lm.family.layer_path(layer)), keep(Site("resid_post", layer)))
        for layer in range(lm.spec.n_layers)
    ):
        device = next(lm.module.parameters()).device
        tokens = tokens.to(device)
        logits = lm.module(tokens, attention_mask=torch.ones_like(tokens), use_cache=False).logits
    return logits.double().cpu(), kept


@contextmanager
def _hooks(pairs: Any) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module, hook in pairs]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _logits(model: "BaseLM | PlainModel", batch: Batch, *edits: Edit) -> Tensor:
    logits = model.run(batch, edits=edits).logits
    assert logits is not None
    return logits.double().cpu()


def _gap(a: Tensor, b: Tensor) -> float:
    return float((a.double().cpu() - b.double().cpu()).abs().max())


def _compare(ours: Tensor, plain: Tensor) -> tuple[float, float]:
    """Lowest cosine and the norm ratio furthest from 1, over tokens [batch, pos, d_model]."""
    a, b = ours.double().cpu().flatten(0, 1), plain.double().cpu().flatten(0, 1)
    norms = a.norm(dim=-1), b.norm(dim=-1)
    cosine = (a * b).sum(dim=-1) / (norms[0] * norms[1]).clamp(min=1e-300)
    ratio = norms[0] / norms[1].clamp(min=1e-300)
    return float(cosine.min()), float(ratio[(ratio - 1).abs().argmax()])


def _padding(lm: "BaseLM", rows: Tensor, alone: list[Tensor], side: str) -> float:
    lengths = _lengths(lm)
    padded = Batch.padded([row[:length].tolist() for row, length in zip(rows, lengths, strict=True)], side=side)
    logits = _logits(lm, padded)
    return max(_gap(logits[row][padded.mask[row]], alone[row]) for row in range(len(rows)))


def _perturb(lm: "BaseLM", batch: Batch, seed: int) -> dict[str, tuple[str, ...]]:
    """Kinds of sites by what one perturbation does to the logits, compared with the same perturbation put in by raw hooks."""
    found: dict[str, list[str]] = {"acting": [], "silent": [], "failing": [], "skipped": []}
    clean, plain = _logits(lm, batch), _logits(lm.plain, batch)
    middle = lm.spec.n_layers // 2
    for info in [info for info in lm.sites() if info.site.layer in (None, middle)]:
        kind = info.site.kind
        if not info.editable:
            found["skipped"].append(kind)
            continue
        edit = _perturbation(lm, batch, info, seed)
        expected = _logits(lm.plain, batch, edit)
        try:
            moved = _logits(lm, batch, edit)
        except InterpError:
            found["failing"].append(kind)
            continue
        gap, distance = _gap(moved, expected), _gap(expected, plain)
        limit = TOLERANCE[lm.spec.dtype] * max(1.0, float(expected.abs().max()))
        if gap > limit or (gap > distance / 2 and distance > 4 * _gap(clean, plain)):
            found["failing"].append(kind)
        else:
            found["acting" if distance > 0 else "silent"].append(kind)
    return {name: tuple(kinds) for name, kinds in found.items()}


def _perturbation(lm: "BaseLM", batch: Batch, info: SiteInfo, seed: int) -> Edit:
    """Noise as large as what is there, at the last token; half of the attention, for the pattern."""
    if info.site.kind == "pattern":
        return scale(info.site, 0.5, at=At.last())
    there = lm.plain.run(batch, capture=info.site)[info.site].float()
    noise = torch.randn(info.shape, generator=generator(seed, "fidelity", info.site.kind))
    return add(info.site, (float(there.std()) or 1.0) * noise, at=At.last())


def _claims(lm: "BaseLM") -> tuple[str, ...]:
    kept = {
        *(lm.module._keep_in_fp32_modules or ()),
        *(lm.module._keep_in_fp32_modules_strict or ()),
    }  # norms of GPT-OSS
    kinds = {
        str(parameter.dtype).removeprefix("torch.")
        for name, parameter in lm.module.named_parameters()
        if parameter.is_floating_point() and not (parameter.dtype == torch.float32 and kept & set(name.split(".")))
    }
    found = (
        []
        if kinds == {lm.spec.dtype}
        else [f"spec says {lm.spec.dtype}, the parameters are {', '.join(sorted(kinds))}"]
    )
    attention = str(getattr(lm.module.config, "_attn_implementation", None) or "eager")
    if attention != lm.spec.attention:
        found.append(f"spec says {lm.spec.attention} attention, the plain model uses {attention}")
    return tuple(found)
