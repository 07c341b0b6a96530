"""Channel use: of the heads that are able to talk to one another, which ones do, on these prompts?

A composition score says that what a component writes lies where a reader looks. It does not say that anything is written there, or that
it makes a difference to the reader. Both are measured here, beside the score. With z the head's mixed values, v the component's write
direction, and everything but the stream held as it was in the run (norms, the other side of the product, attention for kind V):

    written    w[t] = z[t] W_O vᵀ                                       at every token t
    read       Q    score[i, j] of the query i with the keys j, from w[i] v alone        (logits)
               K    score[i, j] of the query i with the keys j, from w[j] v alone        (logits)
               V    Σ_j A[i, j] w[j] v OV along the reader's output at i                 (its length)

A reader's scores move its attention only by their differences between keys, so for Q and K all keys' mean is taken off, query by query:
`read` is what the keys of a named span gain on the average key; `size` the standard deviation over keys; `share` the part of the
variance of the reader's own scores, cov(part, score) / var(score), which may be negative where one writer works against the others.

Everything that a reader hears is split so (heads, MLPs, embeddings, biases), and the parts sum to the reader's score, on every prompt;
an `InterpError` says so where they do not. See `listening` for the equations, and for what is held.

How. One pass over the prompts, or none where the activation store has them (`store=`); then products of d_head-sized vectors. A head's
other components, read by the same head, are the control (`beside`): they were written with as much effort, and should not be heard.

Source: Merullo et al. 2024, "Talking Heads" (arXiv 2406.09519), for components; Elhage et al. 2021 for scores as sums over writers.

When it misleads
- The norm's scale is held, and only the direct way from writer to reader counts: what a head says through an MLP in between is the MLP's.
- A large share is not yet importance to the answer: intervene (`ComponentAblation`, `ChannelPatching`).
- Q splits scores by who wrote to the query, K the same scores by who wrote to the keys. The two are never added.
- For K, what lies in all keys alike is nobody's contribution, and the first token often is unlike all others: a component that
  only marks it has a large share, and makes a head attend to it.
- In rotary models the ability is at one distance (`offset`); use is at the true distance of each pair of tokens.

    import interp
    lm, task = interp.load("atlas"), interp.reference.task("atlas", "ioi", n=12)
    use = interp.ChannelUse(n=5)(lm, task)
    use.table()                                     # able and does, a row a channel
    use.correlation()                               # rank correlation of the two
    use.sources(use.data["link"].values[0])         # all that this reader hears
    use.between("IO", "S1").mean("prompt")
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
import xarray as xr

from interp.core.analysis import Analysis, Cost
from interp.core.errors import BadInput, SpanError, listing, one_of
from interp.core.progress import track
from interp.core.site import Site
from interp.data import Corpus
from interp.data.prompts import Prompt, PromptPair
from interp.data.tokens import TokenPrompt, tokenize

from ...pairs import contrasted
from ...streams import check_corpus, streams
from ..component import Component, Head
from ..factors import KINDS, Setting, free
from .able import RANKINGS, Ability, Channel, named
from .parts import Split
from .result import ChannelUseResult

if TYPE_CHECKING:
    from interp.core.lm import LM

CALIBRATED = 4
"""Prompts whose attention patterns are compared with what the weights make of queries and keys."""


@dataclass(frozen=True)
class Row:
    """One prompt or document: its tokens and the columns of its spans."""

    id: str
    tokens: torch.Tensor
    spans: dict[str, tuple[int, int]]


@dataclass(frozen=True)
class ChannelUse(Analysis[ChannelUseResult]):
    """How strongly channels are written and read on prompts, beside how well they could be."""

    takes: ClassVar[str] = "prompts"

    writers: tuple[str, ...] | None = None
    """Components (8.10.1), or heads (8.10) whose components compete; by default every head's."""
    readers: tuple[str, ...] | None = None
    """Heads that read; by default every head. Where components and readers are named, each is taken with each."""
    kinds: tuple[Literal["Q", "K", "V"], ...] = ("Q", "K", "V")
    """Inputs of the readers: query, key, value."""
    n: int = 20
    """How many of the channels that are most able to talk are looked at, where they are not named one by one."""
    rank_by: Literal["z", "score"] = "z"
    """What makes a channel able: its z among its head's other components, or its composition score."""
    beside: bool = True
    """Look at all other components of each writer's head with the same reader, too: the control, and what `rank` is among."""
    query: str = "last"
    """Tokens at which readers attend from: last, a span, or all (each token that sees another)."""
    to: tuple[str, ...] | None = None
    """Spans of keys that `read` is about; by default those that all prompts have, and `first`, the first token."""
    offset: int | None = None
    """Rotary models only: the distance at which the ability of Q and K is scored; by default 1, the token before."""
    folded: bool = True
    """Name components in coordinates with norm gains folded in; else of the raw parameters. What is read does not depend on it."""
    bos: bool | None = None
    """Put a BOS before each prompt; None follows the model's tokenizer."""
    batch_tokens: int = 1024
    """Tokens read at once, where nothing is read from a store."""

    def __post_init__(self) -> None:
        for name in ("writers", "readers", "kinds", "to"):
            value = getattr(self, name)
            if value is None:
                continue
            value = (value,) if isinstance(value, str) else tuple(value)
            object.__setattr__(self, name, value)
            if not value or len(set(value)) < len(value):
                raise BadInput(f"`{name}` must name one or more, each once; not {value!r}.")
        for kind in self.kinds:
            one_of("kinds", kind, KINDS)
        one_of("rank_by", self.rank_by, RANKINGS)
        for name in ("n", "batch_tokens"):
            if getattr(self, name) < 1:
                raise BadInput(f"`{name}` must be at least 1; not {getattr(self, name)}.")

    @property
    def setting(self) -> Setting:
        """In which coordinates components are named."""
        return Setting(folded=self.folded)

    def check(self, lm: "LM", data: Any) -> None:
        """Refuse models whose heads cannot be split, names that the model lacks, and prompts without the spans."""
        spec = lm.spec
        have = {info.site.kind for info in lm.sites()}
        if missing := [kind for kind in ("resid_pre", "q", "k", "v", "z", "mlp_out") if kind not in have]:
            raise BadInput(
                f"channels are between heads, and {spec.name} ({spec.family}) has no site {missing[0]!r}: its heads are not known. Use a "
                "family of the table (`interp.models.families`)."
            )
        if spec.n_layers < 2:
            raise BadInput(f"{spec.name} has one layer, and channels are from heads to heads of later layers.")
        if spec.sinks and "V" in self.kinds:
            raise BadInput(
                f"kinds={self.kinds!r}: heads of {spec.name} attend to a learned sink too, which values do not show. Use kinds=('Q', 'K')."
            )
        self._named(lm)
        self._rows(lm, data)

    def cost(self, lm: "LM", data: Any = None) -> Cost:
        """One forward pass over the prompts without the unembedding, and again over the first few for their patterns."""
        rows, spec = self._rows(lm, data), lm.spec
        lengths = [len(row.tokens) for row in rows]
        kept = self.batch_tokens * spec.d_model * spec.n_layers * 6 * spec.bytes_per_value
        weights = 8 * spec.n_layers * 2 * spec.n_heads * spec.d_head * spec.d_model
        checked = lengths[:CALIBRATED]
        return Cost(float(len(rows) + len(checked)), sum(lengths) + sum(checked), kept + weights)

    def run(self, lm: "LM", data: Any, store: Any = None) -> ChannelUseResult:
        """Split what every reader hears, prompt by prompt."""
        rows, able = self._rows(lm, data), Ability(lm, self.setting, offset=self.offset)
        chosen = self._channels(lm, able)
        channels, left_out = self._beside(able, chosen) if self.beside else (chosen, 0)
        split = Split(lm, able, channels)
        _calibrate(lm, split, rows[:CALIBRATED])
        spans = self._spans(rows)
        corpus = Corpus.from_ids([row.tokens for row in rows])
        documents = streams(lm, corpus, split.sites, store, budget=self.batch_tokens)
        found = [
            split.document(acts, _columns(rows[place], self.query), {name: rows[place].spans[name] for name in spans})
            for place, acts in track(documents, "channel use", total=len(rows))
        ]
        return self._result(lm, rows, spans, split, chosen, able, found, left_out)

    def _named(self, lm: "LM") -> tuple[list[Component | Head] | None, list[Head] | None]:
        writers = None if self.writers is None else named(lm, self.writers, self.setting)
        readers = None if self.readers is None else [Head.parse(name).check(lm) for name in self.readers]
        for reader in readers or ():
            if reader.layer == 0:
                raise BadInput(f"no head writes to {reader}: it is in the first layer. Name readers in later ones.")
        for writer in writers or ():
            if writer.layer == lm.spec.n_layers - 1:
                raise BadInput(f"no head reads {writer}: it is in the last layer. Name writers in earlier ones.")
        return writers, readers

    def _channels(self, lm: "LM", able: Ability) -> list[Channel]:
        writers, readers = self._named(lm)
        if writers and readers and all(isinstance(writer, Component) for writer in writers):
            every = [Channel(one, kind, reader) for one in writers for kind in self.kinds for reader in readers]  # type: ignore[arg-type]
            if deaf := [channel for channel, score in zip(every, able.of(every)[0], strict=True) if np.isnan(score)]:
                raise BadInput(
                    f"{deaf[0].link} reads nothing: its matrix is zero. Name another reader, or leave out kind {deaf[0].kind!r}."
                )
            return every
        return able.strongest(self.n, kinds=self.kinds, writers=writers, readers=readers, by=self.rank_by)

    def _beside(self, able: Ability, chosen: Sequence[Channel]) -> tuple[list[Channel], int]:
        """The chosen channels and those of all other components of their heads, and how many of these cannot be told apart."""
        out, left_out = list(chosen), 0
        for one in dict.fromkeys((channel.writer.owner, channel.kind, channel.reader) for channel in chosen):
            owner, kind, reader = one
            alone = able.alone(owner.layer)[owner.head]
            left_out += int((~alone).sum())
            out += [
                Channel(Component(owner.layer, owner.head, index), kind, reader)
                for index in alone.nonzero()[:, 0].tolist()
            ]
        return list(dict.fromkeys(out)), left_out

    def _rows(self, lm: "LM", data: Any) -> list[Row]:
        if isinstance(data, Corpus):
            check_corpus(lm, data)
            return self._checked(
                [
                    Row(name, tokens, {"first": (0, 1), "last": (len(tokens) - 1, len(tokens))})
                    for name, tokens in zip(data.ids, data.documents, strict=True)
                ]
            )
        items: Sequence[Any] = [data] if isinstance(data, Prompt | PromptPair | str) else list(data or ())
        if not items:
            raise BadInput(
                "there are no prompts. Give prompts, pairs (their clean prompts are read), texts or a corpus."
            )
        rows = []
        for item in items:
            prompt = Prompt(item) if isinstance(item, str) else contrasted(item)
            if not isinstance(prompt, Prompt):
                raise BadInput(f"this takes prompts, pairs, texts or a corpus; not {item!r:.100}.")
            bare = replace(prompt, answer=None, foil=None)  # what is answered plays no part
            tokens: TokenPrompt = tokenize(bare, lm.tokenizer, bos=self.bos, n_ctx=lm.spec.n_ctx)
            rows.append(Row(tokens.id, torch.tensor(tokens.ids), {"first": (0, 1), **tokens.spans}))
        return self._checked(rows)

    def _checked(self, rows: list[Row]) -> list[Row]:
        for row in rows:
            for name in (self.query, *(self.to or ())):
                if name not in row.spans and not (name == "all" and name == self.query):
                    raise SpanError(
                        f"prompt {row.id!r} has no span {name!r}; it has {listing(row.spans)}. Mark it, or name another."
                    )
            if not _columns(row, self.query):
                raise BadInput(
                    f"prompt {row.id!r}: at query={self.query!r} there is a single key, so nothing is chosen. Bring longer prompts."
                )
        return rows

    def _spans(self, rows: Sequence[Row]) -> list[str]:
        if self.to is not None:
            return list(self.to)
        return [name for name in rows[0].spans if all(name in row.spans for row in rows)]

    def _result(
        self,
        lm: "LM",
        rows: Sequence[Row],
        spans: Sequence[str],
        split: Split,
        chosen: Sequence[Channel],
        able: Ability,
        found: Sequence[dict[str, np.ndarray]],
        left_out: int,
    ) -> ChannelUseResult:
        channels, picked = split.channels, set(chosen)
        score, z = able.of(channels)
        coords: dict[str, Any] = {
            "prompt": [row.id for row in rows],
            "channel": [str(channel) for channel in channels],
            "writer": ("channel", [str(channel.writer) for channel in channels]),
            "channel_head": ("channel", [str(channel.writer.owner) for channel in channels]),
            "index": ("channel", [channel.writer.index for channel in channels]),
            "channel_kind": ("channel", [channel.kind for channel in channels]),
            "channel_link": ("channel", [channel.link for channel in channels]),
            "chosen": ("channel", [channel in picked for channel in channels]),
            "link": [f"{kind} {head}" for kind, head in split.links],
            "kind": ("link", [kind for kind, _ in split.links]),
            "reader": ("link", [str(head) for _, head in split.links]),
            "source": [source.name for source in split.sources],
            "source_kind": ("source", [source.kind for source in split.sources]),
            "span": list(spans),
        }
        dims = {
            "write": ("channel", "span"), "loud": ("channel",), "head_share": ("channel",), "read": ("channel", "span"),
            "share": ("channel",), "size": ("channel",), "total": ("link",), "source_read": ("link", "source", "span"),
            "source_share": ("link", "source"), "remainder": ("link",),
        }  # fmt: skip
        columns: dict[str, Any] = {
            name: (("prompt", *axes), np.stack([one[name] for one in found])) for name, axes in dims.items()
        }
        columns["able"], columns["able_z"] = ("channel", score), ("channel", z)
        columns["value"] = (
            "channel",
            [float(able.parts(c.writer.layer).values[c.writer.head, c.writer.index]) for c in channels],
        )
        attrs = {
            "query": self.query, "offset": -1 if able.offset is None else able.offset, "folded": self.folded,
            "null": free(lm, self.setting) ** -0.5, "left_out": left_out,
            "factors": {str(head): reader.factor for head, reader in split.readers.items()},
        }  # fmt: skip
        return ChannelUseResult(xr.Dataset(columns, coords, attrs))


def _columns(row: Row, query: str) -> list[int]:
    """Columns of the queries of a prompt: those that see more than themselves."""
    low, high = (0, len(row.tokens)) if query == "all" and query not in row.spans else row.spans[query]
    return [column for column in range(low, high) if column > 0]


def _calibrate(lm: "LM", split: Split, rows: Sequence[Row]) -> None:
    """Fit what each reader's products are multiplied by, on the model's own patterns of some prompts."""
    layers = sorted({head.layer for head in split.readers})
    patterns = [Site("pattern", layer) for layer in layers]
    sums = {head: np.zeros(3) for head in split.readers}
    for row in rows:
        run = lm.run(row.tokens[None], capture=[*split.heard_at, *patterns], stop_after=patterns[-1])
        acts = {site: run[site][0] for site in split.heard_at}
        for head, reader in split.readers.items():
            pattern = run[Site("pattern", head.layer)][0, head.head]
            sums[head] += reader.calibrate(reader.hear(acts), pattern)
    for head, reader in split.readers.items():
        reader.settle(sums[head].tolist())
