"""Clean and corrupted prompts as the methods that intervene need them: in groups of one length, with the answers' ids.

A pair's two prompts line up token by token (`tokenize_pair` refuses those that do not). Pairs of one length stand in one batch without
any padding, which partial recomputation asks for; a method works group by group and puts its numbers at `group.index`, so that
prompts of different lengths mix freely and come out in the order in which they were given.

The foil, the token that the logit difference is taken against, is the clean prompt's own, else the corrupted prompt's answer, else the
model's best wrong answer in the clean run. Pairs that the model does not get right are kept and flagged (`known`), never dropped.

    from interp.analyses.readout import read_metrics
    groups = pair_groups(lm, pairs)
    run = lm.run(groups[0].clean)
    read_metrics(run.last_logits, groups[0].answer, groups[0].foil)      # [pair, metric]
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from interp.core.batch import Batch
from interp.core.errors import BadInput
from interp.core.lm import LM
from interp.data.prompts import Prompt, PromptPair
from interp.data.tokens import Answers, TokenPair, group_by_length, to_batch, tokenize_pair

from .readout import best_wrong


@dataclass(frozen=True, eq=False)
class PairGroup:
    """Pairs whose prompts all have the same number of tokens."""

    index: tuple[int, ...]
    """Places of the pairs in the data."""
    tokens: tuple[TokenPair, ...]
    clean: Batch
    """Tokens [pair, pos] without padding, spans and ids of the clean prompts."""
    corrupted: Batch
    answer: Tensor
    """Token ids of the clean answers, int64 [pair]."""
    foil: Tensor
    """What the answer is contrasted with, int64 [pair]."""
    predicted: Tensor
    """The top token of the clean run, int64 [pair]."""
    foil_given: tuple[bool, ...]
    """Whether the data name the foil (else it is the best wrong token of the clean run)."""

    def __len__(self) -> int:
        return len(self.index)

    @property
    def width(self) -> int:
        """Tokens a prompt."""
        return self.clean.tokens.shape[1]

    @property
    def known(self) -> tuple[bool, ...]:
        """Whether the model's top token of the clean run is the answer."""
        return tuple((self.predicted == self.answer).tolist())

    @property
    def changed(self) -> Tensor:
        """Where clean and corrupted tokens differ, bool [pair, pos]."""
        return self.clean.tokens != self.corrupted.tokens

    def rows(self, keep: Sequence[int]) -> "PairGroup":
        """Some of its pairs, by row number."""
        at = torch.tensor(list(keep))
        return PairGroup(
            tuple(self.index[row] for row in keep),
            tuple(self.tokens[row] for row in keep),
            self.clean.rows(list(keep)),
            self.corrupted.rows(list(keep)),
            self.answer[at],
            self.foil[at],
            self.predicted[at],
            tuple(self.foil_given[row] for row in keep),
        )


def contrasted(item: Any) -> Any:
    """The clean prompt of a pair for methods that read one prompt, with the corrupted prompt's (other) answer as its foil unless it names
    one; anything else as it is."""
    if not isinstance(item, PromptPair):
        return item
    clean, other = item.clean, item.corrupted.answer
    return clean if clean.foil is not None or other in (None, clean.answer) else replace(clean, foil=other)


def token_pairs(lm: LM, data: Any, *, bos: bool | None = None, answers: Answers = "single") -> list[TokenPair]:
    """Every pair as tokens, in the order given. Raises `BadInput`, `SpanError` or `RaggedPair` for what cannot be paired."""
    items: Sequence[Any] = [data] if isinstance(data, PromptPair | Prompt) else list(data or ())
    if not items:
        raise BadInput("there are no pairs. Give at least one PromptPair(clean, corrupted).")
    for item in items:
        if not isinstance(item, PromptPair):
            what = "a single prompt" if isinstance(item, Prompt) else f"{item!r:.100}"
            raise BadInput(
                f"this method needs pairs of a clean and a corrupted prompt; not {what}. Build PromptPair(clean, corrupted), make pairs "
                "out of facts with `interp.data.tasks.facts_swapped`, or take a task of `interp.data.tasks`."
            )
    pairs = [tokenize_pair(item, lm.tokenizer, bos=bos, answers=answers, n_ctx=lm.spec.n_ctx) for item in items]
    for pair in pairs:
        if not pair.changed:
            raise BadInput(
                f"both prompts of the pair {pair.id!r} have the same tokens: {pair.clean}. Change what the model reads."
            )
    return pairs


def pair_groups(
    lm: LM, data: Any, *, bos: bool | None = None, answers: Answers = "single", max_rows: int | None = None
) -> list[PairGroup]:
    """The pairs in groups of one length, at most `max_rows` each; one clean forward pass a group tells what the model predicts.

    A clean prompt without an answer is scored on the model's own prediction. With `answers="first"` the first token of a longer answer
    stands for it. Raises what `token_pairs` raises.
    """
    pairs = token_pairs(lm, data, bos=bos, answers=answers)
    groups = []
    for places in group_by_length([pair.clean for pair in pairs]).values():
        step = max_rows or len(places)
        groups += [_group(lm, pairs, places[first : first + step]) for first in range(0, len(places), step)]
    return groups


def _group(lm: LM, pairs: Sequence[TokenPair], places: Sequence[int]) -> PairGroup:
    mine = tuple(pairs[place] for place in places)
    clean = to_batch([pair.clean for pair in mine])
    final = lm.run(clean).last_logits.cpu()  # [pair, vocab]
    predicted = final.argmax(dim=-1)
    answer, foil, given = [], [], []
    for row, pair in enumerate(mine):
        right = pair.clean.answer_id if pair.clean.answer_ids else int(predicted[row])
        rivals = [one for one in (pair.clean.foil_ids[:1], pair.corrupted.answer_ids[:1]) if one and one[0] != right]
        answer.append(right)
        foil.append(rivals[0][0] if rivals else best_wrong(final[row], right))
        given.append(bool(rivals))
    corrupted = to_batch([pair.corrupted for pair in mine])
    return PairGroup(
        tuple(places), mine, clean, corrupted, torch.tensor(answer), torch.tensor(foil), predicted, tuple(given)
    )
