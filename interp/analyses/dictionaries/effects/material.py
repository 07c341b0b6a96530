"""What an effect is measured on: documents or prompts in groups of one length, with the codes of every token."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.core.batch import Batch
from interp.core.dictionary import Codes, Dictionary
from interp.core.errors import BadInput
from interp.core.lm import LM
from interp.data import Corpus, Prompt, pack
from interp.data.prompts import PromptPair
from interp.data.tokens import tokenize

from ..latents.reading import read_views


@dataclass(frozen=True, eq=False)
class Material:
    """Rows of tokens."""

    data: Corpus
    start: int
    """Tokens at the beginning of a row that do not count: its BOS."""
    answers: tuple[int, ...] = ()
    """Answer of each row, where the rows are prompts; foils, -1 where there is none."""
    foils: tuple[int, ...] = ()

    def groups(self, budget: int) -> list[list[int]]:
        """Places of rows of one length, in batches of about `budget` tokens."""
        by_length: dict[int, list[int]] = {}
        for place, length in enumerate(self.data.lengths):
            by_length.setdefault(length, []).append(place)
        return [
            [places[one] for one in part]
            for length, places in sorted(by_length.items())
            for part in pack([length] * len(places), budget)
        ]

    def batch(self, places: Sequence[int]) -> Batch:
        """Rows of one length."""
        return Batch.of(torch.stack([self.data.documents[place] for place in places]))


def material(lm: LM, data: Any, *, answers: bool, bos: bool) -> Material:
    """Of a corpus, or (`answers`) of prompts with answers. Raises `BadInput` for anything else."""
    if not answers:
        return Material(data, int(data.bos and not bos))
    prompts = [one.clean if isinstance(one, PromptPair) else one for one in data]
    if not prompts or not all(isinstance(one, Prompt) for one in prompts):
        raise BadInput(
            "measure='answer' needs prompts with answers. Give facts or pairs, or measure='next' with a corpus."
        )
    read = [tokenize(prompt, lm.tokenizer, answers="first", n_ctx=lm.spec.n_ctx) for prompt in prompts]
    foils = tuple(one.foil_id if one.foil_ids else -1 for one in read)
    with_bos = {one.bos for one in read}
    if len(with_bos) > 1:
        raise BadInput("some prompts begin with a BOS and others do not. Write them alike.")
    ids = [one.id for one in read]
    names = ids if len(set(ids)) == len(ids) else [f"{name}-{place}" for place, name in enumerate(ids)]
    corpus = Corpus.from_ids([one.ids for one in read], ids=names, source="prompts", bos=with_bos == {True})
    return Material(corpus, int(corpus.bos and not bos), tuple(one.answer_id for one in read), foils)


def codes_of(dictionary: Dictionary, models: Sequence[LM], rows: Material, places: Sequence[int]) -> Codes:
    """Codes of all tokens of some rows, one after another, on the CPU; those before `start` are read and have no codes."""
    read = read_views(dictionary, models, rows.data, places)
    codes = dictionary.codes(read)
    return Codes(codes.ids.cpu(), codes.values.float().cpu(), codes.offsets.cpu(), codes.latents)


def counted(rows: Material, places: Sequence[int], positions: str) -> Tensor:
    """Which tokens are edited, bool [row, pos]: all that count, or the last."""
    length = rows.data.lengths[places[0]]
    keep = torch.zeros(len(places), length, dtype=torch.bool)
    keep[:, -1 if positions == "last" else slice(rows.start, None)] = True
    return keep


@dataclass(eq=False)
class Seen:
    """How often each latent is on at the edited tokens, and its largest code there."""

    count: np.ndarray
    largest: np.ndarray
    tokens: int = 0

    def add(self, codes: Codes, keep: Tensor) -> None:
        """Count the codes of a group, at tokens `keep` [row, pos]."""
        at = keep.reshape(-1)[codes.row_of()]
        ids, values = codes.ids[at].numpy(), codes.values[at].numpy().astype(np.float64)
        self.count += np.bincount(ids, minlength=len(self.count))
        np.maximum.at(self.largest, ids, values)
        self.tokens += int(keep.sum())


def alike(
    seen: Seen, latents: Sequence[int], draws: int, rng: np.random.Generator, *, never: Sequence[int] = ()
) -> np.ndarray:
    """Other latents that are on about as often, none of `never`, [draw, latent]. Raises `BadInput` where there are fewer than `draws`.

    Of each named latent the `2 * draws` (10 at least) nearest in log density are taken, and drawn from without replacement.
    """
    pool = np.setdiff1d(np.flatnonzero(seen.count > 0), np.asarray([*latents, *never]))
    if len(pool) < draws * len(latents):
        raise BadInput(
            f"{len(pool)} other latents are on in this data, and {draws * len(latents)} are needed as controls. "
            "Lower `draws`, or bring more data."
        )
    out, taken = np.zeros((draws, len(latents)), dtype=np.int64), set[int]()
    for column, latent in enumerate(latents):
        free = np.array([one for one in pool if int(one) not in taken])
        distance = np.abs(np.log(seen.count[free]) - np.log(max(seen.count[latent], 1)))
        nearest = free[np.argsort(distance, kind="stable")][: max(2 * draws, 10)]
        out[:, column] = rng.permutation(nearest)[:draws]
        taken |= {int(one) for one in out[:, column]}
    return out
