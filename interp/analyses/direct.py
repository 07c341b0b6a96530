"""Direct logit attribution: what does each head and each MLP write towards the answer, by its own hand?

The last residual stream is a sum of what every component wrote, and after the final norm the logits are linear in it. With the norm's
scale held at what it was in this run, a logit splits without a remainder (here for LayerNorm; RMSNorm does not centre):

    logit[a] = sum_c  g * (x_c - mean x_c) / s . W_U[:, a]  +  b . W_U[:, a] + b_U[a]          x = sum_c x_c

with gain g, bias b, and s the standard deviation of x at the last token. Components c are the embeddings, every head (z W_O), what the
attention layers add besides (b_O), and every MLP. `target="logit_diff"` takes the direction of the answer minus that of the foil, which
does away with what moves all logits alike.

Source. nostalgebraist 2020 (logit lens); Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits", section on path
expansion; Wang et al. 2022 (IOI, arXiv 2211.00593), section 3.1. The sum over heads of a layer whose output passes a norm of its own
(Gemma 2/3, OLMo 2) is split with that norm's scale held too.

How. One forward pass. The sum is checked for every prompt against the stream, against the final norm's own output and against the logits
that the model gave; where one of them does not come out, an `InterpError` says by how much, and no number is returned. Where logits are
soft-capped, what is split is the logit before the cap.

When it misleads
- It is the *direct* effect: a head that works through later heads (an induction head's previous-token head) writes nothing here.
- The scale is held. Taking a component really out changes s, and later components compensate (self-repair): see `ActivationPatching`.
- Biases and embeddings are components too; a large share of theirs is no mechanism but a prior over tokens.
- A raw logit depends on an arbitrary shift of all logits; prefer the difference to a foil.

    import interp
    lm, facts = interp.load("atlas"), interp.reference.facts("atlas")
    direct = interp.DirectLogit()(lm, facts[:20])
    direct.mean()                        # component: mean, ci_lo, ci_hi
    direct.heads(), direct.mlps()        # [layer, head], [layer]
    direct.headline()
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from interp.core.analysis import Analysis, Cost, Result
from interp.core.errors import BadInput, InterpError, one_of
from interp.core.lm import LM
from interp.core.run import Run
from interp.core.site import Site
from interp.core.stats import bootstrap_ci
from interp.data.prompts import Prompt, PromptPair
from interp.data.tokens import TokenPrompt, group_by_length, to_batch, tokenize

from .pairs import contrasted
from .readout import best_wrong

TOLERANCE = {"float32": 1e-4, "float64": 1e-9, "bfloat16": 5e-2, "float16": 1e-2}
"""Largest remainder that rounding explains, relative to the size of what is summed."""


class DirectResult(Result):
    """What every component writes towards each prompt's answer.

    data:
        contribution [prompt, component]   in logits; sums to total
        total        [prompt]              the logit, or logit difference, at the last token (before a soft cap)
        remainder    [prompt]              total - sum, in logits: rounding only, by the check
    coords: prompt (ids); component (`embed`, `pos_embed`, `1.3` a head, `attn 1` what attention adds besides its heads, `mlp 1`, `bias`),
        with kind (embed, head, attn, mlp, bias), layer and head (-1 where there is none) along it; answer, foil, known along prompt.
    attrs: target, softcap (0 for none).
    """

    figure: ClassVar[str] = "direct"
    main: ClassVar[str] = "contribution"
    effect: ClassVar[bool] = True

    def mean(self, level: float = 0.95) -> xr.Dataset:
        """Mean over prompts with its bootstrap interval: mean, ci_lo, ci_hi [component]."""
        mean, low, high = bootstrap_ci(self.data["contribution"], "prompt", level=level)
        return xr.Dataset({"mean": mean, "ci_lo": low, "ci_hi": high})

    def heads(self) -> xr.DataArray:
        """Means of the heads, [layer, head]."""
        part = self.data["contribution"].mean("prompt").isel(component=self.data["kind"].values == "head")
        if not part.size:
            raise BadInput("this result was computed with parts='layers' and has no heads. Ask for parts='heads'.")
        n_heads = int(part["head"].max()) + 1
        values = part.values.reshape(-1, n_heads)
        return xr.DataArray(values, {"layer": np.arange(len(values)), "head": np.arange(n_heads)}, ("layer", "head"))

    def mlps(self) -> xr.DataArray:
        """Means of the MLPs, [layer]."""
        part = self.data["contribution"].mean("prompt").isel(component=self.data["kind"].values == "mlp")
        return xr.DataArray(part.values, {"layer": part["layer"].values}, ("layer",))

    def headline(self) -> dict[str, float]:
        """The mean total and the two components that write most of it, either way."""
        mean = self.data["contribution"].mean("prompt")
        order = np.argsort(-np.abs(mean.values))[:2]
        named = {f"from {mean['component'].values[place]}": float(mean.values[place]) for place in order}
        return {f"mean {self.data.attrs['target']}": float(self.data["total"].mean()), **named}

    def thumbnail(self) -> xr.DataArray | None:
        """Heads by layers; without heads, the components."""
        if "head" in set(self.data["kind"].values.tolist()):
            return self.heads()
        return self.data["contribution"].mean("prompt")


@dataclass(frozen=True)
class DirectLogit(Analysis[DirectResult]):
    """Split the answer's logit at the last token into what every component writes."""

    takes: ClassVar[str] = "prompts"

    target: Literal["logit_diff", "logit"] = "logit_diff"
    """The answer's logit minus the foil's, or the answer's alone. Without a foil in the data, the best wrong token is taken."""
    parts: Literal["heads", "layers"] = "heads"
    """Every head by itself, or attention layers whole (for models whose heads are not known)."""
    answers: Literal["single", "first"] = "single"
    """Refuse answers of several tokens, or take their first token."""
    bos: bool | None = None
    """Put a BOS before each prompt; None follows the model's tokenizer."""
    max_rows: int = 64
    """Prompts of one length in one forward pass."""

    def __post_init__(self) -> None:
        one_of("target", self.target, ["logit_diff", "logit"])
        one_of("parts", self.parts, ["heads", "layers"])
        one_of("answers", self.answers, ["single", "first"])
        if self.max_rows < 1:
            raise BadInput(f"`max_rows` must be at least 1; not {self.max_rows}.")

    def check(self, lm: LM, data: Any) -> None:
        """Refuse prompts that cannot be read at one position."""
        self._tokens(lm, data)

    def cost(self, lm: LM, data: Any = None) -> Cost:
        """One forward pass a prompt."""
        prompts = self._tokens(lm, data)
        width = max(len(tokens) for tokens in prompts)
        rows = min(self.max_rows, len(prompts))
        held = rows * width * lm.spec.d_model * lm.spec.bytes_per_value * (2 * lm.spec.n_layers + 4)
        return Cost(float(len(prompts)), sum(len(tokens) for tokens in prompts), held)

    def run(self, lm: LM, data: Any, store: Any = None) -> DirectResult:
        """Split the logit of every prompt."""
        prompts = self._tokens(lm, data)
        splitter = _Splitter(lm, heads=self.parts == "heads", difference=self.target == "logit_diff")
        rows: list[dict[str, Any]] = [{} for _ in prompts]
        for places in group_by_length(prompts).values():
            for first in range(0, len(places), self.max_rows):
                part = places[first : first + self.max_rows]
                for place, row in zip(part, splitter.split([prompts[place] for place in part]), strict=True):
                    rows[place] = row
        return self._result(lm, prompts, rows, splitter.components)

    def _tokens(self, lm: LM, data: Any) -> list[TokenPrompt]:
        items: Sequence[Any] = [data] if isinstance(data, Prompt | PromptPair) else list(data or ())
        if not items:
            raise BadInput("there are no prompts. Give at least one.")
        found = []
        for item in items:
            prompt = contrasted(item)
            if not isinstance(prompt, Prompt):
                raise BadInput(f"this takes prompts; not {item!r:.100}. Build them with Prompt.of(text, answer=...).")
            found.append(tokenize(prompt, lm.tokenizer, bos=self.bos, answers=self.answers, n_ctx=lm.spec.n_ctx))
        return found

    def _result(
        self, lm: LM, prompts: Sequence[TokenPrompt], rows: Sequence[dict[str, Any]], components: "Sequence[_Component]"
    ) -> DirectResult:
        label = lm.tokenizer.label
        coords = {
            "prompt": [tokens.id for tokens in prompts],
            "component": [one.name for one in components],
            "kind": ("component", [one.kind for one in components]),
            "layer": ("component", [one.layer for one in components]),
            "head": ("component", [one.head for one in components]),
            "answer": ("prompt", [label(row["answer"]) for row in rows]),
            "foil": ("prompt", [label(row["foil"]) for row in rows]),
            "known": ("prompt", [bool(row["known"]) for row in rows]),
        }
        columns: dict[str, Any] = {
            "contribution": (("prompt", "component"), np.stack([row["parts"] for row in rows])),
            "total": ("prompt", [row["total"] for row in rows]),
            "remainder": ("prompt", [row["total"] - float(row["parts"].sum()) for row in rows]),
        }
        attrs = {"target": self.target, "softcap": float(lm.spec.logit_softcap or 0.0)}
        return DirectResult(xr.Dataset(columns, coords, attrs))


@dataclass(frozen=True)
class _Component:
    """One summand of the last residual stream."""

    name: str
    kind: str
    layer: int = -1
    head: int = -1


class _Splitter:
    """Splits the logits of batches of one model; all sums in float64."""

    def __init__(self, lm: LM, *, heads: bool, difference: bool) -> None:
        self.lm, self.heads, self.difference = lm, heads, difference
        spec = lm.spec
        self.first = [Site("embed")] + ([Site("pos_embed")] if spec.positions == "learned" else [])
        self.last = [Site("resid_post", spec.n_layers - 1), Site("final")]
        layers = range(spec.n_layers)
        self.outputs = [Site(kind, layer) for layer in layers for kind in ("attn_out", "mlp_out")]
        self.zs = [Site("z", layer) for layer in layers] if heads else []
        self.components = [_Component(site.kind, "embed") for site in self.first]
        for layer in layers:
            if heads:
                self.components += [_Component(f"{layer}.{head}", "head", layer, head) for head in range(spec.n_heads)]
            self.components += [
                _Component(f"attn {layer}", "attn", layer),
                _Component(f"mlp {layer}", "mlp", layer),
            ]
        self.components.append(_Component("bias", "bias"))

    def split(self, prompts: Sequence[TokenPrompt]) -> list[dict[str, Any]]:
        """For each prompt the parts [component], the total, ids of answer and foil, and whether the model knows it."""
        run = self.lm.run(to_batch(prompts), capture=[*self.first, *self.outputs, *self.zs, *self.last])
        logits = run.last_logits.cpu()  # [row, vocab]
        rows: list[dict[str, Any]] = []
        for row, tokens in enumerate(prompts):
            top = int(logits[row].argmax())
            right = tokens.answer_id if tokens.answer_ids else top
            given = [one for one in tokens.foil_ids[:1] if one != right]
            rows.append(
                {
                    "answer": right,
                    "foil": given[0] if given else best_wrong(logits[row], right),
                    "known": top == right,
                }
            )
        parts = self._stream(run)  # [row, component, d_model]
        answer, foil = (torch.tensor([one[name] for one in rows]) for name in ("answer", "foil"))
        direction = self._direction(answer) - (self._direction(foil) if self.difference else 0.0)  # [row, d_model]
        values, total = self._read(run, parts, direction, answer, foil, logits)
        for one, part, whole in zip(rows, values, total.tolist(), strict=True):
            one["parts"], one["total"] = part.numpy(), whole
        return rows

    def _direction(self, ids: Tensor) -> Tensor:
        return self.lm.weights.W_U[:, ids.to(self.lm.weights.W_U.device)].T.double().cpu()  # [row, d_model]

    def _bias(self, ids: Tensor) -> Tensor:
        b_U = self.lm.weights.b_U
        return torch.zeros(len(ids)).double() if b_U is None else b_U[ids.to(b_U.device)].double().cpu()

    def _stream(self, run: Run) -> Tensor:
        """What each component wrote into the stream at the last token, [row, component, d_model]; checked against the stream."""
        parts: list[Tensor] = [_last(run[site])[:, None] for site in self.first]
        for layer in range(self.lm.spec.n_layers):
            added = _last(run[Site("attn_out", layer)])  # [row, d_model]
            if self.heads:
                heads = self._heads(layer, _last(run[Site("z", layer)]), added)  # [row, head, d_model]
                parts.append(heads)
                added = added - heads.sum(dim=1)
            parts += [added[:, None], _last(run[Site("mlp_out", layer)])[:, None]]
        out = torch.cat(parts, dim=1)
        self._agree("the components", "the last residual stream", out.sum(dim=1), _last(run[self.last[0]]), out)
        return out

    def _heads(self, layer: int, z: Tensor, added: Tensor) -> Tensor:
        weights, spec = self.lm.weights, self.lm.spec
        heads = torch.einsum("bhk,hkd->bhd", z, weights.W_O(layer).double().cpu())
        bias = weights.b_O(layer)
        rest = torch.zeros(spec.d_model).double() if bias is None else bias.double().cpu()
        if spec.post_norm:  # an RMSNorm on the way to the stream: linear once its scale is held
            gain = weights.norm("attn_post", layer)[0].double().cpu()
            before = heads.sum(dim=1) + rest
            share = _scale(before * gain, added)
            heads, rest = heads * gain / share[:, None, None], rest * gain / share[:, None]
        self._agree(f"the heads of layer {layer}", "what its attention adds", heads.sum(dim=1) + rest, added, heads)
        return heads

    def _read(
        self, run: Run, parts: Tensor, direction: Tensor, answer: Tensor, foil: Tensor, logits: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Contributions [row, component] and totals [row]; checked against the final norm and against the logits."""
        gain, bias = self.lm.weights.norm("final")
        gain = gain.double().cpu()
        shift = torch.zeros_like(gain) if bias is None else bias.double().cpu()
        centred = parts - parts.mean(dim=-1, keepdim=True) if self.lm.spec.norm == "layer" else parts
        final = _last(run[self.last[1]])  # [row, d_model]
        size = _scale(centred.sum(dim=1) * gain, final - shift)  # [row]
        normed = centred * gain / size[:, None, None]
        self._agree("the normed components", "the output of the final norm", normed.sum(dim=1) + shift, final, normed)
        constant = (shift * direction).sum(dim=-1) + self._bias(answer) - (self._bias(foil) if self.difference else 0.0)
        values = torch.cat([torch.einsum("bcd,bd->bc", normed, direction), constant[:, None]], dim=1)
        self._check_logits(run, logits, answer, foil)
        total = (final * direction).sum(dim=-1) + constant - (shift * direction).sum(dim=-1)
        self._agree(
            "the contributions", "the logit", values.sum(dim=1, keepdim=True), total[:, None], values[..., None]
        )
        return values, total

    def _check_logits(self, run: Run, logits: Tensor, answer: Tensor, foil: Tensor) -> None:
        """The unembedding of the final norm's output, as the weights have it, must be what the model gave."""
        final, cap = _last(run[self.last[1]]), self.lm.spec.logit_softcap
        for ids in (answer, foil):
            mine = (final * self._direction(ids)).sum(dim=-1) + self._bias(ids)  # [row]
            mine = torch.tanh(mine / cap) * cap if cap else mine
            given = logits.gather(1, ids[:, None]).double()
            self._agree(
                "the unembedded final state's parts",
                "the model's logit",
                mine[:, None],
                given,
                logits[:, None].double(),
            )

    def _agree(self, what: str, to: str, ours: Tensor, theirs: Tensor, parts: Tensor) -> None:
        size = max(1.0, float(parts.abs().max()), float(theirs.abs().max()))
        off = float((ours - theirs).abs().max())
        if not off <= TOLERANCE[self.lm.spec.dtype] * size:
            raise InterpError(
                f"{what} should sum to {to} in {self.lm.spec.name}, and are off by {off:.3g} where the largest value is {size:.3g}. This "
                "model adds something that is not a named component, or scales its logits; its direct attribution would be wrong."
            )


def _last(x: Tensor) -> Tensor:
    """The last token's values in float64 on the CPU, [row, ...]; rows are unpadded."""
    return x[:, -1].double().cpu()


def _scale(linear: Tensor, normed: Tensor) -> Tensor:
    """What a norm divided by, [row], from the vector before the division and the one after it."""
    return linear.norm(dim=-1) / normed.norm(dim=-1).clamp_min(torch.finfo(torch.float64).tiny)
