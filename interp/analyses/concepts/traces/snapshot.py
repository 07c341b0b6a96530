"""Everything that is measured of one model as it is now, and of two such snapshots: what a change left of a concept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from interp.core.errors import BadInput
from interp.core.lm import LM
from interp.core.seed import numpy_generator
from interp.core.site import Site
from interp.data.concepts import Concept
from interp.data.corpora import pack
from interp.data.prompts import Prompt
from interp.data.tokens import Answers, TokenPrompt, tokenize

from ...overlap import rouge_l
from ..vectors import Vector, check_vectors
from .rankings import related_tokens, top_tokens
from .reading import answers, expect, least_probable, next_token
from .settings import Material, Settings

GROUPS = ("related", "completion", "unrelated")
READERS = ("W_gate", "W_in")


@dataclass(frozen=True)
class Asked:
    """One prompt and what a model made of it."""

    group: str
    """related, completion or unrelated."""
    prompt: Prompt
    answer: str
    """What greedy generation continued it with."""
    prob: float
    """Probability of the whole gold answer, NaN where there is none."""
    correct: float
    """1 where every token of the gold answer was the most probable one, else 0; NaN where there is no gold answer."""
    knowmem: float
    """ROUGE-L of the gold answer (at most `tokens` of it) and as many generated tokens; NaN where there is no gold answer."""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What `measure` found. The rows of `vectors` come first in every array [vector], those of `nulls` after them."""

    name: str
    concept: Concept
    settings: Settings
    material: Material
    vectors: tuple[Vector, ...]
    nulls: tuple[Vector, ...]
    """Other value vectors of the same layers."""
    null_of: tuple[int, ...]
    """Which of `vectors` each of them stands beside."""
    unembedding: Tensor
    """The fixed one that `top` was read with, [d_model, vocab], a copy."""
    own_unembedding: bool
    """Whether that is the model's own, number for number; else it was trained."""
    rows: Tensor
    """Value vectors, float64 [vector, d_model]."""
    readers: Mapping[str, Tensor]
    """Columns of W_gate (where there is one) and W_in of the same neurons, float64 [vector, d_model]."""
    top: Tensor
    """Ids of top tokens with the fixed unembedding, [vector, k]."""
    top_own: Tensor
    """The same with the model's own unembedding."""
    related: tuple[frozenset[int], ...]
    """The concept's tokens among `top`, a set a vector."""
    activation: np.ndarray
    """Mean |m_j| over the tokens of each of the concept's texts, BOS aside, [text, vector]; no rows where it has no texts."""
    asked: tuple[Asked, ...]
    next_logp: Tensor
    """Log-probabilities of the next token at the unrelated prompts, [prompt, vocab]."""
    verbmem: np.ndarray
    """ROUGE-L of the continued second half of each of its texts and that half, [text]."""
    forget_score: np.ndarray
    """Min-K% score of each of its texts, [text]."""
    heldout_score: np.ndarray
    """The same of the held-out texts."""
    neutral_nll: np.ndarray
    """Summed negative log-likelihood of each neutral text, nats [document]."""
    neutral_tokens: np.ndarray
    """Tokens that it was summed over, [document]."""

    def again(self, lm: LM) -> "Snapshot":
        """The same of a model as it is now (the same one after a change, or another): same vectors, settings, texts and unembedding."""
        return _measure(lm, self)

    @property
    def count(self) -> int:
        """Vectors and nulls together."""
        return len(self.vectors) + len(self.nulls)


def measure(
    lm: LM,
    concept: Concept,
    vectors: "Sequence[Vector | str]",
    settings: Settings | None = None,
    *,
    material: Material | None = None,
    unembedding: Tensor | None = None,
) -> Snapshot:
    """Everything about one concept in a model as it is now, inside an `edit_weights` too: nothing is cached.

    `unembedding` reads the top tokens (the model's own where it is not given). Take the second snapshot by `first.again(lm)`. Raises
    `BadInput` for vectors that the model does not have, prompts that do not fit its context, and more top tokens than it has tokens.
    """
    settings, material = settings or Settings(), material or Material()
    named = check_vectors(lm, vectors)
    nulls, null_of = null_vectors(lm, named, settings)
    empty, none = torch.empty(0), np.empty(0)
    fixed = fixed_unembedding(lm) if unembedding is None else unembedding
    blank = Snapshot(
        "", concept, settings, material, named, nulls, null_of, fixed, True, empty, {}, empty, empty, (), none, (), empty, none, none,
        none, none, none,
    )  # fmt: skip
    return _measure(lm, blank)


def fixed_unembedding(lm: LM) -> Tensor:
    """A copy of the model's unembedding [d_model, vocab], at least float32: for all snapshots that are to be compared."""
    return _own(lm).clone()


def _own(lm: LM) -> Tensor:
    own: Tensor = lm.weights.W_U.detach()
    return own.to(torch.promote_types(own.dtype, torch.float32))


def null_vectors(lm: LM, named: Sequence[Vector], settings: Settings) -> tuple[tuple[Vector, ...], tuple[int, ...]]:
    """Value vectors of the same layers, drawn by the vector's name, none of them named; and which vector each stands beside."""
    taken, nulls, beside = set(named), list[Vector](), list[int]()
    for place, vector in enumerate(named):
        order = numpy_generator(settings.seed, "null vectors", vector).permutation(lm.spec.d_mlp)
        free = [one for one in (Vector(vector.layer, int(index)) for index in order) if one not in taken]
        drawn = free[: settings.nulls]
        taken |= set(drawn)
        nulls += drawn
        beside += [place] * len(drawn)
    return tuple(nulls), tuple(beside)


def _measure(lm: LM, plan: Snapshot) -> Snapshot:
    """A snapshot of `lm` by the plan of another one."""
    settings, concept, every = plan.settings, plan.concept, (*plan.vectors, *plan.nulls)
    check_vectors(lm, plan.vectors)
    if plan.unembedding.shape != lm.weights.W_U.shape:
        raise BadInput(
            f"the unembedding is {list(plan.unembedding.shape)} and that of {lm.spec.name} {list(lm.weights.W_U.shape)}: models of "
            "two widths or vocabularies. Compare a model with a changed copy of itself."
        )
    own = _own(lm)
    rows = torch.stack([lm.weights.W_out(vector.layer)[vector.index].detach() for vector in every])
    k = settings.top(lm)
    top = top_tokens(rows, plan.unembedding, k)
    same = torch.equal(own.cpu(), plan.unembedding.cpu())
    related = tuple(related_tokens(lm.tokenizer, concept, ids) for ids in top.tolist())
    texts = [_ids(lm, text, settings) for text in concept.texts[: settings.texts]]
    texts = [ids for ids in texts if len(ids) > 1]
    heldout = [_ids(lm, text, settings) for text in plan.material.heldout[: settings.texts]]
    asked, next_logp = _ask(lm, concept, settings)
    scores = [
        np.array([least_probable(one.logp, settings.min_share) for one in expect(lm, part, settings.batch_tokens)])
        for part in (texts, [ids for ids in heldout if len(ids) > 1])
    ]
    nll, tokens = _neutral(lm, plan.material.neutral, settings)
    return replace(
        plan, name=lm.spec.name, own_unembedding=same, rows=rows.double().cpu(),
        readers=_readers(lm, every), top=top, top_own=top if same else top_tokens(rows, own, k), related=related,
        activation=_activation(lm, every, texts, settings), asked=asked, next_logp=next_logp, verbmem=_verbmem(lm, texts, settings),
        forget_score=scores[0], heldout_score=scores[1], neutral_nll=nll, neutral_tokens=tokens,
    )  # fmt: skip


def _readers(lm: LM, vectors: Sequence[Vector]) -> dict[str, Tensor]:
    found = {}
    for name in READERS:
        if name == "W_gate" and not lm.spec.gated:
            continue
        view = getattr(lm.weights, name)
        found[name] = torch.stack([view(v.layer)[:, v.index].detach().double().cpu() for v in vectors])
    return found


def _ids(lm: LM, text: str, settings: Settings) -> Tensor:
    """A text as ids, cut to what is read of it."""
    ids = lm.tokenizer.encode(text, bos=settings.bos).ids
    return torch.tensor(ids[: min(settings.text_tokens, lm.spec.n_ctx)], dtype=torch.int64)


def _activation(lm: LM, vectors: Sequence[Vector], texts: Sequence[Tensor], settings: Settings) -> np.ndarray:
    """Mean |m_j| of each text's tokens but a BOS, [text, vector]."""
    means = np.full((len(texts), len(vectors)), np.nan)
    sites = {vector.layer: Site("mlp_post", vector.layer) for vector in vectors}
    for part in pack([len(text) for text in texts], settings.batch_tokens) if texts else []:
        read = lm.read([texts[place] for place in part], list(sites.values()))
        lengths = [len(texts[place]) for place in part]
        columns = torch.stack([read[sites[v.layer]][:, v.index].abs().double() for v in vectors], dim=1).cpu()
        for place, values in zip(part, columns.split(lengths), strict=True):
            skip = int(texts[place][0] == lm.tokenizer.bos_id and len(values) > 1)
            means[place] = values[skip:].mean(dim=0).numpy()
    return means


def _ask(lm: LM, concept: Concept, settings: Settings) -> tuple[tuple[Asked, ...], Tensor]:
    """Every prompt's generated answer, and how the gold answer was expected; the next token at the unrelated ones."""
    groups = {"related": concept.related, "completion": concept.completions, "unrelated": concept.unrelated}
    rows: list[tuple[str, Prompt, TokenPrompt]] = []
    for group, prompts in groups.items():
        for prompt in prompts[: settings.prompts]:
            if group == "completion":
                prompt = Prompt.of(settings.request(concept, prompt.text), answer=prompt.answer)
            how: Answers = "whole" if group != "completion" and prompt.answer else "first"
            rows.append(
                (group, prompt, tokenize(prompt, lm.tokenizer, bos=settings.bos, answers=how, n_ctx=lm.spec.n_ctx))
            )
    if not rows:
        return (), torch.empty(0, lm.spec.vocab)
    said = answers(lm, [torch.tensor(tokens.ids) for *_, tokens in rows], settings.tokens)
    gold = [place for place, (group, _, tokens) in enumerate(rows) if group != "completion" and tokens.answer_ids]
    whole = [torch.tensor(rows[place][2].ids + rows[place][2].answer_ids) for place in gold]
    expected = dict(zip(gold, expect(lm, whole, settings.batch_tokens), strict=True))
    found = []
    for place, ((group, prompt, tokens), (ids, answer)) in enumerate(zip(rows, said, strict=True)):
        prob = correct = known = float("nan")
        if place in expected:
            count = len(tokens.answer_ids)
            prob = float(np.exp(expected[place].logp[-count:].sum()))
            correct = float(expected[place].first[-count:].all())
            compared = min(count, settings.tokens)
            known = rouge_l(lm.tokenizer.decode(tokens.answer_ids[:compared]), lm.tokenizer.decode(ids[:compared]))
        found.append(Asked(group, prompt, answer, prob, correct, known))
    unrelated = [torch.tensor(tokens.ids) for group, _, tokens in rows if group == "unrelated"]
    logp = next_token(lm, unrelated, settings.batch_tokens) if unrelated else torch.empty(0, lm.spec.vocab)
    return tuple(found), logp


def _verbmem(lm: LM, texts: Sequence[Tensor], settings: Settings) -> np.ndarray:
    """ROUGE-L of each text's second half (at most `tokens` of it) and what the model puts after the first, [text]."""
    if not texts:
        return np.empty(0)
    halves = [(len(text) + 1) // 2 for text in texts]
    rests = [text[half : half + settings.tokens].tolist() for text, half in zip(texts, halves, strict=True)]
    said = answers(lm, [text[:half] for text, half in zip(texts, halves, strict=True)], max(map(len, rests)))
    decode = lm.tokenizer.decode
    return np.array(
        [rouge_l(decode(rest), decode(ids[: len(rest)])) for rest, (ids, _) in zip(rests, said, strict=True)]
    )


def _neutral(lm: LM, texts: Sequence[str], settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    documents = [ids for ids in (_ids(lm, text, settings) for text in texts) if len(ids) > 1]
    expected = expect(lm, documents, settings.batch_tokens)
    return np.array([-one.logp.sum() for one in expected]), np.array([len(one.logp) for one in expected])
