"""Activations of whole texts, one vector a text: what directions, probes, erasure and steering are fitted on.

    import interp
    lm, texts = interp.load("atlas"), interp.reference.labelled("atlas", "colour", 20)
    gathered = gather(lm, texts, ["hook_embed", "blocks.*.hook_resid_post"], pool="mean")
    gathered["blocks.2.hook_resid_post"]      # float32 [text, d]

`pool` says which tokens of a text make its vector: "last" its last real token; "mean" the mean over all its tokens but a BOS (whose
state is the same for every text, and in many models a hundred times as large); "each" no pooling, one row a token, `rows` saying
whose; or the name of a span (texts given as `Prompt`s), whose tokens are averaged. Texts are tokenized one by one and read without
padding, so no pooling can meet a padding column. Sites with heads are flattened [head * d_head], or only `heads` of them are.

With a store the activations of all tokens are kept there, so directions, erasure and steering of one set of texts read one capture.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.core.batch import Batch
from interp.core.edit import Edit
from interp.core.errors import BadInput, listing
from interp.core.site import Site, expand
from interp.data import Corpus, Prompt, TokenPrompt, pack, tokenize

from ..streams import streams

if TYPE_CHECKING:
    from interp.core.lm import LM

POOLS = ("last", "mean", "each")
BUDGET = 2048
"""Tokens of one forward pass."""


@dataclass(frozen=True, eq=False)
class Gathered:
    """Vectors of texts at some sites. Made by `gather`."""

    values: Mapping[Site, Tensor]
    """float32 [row, d]; a row a text, or a token where nothing is pooled."""
    rows: Tensor
    """Which text each row is of, int64 [row]."""
    tokens: tuple[TokenPrompt, ...]
    """The texts as they were read."""
    shapes: Mapping[Site, tuple[int, ...]]
    """A token's own shape at the site, all heads counted."""
    pool: str = "last"
    heads: tuple[int, ...] | None = None

    def __getitem__(self, site: "Site | str") -> Tensor:
        site = Site.parse(site)
        if site not in self.values:
            raise BadInput(f"{site.name!r} was not gathered; there are {listing(map(str, self.values))}.")
        return self.values[site]

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites, in forward order."""
        return tuple(self.values)

    def of_texts(self, values: Sequence[Any]) -> list[Any]:
        """What is known of each text (labels, groups), row by row."""
        return [values[int(text)] for text in self.rows]


def gather(
    lm: "LM",
    texts: Any,
    sites: "str | Site | Sequence[str | Site]",
    *,
    pool: str = "last",
    heads: Sequence[int] | None = None,
    bos: bool | None = None,
    store: Any = None,
    edits: Callable[[Batch], Sequence[Edit]] | None = None,
) -> Gathered:
    """One float32 vector a text (or token) at each site. `texts`: `Labelled`, or a sequence of strings or `Prompt`s.

    `edits(batch)` gives the edits that a padded batch of some of the texts is run under; nothing is then read from the store.
    Raises `BadInput` for texts longer than the context, `UnknownSite`, `SpanError` for a span that a text lacks.
    """
    found = expand(sites, lm.spec)
    shapes = _shapes(lm, found, heads)
    read = tokens_of(lm, texts, bos=bos)
    columns = [_columns(text, pool) for text in read]
    kept: dict[Site, list[Tensor]] = {site: [] for site in found}
    for place, states in _states(lm, read, found, store, edits):
        for site in found:
            values = states[site][columns[place].to(states[site].device)]
            values = (values if heads is None else values[:, list(heads)]).reshape(len(values), -1)  # [token, d]
            values = values if pool == "each" else values.double().mean(dim=0, keepdim=True)
            kept[site].append(values.float().cpu())
    sizes = torch.tensor([len(here) if pool == "each" else 1 for here in columns])
    rows = torch.arange(len(read)).repeat_interleave(sizes)
    pooled = {site: torch.cat(parts) for site, parts in kept.items()}
    for site, there in pooled.items():
        if not bool(torch.isfinite(there).all()):
            raise BadInput(f"activations at {site} are not finite. Load the model with dtype='float32'.")
    return Gathered(pooled, rows, tuple(read), shapes, pool, None if heads is None else tuple(heads))


def tokens_of(lm: "LM", texts: Any, *, bos: bool | None = None) -> list[TokenPrompt]:
    """Texts as this model reads them. Raises `BadInput` where there is none, or one is longer than the context."""
    given = getattr(texts, "texts", texts)
    if isinstance(given, str) or not isinstance(given, Sequence) or not len(given):
        raise BadInput(
            f"give labelled texts, or a list of texts; not {given!r:.80}. `interp.data.labelled` reads them."
        )
    prompts = [text if isinstance(text, Prompt) else Prompt(text) for text in given]
    return [tokenize(prompt, lm.tokenizer, bos=bos, n_ctx=lm.spec.n_ctx) for prompt in prompts]


def after_bos(tokens: Sequence[TokenPrompt]) -> Tensor:
    """Where a right-padded batch of these texts has text: bool [text, pos], neither padding nor BOS."""
    width = max(map(len, tokens))
    place = torch.arange(width)
    starts = torch.tensor([int(text.bos) for text in tokens])
    ends = torch.tensor([len(text) for text in tokens])
    return (place >= starts[:, None]) & (place < ends[:, None])


def _shapes(lm: "LM", sites: Sequence[Site], heads: Sequence[int] | None) -> dict[Site, tuple[int, ...]]:
    shapes = {info.site: info.shape for info in lm.sites() if info.site in sites}
    for site, shape in shapes.items():
        if "query" in site.dims:
            raise BadInput(
                f"{site}: patterns have as many entries as a text has tokens, so they are no vectors. Take hook_z."
            )
        if heads is None:
            continue
        if len(shape) != 2:
            raise BadInput(f"`heads={list(heads)}`: {site} has no head axis. Drop `heads`.")
        if not heads or len(set(heads)) < len(heads) or not all(0 <= head < shape[0] for head in heads):
            raise BadInput(f"`heads={list(heads)}` must name heads of {site} once each, 0 to {shape[0] - 1}.")
    return {site: tuple(shapes[site]) for site in sites}


def _columns(text: TokenPrompt, pool: str) -> Tensor:
    if pool in ("mean", "each"):
        return torch.arange(int(text.bos), len(text))
    if pool not in text.spans:
        raise BadInput(
            f"`pool` must be {listing([*POOLS])} or the name of a span; {pool!r} is neither in the text "
            f"{text.prompt.text!r:.80}, which has {listing(text.spans)}. Spans are marked by `Prompt.of(text, {pool}=...)`."
        )  # "last" is a span of every text
    return torch.arange(*text.spans[pool])


def _states(
    lm: "LM", tokens: Sequence[TokenPrompt], sites: Sequence[Site], store: Any, edits: Any
) -> Iterator[tuple[int, dict[Site, Tensor]]]:
    """(place, activations of that text [token, ...]), in order."""
    if edits is None:
        names = [str(place) for place in range(len(tokens))]
        documents = Corpus.from_ids([text.ids for text in tokens], ids=names, source="texts", bos=tokens[0].bos)
        yield from streams(lm, documents, sites, store, budget=BUDGET)
        return
    for part in pack([len(text) for text in tokens], BUDGET):
        batch = Batch.padded([tokens[place].ids for place in part])
        run = lm.run(batch, capture=sites, edits=edits(batch), stop_after=max(sites, key=lambda site: site.order))
        for row, place in enumerate(part):
            yield place, {site: run[site][row, : len(tokens[place])] for site in sites}
