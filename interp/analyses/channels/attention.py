"""What a reader head looks at, under any number of edits: its attention to named spans, and the answer's logits beside it.

The question. A head that moves names attends from the last token to the name that it will say. How much of that attention is steered, and
by what another head writes? With A the attention probabilities (after the softmax) of the reader at the position `query`,

    A[to] = sum of A[query, key] over the tokens of the span `to`        readout = A[to] - A[minus], between -1 and 1

and for IOI, with to="IO" and minus="S1", the readout is the inhibition score: 1 is full attention to the right name, -1 to the wrong one.

Source. Merullo et al. 2024, "Talking Heads" (arXiv 2406.09519), section 3: inhibition score, "attention score" meaning a probability.

How. A recording is made in which the values of the reader's layer are replaced by markers: 1 in dimension i for the tokens of span i,
else 0. What the head then weights together, z, *is* its attention to each span, whatever the architecture does to the scores (rotary
positions, norms, soft caps, windows, sinks). Cells of edits are resumed from there, up to the reader's layer only, so an edit at the last
token of the layer before costs one token through one layer. Markers do not disturb what is read: scores do not depend on values of their
own layer. Edits from the values of that layer on cannot change its attention; they act in the pass for the logits, which is apart.

When it misleads
- Attention is not use: a head may look at a token and move nothing that matters. Read the logits beside it.
- The largest of many heads is large by selection too: `rank_readers` names candidates; measure what they do on other prompts.
- Where heads may attend to a learned sink (GPT-OSS) or rest on the first token, little is left for the names: A[to] and A[minus] both
  small is not "undecided" but "elsewhere". Both are kept beside the readout for that reason.
- A span that the head cannot see, behind the query or outside a sliding window, would read 0 for ever: it is refused.
- In half precision a probability has three digits.

    import interp
    from interp.analyses.channels import Observer, Readout, prompt_groups, rank_readers
    lm, task = interp.load("atlas"), interp.reference.task("atlas", "ioi", 8)
    best = rank_readers(lm, task, to="IO", minus="S1")["name"][0]
    group = prompt_groups(lm, task)[0]
    observer = Observer(lm, group.batch, Readout(best), outcome=group.metrics)
    seen = observer.read([[], [interp.edit.scale("blocks.0.attn.hook_z", 0.0, heads=[1])]])
    seen.score, seen.outcome                        # [cell, prompt], [cell, prompt, metric]
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp.core.batch import At, Batch
from interp.core.edit import Edit, replace
from interp.core.errors import BadInput, SpanError, listing
from interp.core.lm import LM
from interp.core.shapes import Float, Int, Mask
from interp.core.site import Site
from interp.data.prompts import Prompt, PromptPair
from interp.data.tokens import Answers, TokenPrompt, group_by_length, to_batch, tokenize

from ..pairs import contrasted
from ..readout import best_wrong, read_metrics
from .component import Head

Outcome = Callable[[Tensor, Tensor], Tensor]
"""What is kept of the logits [n, position, vocab] of the rows [n] of a batch: [n, position, out]."""


@dataclass(frozen=True)
class Readout:
    """Attention of one head from one place to a span, minus that to another."""

    head: "str | Head"
    """The reader, such as "9.9"."""
    to: str = "IO"
    """Span that is looked at; `name.first`, `name.middle` and `name.last` are parts of a span."""
    minus: str = "S1"
    """Span whose attention is subtracted; an empty string for none."""
    query: str = "last"
    """Where it is looked from: the last token of this span; `last` is the last token of the prompt."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "head", Head.parse(self.head))
        if not self.to:
            raise BadInput(
                "`to` names the span that is looked at; it is empty. Name a span of the prompts, such as 'IO'."
            )
        if self.to == self.minus:
            raise BadInput(
                f"`to` and `minus` are both {self.to!r}: the readout would be 0. Name two spans, or none with minus=''."
            )

    @property
    def reader(self) -> Head:
        """The head, parsed."""
        return Head.parse(self.head)

    @property
    def spans(self) -> tuple[str, ...]:
        """The spans that it needs."""
        return (self.to, self.minus) if self.minus else (self.to,)

    def __str__(self) -> str:
        less = f" - A[{self.query}, {self.minus}]" if self.minus else ""
        return f"{self.head}: A[{self.query}, {self.to}]{less}"


@dataclass(frozen=True, eq=False)
class Observed:
    """What the reader looked at in every cell."""

    spans: tuple[str, ...]
    attention: Tensor
    """Probability of looking at each span, [cell, row, span], float64."""
    score: Tensor
    """The readout [cell, row], float64."""
    outcome: Tensor | None
    """What was kept of the logits at the last token, [cell, row, out]; None where nothing was asked for."""


@dataclass(frozen=True, eq=False)
class PromptGroup:
    """Prompts of one length, as tokens."""

    index: tuple[int, ...]
    """Places of the prompts in the data."""
    tokens: tuple[TokenPrompt, ...]
    batch: Batch
    answer: Tensor
    """Ids [row]; the model's own prediction where a prompt names no answer."""
    foil: Tensor
    """What the answer is contrasted with, [row]; the best wrong token where the data name none."""
    known: tuple[bool, ...]
    """Whether the model's top token is the answer."""

    def metrics(self, logits: Tensor, rows: Tensor) -> Tensor:
        """The four metrics of `interp.analyses.readout`, as `Observer` and `LM.resume` want them."""
        return metrics_of(self.answer, self.foil)(logits, rows)


def metrics_of(answer: Int[Tensor, " row"], foil: Int[Tensor, " row"]) -> Outcome:
    """A readout of logits that gives the metrics of the rows' answers, [n, position, metric], float64."""

    def outcome(logits: Tensor, rows: Tensor) -> Tensor:
        at = rows.to(answer.device)
        return read_metrics(logits, answer[at][:, None], foil[at][:, None])

    return outcome


def prompt_groups(
    lm: LM, data: Any, *, bos: bool | None = None, answers: Answers = "single", max_rows: int = 64
) -> list[PromptGroup]:
    """Prompts, or the clean prompts of pairs, in groups of one length. Raises `BadInput` for anything else."""
    prompts = token_prompts(lm, data, bos=bos, answers=answers)
    groups = []
    for places in group_by_length(prompts).values():
        for first in range(0, len(places), max_rows):
            part = places[first : first + max_rows]
            groups.append(_group(lm, tuple(part), tuple(prompts[place] for place in part)))
    return groups


def token_prompts(lm: LM, data: Any, *, bos: bool | None = None, answers: Answers = "single") -> list[TokenPrompt]:
    """Prompts, or the clean prompts of pairs, as tokens. Raises `BadInput` for anything else, and for none."""
    items: Sequence[Any] = [data] if isinstance(data, Prompt | PromptPair) else list(data or ())
    if not items:
        raise BadInput("there are no prompts. Give at least one, with the spans that the reader looks at.")
    found = []
    for item in items:
        prompt = contrasted(item)
        if not isinstance(prompt, Prompt):
            raise BadInput(f"this takes prompts or pairs; not {item!r:.100}. Build them with Prompt.of(text, ...).")
        found.append(tokenize(prompt, lm.tokenizer, bos=bos, answers=answers, n_ctx=lm.spec.n_ctx))
    return found


class Observer:
    """One group of prompts, recorded, on which any number of cells of edits is read. Rows must be unpadded and of one length.

    `spans` are further spans whose attention is wanted; `outcome` says what is kept of the logits (None: they are not computed);
    `edits` are under everything; `capture` are sites that both recordings keep, so that edits restoring them are free.
    Raises `SpanError` for a span that a row lacks, `BadInput` for a head that the model lacks and a span that it cannot see.
    """

    def __init__(
        self,
        lm: LM,
        batch: Batch,
        readout: Readout,
        *,
        spans: Sequence[str] = (),
        outcome: Outcome | None = None,
        edits: Sequence[Edit] = (),
        capture: Sequence["Site | str"] = (),
    ) -> None:
        self.lm, self.batch, self.readout, self.outcome = lm, batch, readout, outcome
        self.spans = tuple(dict.fromkeys([*readout.spans, *spans]))
        head = readout.reader.check(lm)
        self.query = query_columns(batch, readout.query)  # [row]
        self.where = visible_spans(lm, head.layer, batch, self.query, self.spans)  # [span, row, pos]
        sites = [Site.parse(site) for site in capture]
        _refuse_pattern(edits, head)
        before = [edit for edit in edits if _before(edit.site, head.layer)]
        early = [site for site in sites if _before(site, head.layer)]
        width = lm.spec.d_head  # as many spans as a value has dimensions are read at once
        self._marked = [
            lm.record(batch, capture=early, edits=[*before, self._marker(range(len(self.spans))[low : low + width])])
            for low in range(0, len(self.spans), width)
        ]
        self.base = None if outcome is None else lm.record(batch, capture=sites, edits=edits)
        """The recorded run without markers; None without `outcome`."""

    def read(self, cells: Sequence[Sequence[Edit]]) -> Observed:
        """Attention, readout and outcome of every cell; an empty cell is the recorded run. Use the same `Edit` objects in all cells that
        share them. Raises `BadInput` for edits of the reader's own pattern, and what `LM.resume` raises."""
        for cell in cells:
            _refuse_pattern(cell, self.readout.reader)
        attention = self._attention(cells)  # [cell, row, span]
        score = attention[..., 0] - (attention[..., 1] if self.readout.minus else 0.0)
        outcome = None
        if self.base is not None:
            outcome = self.lm.resume(self.base, cells, readout=self.outcome)[:, :, 0].cpu()
        return Observed(self.spans, attention, score, outcome)

    def _attention(self, cells: Sequence[Sequence[Edit]]) -> Float[Tensor, "cell row span"]:
        head = self.readout.reader
        site = Site("z", head.layer)
        mine = [[edit for edit in cell if _before(edit.site, head.layer)] for cell in cells]
        columns = sorted(set(self.query.tolist()))
        place = torch.tensor([columns.index(column) for column in self.query.tolist()])
        row = torch.arange(len(self.batch))
        parts = []
        for base in self._marked:
            z = self.lm.resume_sites(base, mine, [site], at=columns)[site]  # [cell, row, column, head, d_head]
            parts.append(z.cpu()[:, row, place, head.head].double())
        return torch.cat(parts, dim=-1)[..., : len(self.spans)]

    def _marker(self, spans: range) -> Edit:
        """Values that make z the attention to each of `spans`."""
        value = torch.zeros(*self.batch.tokens.shape, 1, self.lm.spec.d_head)  # [row, pos, 1, d_head]
        for number, span in enumerate(spans):
            value[:, :, 0, number] = self.where[span].float()
        return replace(Site("v", self.readout.reader.layer), value)


def query_columns(batch: Batch, query: str) -> Int[Tensor, " row"]:
    """The column of each row that is looked from: the last token of a span, or of the row. Raises `SpanError`."""
    if query == "last" and "last" not in batch.spans:
        return batch.last.cpu()
    where = span_mask(batch, query)
    return (torch.arange(where.shape[1]) * where).amax(dim=1)


def span_mask(batch: Batch, name: str) -> Mask:
    """The tokens of a span, or of a part of it (`subject.last`). Raises `SpanError` where a row lacks it."""
    word, _, part = name.partition(".")
    where = At.span(word, part or "all").resolve(batch).cpu()
    if not bool(where.any(dim=1).all()):
        row = int((~where.any(dim=1)).nonzero()[0, 0])
        have = [span for span, places in batch.spans.items() if int(places[row, 0]) >= 0]
        raise SpanError(
            f"the prompt {batch.ids[row]!r} has no span {name!r}; it has {listing(have)}. Name one that every prompt has, or drop the "
            "prompt."
        )
    return where


def visible_spans(
    lm: LM, layer: int, batch: Batch, query: Int[Tensor, " row"], spans: Sequence[str]
) -> Float[Tensor, "span row pos"]:
    """Where the spans are, as numbers 0 and 1, [span, row, pos]. Raises `BadInput` for one that the layer cannot see from `query`."""
    seen = seen_columns(lm, layer, batch, query)
    masks = []
    for name in spans:
        where = span_mask(batch, name)
        hidden = ~(where & seen).any(dim=1)
        if bool(hidden.any()):
            row = int(hidden.nonzero()[0, 0])
            window = lm.spec.windows[layer]
            sees = "no later tokens" if window is None else f"no later tokens and at most {window - 1} before"
            raise BadInput(
                f"the span {name!r} of the prompt {batch.ids[row]!r} lies in columns {where[row].nonzero().flatten().tolist()}, and a head "
                f"of layer {layer} in column {int(query[row])} sees {sees}: its attention is 0 whatever happens. Look from a later token, "
                "or choose a reader in another layer."
            )
        masks.append(where)
    return torch.stack(masks).float()


def _group(lm: LM, index: tuple[int, ...], tokens: tuple[TokenPrompt, ...]) -> PromptGroup:
    batch = to_batch(tokens)
    final = lm.run(batch).last_logits.cpu()  # [row, vocab]
    predicted = final.argmax(dim=-1)
    answer, foil = [], []
    for row, one in enumerate(tokens):
        right = one.answer_id if one.answer_ids else int(predicted[row])
        given = [rival for rival in one.foil_ids[:1] if rival != right]
        answer.append(right)
        foil.append(given[0] if given else best_wrong(final[row], right))
    right_ids = torch.tensor(answer)
    return PromptGroup(index, tokens, batch, right_ids, torch.tensor(foil), tuple((predicted == right_ids).tolist()))


def seen_columns(lm: LM, layer: int, batch: Batch, query: Tensor) -> Mask:
    """Columns that a head of a layer may look at from `query` [row]."""
    distance = query[:, None] - torch.arange(batch.tokens.shape[1])
    window = lm.spec.windows[layer]
    return (distance >= 0) & (distance < (window or distance.shape[1] + 1))


def _before(site: Site, layer: int) -> bool:
    """Whether a site can change the attention of a layer."""
    return site.order < Site("v", layer).order


def _refuse_pattern(edits: Sequence[Edit], head: Head) -> None:
    if any(edit.site == Site("pattern", head.layer) for edit in edits):
        raise BadInput(
            f"an edit of {Site('pattern', head.layer)} sets the attention that head {head} is read by. Edit what comes before it, or read "
            "a head of another layer."
        )
