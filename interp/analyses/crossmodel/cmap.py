"""Patching one model's activations into another: config, run, result. The essay is the package's."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from interp.core.analysis import Comparison, Cost, Result
from interp.core.batch import At, Batch
from interp.core.edit import Edit, replace
from interp.core.errors import BadInput, SpanError, WrongModel, listing, one_of
from interp.core.lm import LM
from interp.core.progress import track
from interp.core.seed import numpy_generator
from interp.core.site import Site, expand
from interp.core.stats import bootstrap_ci
from interp.data.prompts import Prompt, PromptPair
from interp.data.tokens import TokenPrompt, group_by_length, to_batch, tokenize

from ..pairs import contrasted
from ..readout import METRICS, best_wrong, read_metrics
from .basis import POINTS, BasisCheck, basis_check

Kind = Literal["q", "k", "v", "pattern", "z", "attn_out", "mlp_out", "resid_post"]
KINDS = ("q", "k", "v", "pattern", "z", "attn_out", "mlp_out", "resid_post")
HEADS = {"q": "head", "k": "kv_head", "v": "kv_head", "pattern": "head", "z": "head"}
DIRECTIONS = ("into first", "into second")


class CrossModelResult(Result):
    """Scores of one model with a component of the other, and how much of the difference that recovers.

    data:
        score [direction, component, prompt, metric]    `into first`: the first model with the second's component
        alone [model, prompt, metric]                   both models by themselves; model is first or second
        cka, alignment [layer]; loss [share]            do they write in the same basis? see `interp.analyses.crossmodel.basis`
    coords: component (`q 1.3`, `mlp_out 2`, `joint`), with kind, of_layer, head along it (-1: none); prompt ids; metric; answer, foil along
        prompt. attrs: position, barrier (nats), first, second (names of the models).

    Accuracy is the share of prompts whose rank is 0; ask for it as the metric `accuracy`.
    """

    figure: ClassVar[str] = "crossmodel"
    main: ClassVar[str] = "score"
    effect: ClassVar[bool] = True

    def values(self, metric: str = "logprob") -> tuple[xr.DataArray, xr.DataArray]:
        """Scores [direction, component, prompt] and what the models give alone [model, prompt]; `accuracy` is a metric too."""
        one_of("metric", metric, [*METRICS, "accuracy"])
        name = "rank" if metric == "accuracy" else metric
        parts = [self.data[one].sel(metric=name) for one in ("score", "alone")]
        score, alone = ((part == 0).astype(float) for part in parts) if metric == "accuracy" else parts
        return score, alone

    def moved(self, metric: str = "logprob", *, level: float = 0.95) -> xr.Dataset:
        """What each component changes in the model it is put into, in the metric's own unit: mean, ci_lo, ci_hi [direction, component]."""
        score, alone = self.values(metric)
        start = alone.values[:, None]  # [direction, 1, prompt]: `into first` starts from the first model
        change = score.transpose("direction", "component", "prompt") - start
        mean, low, high = bootstrap_ci(change, "prompt", level=level)
        return xr.Dataset({"mean": mean, "ci_lo": low, "ci_hi": high})

    def recovered(self, metric: str = "logprob", *, level: float = 0.95) -> xr.Dataset:
        """The share of the models' difference that each component carries, with its interval over prompts: [direction, component].

        Raises `BadInput` where the difference of the means is not larger than twice its standard error.
        """
        score, alone = self.values(metric)
        gap = alone.sel(model="second") - alone.sel(model="first")
        error = float(gap.std(ddof=1) / max(len(gap), 1) ** 0.5) if len(gap) > 1 else float("inf")
        if not abs(float(gap.mean())) > 2 * error:
            raise BadInput(
                f"the models differ by {float(gap.mean()):.3g} in {metric} with a standard error of {error:.2g} over {len(gap)} prompts: "
                "no share of that means anything. Use prompts on which they differ, or more of them."
            )
        start = np.stack([alone.sel(model=name).values for name in ("first", "second")])[
            :, None
        ]  # [direction, 1, prompt]
        moved = score.transpose("direction", "component", "prompt").values - start
        found = _ratio(moved * np.array([1.0, -1.0])[:, None, None], gap.values, level)
        dims = ("direction", "component")
        coords = {name: score.coords[name] for name in (*dims, "kind", "of_layer", "head")}
        return xr.Dataset(
            {name: (dims, part) for name, part in zip(("mean", "ci_lo", "ci_hi"), found, strict=True)}, coords
        )

    def headline(self) -> dict[str, float]:
        """Both models' accuracy, and the component that moves the first model's answers most towards the second's."""
        score, alone = self.values("logprob")
        hits = self.values("accuracy")[1].mean("prompt")
        moved = (score.sel(direction=DIRECTIONS[0]) - alone.sel(model="first")).mean("prompt")
        best = int(np.abs(moved.values).argmax())
        return {
            "accuracy, first": float(hits.sel(model="first")),
            "accuracy, second": float(hits.sel(model="second")),
            f"nats by {moved['component'].values[best]}": float(moved[best]),
        }

    def thumbnail(self) -> xr.DataArray | None:
        """What each component moves, in nats, directions by components."""
        score, alone = self.values("logprob")
        start = np.stack([alone.sel(model=name).mean("prompt").values for name in ("first", "second")])[:, None]
        return score.mean("prompt").transpose("direction", "component") - start


def _ratio(
    moved: np.ndarray, gap: np.ndarray, level: float, n: int = 2000
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """mean(moved) / mean(gap) of moved [..., prompt] with its percentile interval; prompts are drawn together for both.

    A draw whose gap has gone over to the other sign, or to nothing, says that the share may be anything: it counts as infinite, half of
    such draws either way, so that an end of the interval is infinite where they are many.
    """
    counts = numpy_generator(0, "bootstrap", "cross-model").multinomial(
        len(gap), np.full(len(gap), 1 / len(gap)), size=n
    )
    whole = counts @ gap * np.sign(gap.mean())  # [resample]
    kept = whole > 1e-9 * np.abs(gap).max()
    draws = (moved @ counts[kept].T) / (counts[kept] @ gap)  # [..., resample]
    wild = int((~kept).sum())
    ends = np.r_[np.full(wild - wild // 2, -np.inf), np.full(wild // 2, np.inf)]
    ordered = np.sort(np.concatenate([draws, np.broadcast_to(ends, (*draws.shape[:-1], wild))], axis=-1), axis=-1)
    low, high = (ordered[..., round(share * (n - 1))] for share in ((1 - level) / 2, (1 + level) / 2))
    return moved.mean(axis=-1) / gap.mean(), low, high


@dataclass(frozen=True)
class CrossModelPatching(Comparison[CrossModelResult]):
    """Put each component of one model into the other, both ways, and see how much of their difference it carries (CMAP)."""

    takes: ClassVar[str] = "prompts"

    kinds: tuple[Kind, ...] = ("q", "k", "v", "pattern", "z", "mlp_out")
    """Which components, each in every layer; those of attention head by head."""
    position: str = "last"
    """Where outputs, queries and pattern rows are patched: `last`, or a span's name (its last token)."""
    joint: tuple[str, ...] = ()
    """Components patched together as one more cell named `joint`: `z 1.3`, `mlp_out 2`."""
    on_foreign: Literal["refuse", "warn"] = "refuse"
    """What to do with models that do not write in the same basis."""
    min_alignment: float = 0.25
    """Smallest mean cosine of the two streams in any layer at which they count as one basis."""
    max_barrier: float = 1.0
    """Largest rise of the loss between their weights, in nats."""
    answers: Literal["single", "first"] = "single"
    """Refuse answers of several tokens, or take their first token."""
    bos: bool | None = None
    """Put a BOS before each prompt; None follows the model's tokenizer."""
    max_rows: int = 32
    """Prompts of one length in one recording."""

    def __post_init__(self) -> None:
        for name in ("kinds", "joint"):
            given = getattr(self, name)
            object.__setattr__(self, name, (given,) if isinstance(given, str) else tuple(given))
        for kind in self.kinds:
            one_of("kinds", kind, KINDS)
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise BadInput(f"`kinds` must name each kind once; not {self.kinds!r}.")
        one_of("on_foreign", self.on_foreign, ["refuse", "warn"])
        one_of("answers", self.answers, ["single", "first"])
        if self.max_rows < 1:
            raise BadInput(f"`max_rows` must be at least 1; not {self.max_rows}.")
        if not (self.min_alignment <= 1 and self.max_barrier >= 0):
            raise BadInput(
                f"`min_alignment` is a cosine and `max_barrier` not negative; not {self.min_alignment}, {self.max_barrier}."
            )

    def check_models(self, lm: LM, other: LM, data: Any) -> None:
        """Refuse models of other shapes or tokenizers (`WrongModel`) and prompts that cannot be read."""
        for name in ("family", "n_layers", "n_heads", "n_kv_heads", "d_model", "d_head", "d_mlp", "vocab"):
            mine, theirs = getattr(lm.spec, name), getattr(other.spec, name)
            if mine != theirs:
                raise WrongModel(
                    f"{lm.spec.name} and {other.spec.name} differ in {name}: {mine} and {theirs}. Activations can be exchanged only "
                    "between models of one architecture."
                )
        if lm.tokenizer.digest != other.tokenizer.digest:
            raise WrongModel(
                f"{lm.spec.name} and {other.spec.name} have different tokenizers, so the same prompt is not the same input. Give relatives."
            )
        if alone := sorted(set(lm.weights.parameters()) ^ set(other.weights.parameters())):
            raise WrongModel(
                f"only one of {lm.spec.name} and {other.spec.name} has {listing(alone)}, as where one ties its embeddings and the other "
                "does not: there is no line between their weights to walk. Give relatives that hold the same parameters."
            )
        expand([Site(kind, 0) for kind in self.kinds], lm.spec)
        self._cells(lm)
        for tokens in self._tokens(lm, data):
            _column(tokens, self.position)

    def cost(self, lm: LM, other: LM, data: Any = None) -> Cost:  # type: ignore[override]
        """At most one forward pass a component, prompt and direction; partial recomputation takes about half of it."""
        prompts = self._tokens(lm, data)
        passes = len(prompts) * (len(self._cells(lm)) + 8.0)
        width = max(len(tokens) for tokens in prompts)
        held = self.max_rows * width * lm.spec.d_model * lm.spec.n_layers * 8 * lm.spec.bytes_per_value
        return Cost(passes, int(passes * width), held)

    def compare(self, lm: LM, other: LM, data: Any, store: Any = None) -> CrossModelResult:
        """Check the basis, then patch both ways."""
        prompts = self._tokens(lm, data)
        groups = [
            places[first : first + self.max_rows]
            for places in group_by_length(prompts).values() for first in range(0, len(places), self.max_rows)
        ]  # fmt: skip
        batches = [to_batch([prompts[place] for place in places]) for places in groups]
        basis = self._basis(lm, other, batches)
        cells = self._cells(lm)
        score = np.full((2, len(cells), len(prompts), len(METRICS)), np.nan)
        alone = np.full((2, len(prompts), len(METRICS)), np.nan)
        ids = np.zeros((2, len(prompts)), dtype=int)
        for places, batch in track(list(zip(groups, batches, strict=True)), "cross-model patching", total=len(groups)):
            mine = [prompts[place] for place in places]
            answer, foil = _targets(lm, mine, batch)
            ids[:, places] = torch.stack([answer, foil]).numpy()
            for way, (into, out_of) in enumerate(((lm, other), (other, lm))):
                low, high = self._patch(into, out_of, mine, batch, cells, answer, foil)
                alone[way, places], score[way][:, places] = low, high
        return self._result(lm, other, prompts, cells, score, alone, ids, basis)

    def _basis(self, lm: LM, other: LM, batches: Sequence[Batch]) -> BasisCheck:
        basis = basis_check(lm, other, batches)
        if not basis.ok(min_alignment=self.min_alignment, max_barrier=self.max_barrier):
            problem = (
                f"{lm.spec.name} and {other.spec.name} do not write in the same basis: {basis.line()}. What is patched between them means "
                "nothing, and a failure is no evidence of another mechanism."
            )
            if self.on_foreign == "refuse":
                raise WrongModel(f"{problem} Compare a model with its own fine-tune, or pass on_foreign='warn'.")
            warnings.warn(problem, stacklevel=5)
        return basis

    def _tokens(self, lm: LM, data: Any) -> list[TokenPrompt]:
        items: Sequence[Any] = [data] if isinstance(data, Prompt | PromptPair) else list(data or ())
        if not items:
            raise BadInput("there are no prompts. Give at least one with an answer.")
        prompts = [contrasted(item) for item in items]
        for prompt in prompts:
            if not isinstance(prompt, Prompt) or prompt.answer is None:
                raise BadInput(
                    f"this takes prompts with answers; not {prompt!r:.100}. Build them with Prompt.of(text, answer=...)."
                )
        how: dict[str, Any] = {"bos": self.bos, "answers": self.answers, "n_ctx": lm.spec.n_ctx}
        return [tokenize(prompt, lm.tokenizer, **how) for prompt in prompts]

    def _cells(self, lm: LM) -> "list[CrossCell]":
        """Every component, and the joint one. Raises `BadInput` for a joint component that there is not."""
        sizes = {"head": lm.spec.n_heads, "kv_head": lm.spec.n_kv_heads}
        every = []
        for kind in KINDS:
            for layer in range(lm.spec.n_layers):
                if kind in HEADS:
                    every += [
                        CrossCell(f"{kind} {layer}.{head}", kind, layer, head) for head in range(sizes[HEADS[kind]])
                    ]
                else:
                    every.append(CrossCell(f"{kind} {layer}", kind, layer))
        for name in self.joint:
            one_of("joint", name, [cell.name for cell in every])
        cells = [cell for cell in every if cell.kind in self.kinds]
        if self.joint:
            cells.append(CrossCell("joint", "joint", parts=tuple(cell for cell in every if cell.name in self.joint)))
        return cells

    def _patch(
        self,
        into: LM,
        out_of: LM,
        prompts: Sequence[TokenPrompt],
        batch: Batch,
        cells: "Sequence[CrossCell]",
        answer: Tensor,
        foil: Tensor,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Metrics of `into` alone [row, metric] and with each component of `out_of` [cell, row, metric]."""
        kinds = {part.kind for cell in cells for part in (cell.parts or (cell,))}
        sites = [Site(kind, layer) for kind in sorted(kinds) for layer in range(into.spec.n_layers)]
        source = out_of.run(batch, capture=sites)
        holds = [Site("z", layer) for layer in range(into.spec.n_layers)] if kinds & {"k", "v"} else []
        base = into.record(batch, capture=[site for site in dict.fromkeys([*sites, *holds]) if site.kind != "pattern"])
        here = torch.zeros_like(batch.mask)
        here[torch.arange(len(prompts)), torch.tensor([_column(tokens, self.position) for tokens in prompts])] = True
        at, rest = At.mask(here), At.mask(batch.mask & ~here)
        held = {site.layer: replace(site, base.run, at=rest) for site in holds} if bool((~here).any()) else {}

        def edits(cell: CrossCell) -> list[Edit]:
            out = []
            for part in cell.parts or (cell,):
                site, heads = Site(part.kind, part.layer), None if part.head < 0 else [part.head]
                inputs = part.kind in ("k", "v")
                out.append(replace(site, source, at=At.all() if inputs else at, heads=heads))
                if inputs and part.layer in held:
                    out.append(held[part.layer])
            return list({id(one): one for one in out}.values())

        def readout(logits: Tensor, rows: Tensor) -> Tensor:
            rows = rows.cpu()
            return read_metrics(logits, answer[rows][:, None], foil[rows][:, None])

        values = (
            into.resume(base, [[], *(edits(cell) for cell in cells)], readout=readout)[:, :, 0].double().cpu().numpy()
        )
        return values[0], values[1:]

    def _result(
        self, lm: LM, other: LM, prompts: Sequence[TokenPrompt], cells: "Sequence[CrossCell]", score: np.ndarray, alone: np.ndarray,
        ids: np.ndarray, basis: BasisCheck,
    ) -> CrossModelResult:  # fmt: skip
        columns: dict[str, Any] = {
            "score": (("direction", "component", "prompt", "metric"), score), "alone": (("model", "prompt", "metric"), alone),
            "cka": ("layer", basis.cka), "alignment": ("layer", basis.alignment), "loss": ("share", basis.losses),
        }  # fmt: skip
        coords = {
            "direction": list(DIRECTIONS), "model": ["first", "second"], "component": [cell.name for cell in cells],
            "kind": ("component", [cell.kind for cell in cells]), "of_layer": ("component", [cell.layer for cell in cells]),
            "head": ("component", [cell.head for cell in cells]), "prompt": [tokens.id for tokens in prompts], "metric": list(METRICS),
            "answer": ("prompt", [lm.tokenizer.label(int(one)) for one in ids[0]]),
            "foil": ("prompt", [lm.tokenizer.label(int(one)) for one in ids[1]]),
            "layer": list(range(lm.spec.n_layers)), "share": list(POINTS),
        }  # fmt: skip
        attrs = {"position": self.position, "barrier": basis.barrier, "first": lm.spec.name, "second": other.spec.name}
        return CrossModelResult(xr.Dataset(columns, coords, attrs))


@dataclass(frozen=True)
class CrossCell:
    """One component, or several patched together."""

    name: str
    kind: str
    layer: int = -1
    head: int = -1
    """-1 for a whole layer."""
    parts: "tuple[CrossCell, ...]" = ()


def _column(tokens: TokenPrompt, position: str) -> int:
    if position == "last":
        return len(tokens) - 1
    if position not in tokens.spans:
        raise SpanError(f"no span is called {position!r} in {tokens.prompt.text!r}; it has {sorted(tokens.spans)}.")
    return tokens.spans[position][1] - 1


def _targets(lm: LM, prompts: Sequence[TokenPrompt], batch: Batch) -> tuple[Tensor, Tensor]:
    """Ids of the answers and of what they are contrasted with: the prompt's foil, else the first model's best wrong token."""
    final = lm.run(batch).last_logits.cpu()
    answer = torch.tensor([tokens.answer_id for tokens in prompts])
    foil = [
        tokens.foil_ids[0] if tokens.foil_ids and tokens.foil_ids[0] != right else best_wrong(row, int(right))
        for tokens, row, right in zip(prompts, final, answer.tolist(), strict=True)
    ]
    return answer, torch.tensor(foil)
