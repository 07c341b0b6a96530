"""One document at a time: what every writer contributes to every reader that is asked, and the check that nothing is missing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from interp.core.errors import InterpError
from interp.core.site import Site

from ..component import Head
from ..factors import ov
from .able import Ability, Channel
from .listening import Heard, ReaderHead, centred, projections_of

if TYPE_CHECKING:
    from interp.core.lm import LM

TOLERANCE = {"float64": 1e-9, "float32": 1e-5, "bfloat16": 5e-2, "float16": 1e-2}
"""Largest difference between the sum of the parts and the whole that rounding explains, relative to the largest part."""
RMS = 1e-6
"""The same in float64 where norms are RMSNorms, which transformers computes in float32 whatever the model's precision."""
FLAT = 1e-6
"""Standard deviation of scores over keys, relative to the largest score, below which they are all the same but for rounding."""

Acts = Mapping[Site, Tensor]


@dataclass(frozen=True)
class Source:
    """One summand of the stream, or the readers' biases."""

    name: str
    kind: str
    layer: int = -1


@dataclass(frozen=True, eq=False)
class Question:
    """What is asked of the scores of one link: matrices over queries and keys."""

    D: Tensor
    """[span + 1, query, key]; the last one gives the share. 0 where there is nothing to ask."""
    known: Tensor
    """Which of them can be asked, bool [span + 1]."""
    seen: Tensor
    """bool [query, key]: pairs that count."""
    total: float


class Split:
    """The readers and writers of some channels of one model, float64 on the CPU."""

    def __init__(self, lm: "LM", able: Ability, channels: Sequence[Channel]) -> None:
        self.lm, self.channels = lm, list(channels)
        self.links = list(dict.fromkeys((channel.kind, channel.reader) for channel in channels))
        heads = list(dict.fromkeys(channel.reader for channel in channels))
        known = {layer: projections_of(lm, layer) for layer in {head.layer for head in heads}}
        turns: dict[int, Tensor] = {}
        self.readers = {head: ReaderHead(lm, head, projections=known[head.layer], turns=turns) for head in heads}
        self.depth = max(head.layer for head in self.readers)
        layers = range(self.depth)
        self._out = [lm.weights.W_O(layer).detach().double().cpu() for layer in layers]  # [head, d_head, d_model]
        biases = [lm.weights.b_O(layer) for layer in layers]
        self._bias = [torch.zeros(lm.spec.d_model).double() if b is None else b.detach().double().cpu() for b in biases]
        gains = [lm.weights.norm("attn_post", layer)[0] if lm.spec.post_norm else None for layer in layers]
        self._gain = [None if gain is None else gain.detach().double().cpu() for gain in gains]
        self.first = [Site("embed")] + ([Site("pos_embed")] if lm.spec.positions == "learned" else [])
        self.sources = self._sources()
        self.tolerance = max(TOLERANCE[lm.spec.dtype], RMS if lm.spec.norm == "rms" else 0.0)
        self._centre = able.setting.folded and lm.spec.norm == "layer"
        self._raw = not able.setting.folded
        self._groups = self._grouped(able)

    @property
    def heard_at(self) -> list[Site]:
        """What the readers are asked from."""
        return list(dict.fromkeys(site for reader in self.readers.values() for site in reader.sites))

    @property
    def sites(self) -> list[Site]:
        """Everything that is read of a document."""
        kinds = ("z", "mlp_out", "attn_out") if self.lm.spec.post_norm else ("z", "mlp_out")
        return [*self.first, *(Site(kind, layer) for layer in range(self.depth) for kind in kinds), *self.heard_at]

    def document(
        self, acts: Acts, queries: Sequence[int], spans: Mapping[str, tuple[int, int]]
    ) -> dict[str, np.ndarray]:
        """Every number of one document, by the names and in the order of the axes of `ChannelUseResult`."""
        wide = {site: values.double().cpu() for site, values in acts.items()}
        heard = {head: reader.hear(wide) for head, reader in self.readers.items()}
        keys = [_mask(span, len(wide[self.first[0]])) for span in spans.values()]
        asked = {link: self._ask(link, heard[link[1]], queries, keys) for link in self.links}
        posts = [self._post(wide, layer) for layer in range(self.depth)]
        parts, remainder = self._all(wide, posts, heard, asked)
        out = {
            "source_read": parts[:, :, :-1], "source_share": parts[:, :, -1], "remainder": remainder,
            "total": np.array([asked[link].total for link in self.links]),
        }  # fmt: skip
        shapes = {"write": (len(keys),), "read": (len(keys),), "loud": (), "head_share": (), "share": (), "size": ()}
        out |= {name: np.full((len(self.channels), *rest), np.nan) for name, rest in shapes.items()}
        for (owner, kind, reader), (places, write, right) in self._groups.items():
            z = wide[Site("z", owner.layer)][:, owner.head] / posts[owner.layer][:, None]  # [pos, d_head]
            link, said, gain = (kind, reader), z @ right, self._gain[owner.layer]  # said [pos, d_model]
            into = write * gain if gain is not None and self._raw else write  # raw directions are before that gain
            found = self._components(link, heard[reader], asked[link], wide, keys, said=said, write=write, into=into)
            for name, values in found.items():
                out[name][places] = values.numpy()
        return out

    def _sources(self) -> list[Source]:
        found = [Source(site.kind, "embed") for site in self.first]
        for layer in range(self.depth):
            found += [Source(f"{layer}.{head}", "head", layer) for head in range(self.lm.spec.n_heads)]
            found += [Source(f"attn {layer}", "attn", layer), Source(f"mlp {layer}", "mlp", layer)]
        return [*found, Source("bias", "bias")]

    def _grouped(self, able: Ability) -> dict[tuple[Head, str, Head], tuple[list[int], Tensor, Tensor]]:
        """Channels by head, kind and reader: their places, their write directions [n, d_model], and W_O in their coordinates."""
        found: dict[tuple[Head, str, Head], list[int]] = {}
        for place, channel in enumerate(self.channels):
            found.setdefault((channel.writer.owner, channel.kind, channel.reader), []).append(place)
        out: dict[tuple[Head, str, Head], tuple[list[int], Tensor, Tensor]] = {}
        right = {
            layer: ov(self.lm, layer, able.setting).right.cpu() for layer in {owner.layer for owner, _, _ in found}
        }
        for (owner, kind, reader), places in found.items():
            index = [self.channels[place].writer.index for place in places]
            write = able.parts(owner.layer).write[owner.head, index].cpu()
            out[owner, kind, reader] = places, write, right[owner.layer][owner.head]
        return out

    def _post(self, acts: Acts, layer: int) -> Tensor:
        """What a norm after attention divides by, [pos]; 1 where there is none."""
        gain = self._gain[layer]
        if gain is None:
            return torch.ones(len(acts[Site("z", layer)]), dtype=torch.float64)
        before = torch.einsum("phk,hkd->pd", acts[Site("z", layer)], self._out[layer]) + self._bias[layer]
        tiny = torch.finfo(torch.float64).tiny
        return (before * gain).norm(dim=-1) / acts[Site("attn_out", layer)].norm(dim=-1).clamp(min=tiny)

    def _ask(self, link: tuple[str, Head], heard: Heard, queries: Sequence[int], keys: Sequence[Tensor]) -> Question:
        kind, reader = link[0], self.readers[link[1]]
        length = len(heard.scale)
        rows = torch.zeros(length, 1, dtype=torch.bool)
        rows[list(queries)] = True
        seen = reader.visible(length) & rows
        asked = [_over(seen & key, seen, contrast=kind != "V") for key in keys]
        if kind == "V":
            size = reader.aim(heard)[1][list(queries)]
            total, whole = float(size.square().mean().sqrt()), float(size.sum())
            share = seen.double() / whole if whole > 0 else None
        else:
            score = reader.score(heard)
            apart = centred(score, seen)
            count = seen.sum(dim=-1).clamp(min=1)
            total = float((apart.square().sum(dim=-1) / count)[list(queries)].mean().sqrt())
            flat = total <= FLAT * float(score[seen].abs().max())
            share = None if flat else apart / apart.square().sum()
            total = 0.0 if flat else total
        asked.append(share)
        known = torch.tensor([one is not None for one in asked])
        none = torch.zeros(length, length, dtype=torch.float64)
        return Question(torch.stack([none if one is None else one for one in asked]), known, seen, total)

    def _all(
        self,
        acts: Acts,
        posts: Sequence[Tensor],
        heard: Mapping[Head, Heard],
        asked: Mapping[tuple[str, Head], Question],
    ) -> tuple[np.ndarray, np.ndarray]:
        """What each source contributes [link, source, span + 1], NaN for those after the reader; and relative remainders [link]."""
        pulled = [self.readers[head].pull(kind, heard[head], asked[kind, head].D) for kind, head in self.links]
        functions = torch.stack([one[0] for one in pulled])  # [link, n, pos, d_model]
        bias, whole = (torch.stack([one[place] for one in pulled]) for place in (1, 2))  # [link, n]
        parts = torch.full((len(self.links), len(self.sources), functions.shape[1]), torch.nan, dtype=torch.float64)
        depth = torch.tensor([head.layer for _, head in self.links])
        parts[:, -1] = bias
        for place, site in enumerate(self.first):
            parts[:, place] = torch.einsum("pd,lnpd->ln", acts[site], functions)
        start = len(self.first)
        for layer in range(self.depth):
            above = depth > layer
            heads = torch.einsum("phk,hkd->phd", acts[Site("z", layer)], self._out[layer])
            rest = self._bias[layer].expand(len(heads), 1, -1)
            said = torch.cat([heads, rest], dim=1) / posts[layer][:, None, None]  # [pos, head + 1, d_model]
            if (gain := self._gain[layer]) is not None:
                said = said * gain
            said = torch.cat([said, acts[Site("mlp_out", layer)][:, None]], dim=1)
            parts[above, start : start + said.shape[1]] = torch.einsum("psd,lnpd->lsn", said, functions[above])
            start += said.shape[1]
        remainder = np.array(
            [self._checked(link, parts[place], whole[place], asked[link]) for place, link in enumerate(self.links)]
        )
        known = torch.stack([asked[link].known for link in self.links])
        return torch.where(known[:, None], parts, torch.nan).numpy(), remainder

    def _checked(self, link: tuple[str, Head], parts: Tensor, whole: Tensor, asked: Question) -> float:
        """How far the sum of parts [source, n] is from the whole [n], over the largest; refused beyond rounding."""
        held = parts.nan_to_num()
        largest = torch.maximum(held.abs().amax(dim=0), whole.abs())
        off = (held.sum(dim=0) - whole).abs() / torch.where(largest > 0, largest, 1.0)
        worst = float(torch.where(asked.known, off, 0.0).max())
        if not worst <= self.tolerance:
            raise InterpError(
                f"what all writers contribute to {link[0]} of head {link[1]} of {self.lm.spec.name} should sum to its own, and is off by "
                f"{worst:.2g} of the largest part. This model writes something that is not a named component; the split would be wrong."
            )
        return worst

    def _components(
        self, link: tuple[str, Head], heard: Heard, asked: Question, acts: Acts, keys: Sequence[Tensor],
        *, said: Tensor, write: Tensor, into: Tensor,
    ) -> dict[str, Tensor]:  # fmt: skip
        """What components, writing along `write` [n, d_model], of a head that says `said` [pos, d_model] are to one reader; `into` is what
        the stream gets for one unit along `write`."""
        kind, reader = link[0], self.readers[link[1]]
        written = write @ said.T  # [n, pos]
        linear = reader.read_in(kind, into)  # [n, d_head]
        worth = reader.worth(kind, heard, reader.images(kind, heard, written[:, :, None] * linear[:, None]))
        answers = torch.where(asked.known, torch.einsum("nqk,sqk->ns", worth, asked.D), torch.nan)
        queries = asked.seen.any(dim=1)
        if kind == "V":
            mixed = torch.where(asked.seen, reader.pattern(heard), 0.0) @ (written * heard.scale).T  # [query, n]
            each = mixed.T.square() * (linear @ reader.W_O).square().sum(dim=-1, keepdim=True)
        else:
            each = centred(worth, asked.seen).square().sum(dim=-1) / asked.seen.sum(dim=-1).clamp(min=1)
        at = queries if kind == "Q" else asked.seen.any(dim=0)  # where the reader reads
        stream = acts[Site("resid_pre", link[1].layer)]
        stream = stream - stream.mean(dim=-1, keepdim=True) if self._centre else stream
        whole = said.square().sum(dim=-1)[at].sum()
        said_along = written.square() * into.square().sum(dim=-1, keepdim=True)
        return {
            "read": answers[:, :-1],
            "share": answers[:, -1],
            "size": each[:, queries].mean(dim=-1).sqrt(),
            "write": torch.stack([written[:, key].mean(dim=-1) for key in keys], dim=-1),
            "loud": (said_along / stream.square().sum(dim=-1))[:, at].mean(dim=-1).sqrt(),
            "head_share": written.square()[:, at].sum(dim=-1) / whole
            if whole > 0
            else torch.full((len(write),), torch.nan).double(),
        }


def _mask(span: tuple[int, int], length: int) -> Tensor:
    """Columns of a span, bool [pos]."""
    columns = torch.arange(length)
    return (columns >= span[0]) & (columns < span[1])


def _over(chosen: Tensor, seen: Tensor, *, contrast: bool) -> Tensor | None:
    """The question after some keys [query, key], averaged over the queries that see one; None where none does.

    With `contrast` the mean of these keys less the mean of all that are seen; else the sum of these keys.
    """
    some = chosen.any(dim=1)
    if not some.any():
        return None
    if not contrast:
        return chosen.double() / seen.any(dim=1).sum()
    mean, every = (mask / mask.sum(dim=1, keepdim=True).clamp(min=1) for mask in (chosen.double(), seen.double()))
    return torch.where(some[:, None], mean - every, 0.0) / some.sum()
