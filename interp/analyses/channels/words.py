"""Component words: what a singular component of a head writes and reads, in the words of the vocabulary.

A component of OV reads along u and writes s (x · u) along v; one of QK compares what lies along a in the query with b in the key. Each of
these directions is a number for every token:

    writes            v · C diag(g) W_U[:, t], less its mean over all tokens t       logits, for a write of length 1 in the normed stream
    reads             n(W_E[t]) · u                                                  what is read if the stream holds the token alone
    queries, keys     n(W_E[t]) · a,  n(W_E[t]) · b                                  the same on the two sides of QK

with the final norm's gain g and centring C (for LayerNorm), and n the norm that the head reads through, at the embedding's own size; its
bias, which all tokens share, is left out. Position embeddings are read in the same way. The signs of u and v (of a and b) go together:
what `reads +` finds makes it write `writes +`, what `reads -` finds makes it write `writes -`; turning both round changes nothing.

Null. Among thousands of tokens some lie near any direction. `null` has the largest value over all tokens of random directions of the same
length, and `p` is how often one of these, or the opposite of the component's own, is as extreme; by default any direction of the
stream, with `null="head"` random mixtures of what the component's own head reads or writes. Embeddings do not fill their space evenly,
and heads read where they lie, so whole heads go beyond the first null; a component that goes beyond the second one has words that its
neighbours do not have.

How. From weights alone; the vocabulary in tiles, so that neither table is ever copied whole, and no matrix of d_model by d_model.

Source: Merullo et al. 2024, "Talking Heads" (arXiv 2406.09519), section 4; Elhage et al. 2021, and Dar et al. 2023, "Analyzing
Transformers in Embedding Space" (arXiv 2209.02535), for reading weights in the vocabulary.

When it misleads
- Only the direct ways are seen, from embeddings and to the unembedding. A component in the middle of a model reads what earlier layers
  made of tokens and writes for later ones: one that moves positions or marks duplicates has no words, and then p is not small.
- Rare tokens have odd embeddings and lie at the ends of many directions; look whether the words agree among themselves.
- The index of a component depends on the coordinates (`folded`), and its sign is a convention.

    import interp
    lm = interp.load("atlas")
    words = interp.ComponentWords(components=("0.0.0", "1.0.1"))(lm)
    words.table()
    interp.ComponentWords(components=("2.2.0",), which="qk", k=5)(lm).words("2.2.0")
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from interp.core.analysis import Analysis, Cost, Result
from interp.core.errors import BadInput, one_of
from interp.core.stats import holm, random_directions
from interp.core.topk import topk

from .component import Component
from .decompose import One, decompose, single
from .factors import KINDS, Setting
from .use.able import Ability

if TYPE_CHECKING:
    import pandas as pd

    from interp.core.lm import LM

ENDS = {"ov": ("writes", "reads"), "qk": ("queries", "keys")}
ALPHA = 0.05
"""Level at which words are counted as beyond chance."""
TILE = 64_000_000
"""Bytes of a vocabulary table that are held in float64 at once."""


class ComponentWordsResult(Result):
    """The words of components.

    data:
        value     [component, side, rank]    of the most extreme tokens; falling from the largest on sides with +, rising on those with -
        token     [component, side, rank]    their labels; token_id, their ids
        p         [component, side]          how often a random direction, of either sign, has a token as extreme, not corrected
        null      [component, end, draw]     the largest value of random directions of the same length
        position  [component, end, pos]      what is read of each position embedding, NaN for `writes`; only where positions are learned
        singular  [component]                singular value; gap_before, gap_after: ratios to its neighbours (inf at the ends)
    coords: component (`8.10.1`), end (writes, reads; queries, keys), side (`writes +`), side_end, side_sign along it, rank, draw, pos.
    attrs: which, offset (-1 for none), folded, left_out (rows of the tables that no text reaches), vocabulary (rows that were looked at).
    """

    figure: ClassVar[str] = "channel_words"
    main: ClassVar[str] = "value"
    effect: ClassVar[bool] = True

    def words(self, component: str) -> dict[str, list[str]]:
        """The labels of one component, by side, most extreme first."""
        one_of("component", component, self.data["component"].values.tolist())
        here = self.data["token"].sel(component=component)
        return {str(side): [str(word) for word in here.sel(side=side).values] for side in here["side"].values}

    def table(self, correction: Literal["holm", "none"] = "holm") -> "pd.DataFrame":
        """A row a side of a component: component, side, value (the most extreme), p (adjusted over all rows), words."""
        import pandas as pd

        one_of("correction", correction, ["holm", "none"])
        p = holm(self.data["p"]) if correction == "holm" else self.data["p"]
        rows = [
            {
                "component": str(name), "side": str(side), "value": float(self.data["value"].sel(component=name, side=side)[0]),
                "p": float(p.sel(component=name, side=side)), "words": " ".join(self.words(str(name))[str(side)]),
            }
            for name in self.data["component"].values
            for side in self.data["side"].values
        ]  # fmt: skip
        return pd.DataFrame(rows)

    def beyond(self, alpha: float = ALPHA) -> list[tuple[str, str]]:
        """(component, side) of those whose words are more extreme than those of random directions, after Holm's correction."""
        frame = self.table()
        found = frame[frame["p"] <= alpha]
        return list(zip(found["component"], found["side"], strict=True))

    def headline(self) -> dict[str, float]:
        """The most extreme word at either end, in units of what random directions reach, and how many sides go beyond chance."""
        scale = self.data["null"].mean("draw")
        named = {}
        for end in self.data["end"].values.tolist():
            here = self.data.isel(side=self.data["side_end"].values == end)
            size = abs(here["value"].isel(rank=0)) / scale.sel(end=end)
            row, column = np.unravel_index(int(size.values.argmax()), size.shape)
            word = here["token"].values[row, column, 0]
            named[f"{here['component'].values[row]} {here['side'].values[column]} {word}, over chance"] = float(
                size.max()
            )
        return {**named, f"of {self.data['p'].size} sides, beyond chance": float(len(self.beyond()))}

    def report_lines(self) -> tuple[str, ...]:
        """Every side's most extreme value, its p (Holm over all sides), and its words."""
        lines = [
            f"{row['component']:<9} {row['side']:<10} {row['value']:>8.2f}  p {row['p']:<6.3f} {row['words']}"
            for row in self.table().to_dict("records")
        ]
        sides, least = self.data["p"].size, 1 / (2 + self.data.sizes["draw"])
        if sides * least > ALPHA:
            lines.append(
                f"with {sides} sides, no p can fall below {sides * least:.2f}: take {math.ceil(sides / ALPHA / 2)} draws or more."
            )
        return tuple(lines)

    def thumbnail(self) -> xr.DataArray | None:
        """The most extreme values, components by sides."""
        return self.data["value"].isel(rank=0)


@dataclass(frozen=True)
class ComponentWords(Analysis[ComponentWordsResult]):
    """What components write and read in vocabulary terms, beside what random directions would. Needs weights only, no data."""

    takes: ClassVar[str] = "weights"

    components: tuple[str, ...] | None = None
    """Components by name, such as 8.10.1; by default those of the strongest channels (ov), or the first of their readers (qk)."""
    which: Literal["ov", "qk"] = "ov"
    """Components of OV (what is written and read), or of QK (queries and keys)."""
    k: int = 10
    """Words on each side."""
    n: int = 8
    """How many components there are by default."""
    offset: int | None = None
    """Rotary models' QK only: the distance in tokens from query to key."""
    folded: bool = True
    """Name components in coordinates with norm gains folded in; else of the raw parameters."""
    null: Literal["random", "head"] = "random"
    """What words are compared with: random directions of the stream, or random mixtures of the same head's components."""
    draws: int = 500
    """Random directions for the null; each counts with both signs. Too few leave nothing to be found after Holm's correction."""
    seed: int = 0
    """Names the random directions."""

    def __post_init__(self) -> None:
        one_of("which", self.which, list(ENDS))
        one_of("null", self.null, ["random", "head"])
        if self.components is not None:
            given = (self.components,) if isinstance(self.components, str) else tuple(self.components)
            object.__setattr__(self, "components", given)
            if not given or len(set(given)) < len(given):
                raise BadInput(f"`components` must name one or more, each once; not {given!r}.")
        for name in ("k", "n", "draws"):
            if getattr(self, name) < 1:
                raise BadInput(f"`{name}` must be at least 1; not {getattr(self, name)}.")

    @property
    def setting(self) -> Setting:
        """In which coordinates components are named."""
        return Setting(folded=self.folded)

    def check(self, lm: "LM", data: Any) -> None:
        """Refuse data, a model without so many words, and components that have no direction of their own."""
        if data is not None:
            raise BadInput(
                f"what components write and read is read from weights; this takes no data, and was given a {type(data).__name__}."
            )
        if self.k > _rows(lm):
            raise BadInput(
                f"k={self.k} words a side, and {lm.spec.name} has a vocabulary of {_rows(lm)}. Ask for fewer."
            )
        if self.components is None and lm.spec.n_layers < 2:
            raise BadInput(f"{lm.spec.name} has one layer and so no channels. Name `components`, such as ('0.0.0',).")
        for name in self.components or ():
            self._one(lm, name)

    def cost(self, lm: "LM", data: Any = None) -> Cost:
        """No forward pass; two passes over the vocabulary."""
        held = TILE + 8 * lm.spec.d_model * (2 * self.draws + 2 * len(self.components or range(self.n)))
        return Cost(bytes=held, note="no forward pass; the embedding and the unembedding are read once or twice")

    def run(self, lm: "LM", data: Any, store: Any) -> ComponentWordsResult:
        """The words of each component, and the null."""
        parts = [self._one(lm, name) for name in self.components or self._strongest(lm)]
        found: dict[str, tuple[Tensor, Tensor]] = {}
        rows, null = {}, {}
        for end in ENDS[self.which]:
            rows[end] = torch.stack(
                [_direction(lm, part.component.layer, _of(part, end), end, self.setting) for part in parts]
            )
            mixed = self._mixed(lm, parts, end)  # [component or 1, draw, d_model]
            every = torch.cat([rows[end], mixed.flatten(0, 1)])
            ids, values, largest = self._extremes(lm, end, every, len(parts))
            for sign, name in enumerate("+-"):
                found[f"{end} {name}"] = ids[sign], values[sign]
            drawn = largest.reshape(2, len(mixed), self.draws)
            both = drawn.movedim(0, 1).flatten(1)  # a direction is as likely as its opposite
            null[end] = both.expand(len(parts), -1) * rows[end].norm(dim=-1, keepdim=True)
        return self._result(lm, parts, found, torch.stack(list(null.values()), dim=1), rows)

    def _one(self, lm: "LM", name: "str | Component") -> One:
        return single(lm, name, self.setting, which=self.which, offset=self.offset)

    def _mixed(self, lm: "LM", parts: list[One], end: str) -> Tensor:
        """Random unit directions [component or 1, draw, d_model] as the vocabulary sees them."""
        if self.null == "random":
            free = random_directions(self.draws, lm.spec.d_model, self.seed, "component words").double()
            free = free - free.mean(dim=-1, keepdim=True) if lm.spec.norm == "layer" else free
            return (free / free.norm(dim=-1, keepdim=True))[None]
        out = []
        for part in parts:
            name = part.component
            head = decompose(lm, name.layer, self.setting, which=self.which, offset=self.offset, heads=[name.head])
            span = (head.write if end in ("writes", "keys") else head.read)[0].cpu()
            span = span[: int(head.rank[0])]
            weight = random_directions(self.draws, len(span), self.seed, f"component words in {name.owner}").double()
            seen = _direction(lm, name.layer, weight @ span, end, self.setting)
            out.append(seen / seen.norm(dim=-1, keepdim=True))
        return torch.stack(out)

    def _strongest(self, lm: "LM") -> list[Component]:
        """Those of the strongest channels, each once: writers (ov), or components 0 of what reads by query or key (qk), where alone."""
        able = Ability(lm, self.setting, offset=self.offset if lm.spec.positions == "rotary" else None)
        many = able.strongest(20 * self.n, kinds=KINDS if self.which == "ov" else ("Q", "K"), by="score")
        if self.which == "ov":
            return list(dict.fromkeys(one.writer for one in many))[: self.n]
        first = dict.fromkeys(Component(one.reader.layer, one.reader.head, 0) for one in many)
        return [one for one in first if self._alone(lm, one)][: self.n]

    def _alone(self, lm: "LM", one: Component) -> bool:
        """Whether a component can be told from its neighbours."""
        parts = decompose(lm, one.layer, self.setting, which=self.which, offset=self.offset, heads=[one.head])
        return len(parts.block(0, one.index)) == 1

    def _extremes(self, lm: "LM", end: str, rows: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """Ids and values [sign, n, k] of the most extreme tokens of the first `n` of directions [row, d_model], and the largest of both
        signs of each of the others [sign, row]."""
        if end == "writes":
            rows, tiles = _through_final(lm, rows), _unembedding
            total = sum(((rows @ tile).sum(dim=-1) for tile in _unembedding(lm)), torch.zeros(len(rows)).double())
            middle = total[:, None] / _rows(lm)
        else:
            tiles, middle = _embedding, torch.zeros(len(rows), 1).double()
        sign = torch.tensor([1.0, -1.0]).double()[:, None, None]
        own = topk(rows[:n], lambda: tiles(lm), self.k, screen=False, signed=True)
        drawn = topk(rows[n:], lambda: tiles(lm), 1, screen=False, signed=True).values - sign * middle[n:]
        return own.ids, sign * own.values - middle[:n], drawn[..., 0]

    def _result(
        self, lm: "LM", parts: list[One], found: dict[str, tuple[Tensor, Tensor]], null: Tensor, rows: dict[str, Tensor]
    ) -> ComponentWordsResult:
        """`null` [component, end, draw]; `rows` are directions [component, d_model] by end."""
        sides, ends, dims = list(found), list(rows), ("component", "side", "rank")
        ids, values = (torch.stack([found[side][place] for side in sides], dim=1).numpy() for place in (0, 1))
        largest = torch.from_numpy(abs(values[:, :, 0]))
        chance = torch.stack([null[:, ends.index(side.split()[0])] for side in sides], dim=1)  # [component, side, draw]
        other = (
            largest.unflatten(1, (-1, 2)).flip(-1).flatten(1)
        )  # the opposite of the direction itself, as likely as it is
        chance = torch.cat([chance, other[..., None]], dim=-1)
        hits = (chance >= largest[..., None] * (1 - 1e-12)).sum(dim=-1)
        labels = {one: lm.tokenizer.label(int(one)) for one in np.unique(ids)}
        columns: dict[str, Any] = {
            "value": (dims, values), "token_id": (dims, ids),
            "token": (dims, np.array([labels[one] for one in ids.ravel()]).reshape(ids.shape)),
            "p": (dims[:2], ((1 + hits) / (1 + chance.shape[-1])).numpy()),
            "null": (("component", "end", "draw"), null.numpy()),
            "singular": ("component", [part.value for part in parts]),
            "gap_before": ("component", [part.gap[0] for part in parts]),
            "gap_after": ("component", [part.gap[1] for part in parts]),
        }  # fmt: skip
        coords: dict[str, Any] = {
            "component": [str(part.component) for part in parts], "end": ends, "side": sides,
            "side_end": ("side", [side.split()[0] for side in sides]), "side_sign": ("side", [side.split()[1] for side in sides]),
            "rank": np.arange(self.k),
        }  # fmt: skip
        if (table := lm.weights.W_pos) is not None:
            heard = _normed(lm, table.detach().double().cpu()).T  # [d_model, pos]
            read = [rows[end] @ heard * (torch.nan if end == "writes" else 1.0) for end in ends]
            columns["position"] = (("component", "end", "pos"), torch.stack(read, dim=1).numpy())
            coords["pos"] = np.arange(heard.shape[1])
        attrs = {
            "which": self.which, "offset": -1 if self.offset is None else self.offset, "folded": self.folded,
            "vocabulary": _rows(lm), "left_out": lm.spec.vocab - _rows(lm),
        }  # fmt: skip
        return ComponentWordsResult(xr.Dataset(columns, coords, attrs))


def _of(part: One, end: str) -> Tensor:
    return part.write if end in ("writes", "keys") else part.read


def _direction(lm: "LM", layer: int, rows: Tensor, end: str, setting: Setting) -> Tensor:
    """One end of components of a layer, [..., d_model], as a token's normed embedding is multiplied with it; writes as they are."""
    rows = rows.cpu()
    if end == "writes" or not lm.weights.pre_norm:
        return rows
    if not setting.folded:  # what is read has the norm's gain
        rows = rows * lm.weights.norm("attn", layer)[0].double().cpu()
    return rows - rows.mean(dim=-1, keepdim=True) if lm.spec.norm == "layer" else rows


def _through_final(lm: "LM", rows: Tensor) -> Tensor:
    """Writes [row, d_model] as the unembedding sees them: through the final norm, but for its scale."""
    gain = lm.weights.norm("final")[0].double().cpu()
    return (rows - rows.mean(dim=-1, keepdim=True) if lm.spec.norm == "layer" else rows) * gain


def _normed(lm: "LM", x: Tensor) -> Tensor:
    """Rows [n, d_model] as the norm before attention gives them, without its gain; as they are where there is none (OLMo 2)."""
    if not lm.weights.pre_norm:
        return x
    x = x - x.mean(dim=-1, keepdim=True) if lm.spec.norm == "layer" else x
    size = x.square().mean(dim=-1, keepdim=True).sqrt()
    return torch.where(size > 0, x / size.clamp(min=1e-300), 0.0)


def _rows(lm: "LM") -> int:
    """Tokens that there are: rows of the tables that no text reaches are left out."""
    return min(lm.spec.vocab, lm.tokenizer.vocab)


def _slices(lm: "LM") -> list[slice]:
    step = max(1, TILE // (8 * lm.spec.d_model))
    return [slice(start, min(start + step, _rows(lm))) for start in range(0, _rows(lm), step)]


def _unembedding(lm: "LM") -> Iterator[Tensor]:
    """W_U by tiles [d_model, token], float64."""
    table = lm.weights.W_U
    return (_whole(lm, table[:, part].detach().double().cpu(), "W_U") for part in _slices(lm))


def _embedding(lm: "LM") -> Iterator[Tensor]:
    """Normed embeddings by tiles [d_model, token], float64."""
    table = lm.weights.W_E
    return (_normed(lm, _whole(lm, table[part].detach().double().cpu(), "W_E")).T for part in _slices(lm))


def _whole(lm: "LM", tile: Tensor, name: str) -> Tensor:
    if not bool(tile.isfinite().all()):
        raise BadInput(
            f"{name} of {lm.spec.name} has NaN or infinite numbers: no words can be read off it. Is the checkpoint whole?"
        )
    return tile
