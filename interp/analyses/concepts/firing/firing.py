"""Where a value vector fires: on which tokens its neuron is active, and whether these are a concept's.

The question. The words that a value vector promotes (v_j @ W_U) come from the weights alone. Whether the model *uses* it for the concept
is another question: is its coefficient m_j(x), the neuron's activation (`mlp.hook_post`), large where the text is about the concept, and
small elsewhere?

    MLP output = sum over j of m_j(x) v_j

Four answers, from one pass over the texts of all concepts (and of a further file, `corpus`):

    contexts      the tokens on which m_j is largest, and smallest (gelu and silu neurons fire negatively too), in their sentences
    density       the share of tokens with |m_j| above a share of its largest, and the share that is not exactly 0
    selectivity   AUC of m_j for the concept's texts against all others: by the text's maximum, its mean, or token by token
    write         |m_j| |v_j|, what it writes, over the length of the stream, and how often it is among the layer's largest writes

How selectivity is scored. Half of the texts (every second of each concept, in a seeded order) only choose the sign and the threshold; the
AUC and the accuracy are those of the other half. Intervals resample whole texts, p-values exchange which texts are the concept's, adjusted
after Holm over all vectors. And a neuron is compared with its neighbours: `neurons` others of its layer, drawn at random, go through the
same halves; `null_share` is the share that separates the texts at least as well. Every text is taken once (texts that differ in
spaces or capitals only are one); one that belongs to two concepts is in both, and a BOS counts nowhere.

Source. Geva et al. 2021, "Transformer Feed-Forward Layers Are Key-Value Memories" (arXiv 2012.14913), section 3 (keys and the texts that
trigger them); Hong et al. 2024 (arXiv 2406.11614), section 5 (activation of concept vectors on their own texts).

When it misleads
- Texts on one subject differ from others in style, length and single words; almost every neuron separates them somewhat. An AUC of 0.9
  with half of the neighbours above it says nothing about this neuron: read `null_share` first.
- A maximum grows with the number of tokens: where a concept's texts are longer, `max` favours every neuron; `mean` and `token` do not.
- Selective is not complete: a neuron that fires on one word of the concept has a high precision and misses the rest. Look at the contexts.
- Firing is not doing: zero the vector (`interp concept-validate`) to see what follows from it.
- Chunks of one article are not independent; intervals over them are too narrow. With an AUC of exactly 1 the bootstrap has no width.

    import interp
    lm = interp.load("atlas")
    data = interp.models.reference.concept_set("atlas")
    fires = interp.ConceptFiring(concept=("colour",))(lm, data)
    fires.selectivity(), fires.contexts(fires.vectors[0]), fires.density()
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import xarray as xr

from interp.core.analysis import Analysis, Cost
from interp.core.errors import BadInput, listing
from interp.core.lm import LM
from interp.core.seed import numpy_generator
from interp.core.site import Site, expand
from interp.data import pack

from ..vectors import Vector, check_vectors, vectors_of
from .collect import Firing, collect
from .material import Material, material
from .ranking import Ranks, balanced_accuracy, best_cut, by_text
from .result import MEASURES, FiringResult

POOLS = ("largest", "smallest", "mean")


@dataclass(frozen=True)
class ConceptFiring(Analysis[FiringResult]):
    """Where the neurons of value vectors fire, and how well that tells a concept's texts from others."""

    takes: ClassVar[str] = "concepts"

    concept: tuple[str, ...] = ()
    """Names of the concepts to look at; none given means all. Texts of the others are what they are compared with."""
    vectors: tuple[str, ...] = ()
    """Value vectors by name, such as 2.474, each scored for every concept. By default each concept's own are found by its words."""
    n: int = 1
    """Value vectors a concept, where they are found."""
    corpus: str = ""
    """A further text file (.txt, .jsonl) that is about none of the concepts, to be selective against."""
    corpus_split: str = "auto"
    """Where one text of that file ends: auto (at <|endoftext|>), whole, line, blank, or a separator."""
    corpus_texts: int = 400
    """At most so many texts of that file, evenly spread over it."""
    neurons: int = 200
    """Other neurons of the same layer that a vector is compared with, at random; all others where there are fewer."""
    bos: bool | None = None
    """Put a BOS before each text; None follows the model's tokenizer. Nothing is counted on it."""
    batch_tokens: int = 2048
    """Tokens in one forward pass, where nothing is read from a store."""
    seed: int = 0
    """Names the split into halves and the draw of other neurons."""

    def __post_init__(self) -> None:
        for name, least in (("n", 1), ("neurons", 0), ("batch_tokens", 2), ("corpus_texts", 1)):
            if getattr(self, name) < least:
                raise BadInput(f"`{name}` must be at least {least}; not {getattr(self, name)}.")
        for name in ("concept", "vectors"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str | Vector) else tuple(value))
        if self.vectors and self.n != 1:
            raise BadInput(
                f"`n={self.n}` says how many vectors to find, and `vectors` names them. Leave one of them out."
            )

    def check(self, lm: LM, data: Any) -> None:
        """Refuse concepts without texts, texts that leave nothing to compare, and vectors that the model does not have."""
        expand([Site("mlp_post", 0)], lm.spec)
        if self.vectors:
            check_vectors(lm, self.vectors)
        self._material(lm, data)

    def cost(self, lm: LM, data: Any = None) -> Cost:
        """One pass over the texts, up to the last layer with a vector."""
        made = self._material(lm, data)
        columns = (len(self.vectors) or self.n * len(made.names)) + self.neurons
        tokens = made.corpus.n_tokens
        held = 4 * tokens * columns + 4 * self.batch_tokens * (lm.spec.d_mlp + lm.spec.d_model) * lm.spec.n_layers
        passes = len(pack(made.corpus.lengths, self.batch_tokens))
        return Cost(float(passes), tokens, held, f"{len(made.texts)} texts, all vectors in one pass")

    def run(self, lm: LM, data: Any, store: Any = None) -> FiringResult:
        """Read the texts once, score every vector for every concept."""
        made = self._material(lm, data)
        vectors, own, words = self._vectors(lm, data, made.names)
        beside = {layer: self._beside(lm, vectors, layer) for layer in sorted({vector.layer for vector in vectors})}
        fired = collect(lm, made.corpus, vectors, beside, store, budget=self.batch_tokens)
        layers = {layer: _Layer(fired, made, layer) for layer in beside}
        return _result(lm, made, fired, vectors, own, words, beside, layers, self)

    def _material(self, lm: LM, data: Any) -> Material:
        return material(
            lm,
            data,
            self.concept,
            self.corpus,
            split=self.corpus_split,
            most=self.corpus_texts,
            bos=self.bos,
            seed=self.seed,
        )

    def _vectors(self, lm: LM, data: Any, names: tuple[str, ...]) -> tuple[list[Vector], np.ndarray, np.ndarray]:
        """The vectors, which of them are a concept's own [vector, concept], and the share of its words that they hold."""
        found: dict[Vector, dict[int, float]] = {}
        if self.vectors:
            every = dict.fromkeys(range(len(names)), np.nan)
            found = {vector: dict(every) for vector in check_vectors(lm, self.vectors)}
        else:
            for column, name in enumerate(names):
                concept = data.get(name)
                if not concept.words and not concept.vectors:
                    raise BadInput(
                        f"the concept {name!r} has neither `words` nor `vectors`, so none can be found for it. "
                        f"Give it some, name `vectors`, or choose `concept` among {listing(data.names)}."
                    )
                for vector, share in vectors_of(lm, concept, self.n):
                    found.setdefault(vector, {})[column] = share
        vectors = sorted(found)
        words = np.array([[found[vector].get(column, np.nan) for column in range(len(names))] for vector in vectors])
        own = np.array([[column in found[vector] for column in range(len(names))] for vector in vectors])
        return vectors, own, words

    def _beside(self, lm: LM, vectors: list[Vector], layer: int) -> list[int]:
        taken = {vector.index for vector in vectors if vector.layer == layer}
        others = np.array([index for index in range(lm.spec.d_mlp) if index not in taken])
        order = numpy_generator(self.seed, "other neurons", layer).permutation(len(others))
        return sorted(others[order[: self.neurons]].tolist())


class _Layer:
    """All columns of a layer: pooled by text, ranked in both halves, scored for every concept."""

    def __init__(self, fired: Firing, made: Material, layer: int) -> None:
        values = fired.values[layer].astype(np.float64)  # [token, column]
        self.made, self.values, self.text = made, values, fired.text
        self.pooled = {name: pool(values, fired.text, len(made.texts), name) for name in POOLS}
        shape = (len(MEASURES), values.shape[1], len(made.names))
        self.auc, self.sign = np.full(shape, np.nan), np.ones(shape, dtype=np.int8)
        every = np.arange(len(made.texts))
        for place, measure in enumerate(MEASURES):
            ups, downs = [], []
            for half in (~made.held, made.held):
                keep = half[fired.text] if measure == "token" else half
                owner = fired.text[keep] if measure == "token" else every[half]
                ups.append(self._areas(self.scores(measure, 1)[keep], owner, half))
                flipped = self._areas(self.scores(measure, -1)[keep], owner, half) if measure == "max" else 1 - ups[-1]
                downs.append(flipped)
            turned = downs[0] > ups[0]  # chosen on the first half
            self.sign[place] = np.where(turned, -1, 1)
            self.auc[place] = np.where(turned, downs[1], ups[1])  # scored on the second

    def _areas(self, scores: np.ndarray, owner: np.ndarray, half: np.ndarray) -> np.ndarray:
        """AUC [column, concept] of scores [item, column] within one half of the texts."""
        ranks = Ranks.of(scores, owner, len(half))
        return np.stack([ranks.auc(inside & half) for inside in self.made.member.T], axis=-1)

    def scores(self, measure: str, sign: int) -> np.ndarray:
        """Scores [text or token, column] of a measure, larger where the neuron fires more with that sign."""
        return signed(self.pooled, self.values, measure, sign)

    def cut(self, place: int, column: int, concept: int) -> tuple[float, float]:
        """Threshold chosen on the first half, balanced accuracy on the second."""
        measure, sign = MEASURES[place], int(self.sign[place, column, concept])
        scores = self.scores(measure, sign)[:, column]
        inside, held = self.made.member[:, concept], self.made.held
        if measure == "token":
            inside, held = inside[self.text], held[self.text]
        threshold = best_cut(scores[~held], inside[~held]).threshold
        return threshold, balanced_accuracy(scores[held], inside[held], threshold)


def pool(values: np.ndarray, text: np.ndarray, texts: int, name: str) -> np.ndarray:
    """Coefficients [token, column] by text [text, column]: their largest, smallest, or mean value."""
    reduce = {"largest": np.maximum, "smallest": np.minimum, "mean": np.add}[name]
    out = by_text(reduce, values, text, texts)
    return out / np.bincount(text, minlength=texts)[:, None] if name == "mean" else out


def signed(pooled: Any, tokens: np.ndarray, measure: str, sign: int) -> np.ndarray:
    """The scores of a measure with a sign: of a neuron that fires downwards, the `max` is minus its smallest value."""
    if measure == "max":
        return np.asarray(pooled["largest"] if sign > 0 else -pooled["smallest"])
    return np.asarray(sign * (pooled["mean"] if measure == "mean" else tokens))


def _result(
    lm: LM, made: Material, fired: Firing, vectors: list[Vector], own: np.ndarray, words: np.ndarray,
    beside: dict[int, list[int]], layers: dict[int, _Layer], config: ConceptFiring,
) -> FiringResult:  # fmt: skip
    """Everything, labelled."""
    where = [(vector.layer, [v for v in vectors if v.layer == vector.layer].index(vector)) for vector in vectors]
    shape = (len(MEASURES), len(vectors), len(made.names))
    auc, sign = (np.stack([getattr(layers[at], name)[:, c] for at, c in where], axis=1) for name in ("auc", "sign"))
    threshold, accuracy = np.empty(shape), np.empty(shape)
    for index in np.ndindex(*shape):
        layer, column = where[index[1]]
        threshold[index], accuracy[index] = layers[layer].cut(index[0], column, index[2])
    widest = max(len(one) for one in beside.values())
    null = np.full((len(beside), len(MEASURES), widest, len(made.names)), np.nan)
    for row, (layer, others) in enumerate(beside.items()):
        if others:
            null[row, :, : len(others)] = layers[layer].auc[:, -len(others) :]
    seen, places = np.unique(fired.ids, return_inverse=True)
    by_vector = {
        name: np.stack([getattr(fired, name)[layer][:, column] for layer, column in where])
        for name in ("values", "ahead", "share")
    }
    if lm.spec.post_norm:
        by_vector["share"][:] = np.nan
    pooled = {name: np.stack([layers[at].pooled[name][:, column] for at, column in where]) for name in POOLS}
    dims = ("measure", "vector", "concept")
    data = {
        "auc": (dims, auc), "sign": (dims, sign), "threshold": (dims, threshold), "accuracy": (dims, accuracy),
        "null_auc": (("layer", "measure", "neuron", "concept"), null),
        "own": (("vector", "concept"), own), "words": (("vector", "concept"), words),
        "coefficient": (("vector", "token"), by_vector["values"]), "ahead": (("vector", "token"), by_vector["ahead"]),
        "stream_share": (("vector", "token"), by_vector["share"]),
        **{name: (("vector", "text"), values) for name, values in pooled.items()},
        "member": (("text", "concept"), made.member),
    }  # fmt: skip
    norms = [float(lm.weights.W_out(vector.layer)[vector.index].float().norm()) for vector in vectors]
    coords = {
        "measure": list(MEASURES), "vector": [str(vector) for vector in vectors], "concept": list(made.names),
        "vector_layer": ("vector", [vector.layer for vector in vectors]), "norm": ("vector", norms), "layer": list(beside),
        "text": np.arange(len(made.texts)), "held_out": ("text", made.held), "source": ("text", list(made.source)),
        "token_text": ("token", fired.text), "token_document": ("token", fired.document),
        "token_id": ("token", places.astype(np.int32)), "label": ("id", [lm.tokenizer.label(int(one)) for one in seen]),
    }  # fmt: skip
    attrs = {
        "seed": config.seed, "neurons": {str(layer): len(others) for layer, others in beside.items()},
        "d_mlp": lm.spec.d_mlp, "given": bool(config.vectors), "notes": list(made.corpus.notes),
        "corpus": config.corpus, "write": "before the norm behind the MLP" if lm.spec.post_norm else "",
    }  # fmt: skip
    return FiringResult(xr.Dataset(data, coords, attrs))
