"""The scan itself."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from interp.core.analysis import Analysis, Cost
from interp.core.errors import BadInput, one_of
from interp.core.stats import random_directions
from interp.core.topk import TILE, Moments, Top, topk
from interp.data.concepts import Concepts
from interp.data.sources import read_texts

from .coherence import Embeddings, Kinds, Together, kinds_of
from .held import Held, auc, enrichment, held, nearness
from .result import RANKS, ConceptScanResult, Rank
from .sources import Source

if TYPE_CHECKING:
    from interp.core.lm import LM

PUBLISHED = 200
"""Tokens a vector, in the paper."""
SETS = 99
"""Shuffled sets of words."""
SOURCES = ("mlp", "ov", "rows")


@dataclass(frozen=True)
class ConceptScan(Analysis[ConceptScanResult]):
    """Every vector that writes to the stream, in the words of the vocabulary. Concepts, where given, are looked for among them."""

    takes: ClassVar[str] = "concepts"
    optional: ClassVar[bool] = True

    source: Literal["mlp", "ov", "rows"] = "mlp"
    """Value vectors of MLPs, what components of attention heads write (ov), or decoder rows of a dictionary file."""
    rows: str | None = None
    """The file of decoder rows: .safetensors with W_dec [latent, d_model] (or decoder.weight), .npy, or the folder of an SAE."""
    k: int | None = None
    """Top tokens that make the score; by default the paper's 200, or a fiftieth of a vocabulary below 10,000 (at least 5)."""
    keep: float = 0.7
    """Share of each layer's vectors that is kept, those with the largest mean logit. The paper drops the lowest 30 %."""
    coherence: Literal["embedding", "pmi"] = "embedding"
    """How tokens are held together: by their input embeddings, or by co-occurrence in texts (`corpus`, or the concepts' own)."""
    corpus: str | None = None
    """File of texts, one a line: for `pmi`, and what concepts' articles are compared with besides one another."""
    rank_by: Rank = "concreteness"
    """What strongest means: mean top logit (grows with the vector's length), its z over the vocabulary, or coherence."""
    folded: bool = False
    """Through the final norm's gain, centred for LayerNorm. The paper projects raw."""
    most: int = 50
    """Strongest vectors, and vectors of each concept (a tenth of it, at least 5), whose tokens are held."""
    vectors: tuple[str, ...] = ()
    """Further vectors whose tokens are held, by name."""
    draws: int = 1000
    """Random directions (and sets of tokens) that scores are compared with."""
    seed: int = 0
    """Names them."""

    def __post_init__(self) -> None:
        one_of("source", self.source, SOURCES)
        one_of("coherence", self.coherence, ("embedding", "pmi"))
        one_of("rank_by", self.rank_by, RANKS)
        named = (self.vectors,) if isinstance(self.vectors, str) else tuple(map(str, self.vectors))
        object.__setattr__(self, "vectors", named)
        if not 0 < self.keep <= 1:
            raise BadInput(f"`keep` must be a share above 0 and up to 1; not {self.keep}.")
        for name in ("k", "most", "draws"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise BadInput(f"`{name}` must be at least 1; not {getattr(self, name)}.")
        if (self.rows is not None) != (self.source == "rows"):
            raise BadInput(f"`rows` and source='rows' go together; not rows={self.rows!r} and source={self.source!r}.")

    def check(self, lm: "LM", data: Any) -> None:
        """Refuse data that is no concepts, more tokens than there are, and weights that nobody has named."""
        if data is not None and not isinstance(data, Concepts):
            raise BadInput(f"concepts are needed (`interp.data.concepts`), or nothing; not {type(data).__name__}.")
        if self.k is not None and self.k > _rows(lm):
            raise BadInput(f"k={self.k} top tokens, and {lm.spec.name} has a vocabulary of {_rows(lm)}. Ask for fewer.")
        if self.coherence == "pmi" and not self._texts(data):
            raise BadInput(
                "coherence='pmi' needs texts: give `corpus`, a file with one a line, or concepts with `texts`."
            )
        self._source(lm).check()

    def cost(self, lm: "LM", data: Any = None) -> Cost:
        """No forward pass; the products' size is in the note."""
        spec = lm.spec
        many = spec.n_layers * (
            spec.n_heads * spec.d_head * 2 if self.source == "ov" else spec.d_mlp * max(1, spec.experts)
        )
        flops = 2 * many * spec.d_model * _rows(lm)
        held = 4 * TILE[0] * TILE[1] + 12 * 8192 * self.tokens(lm) + 12 * spec.d_model**2 + 80 * many
        what = "rows of the file" if self.source == "rows" else f"{many:,} vectors, {flops / 1e12:,.3g} TFLOP"
        return Cost(bytes=held, note=f"no forward pass; {what}")

    def tokens(self, lm: "LM") -> int:
        """k for this model."""
        return self.k or min(PUBLISHED, max(5, _rows(lm) // 50), _rows(lm))

    def run(self, lm: "LM", data: Any, store: Any) -> ConceptScanResult:
        """Project all vectors, compare them with random directions, and look for the concepts."""
        return _Scan(self, lm, data, self._texts(data)).run()

    def _source(self, lm: "LM") -> Source:
        return Source(lm, self.source, self.rows, self.folded)

    def _texts(self, data: Concepts | None) -> tuple[list[str], list[str]] | None:
        """The corpus, and with it the concepts' texts; None where there are none."""
        corpus = (
            []
            if self.corpus is None
            else [text for _, text in read_texts(self.corpus, split="line", field="text", subset=None)[0]]
        )
        every = corpus + [text for concept in data or () for text in concept.texts]
        return (corpus, every) if every else None


class _Scan:
    """One run."""

    def __init__(
        self, how: ConceptScan, lm: "LM", data: Concepts | None, texts: tuple[list[str], list[str]] | None
    ) -> None:
        self.how, self.lm, self.rows, self.k = how, lm, _rows(lm), how.tokens(lm)
        self.table = lm.weights.W_U.detach()[:, : self.rows]
        self.embeddings = Embeddings(lm, self.rows)
        corpus, every = texts or ([], [])
        self.coherer = self.embeddings if how.coherence == "embedding" else Together(lm.tokenizer, every, self.rows)
        self.moments = Moments(self.table)
        self.kinds: Kinds = kinds_of(lm.tokenizer, self.rows)
        self.held: list[Held] = (
            held(
                data,
                lm.tokenizer,
                self.embeddings,
                rows=self.rows,
                draws=SETS,
                seed=how.seed,
                most=max(5, how.most // 10),
                corpus=corpus,
            )
            if data is not None
            else []
        )
        self.widest = max([self.k, *(len(one.ids) for one in self.held)])
        self.fallback = 0

    def run(self) -> ConceptScanResult:
        null = self._null()
        columns, names, numbers = self._all(null)
        columns["kept"] = _kept(columns["concreteness"], numbers["layer"], self.how.keep)
        strong = self._strong(columns, names)
        rows = self._again(strong)
        data = {name: ("vector", values) for name, values in columns.items()}
        data |= {f"null_{name}": ("draw", values) for name, values in null.items()}
        data |= self._tokens(self._through(rows))
        coords: dict[str, Any] = {
            "vector": names,
            "strong": [names[place] for place in strong],
            "rank": np.arange(self.k),
        }
        coords |= {name: ("vector", values) for name, values in numbers.items()}
        if self.held:
            data |= self._concepts(strong, rows, len(names))
            coords["concept"] = [one.name for one in self.held]
        attrs = {
            "source": self.how.source, "k": self.k, "folded": self.how.folded, "coherence_by": self.how.coherence,
            "rank_by": self.how.rank_by, "most": self.how.most,
            "vocabulary": self.rows, "out_of_reach": self.lm.spec.vocab - self.rows, "left_out": self.left_out, "fallback": self.fallback,
            "marked": self.kinds.marked, "post_norm": bool(self.lm.spec.post_norm and self.how.source == "mlp"),
            "split": {one.name: list(one.split) for one in self.held if one.split},
        }  # fmt: skip
        return ConceptScanResult(xr.Dataset(data, coords, attrs))

    def _null(self) -> dict[str, np.ndarray]:
        """z and coherence of random directions, and coherence of random tokens with embeddings as long as their top tokens'."""
        drawn = random_directions(self.how.draws, self.lm.spec.d_model, self.how.seed, "concept scan").to(
            self.table.device
        )
        top, scores = self._scores(drawn)
        sets = self.embeddings.matched(top.ids[:, : self.k], self.how.seed, "concept scan")
        return {"z": scores["z"], "coherence": scores["coherence"], "sets": _numbers(self.coherer.of(sets))}

    def _scores(self, rows: Tensor) -> tuple[Top, dict[str, np.ndarray]]:
        """The top tokens of vectors [row, d_model], and their scores."""
        seen = self._through(rows.to(self.table.device))
        top = topk(seen, self.table, self.widest)
        self.fallback += top.fallback
        concrete = top.values[:, : self.k].double().mean(dim=1)
        self.mean, self.spread = self.moments.of(seen)
        # a row of zeros has no spread, and rounding is none
        spread = self.spread.masked_fill(self.spread <= 1e-12 * concrete.abs(), torch.nan)
        kinds = self.kinds.kind[top.ids[:, : self.k].cpu().numpy()]
        return top, {
            "concreteness": _numbers(concrete), "z": _numbers((concrete - self.mean) / spread),
            "coherence": _numbers(self.coherer.of(top.ids[:, : self.k])), "whole": (kinds == 0).mean(axis=1),
            "partial": ((kinds == 1) | (kinds == 2)).mean(axis=1), "other": (kinds == 3).mean(axis=1),
            "norm": _numbers(rows.double().norm(dim=1)),
        }  # fmt: skip

    def _all(self, null: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[str], dict[str, np.ndarray]]:
        """Scores of every vector, names, and layer, index, expert, head and sign."""
        found: list[dict[str, np.ndarray]] = []
        names, numbers, source = list[str](), list[np.ndarray](), self.how._source(self.lm)
        for part in source.parts():
            top, scores = self._scores(part.rows)
            scores |= {f"p_{name}": _p(scores[name], null[name]) for name in ("z", "coherence")}
            found.append(scores)
            self._look(top, part.rows, len(names))
            names += part.names
            n = len(part.names)
            fixed = [np.full(n, value) for value in (part.layer, part.expert, part.head, part.sign)]
            numbers.append(np.stack([fixed[0], part.index, *fixed[1:]]))
        if not names:
            raise BadInput(
                f"no vector of {self.lm.spec.name} can be scanned: all {source.left_out} components are left out."
            )
        self.left_out = source.left_out
        columns = {name: np.concatenate([one[name] for one in found]) for name in found[0]}
        stacked = dict(zip(("layer", "index", "expert", "head", "sign"), np.concatenate(numbers, axis=1), strict=True))
        return columns, names, stacked

    def _look(self, top: Top, rows: Tensor, first: int) -> None:
        seen = self._through(rows.to(self.table.device)) if self.held else rows
        ids, mean, spread = top.ids.cpu(), self.mean.cpu(), self.spread.cpu()
        for one in self.held:
            words = (seen @ self.table[:, one.ids].to(seen.dtype)).cpu() if len(one.ids) else None
            one.see(ids, self.k, first, words, mean, spread)

    def _through(self, rows: Tensor) -> Tensor:
        """Vectors as the unembedding sees them: as they are, or through the final norm's gain."""
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        if not self.how.folded:
            return rows
        gain = self.lm.weights.norm("final")[0].detach().to(rows)
        return (rows - rows.mean(dim=1, keepdim=True) if self.lm.spec.norm == "layer" else rows) * gain

    def _strong(self, columns: dict[str, np.ndarray], names: list[str]) -> list[int]:
        """Places of the vectors whose tokens are held: the strongest, the named, and those of concepts."""
        score = np.where(columns["kept"], np.nan_to_num(columns[self.how.rank_by], nan=-np.inf), -np.inf)
        first = np.argsort(-score, kind="stable")[: min(self.how.most, int(columns["kept"].sum()))].tolist()
        places = {name: place for place, name in enumerate(names)} if self.how.vectors else {}
        for name in self.how.vectors:
            if name not in places:
                raise BadInput(f"{name!r} was not scanned; vectors are called like {names[0]} and {names[-1]}.")
        of_concepts = [found[2] for one in self.held for found in one.best]
        return list(dict.fromkeys([*first, *(places[name] for name in self.how.vectors), *of_concepts]))

    def _again(self, strong: Sequence[int]) -> Tensor:
        """The rows [strong, d_model] at these places."""
        wanted, found, first = set(strong), dict[int, Tensor](), 0
        for part in self.how._source(self.lm).parts():
            inside = range(first, first + len(part.names))
            found |= {place: part.rows[place - first].to(self.table.device) for place in wanted.intersection(inside)}
            first += len(part.names)
        return torch.stack([found[place] for place in strong])

    def _toward(self, raw: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, int]:
        """Rows, the direction along which the mean logit of tokens exceeds that of all, and the dimensions that random rows have."""
        toward = self.table[:, ids].double().mean(dim=1) - self.moments.middle.to(torch.float64)
        raw, n = raw.double(), self.lm.spec.d_model
        if self.how.folded:
            toward = toward * self.lm.weights.norm("final")[0].detach().double()
            if self.lm.spec.norm == "layer":
                raw, toward, n = raw - raw.mean(dim=1, keepdim=True), toward - toward.mean(), n - 1
        return raw, toward, n

    def _tokens(self, rows: Tensor) -> dict[str, Any]:
        top = topk(rows, self.table, self.k)
        ids = top.ids.cpu().numpy()
        labels = {int(one): self.lm.tokenizer.label(int(one)) for one in np.unique(ids)}
        token = np.array([labels[int(one)] for one in ids.ravel()]).reshape(ids.shape)
        dims = ("strong", "rank")
        return {
            "token_id": (dims, ids.astype(np.int32)),
            "token": (dims, token),
            "logit": (dims, top.values.cpu().float().numpy()),
        }

    def _concepts(self, strong: list[int], raw: Tensor, vectors: int) -> dict[str, Any]:
        """The vectors of each concept [concept, place], with what chance would give."""
        rows = self._through(raw)
        shape = len(self.held), max(len(one.best) for one in self.held)
        kinds = ("precision", "p", "p_words", "p_shuffled", "margin", "auc", "article", "article_p", "article_words")
        found = {name: np.full(shape, np.nan) for name in kinds}
        where, many = np.full(shape, -1), vectors * len(self.held)
        chance = np.full((shape[0], SETS), np.nan)
        for number, one in enumerate(self.held):
            w, a = len(one.ids), len(one.article)
            if len(one.chance):
                chance[number] = one.chance.numpy()
            for place, (precision, margin, at, share, hits) in enumerate(one.best):
                where[number, place] = at
                found["precision"][number, place], found["margin"][number, place] = precision, margin
                if w:
                    row = strong.index(at)
                    near = nearness(*self._toward(raw[row][None], one.ids))[0]
                    found["p"][number, place] = min(1.0, near * many)
                    found["p_words"][number, place] = min(1.0, enrichment(round(precision * w), w, w, self.rows) * many)
                    found["p_shuffled"][number, place] = _p(np.array([precision]), chance[number])[0]
                    logits = (rows[row][None] @ self.table.to(rows.dtype)).cpu()
                    found["auc"][number, place] = float(auc(logits, one.ids))
                if a:
                    found["article"][number, place] = share
                    near = nearness(*self._toward(raw[strong.index(at)][None], one.article))[0]
                    found["article_p"][number, place] = min(1.0, near * many)
                    found["article_words"][number, place] = min(1.0, enrichment(hits, self.k, a, self.rows) * many)
        dims = ("concept", "place")
        return {name: (dims, values) for name, values in found.items()} | {
            "held": (dims, where), "null_precision": (("concept", "set"), chance),
            "tokens": ("concept", [len(one.ids) for one in self.held]),
            "article_tokens": ("concept", [len(one.article) for one in self.held]),
        }  # fmt: skip


def _rows(lm: "LM") -> int:
    """Tokens that a text can reach: further rows of the tables are left out."""
    return min(lm.spec.vocab, lm.tokenizer.vocab)


def _kept(score: np.ndarray, layers: np.ndarray, keep: float) -> np.ndarray:
    """The share `keep` of each layer with the largest score (rounded up), [vector]."""
    kept = np.zeros(len(score), dtype=bool)
    for layer in np.unique(layers):
        places = np.flatnonzero(layers == layer)
        order = places[np.argsort(-score[places], kind="stable")]
        kept[order[: math.ceil(keep * len(places) - 1e-9)]] = True
    return kept


def _p(score: np.ndarray, null: np.ndarray) -> np.ndarray:
    """How often a random direction scores as much, [vector]; NaN where there is no score."""
    known = np.sort(null[np.isfinite(null)])
    beyond = len(known) - np.searchsorted(known, score * (1 - 1e-12), side="left")
    return np.where(np.isfinite(score), (1 + beyond) / (1 + len(known)), np.nan)


def _numbers(values: Tensor) -> np.ndarray:
    return values.detach().cpu().double().numpy()
