"""The prompts of the laundry list as tokens: lists of one length in groups of one width, and what is read off their logits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from interp.core.batch import Batch
from interp.core.errors import BadInput
from interp.data import Lexicon, Prompt, TokenPrompt, group_by_length, tasks, to_batch, tokenize
from interp.data.tokens import Answers

from ..attention import Outcome
from ..steering.material import candidates_of

if TYPE_CHECKING:
    from interp.core.lm import LM


@dataclass(frozen=True)
class Group:
    """Lists of one length whose prompts have as many tokens."""

    places: tuple[int, ...]
    """Places of its rows among the lists."""
    batch: Batch


@dataclass(frozen=True, eq=False)
class Lists:
    """Prompts that list the same number of things."""

    items: int
    tokens: tuple[TokenPrompt, ...]
    candidates: Tensor
    """First token of each listed thing as it would be answered, [prompt, item]."""

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def prompts(self) -> list[Prompt]:
        """The prompts before they were tokens."""
        return [one.prompt for one in self.tokens]

    @property
    def missing(self) -> np.ndarray:
        """The place, in the first list, of the thing that the second leaves out [prompt]."""
        return np.array([one.meta["missing"] for one in self.prompts])

    @property
    def second(self) -> np.ndarray:
        """The place of each listed thing in the second list, -1 for the one that it leaves out, [prompt, item]."""
        rows = []
        for one in self.prompts:
            rest = list(one.meta["second"])
            rows.append([rest.index(thing) if thing in rest else -1 for thing in one.meta["items"]])
        return np.array(rows)

    @property
    def unrepeated(self) -> np.ndarray:
        """The place of the listed thing that no later token repeats, read off the tokens alone [prompt]; -1 where that is not one thing."""
        found = []
        for one in self.tokens:
            spans = [one.spans[f"item_{place}"] for place in range(self.items)]
            after = one.ids[spans[-1][1] :]
            alone = [
                place for place, (start, end) in enumerate(spans)
                if not any(after[first : first + end - start] == one.ids[start:end] for first in range(len(after)))
            ]  # fmt: skip
            found.append(alone[0] if len(alone) == 1 else -1)
        return np.array(found)

    @property
    def distance(self) -> int:
        """Tokens from a listed thing to the end, in the middle (median)."""
        gaps = [len(one.ids) - one.spans[f"item_{place}"][1] for one in self.tokens for place in range(self.items)]
        return int(np.median(gaps))

    def groups(self, rows: Sequence[int] | np.ndarray | None = None, *, most: int = 64) -> list[Group]:
        """The prompts, or those in `rows`, by their number of tokens; at most so many in a group."""
        chosen = list(range(len(self))) if rows is None else [int(row) for row in rows]
        found = []
        for members in group_by_length([self.tokens[row] for row in chosen]).values():
            for first in range(0, len(members), most):
                places = tuple(chosen[member] for member in members[first : first + most])
                found.append(Group(places, to_batch([self.tokens[place] for place in places])))
        return found

    def outcome(self, places: Sequence[int]) -> Outcome:
        """What is kept of the logits of some prompts, [n, position, items + 1]: the log-probability of each listed thing, and which of
        them the best token of the whole vocabulary is (-1 for none)."""
        ids = self.candidates[list(places)]

        def read(logits: Tensor, rows: Tensor) -> Tensor:
            wide = logits if logits.dtype == torch.float64 else logits.float()
            asked = ids.to(wide.device)[rows.to(wide.device)][:, None].expand(-1, wide.shape[1], -1)
            listed = wide.gather(-1, asked) - wide.logsumexp(dim=-1, keepdim=True)
            hit = asked == wide.argmax(dim=-1, keepdim=True)
            best = torch.where(hit.any(dim=-1), hit.int().argmax(dim=-1), -1)
            return torch.cat([listed.double(), best[..., None].double()], dim=-1)

        return read


def draw_lists(
    lm: "LM",
    items: int,
    *,
    n: int,
    lexicon: Lexicon | None,
    seed: int = 0,
    orders: int = 1,
    pieces: int = 1,
    bos: bool | None = None,
) -> Lists:
    """`n` lists of `items` things for a model. Raises `BadInput` where its tokenizer knows too few, or its context is too short."""
    try:
        task = tasks.laundry_list(
            lm.tokenizer, n=n, seed=seed, lexicon=lexicon, items=items, orders=orders, pieces=pieces
        )
    except BadInput as error:
        if lexicon is not None:
            raise
        raise BadInput(
            f"{error} Words are given as LaundryList()(lm, Lexicon(...)); those of a reference checkpoint are "
            "interp.reference.lexicon('atlas', 'laundry_list')."
        ) from None
    answers: Answers = "single" if pieces == 1 else "first"
    try:
        tokens = tuple(tokenize(one, lm.tokenizer, bos=bos, answers=answers, n_ctx=lm.spec.n_ctx) for one in task.clean)
    except BadInput as error:
        raise BadInput(f"a list of {items} things does not fit: {error} Ask for shorter `lengths`.") from None
    candidates = candidates_of(lm, tokens, bos=bos, answers=answers)
    for one, (ids, right) in zip(tokens, candidates, strict=True):
        said = [one.ids[one.spans[f"item_{place}"][0]] for place in range(items)]
        if list(ids) != said or right != one.prompt.meta["missing"]:
            raise BadInput(
                f"{lm.tokenizer.name} writes a listed thing otherwise in the list than as the answer: {one.prompt.text!r} lists the tokens "
                f"{[lm.tokenizer.label(token) for token in said]} and would answer {[lm.tokenizer.label(token) for token in ids]}. "
                "Give other words."
            )
    return Lists(items, tokens, torch.tensor([ids for ids, _ in candidates]))
