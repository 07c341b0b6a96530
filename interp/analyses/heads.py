"""Head scores: which heads look at the previous token, at duplicates, at what followed before, at the sink; and does the model copy?

The question. On a random sequence said twice, `[BOS] s s`, nothing but the first copy tells what comes next in the second. Attention of
a query at column t of the second copy, with n the period and a the attention pattern:

    induction(h) = mean_t a[h, t, t - n + 1]    to the token that followed the previous occurrence (prefix matching)
    previous(h)  = mean_t a[h, t, t - 1]        duplicate(h) = mean_t a[h, t, t - n]        sink(h) = mean_t a[h, t, 0]
    entropy(h)   = mean_t -sum_j a ln a         nats
    induction_awake(h) = induction / (1 - sink)      renormalised over the keys that are not the sink

Queries are the n - 1 tokens of the second copy that are followed by one of it. Chance is what uniform attention gives, mean_t 1/(t + 1).
Beside attention stands the ability, from the losses of the same rows:

    copy ratio = mean loss on the second copy / mean loss on the first, first token of each left out
    period gap = largest minus smallest copy ratio over the periods

and the weights' own view of copying (Elhage et al. 2021): the eigenvalues of W_E W_V W_O W_U, of which the non-zero ones are those of the
d_head x d_head matrix W_O W_U W_E W_V:   copying(h) = sum Re(lambda) / sum |lambda|. The norms' gains are in W_V and W_U, and W_U is
centred over the vocabulary: what adds the same to every logit changes no probability, and must not change the score.

Source. Olsson et al. 2022 (arXiv 2209.11895) for prefix matching; Elhage et al. 2021, "A Mathematical Framework", for the eigenvalues.

When it misleads
- A high induction score is evidence for a mechanism, not for the ability, and the other way round: a model can copy without a head that
  looks like induction, and one fixed period can be learned as a position trick. That is why ratio, gap and scores stand together.
- `copying` is about the direct path from a token's embedding. Heads of later layers read what earlier layers made of it: the two
  induction heads of `atlas`, without which it does not copy, score 0.3 and -0.1.
- Sinks absorb attention: rank heads by `induction_awake` as well. Where heads have a learned sink besides the tokens (GPT-OSS), its
  share is left out of `induction_awake` and counted in `entropy`; `sink` is the first token's, as everywhere.
- Rotary models prefer near keys on any text; a non-trivial `previous` score is not yet a previous-token head.

    import interp
    lm = interp.load("atlas")
    heads = interp.HeadScores()(lm)
    heads.scores(), heads.copy_ratio(), heads.top("induction")
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from interp.core.analysis import Analysis, Cost, Result
from interp.core.batch import Batch
from interp.core.errors import BadInput, one_of
from interp.core.progress import track
from interp.core.site import Site
from interp.core.stats import bootstrap_ci
from interp.data import RepeatedTokens, repeated_tokens

if TYPE_CHECKING:
    import pandas as pd

    from interp.core.lm import LM

SCORES = ("induction", "previous", "duplicate", "sink", "induction_awake", "entropy")
PATTERN_BYTES = 128_000_000
"""Attention patterns that are held at once."""


class HeadResult(Result):
    """Scores of every head on every sequence.

    data:
        score             [sequence, metric, layer, head]   metrics: induction, previous, duplicate, sink, induction_awake, entropy
        chance            [sequence, metric]                what uniform attention gives; NaN for entropy, whose maximum is `entropy_max`
        entropy_max       [sequence]                        nats, of uniform attention
        first_loss, second_loss [sequence]                  nats a token
        copying           [layer, head]                     eigenvalue score in [-1, 1]; from the weights alone
    coords: sequence (names), metric, layer, head, period [sequence]. attrs: bos, kind (which ids were drawn from).
    """

    figure: ClassVar[str] = "heads"
    main: ClassVar[str] = "score"

    def scores(self, level: float = 0.95) -> xr.Dataset:
        """Mean over sequences of each score: mean, ci_lo, ci_hi [metric, layer, head], and chance [metric]."""
        values = self.data["score"].values
        mean, low, high = bootstrap_ci(values, level=level)
        dims = ("metric", "layer", "head")
        columns: dict[str, Any] = {"mean": (dims, mean), "ci_lo": (dims, low), "ci_hi": (dims, high)}
        columns["chance"] = ("metric", self.data["chance"].values.mean(axis=0))
        return xr.Dataset(columns, {name: self.data[name].values for name in dims})

    def top(self, metric: str = "induction", n: int = 5) -> "pd.DataFrame":
        """The `n` heads with the highest mean score: layer, head, score, ci_lo, ci_hi, chance."""
        import pandas as pd

        one_of("metric", metric, [str(name) for name in self.data["metric"].values])
        table = self.scores().sel(metric=metric)
        order = np.argsort(-table["mean"].values, axis=None)[:n]
        layers, heads = np.unravel_index(order, table["mean"].shape)
        columns = {
            name: table[key].values[layers, heads]
            for name, key in (("score", "mean"), ("ci_lo", "ci_lo"), ("ci_hi", "ci_hi"))
        }
        return pd.DataFrame({"layer": layers, "head": heads, **columns, "chance": float(table["chance"])})

    def copy_ratio(self, level: float = 0.95) -> dict[str, float]:
        """Second-copy loss over first-copy loss (0 = copies perfectly, 1 = not at all), and the gap between periods."""
        first, second = self.data["first_loss"].values, self.data["second_loss"].values
        period = self.data["period"].values
        each = [second[period == p].mean() / first[period == p].mean() for p in np.unique(period)]
        _, low, high = bootstrap_ci(second / first, level=level)
        return {
            "ratio": float(second.mean() / first.mean()), "ci_lo": float(low), "ci_hi": float(high),
            "n": float(len(first)), "period_gap": float(max(each) - min(each)),
        }  # fmt: skip

    def headline(self) -> dict[str, float]:
        """Copy ratio, and the best induction and previous-token heads, named."""
        named = {}
        for metric in ("induction", "previous"):
            mean = self.data["score"].sel(metric=metric).mean("sequence").values  # no interval: this is shown at once
            layer, head = np.unravel_index(mean.argmax(), mean.shape)
            named[f"{metric}: head {layer}.{head}"] = float(mean.max())
        return {"copy ratio": self.copy_ratio()["ratio"], **named}

    def thumbnail(self) -> xr.DataArray | None:
        """Induction scores, layers by heads."""
        return self.data["score"].sel(metric="induction").mean("sequence")


@dataclass(frozen=True)
class HeadScores(Analysis[HeadResult]):
    """Attention scores of every head on repeated random tokens, and whether the model copies. Makes its own data if given none."""

    sequences: int = 16
    """Sequences for each period."""
    periods: tuple[int, ...] | None = None
    """Lengths of the repeated part in tokens; by default those of 16, 24, 32, 48 and 64 that fit the context."""
    seed: int = 0
    """Names the random tokens."""

    def __post_init__(self) -> None:
        if self.sequences < 1:
            raise BadInput(f"`sequences` must be at least 1; not {self.sequences}.")

    def data_for(self, lm: "LM") -> RepeatedTokens:
        """The repeated random tokens that are used where the caller brings none."""
        return repeated_tokens(
            lm.tokenizer,
            n_sequences=self.sequences,
            periods=self.periods,
            n_ctx=lm.spec.n_ctx,
            vocab=lm.spec.vocab,
            seed=self.seed,
        )

    def cost(self, lm: "LM", data: Any = None) -> Cost:
        """A forward pass a period and as many more as the patterns need to fit into memory."""
        probe = data or self.data_for(lm)
        passes = [len(list(_chunks(batch, lm))) for _, batch in probe.by_period()]
        tokens = sum(batch.tokens.numel() * n for n, (_, batch) in zip(passes, probe.by_period(), strict=True))
        return Cost(float(sum(passes)), tokens, PATTERN_BYTES)

    def run(self, lm: "LM", data: Any, store: Any) -> HeadResult:
        """Score period by period; patterns are reduced to six numbers a head as soon as they are there."""
        probe = self.data_for(lm) if data is None else data
        if not isinstance(probe, RepeatedTokens):
            raise BadInput(f"this needs `interp.data.repeated_tokens(...)`, or no data; not a {type(probe).__name__}.")
        parts, period_of = [], []
        for period, batch in track(list(probe.by_period()), "head scores"):
            parts.append(_score(lm, batch, period, int(probe.bos)))
            period_of += [period] * len(batch)
        merged = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        dims = {"score": ("sequence", "metric", "layer", "head"), "chance": ("sequence", "metric")}
        columns: dict[str, Any] = {name: (dims.get(name, ("sequence",)), values) for name, values in merged.items()}
        columns["copying"] = (("layer", "head"), copying_scores(lm))
        names = [name for _, batch in probe.by_period() for name in batch.ids]
        coords = {
            "sequence": names, "metric": list(SCORES), "layer": np.arange(lm.spec.n_layers), "head": np.arange(lm.spec.n_heads),
            "period": ("sequence", period_of),
        }  # fmt: skip
        return HeadResult(xr.Dataset(columns, coords, {"bos": probe.bos, "kind": probe.kind}))


def copying_scores(lm: "LM") -> np.ndarray:
    """Eigenvalue copying score of every head, [layer, head], in d_head-sized algebra (float64)."""
    unembed = lm.weights.unembedding(folded=True)[0].double()  # [d_model, vocab]
    unembed = unembed - unembed.mean(dim=1, keepdim=True)  # a shift of all logits is no copying
    loop = unembed @ lm.weights.W_E.double()  # [d_model, d_model]
    table = np.zeros((lm.spec.n_layers, lm.spec.n_heads))
    for layer in range(lm.spec.n_layers):
        value = lm.weights.W_V(layer, expand=True, folded=lm.weights.pre_norm).double()  # [head, d_model, d_head]
        out = lm.weights.W_O(layer).double()  # [head, d_head, d_model]
        if lm.spec.post_norm:
            out = out * lm.weights.norm("attn_post", layer)[0].double()
        eigen = torch.linalg.eigvals(out @ loop @ value)  # [head, d_head]
        size = eigen.abs().sum(dim=-1)
        table[layer] = torch.where(size > 0, eigen.real.sum(dim=-1) / size.clamp(min=1e-300), 0.0).cpu().numpy()
    return table


def _score(lm: "LM", batch: Batch, period: int, start: int) -> dict[str, np.ndarray]:
    """Everything about the rows of one period; `start` is 1 behind a BOS."""
    spec, rows = lm.spec, len(batch)
    score = np.zeros((rows, len(SCORES), spec.n_layers, spec.n_heads))
    queries = torch.arange(start + period, start + 2 * period - 1)
    losses: dict[str, np.ndarray] = {}
    for layers in _chunks(batch, lm):
        run = lm.run(batch, capture=[Site("pattern", layer) for layer in layers])
        if not losses:
            assert run.logits is not None
            losses = _losses(run.logits, batch.tokens, period, start)
        for layer in layers:
            score[:, :, layer] = _reduce(
                run[Site("pattern", layer)],
                queries.to(run[Site("pattern", layer)].device),
                period,
                learned=lm.spec.sinks,
            )
    uniform = float((1.0 / (queries + 1)).mean())
    awake = float((1.0 / queries).mean())
    chance = [awake if name == "induction_awake" else np.nan if name == "entropy" else uniform for name in SCORES]
    return {
        "score": score,
        "chance": np.tile(chance, (rows, 1)),
        "entropy_max": np.full(rows, float((queries + 1 + spec.sinks).double().log().mean())),
        **losses,
    }


def _reduce(pattern: Tensor, queries: Tensor, period: int, *, learned: bool = False) -> np.ndarray:
    """The six scores of patterns [row, head, query, key]: [row, metric, head]; `learned` says that rows lack a learned sink's share."""
    a = pattern[:, :, queries].float()  # [row, head, query, key]

    def at(keys: Tensor) -> Tensor:
        return a.gather(-1, keys.expand(*a.shape[:2], -1)[..., None])[..., 0]

    induction, sink = at(queries - period + 1), a[..., 0]
    entropy = -torch.special.xlogy(a, a).sum(dim=-1)
    outside = (1 - a.sum(dim=-1)).clamp(min=0) if learned else torch.zeros_like(sink)
    entropy = entropy - torch.special.xlogy(outside, outside)
    awake = induction / (1 - sink - outside).clamp(min=1e-6)
    parts = [induction, at(queries - 1), at(queries - period), sink, awake, entropy]  # the order of SCORES
    return torch.stack([part.mean(dim=-1) for part in parts], dim=1).cpu().numpy()


def _losses(logits: Tensor, tokens: Tensor, period: int, start: int) -> dict[str, np.ndarray]:
    """Mean loss on each copy, its first token left out, per row."""
    logp = logits[:, :-1].float().log_softmax(dim=-1)
    nll = -logp.gather(-1, tokens[:, 1:, None].to(logp.device))[..., 0]  # nll[:, j] is of the token at column j + 1
    first = nll[:, start : start + period - 1]
    second = nll[:, start + period : start + 2 * period - 1]
    return {"first_loss": first.mean(dim=1).cpu().numpy(), "second_loss": second.mean(dim=1).cpu().numpy()}


def _chunks(batch: Batch, lm: "LM") -> list[list[int]]:
    """Layers whose patterns fit into memory together."""
    rows, width = batch.tokens.shape
    fit = max(1, PATTERN_BYTES // (rows * lm.spec.n_heads * width * width * 4))
    layers = list(range(lm.spec.n_layers))
    return [layers[start : start + fit] for start in range(0, len(layers), fit)]
