"""Base, source and target as the methods that interchange a variable need them (DAS, component masks).

A desideratum says: put what the source holds at one place into the base, and the base must answer `target`. Base and source are two runs,
so their spans may stand in different columns; what is put in is moved from the source's column to the base's. Targets are tokenised as
continuations of the base, so they carry the word boundary that the model would emit, and every result says how often the
target is what the base answers untouched anyway: that is the floor no method may be credited for.

Pairs are desiderata too: the corrupted prompt is the source, its answer the target.

    from interp.data import tasks
    groups = triple_groups(lm, interp.reference.task("atlas", "ioi", 8))
    groups[0].target, groups[0].columns("last")
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from interp.core.batch import At, Batch
from interp.core.errors import BadInput, SpanError
from interp.core.lm import LM
from interp.data.prompts import Prompt, PromptPair
from interp.data.tasks import Desideratum
from interp.data.tokens import Answers, TokenPrompt, to_batch, tokenize


@dataclass(frozen=True, eq=False)
class TripleGroup:
    """Desiderata whose bases have one length and whose sources have one length; no padding in either."""

    index: tuple[int, ...]
    """Places of the desiderata in the data."""
    ids: tuple[str, ...]
    base: Batch
    source: Batch
    answer: Tensor
    """What the base answers by itself according to the data, token ids [row]."""
    target: Tensor
    """What it must answer after the interchange, token ids [row]."""
    predicted: Tensor
    """The model's top token for the untouched base, [row]."""

    def __len__(self) -> int:
        return len(self.index)

    def columns(self, role: str) -> tuple[Tensor, Tensor]:
        """Columns [row] of a role in the base and in the source: `last`, or the last token of a named span."""
        return _columns(self.base, role), _columns(self.source, role)

    def at(self, role: str) -> At:
        """The base's columns of a role, as an edit's place."""
        mask = torch.zeros_like(self.base.mask)
        mask[torch.arange(len(self)), self.columns(role)[0]] = True
        return At.mask(mask)

    def moved(self, values: Tensor, role: str) -> Tensor:
        """The source's values [row, pos, ...] at a role, standing at the base's columns [row, pos of the base, ...]; zero elsewhere."""
        into, out_of = self.columns(role)
        rows = torch.arange(len(self))
        out = values.new_zeros((len(self), self.base.tokens.shape[1], *values.shape[2:]))
        out[rows, into.to(out.device)] = values[rows, out_of.to(values.device)]
        return out

    def rows(self, keep: Sequence[int]) -> "TripleGroup":
        """Some of its desiderata, by row number."""
        at = torch.tensor(list(keep))
        return TripleGroup(
            tuple(self.index[row] for row in keep), tuple(self.ids[row] for row in keep), self.base.rows(list(keep)),
            self.source.rows(list(keep)), self.answer[at], self.target[at], self.predicted[at],
        )  # fmt: skip


def triple_groups(
    lm: LM, data: Any, *, bos: bool | None = None, answers: Answers = "single", max_rows: int = 128
) -> list[TripleGroup]:
    """Desiderata (or pairs) in groups without padding, at most `max_rows` each. Raises `BadInput`, `SpanError` for what cannot be used."""
    items: Sequence[Any] = [data] if isinstance(data, Desideratum | PromptPair) else list(data or ())
    if not items:
        raise BadInput("there are no desiderata. Give at least one Desideratum(base, source, target), or a PromptPair.")
    triples = [_triple(lm, item, bos, answers) for item in items]
    places: dict[tuple[int, int], list[int]] = {}
    for place, (base, source, _) in enumerate(triples):
        places.setdefault((len(base), len(source)), []).append(place)
    parts = [group[first : first + max_rows] for group in places.values() for first in range(0, len(group), max_rows)]
    return [_group(lm, triples, part) for part in parts]


def floor_of(groups: Sequence[TripleGroup]) -> float:
    """How often the untouched base gives the target anyway, as a share of all desiderata."""
    hits = sum(int((group.predicted == group.target).sum()) for group in groups)
    return hits / sum(len(group) for group in groups)


def distinct(groups: Sequence[TripleGroup]) -> list[list[int]]:
    """Places of the desiderata, those with the same base and source together, in the order of the data."""
    found: dict[Any, list[int]] = {}
    rows = [(place, group, row) for group in groups for row, place in enumerate(group.index)]
    for place, group, row in sorted(rows, key=lambda one: one[0]):
        prompts = (tuple(batch.tokens[row].tolist()) for batch in (group.base, group.source))
        found.setdefault(tuple(prompts), []).append(place)
    return list(found.values())


def divided(groups: Sequence[TripleGroup], cuts: Sequence[int], draw: torch.Generator) -> list[list[TripleGroup]]:
    """The desiderata dealt out at random, cut after so many *distinct* ones: what is repeated stays on one side, so none is tested on
    what it was trained on."""
    classes = distinct(groups)
    order = torch.randperm(len(classes), generator=draw).tolist()
    parts = []
    for first, last in pairwise([0, *cuts, len(order)]):
        wanted = {place for number in order[first:last] for place in classes[number]}
        rows = [[row for row, place in enumerate(group.index) if place in wanted] for group in groups]
        parts.append([group.rows(keep) for group, keep in zip(groups, rows, strict=True) if keep])
    return parts


def _triple(lm: LM, item: Any, bos: bool | None, answers: Answers) -> tuple[TokenPrompt, TokenPrompt, TokenPrompt]:
    """Tokens of the base, of the source, and of the base asked for the target."""
    if isinstance(item, PromptPair):
        if item.clean.answer is None or item.corrupted.answer is None:
            raise BadInput(
                f"the pair {item.id!r} needs two answers to be an interchange: its corrupted prompt's answer is what the clean one "
                "must give. Set both."
            )
        item = Desideratum(item.clean, item.corrupted, item.corrupted.answer)
    if not isinstance(item, Desideratum):
        raise BadInput(f"this needs desiderata or pairs; not {item!r:.100}. Build Desideratum(base, source, target).")
    asked = Prompt(item.base.text, item.target, None, item.base.spans, item.base.id, item.base.meta)
    base, source, wanted = (
        tokenize(prompt, lm.tokenizer, bos=bos, answers=answers, n_ctx=lm.spec.n_ctx)
        for prompt in (item.base, item.source, asked)
    )
    if base.answer_id == wanted.answer_id:
        raise BadInput(
            f"in {lm.tokenizer.name}, the target {item.target!r} of {item.base.text!r} is the token of its own answer "
            f"{item.base.answer!r}. Choose words that differ in their first token."
        )
    return base, source, wanted


def _group(
    lm: LM, triples: Sequence[tuple[TokenPrompt, TokenPrompt, TokenPrompt]], places: Sequence[int]
) -> TripleGroup:
    bases, sources, wanted = zip(*(triples[place] for place in places), strict=True)
    base = to_batch(bases)
    predicted = lm.run(base).last_logits.argmax(dim=-1).cpu()
    return TripleGroup(
        tuple(places), tuple(one.id for one in bases), base, to_batch(sources), torch.tensor([one.answer_id for one in bases]),
        torch.tensor([one.answer_id for one in wanted]), predicted,
    )  # fmt: skip


def _columns(batch: Batch, role: str) -> Tensor:
    if role == "last":
        return batch.last
    if role not in batch.spans:
        raise SpanError(f"no span is called {role!r} in these prompts; they have {sorted(batch.spans)}.")
    ends = batch.spans[role][:, 1] - 1
    if bool((ends < 0).any()):
        lacking = [batch.ids[row] for row in (ends < 0).nonzero().flatten().tolist()]
        raise SpanError(
            f"the span {role!r} is missing in {len(lacking)} prompts, the first {lacking[0]!r}. Mark it in all."
        )
    return ends
