"""The rows that an edit is made and judged on: prompts with a target behind them, alone or after sampled prefixes, noised or not.

A row is `prompt + target[:-1]`; the target's tokens are read where each is predicted. ROME makes keys and values robust by putting sampled
text before the prompt ("text. prompt"). Two things to know about that: with a prefix the subject follows a space, so its tokens may be
others than at the start of a sentence (the averaged key is then of two different tokens); and unseeded samples make edits depend on the
order of calls. Here prefixes are drawn by seed, and every change of weights keeps the ones it was made with.

    requests = [Request.of(lm, prompt)]
    rows = rows_of(lm, requests, sample_prefixes(lm, seed=0))
    rows.logprob(lm.run(rows.batch, edits=rows.edits).logits)       # [row], log P(target | row)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from interp.core.batch import At, Batch
from interp.core.edit import Edit, add
from interp.core.errors import BadInput
from interp.core.lm import LM
from interp.core.seed import generator
from interp.core.site import Site
from interp.data.prompts import Prompt
from interp.data.tokens import TokenPrompt, tokenize

from .editors import Request

SUBJECT = At.span("subject", "last")
"""Where keys are read and values are written: the last token of the subject."""


@dataclass(frozen=True)
class Item:
    """One row to be: a prompt, the tokens that should follow, whose it is, and which draw of the noise it gets."""

    tokens: TokenPrompt
    ids: tuple[int, ...] = ()
    owner: int = 0
    bare: bool = True
    noise: Tensor | None = None
    """Added at the subject's tokens, [token, d_model]."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Items as a batch, padded on the right, with their targets."""

    batch: Batch
    """Rows with the span `subject` where the prompt marks one."""
    targets: Tensor
    """The target's token where it is predicted, -1 elsewhere, int64 [row, pos]."""
    owner: Tensor
    """Which request each row belongs to, int64 [row]."""
    bare: Tensor
    """Whether the row is the prompt itself, without a prefix, bool [row]."""
    noise: Tensor | None
    """What is added to `hook_embed`, [row, pos, d_model]."""

    @classmethod
    def of(cls, items: Sequence[Item], d_model: int) -> "Rows":
        """A batch of items, in order."""
        plain = Batch.padded([[*item.tokens.ids, *item.ids[:-1]] for item in items])
        targets = torch.full_like(plain.tokens, -1)
        spans = torch.full((len(items), 2), -1, dtype=torch.int64)
        noise = torch.zeros(*plain.tokens.shape, d_model) if any(item.noise is not None for item in items) else None
        for row, item in enumerate(items):
            first = len(item.tokens) - 1
            targets[row, first : first + len(item.ids)] = torch.tensor(item.ids, dtype=torch.int64)
            if "subject" not in item.tokens.spans:
                continue
            start, end = item.tokens.spans["subject"]
            spans[row] = torch.tensor([start, end])
            if noise is not None and item.noise is not None:
                if end - start > len(item.noise):
                    raise BadInput(
                        f"the subject of {item.tokens.prompt.text!r} is {end - start} tokens and the noise was drawn for "
                        f"{len(item.noise)}. Draw noise for more tokens."
                    )
                noise[row, start:end] = item.noise[: end - start]
        batch = Batch(plain.tokens, plain.mask, {"subject": spans})
        owner = torch.tensor([item.owner for item in items])
        return cls(batch, targets, owner, torch.tensor([item.bare for item in items]), noise)

    def __len__(self) -> int:
        return len(self.batch)

    @property
    def edits(self) -> list[Edit]:
        """The noise, as edits of the embedding."""
        if self.noise is None:
            return []
        return [add(Site("embed"), self.noise, at=At.mask((self.noise != 0).any(dim=-1)))]

    @property
    def last_subject(self) -> Tensor:
        """Column of the subject's last token, int64 [row]."""
        return self.batch.spans["subject"][:, 1] - 1

    def at_subject(self, values: Tensor) -> Tensor:
        """`values` [row, pos, d] at the subject's last token, [row, d]."""
        return values[torch.arange(len(values), device=values.device), self.last_subject.to(values.device)]

    def token_logprobs(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probability of each target token, whether it is the top one, and its row; each [target token]."""
        row, pos = (self.targets >= 0).nonzero(as_tuple=True)
        picked = logits[row.to(logits.device), pos.to(logits.device)]
        picked = picked if picked.dtype == torch.float64 else picked.float()  # [target token, vocab]
        wanted = self.targets[row, pos].to(logits.device)
        found = picked.log_softmax(dim=-1).gather(-1, wanted[:, None])[:, 0]
        return found, picked.argmax(dim=-1) == wanted, row.to(logits.device)

    def logprob(self, logits: Tensor) -> Tensor:
        """Log-probability of the whole target, [row]; 0 where a row has none."""
        found, _, row = self.token_logprobs(logits)
        return found.new_zeros(len(self)).index_add(0, row, found)

    def by_owner(self, values: Tensor, rows: Tensor | None = None) -> Tensor:
        """Mean of `values` [row, ...] over the rows of each request (only those in the bool mask `rows`), [request, ...]."""
        keep = torch.ones(len(self), dtype=torch.bool) if rows is None else rows
        owner = self.owner[keep].to(values.device)
        count = torch.bincount(owner, minlength=int(self.owner.max()) + 1).to(values.dtype)
        total = values.new_zeros(len(count), *values.shape[1:]).index_add(0, owner, values[keep.to(values.device)])
        return total / count.reshape(-1, *[1] * (values.ndim - 1))


def rows_of(lm: LM, requests: Sequence[Request], prefixes: Sequence[str] = ()) -> Rows:
    """Each request's prompt (once a draw of its noise) and the same after each prefix, with the target behind it."""
    items = []
    for owner, request in enumerate(requests):
        draws: list[Tensor | None] = [None] if request.noise is None else list(request.noise)
        bare = request.tokens(lm)
        items += [Item(bare, request.ids, owner, True, draw) for draw in draws]
        for number, prefix in enumerate(prefixes):
            tokens = tokenize(
                after(prefix, request.prompt), lm.tokenizer, answers="whole", n_ctx=lm.spec.n_ctx - len(request.ids)
            )
            items.append(Item(tokens, request.ids, owner, False, draws[number % len(draws)]))
    return Rows.of(items, lm.spec.d_model)


def after(prefix: str, prompt: Prompt) -> Prompt:
    """`prefix. prompt`, spans moved along, without its answer."""
    before = f"{prefix}. "
    spans = {name: (start + len(before), end + len(before)) for name, (start, end) in prompt.spans.items()}
    return Prompt(before + prompt.text, spans=spans, id=prompt.id)


def about(template: str, subject: str) -> Prompt:
    """A template such as "{} is a" with the subject in it, marked."""
    if template.count("{}") != 1:
        raise BadInput(f"a template has one {{}} where the subject goes; not {template!r}. Write '{{}} is a', say.")
    start = template.index("{}")
    return Prompt(template.replace("{}", subject), spans={"subject": (start, start + len(subject))})


def sample_prefixes(lm: LM, *, seed: int = 0, lengths: Sequence[int] = (5,) * 5 + (10,) * 5) -> tuple[str, ...]:
    """Texts of so many tokens that the model itself goes on with from nothing, top-5 sampled, by seed.

    From the BOS where there is one, else from random tokens. Blank samples are drawn again.
    """
    found: dict[int, str] = {}
    bos, banned = lm.tokenizer.bos_id, _banned(lm)
    for attempt in range(5):
        for length in sorted({length for place, length in enumerate(lengths) if place not in found}):
            places = [place for place, wanted in enumerate(lengths) if wanted == length and place not in found]
            rng = generator(seed, "prefixes", length, attempt)
            start = torch.randint(lm.spec.vocab, (len(places), 1), generator=rng)
            if bos is not None:
                start = torch.full_like(start, bos)
            rows = sample(lm, start, length - int(bos is None), rng=rng, banned=banned)
            for place, row in zip(places, rows[:, int(bos is not None) :].tolist(), strict=True):
                text = " ".join(lm.tokenizer.decode(row).replace("\0", " ").replace("\ufffd", " ").split()).rstrip(" .")
                if text:
                    found[place] = text
    if len(found) < len(lengths):
        raise BadInput(f"{lm.spec.name} samples only blanks for prefixes. Give the editor `prefixes` of your own.")
    return tuple(found[place] for place in range(len(lengths)))


@torch.no_grad()
def sample(
    lm: LM,
    rows: Tensor,
    n_tokens: int,
    *,
    rng: torch.Generator | None = None,
    top_k: int = 5,
    banned: Sequence[int] = (),
) -> Tensor:
    """Rows of tokens [row, pos] continued by `n_tokens` sampled from the `top_k` best; greedily without `rng`."""
    for _ in range(n_tokens):
        logits = lm.run(rows).last_logits.float().cpu()  # [row, vocab]
        logits[:, list(banned)] = -torch.inf
        best = logits.topk(1 if rng is None else min(top_k, logits.shape[-1] - len(banned)), dim=-1)
        pick = torch.zeros(len(rows), 1, dtype=torch.int64)
        if rng is not None:
            pick = torch.multinomial(best.values.softmax(dim=-1), 1, generator=rng)
        rows = torch.cat([rows, best.indices.gather(-1, pick)], dim=1)
    return rows


def _banned(lm: LM) -> list[int]:
    """Tokens that end a text, which no sample should hold."""
    special = {lm.tokenizer.bos_id, getattr(lm.tokenizer, "eos_id", None)}
    return sorted(token for token in special if token is not None and token < lm.spec.vocab)
