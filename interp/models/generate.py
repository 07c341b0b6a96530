"""Greedy generation with the model's own key/value cache, under weight edits and activation edits.

    lm.generate(["The Eiffel Tower is in", "Once upon a time"], tokens=20).texts
    push = interp.edit.add("blocks.2.hook_resid_post", vector)
    lm.generate("Once upon a time", tokens=20, edits=[push])             # acts on every token, those of the prompt included
    with lm.edit_weights({"W_out.3": new}):
        lm.generate("Once upon a time", tokens=20, stop=".").texts

Each new token is the one with the highest logit (the lowest id among equals), and the result is what a loop of `lm.run` and argmax
gives, without recomputing what is known. The plain transformers model does it for both backends, with `record`'s hooks.

Prompts of different lengths are padded on the left, positions counted without the padding, so that every row ends in the same column;
new tokens are kept apart from the prompt from the start, so no prompt token can be taken for a new one. A row ends at the model's
end-of-text token; rows that have ended leave the batch.

An edit acts at every token of the prompt and at every token after it: positions other than "all" are refused, for a position means
nothing in a text that does not exist yet. An edit by `call` may look at any position, so under one the whole row is computed again
for every token; so it is for unproven families, whose caches nobody has checked.

When this misleads: a row in a batch and the row alone agree to rounding. Where two tokens are as likely to the last digit the choice
may differ, and everything after it; `logprobs` show how sure each choice was.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import index
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.core.batch import Batch
from interp.core.edit import Edit
from interp.core.errors import BadInput
from interp.core.generation import Generation
from interp.core.run import Tape

from .recording import filler

if TYPE_CHECKING:
    from .base import BaseLM
    from .plain import PlainModel

CACHE_BYTES = 4 << 30
"""Memory for the keys and values of one batch; more prompts are worked off in several batches."""


@torch.no_grad()
def generate(
    lm: "BaseLM", prompts: Any, tokens: int = 100, *, edits: Sequence[Edit] = (), stop: Any = None
) -> Generation:
    """Greedy continuations of at most `tokens` tokens, as `LM.generate`.

    `stop` are further tokens (ids, or texts of one token) that end a row. Raises `BadInput` for an empty prompt, for one that is too
    long with its new tokens, and for edits that are not defined at every token.
    """
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
        raise BadInput(f"`tokens` must be a whole number, 1 or more; not {tokens!r}.")
    rows = _rows(lm, prompts)
    _fit(lm, rows, tokens)
    checked = lm._edits(edits, plain=True)
    for edit in checked:
        _refuse_placed(edit)
    writer = _Writer(rows, ends_of(lm) | _stops(lm, stop), tokens)
    whole = not lm.family.proven or any(edit.op == "call" for edit in checked)
    for part in _parts(lm.plain, [len(row) for row in rows], tokens, whole):
        (_recompute if whole else _extend)(lm.plain, writer, part, checked)
    texts = [
        _added(lm, row, ids[: len(ids) - end]) for row, ids, end in zip(rows, writer.ids, writer.ended, strict=True)
    ]
    return Generation(
        tuple(map(tuple, rows)),
        tuple(map(tuple, writer.ids)),
        tuple(texts),
        tuple(map(tuple, writer.logprobs)),
        tuple(writer.ended),
    )


def ends_of(lm: "BaseLM") -> frozenset[int]:
    """Ids at which a row ends: the tokenizer's EOS, and those of the configuration that are special tokens of this tokenizer.

    A configuration that was never filled in names an EOS too (2, 50256), which may be any word here.
    """
    tokenizer: Any = lm.tokenizer
    known = {int(i) for i in tokenizer.fast.all_special_ids}
    known |= {int(i) for i, token in tokenizer.fast.added_tokens_decoder.items() if token.special}
    found: set[int] = set()
    for source in (lm.module.config, getattr(lm.module, "generation_config", None)):
        ids = getattr(source, "eos_token_id", None)
        found |= set(ids if isinstance(ids, list | tuple) else [] if ids is None else [ids])
    own = set() if tokenizer.eos_id is None else {int(tokenizer.eos_id)}
    return frozenset(own | (found & known))


class _Writer:
    """What was chosen so far, row by row."""

    def __init__(self, rows: list[list[int]], ends: frozenset[int], tokens: int) -> None:
        self.rows, self.ends, self.tokens = rows, ends, tokens
        self.ids: list[list[int]] = [[] for _ in rows]
        self.logprobs: list[list[float]] = [[] for _ in rows]
        self.ended = [False] * len(rows)

    def write(self, live: list[int], logits: Tensor) -> tuple[list[int], Tensor]:
        """Choose for the rows `live` by logits [row, vocab]. Gives places in `live` that go on, and their new ids [row, 1]."""
        logits = logits.float()
        best = logits.argmax(dim=-1)
        logprobs = logits.gather(1, best[:, None])[:, 0] - logits.logsumexp(dim=-1)
        new, sure = best.tolist(), logprobs.tolist()
        for row, token, value in zip(live, new, sure, strict=True):
            if value != value:
                raise BadInput(
                    f"the logits of row {row} are not finite after {len(self.ids[row])} new tokens. "
                    "An edit or an edited weight is too large: make it smaller."
                )
            self.ids[row].append(token)
            self.logprobs[row].append(value)
            self.ended[row] = token in self.ends
        keep = [place for place, row in enumerate(live) if not self.ended[row] and len(self.ids[row]) < self.tokens]
        return keep, best[keep, None]


def _extend(plain: "PlainModel", writer: _Writer, part: list[int], edits: Sequence[Edit]) -> None:
    """Write the rows `part`, each step computing the newest token only."""
    from transformers.cache_utils import DynamicCache

    batch = Batch.padded([writer.rows[row] for row in part], side="left", pad_id=filler(plain)).to(plain.device)
    ids, mask, positions = batch.tokens, batch.mask, batch.position_ids
    cache: Any = DynamicCache()  # without a configuration it keeps every key; masks do the windows, as in `record`
    live = list(part)
    tapes = [Tape(batch, (), edits)]
    with plain.visiting(tapes[0].sites, lambda site, x: tapes[0](site, x)):
        while live:
            out = plain.module(
                **plain.family.arguments(
                    input_ids=ids,
                    attention_mask=None if bool(mask.all()) else mask.long(),
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
            )
            tapes[0].finish(None)
            keep, ids = writer.write(live, out.logits[:, -1])
            if len(keep) < len(live):
                live = [live[place] for place in keep]
                if not live:
                    return
                chosen = torch.tensor(keep, device=plain.device)
                cache.batch_select_indices(chosen)
                mask, positions = mask[chosen], positions[chosen]
            mask = torch.cat([mask, mask.new_ones(len(live), 1)], dim=1)
            positions = positions[:, -1:] + 1
            tapes[0] = Tape(Batch.of(ids), (), edits)


def _recompute(plain: "PlainModel", writer: _Writer, part: list[int], edits: Sequence[Edit]) -> None:
    """Write the rows `part`, of one length, each step computing everything anew."""
    live = list(part)
    ids = torch.tensor([writer.rows[row] for row in part], device=plain.device)
    last = torch.tensor([-1], device=plain.device)
    while live:
        tape = Tape(Batch.of(ids), (), edits)
        logits = plain.forward(tape, keep=last)
        assert logits is not None
        tape.finish(None)
        keep, new = writer.write(live, logits[:, -1])
        live = [live[place] for place in keep]
        ids = torch.cat([ids[keep], new], dim=1)


def _parts(plain: "PlainModel", lengths: list[int], tokens: int, whole: bool) -> Iterator[list[int]]:
    """Row numbers that are worked on together, the shortest first; rows of one length only where `whole`."""
    spec = plain.spec
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    groups = [list(rows) for _, rows in groupby(order, key=lambda row: lengths[row])] if whole else [order]
    width = next(plain.module.parameters()).element_size()
    token = 2 * spec.n_layers * spec.n_kv_heads * spec.d_head * width  # bytes of keys and values
    for group in groups:
        longest = lengths[group[-1]] + (tokens if whole else 0)
        size = max(1, plain.token_budget // longest)
        if not whole:
            size = max(1, min(size, CACHE_BYTES // (token * (longest + tokens))))
        for start in range(0, len(group), size):
            yield group[start : start + size]


def _rows(lm: "BaseLM", prompts: Any) -> list[list[int]]:
    """Token ids of each prompt, unpadded."""
    if isinstance(prompts, Batch):
        batch = lm._batch(prompts)
        return [row[mask].tolist() for row, mask in zip(batch.tokens, batch.mask, strict=True)]
    if isinstance(prompts, Tensor):
        return lm._batch(prompts).tokens.tolist()
    listed: list[Any] = [prompts] if isinstance(prompts, str) else list(prompts)
    if not listed:
        raise BadInput("no prompts were given. Give at least one.")
    if all(isinstance(one, str) for one in listed):
        return _rows(lm, lm.encode(listed))
    if any(isinstance(one, str) for one in listed):
        raise BadInput("prompts are all texts or all token ids; these are some of each. Encode the texts first.")
    if not any(isinstance(one, Sequence) or getattr(one, "ndim", 0) for one in listed):
        listed = [listed]
    rows = []
    for number, one in enumerate(listed):
        try:
            row = [index(token) for token in one]
        except TypeError:
            raise BadInput(f"prompt {number} is neither a text nor a sequence of token ids: {one!r}.") from None
        if not row:
            raise BadInput(f"prompt {number} is empty. Give it at least one token, such as a BOS.")
        lm._check(torch.tensor([row]))
        rows.append(row)
    return rows


def _fit(lm: "BaseLM", rows: list[list[int]], tokens: int) -> None:
    longest = max(range(len(rows)), key=lambda row: len(rows[row]))
    length = len(rows[longest])
    if length + tokens > lm.spec.n_ctx:
        raise BadInput(
            f"prompt {longest} has {length} tokens, and {tokens} more make {length + tokens}: the context of {lm.spec.name} is "
            f"{lm.spec.n_ctx}. Ask for at most {max(0, lm.spec.n_ctx - length)} tokens, or shorten the prompt."
        )


def _refuse_placed(edit: Edit) -> None:
    """Raise `BadInput` for an edit that is not the same at every token of every row."""
    if edit.at.how != "all" or edit.at.rows is not None:
        raise BadInput(
            f"the edit «{edit.describe()}» acts at some positions or rows; in `generate` edits act at every token (At.all()), because the "
            "tokens to come have no position yet. Drop `at`, or generate the rows apart."
        )
    dims = edit.site.dims
    for tensor in (edit.value, edit.strength):
        if not isinstance(tensor, Tensor):
            continue
        sized = {
            dim: tensor.shape[place]
            for dim, place in zip(reversed(dims), range(-1, -tensor.ndim - 1, -1), strict=False)
        }
        if placed := [dim for dim in ("batch", "pos", "query", "key") if sized.get(dim, 1) > 1]:
            raise BadInput(
                f"the edit «{edit.describe()}» has a value {tuple(tensor.shape)} with its own numbers along {' and '.join(placed)}; in "
                "`generate` one value serves every token of every row. Give it the shape of one token's activation."
            )


def _stops(lm: "BaseLM", stop: Any) -> frozenset[int]:
    """Token ids of `stop`."""
    words: list[Any] = [] if stop is None else [stop] if isinstance(stop, str | int) else list(stop)
    ids = set()
    for word in words:
        if isinstance(word, str):
            found = lm.tokenizer.encode(word, bos=False).ids
            if len(found) != 1:
                raise BadInput(
                    f"`stop` has {word!r}, which is {len(found)} tokens ({', '.join(map(lm.tokenizer.label, found))}). "
                    "A row ends at a token: give one that is one token, or its id."
                )
            ids.add(found[0])
        else:
            lm._check(torch.tensor([[index(word)]]))
            ids.add(index(word))
    return frozenset(ids)


def _added(lm: "BaseLM", prompt: list[int], new: list[int]) -> str:
    """What `new` adds to the text of `prompt`; decoded by itself, a first word may lose the space before it."""
    before, both = lm.tokenizer.decode(prompt), lm.tokenizer.decode([*prompt, *new])
    return both[len(before) :] if both.startswith(before) else lm.tokenizer.decode(new)
