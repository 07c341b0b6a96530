"""The patching itself: both prompts of every pair recorded, all that is exchanged as cells of edits, and what is seen there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from interp.core import edit
from interp.core.batch import At, Batch
from interp.core.edit import Edit
from interp.core.errors import BadInput
from interp.core.lm import LM
from interp.core.run import Run
from interp.core.site import Site
from interp.core.stats import random_subspace
from interp.data.tokens import TokenPair

from ...pairs import PairGroup
from ...paths.places import where
from ...readout import METRICS, read_metrics
from ...subspaces import spanned, split
from ..attention import Observer, Readout
from ..component import Component, Head
from ..decompose import subspace
from ..factors import Setting, ov, qk
from .along import Axis, Spaces, columns_of, loudest_into, set_coordinates
from .arms import Missing, control
from .material import Offered, candidates_of, kinds_of, looked_at, readers_of
from .patch_result import AMONG, ChannelPatchingResult

if TYPE_CHECKING:
    from .patch import ChannelPatching

CONTROLS = ("same_head", "random")


def other_answer(pair: TokenPair) -> int:
    """The token that the corrupted prompt answers; the clean prompt's foil where it names none. Raises `BadInput` where neither is."""
    right = pair.clean.answer_ids[:1]
    for ids in (pair.corrupted.answer_ids[:1], pair.clean.foil_ids[:1]):
        if ids and right and ids != right:
            return ids[0]
    raise BadInput(
        f"the pair {pair.id!r} does not say two different answers: its clean prompt has {pair.clean.prompt.answer!r}, its corrupted one "
        f"{pair.corrupted.prompt.answer!r}. What a patch should turn the answer into must be known."
    )


@dataclass(frozen=True, eq=False)
class Side:
    """One prompt of each pair of a group: recorded, and read by every reader."""

    batch: Batch
    observers: list[Observer]
    run: Run


class PatchingJob:
    """What is patched, and what is filled in group by group."""

    def __init__(
        self, config: "ChannelPatching", lm: LM, pairs: Sequence[TokenPair], groups: Sequence[PairGroup]
    ) -> None:
        self.config, self.lm, self.pairs = config, lm, pairs
        self.spans, self.to, self.minus = looked_at(
            [pair.clean for pair in pairs], config.spans, config.to, config.minus
        )
        clean = [pair.clean.prompt for pair in pairs]
        after = [config.layer or 0, *(Component.parse(name).layer + 1 for name in config.components)]
        self.readers = readers_of(config, lm, clean, self.to, self.minus, first=max([1, *after]))
        heads = [Head.parse(name) for name in self.readers]
        first = min(heads, key=lambda head: head.layer)
        self.layer = first.layer if config.layer is None else config.layer
        self.space = Spaces(lm, Setting(folded=config.folded))
        names = config.components or (
            str(
                loudest_into(
                    self.space,
                    first,
                    [group.clean for group in groups],
                    config.position,
                    others=[group.corrupted for group in groups],
                )
            ),
        )
        self.components = [Component.parse(name) for name in names]
        self.basis = (
            subspace(lm, names, self.space.setting).cpu().mT
        )  # [d_model, component]; refuses what is not determined
        self.axes = [self._axis(one) for one in self.components]
        self.owners = list(dict.fromkeys(component.owner for component in self.components))
        self.absent: dict[str, str] = {}
        self.draws = {kind: self._drawn(kind) for kind in CONTROLS if config.draws}
        self.split = self._split(heads) if config.site == "stream" else {}
        self.variants = ["none", "channel", "head", "stream", *self.split]
        n, most = len(pairs), max((len(one) for one in self.draws.values()), default=0)
        ways, rest = len(config.directions), (len(self.readers), len(self.spans), n)
        first_axes = {"": (len(self.variants),), "control_": (len(self.draws), most)}
        self.score = {key: np.full((*lead, ways, n, len(METRICS)), np.nan) for key, lead in first_axes.items()}
        self.hit = {key: np.full((*lead, ways, n, len(AMONG)), np.nan) for key, lead in first_axes.items()}
        self.attention = {key: np.full((*lead, ways, *rest), np.nan) for key, lead in first_axes.items()}
        self.coordinate = np.full((len(self.axes), 2, n), np.nan)
        self.rival = np.full((len(self.owners), lm.spec.d_head, 2, n), np.nan)
        self.candidates = candidates_of(lm, [pair.clean for pair in pairs], bos=config.bos, answers=config.answers)
        self.known, self.words = np.zeros(n, dtype=bool), [["", ""] for _ in range(n)]

    def _axis(self, component: Component) -> Axis:
        """A component's axis; `subspace` has settled that all of them together are determined."""
        return self.space.axis(str(component), component.owner, self.space.writes(component.owner)[component.index])

    def _drawn(self, kind: str) -> list[Any]:
        """Draws of a control: axes for a patch at the heads, a basis [d_model, k] for one of the stream."""
        config = self.config
        found: list[Any] = []
        k, d = len(self.components), self.lm.spec.d_model
        for draw in range(config.draws):
            if config.site == "stream" and kind == "random":
                rows = random_subspace(k, d, config.seed, f"channel patch {draw}").double()
                if self.space.setting.folded and self.lm.spec.norm == "layer":
                    rows = torch.linalg.qr(rows - rows.mean(0)).Q
                found.append(rows)
                continue
            try:
                name = "random_direction" if kind == "random" else kind
                axes = control(self.space, self.components, name, draw=draw, seed=config.seed)
            except Missing as missing:
                self.absent[f"{kind} {draw}"] = str(missing)
                break
            if config.site == "stream":
                found.append(torch.linalg.qr(torch.stack([axis.write for axis in axes]).mT).Q)
            else:
                found.append(axes)
        return found

    def _split(self, heads: Sequence[Head]) -> dict[str, Tensor]:
        """What the readers see of the patched subspace, and what they do not, as (unnormalised) bases; those that have any dimension."""
        lm, setting = self.lm, self.space.setting
        rows = []
        for head in heads:
            if self.config.into == "V":
                factors = ov(lm, head.layer, setting)
            else:
                offset = 0 if lm.spec.positions == "rotary" else None
                factors = qk(lm, head.layer, setting, offset=offset)
                factors = factors.T if self.config.into == "K" else factors
            rows.append(factors.left[head.head].cpu().mT)  # [d_head, d_model]
        row, null, _ = split(self.basis, torch.cat(rows))
        return {"row": row, "span": spanned(row), "null": null}

    def patch(self, group: PairGroup) -> None:
        """Every variant and control for the pairs of one group."""
        rows, config = list(group.index), self.config
        answer = group.answer
        other = torch.tensor([other_answer(pair) for pair in group.tokens])
        label = self.lm.tokenizer.label
        for place, row in enumerate(rows):
            self.known[row] = group.known[place]
            self.words[row] = [label(int(answer[place])), label(int(other[place]))]
        want = {"noise": other, "denoise": answer}
        both = len(config.directions) > 1
        sides = {
            name: self._side(
                batch, self._outcome(answer, other, want[way], rows), watched=both or way == config.direction
            )
            for way, name, batch in (("noise", "clean", group.clean), ("denoise", "corrupted", group.corrupted))
        }
        mask = where(group.clean, config.position).cpu()
        self._coordinates(sides, mask, rows)
        for number, way in enumerate(config.directions):
            base, source = (
                sides[name] for name in (("clean", "corrupted") if way == "noise" else ("corrupted", "clean"))
            )
            cells, places = self._cells(base, source.run, mask)
            attention, outcome = self._seen(base.observers, cells)
            for (key, lead), look, numbers in zip(places, attention, outcome, strict=True):
                at: tuple[Any, ...] = (*lead, number)
                self.attention[key][at][..., rows] = look
                self.score[key][at][rows] = numbers[:, : len(METRICS)]
                self.hit[key][at][rows] = numbers[:, len(METRICS) :]

    def _side(self, batch: Batch, outcome: Any, *, watched: bool) -> Side:
        layers = sorted({owner.layer for owner in self.owners})
        capture = [*(Site("z", layer) for layer in layers), Site("resid_pre", self.layer)]
        observers = [
            Observer(
                self.lm, batch, Readout(name, self.to, self.minus), spans=self.spans, capture=capture,
                outcome=None if number else outcome,
            )
            for number, name in enumerate(self.readers)
        ] if watched else []  # fmt: skip
        run = (
            observers[0].base.run
            if observers and observers[0].base is not None
            else self.lm.run(batch, capture=capture)
        )
        return Side(batch, observers, run)

    def _coordinates(self, sides: dict[str, Side], mask: Tensor, rows: Sequence[int]) -> None:
        """Where both prompts of the pairs lie along the components, and along all components of their heads; means over the position's
        tokens."""
        share = mask.double() / mask.sum(1, keepdim=True)
        for number, side in enumerate(sides.values()):
            stream = side.run[Site("resid_pre", self.layer)].double().cpu()
            for place, owner in enumerate(self.owners):
                if self.config.site == "stream":
                    found = stream @ self.space.writes(owner).mT
                else:
                    found = self.space.coordinates(owner, side.run[Site("z", owner.layer)][:, :, owner.head])
                mean = torch.einsum("rp,rpc->cr", share, found).numpy()  # [component, row]
                self.rival[place, : len(mean), number][:, rows] = mean
                for column, component in enumerate(self.components):
                    if component.owner == owner:
                        self.coordinate[column, number, rows] = mean[component.index]

    def _cells(
        self, base: Side, source: Run, mask: Tensor
    ) -> tuple[list[list[Edit]], list[tuple[str, tuple[int, ...]]]]:
        """The edits of everything that is patched, and where each goes: ("" or "control_", its place)."""
        at, stream = At.mask(mask), Site("resid_pre", self.layer)
        whole = [
            edit.replace(Site("z", owner.layer), source[Site("z", owner.layer)], at=at, heads=[owner.head])
            for owner in self.owners
        ]
        cells: list[list[Edit]] = [[], [], whole, [edit.replace(stream, source[stream], at=at)]]
        places: list[tuple[str, tuple[int, ...]]] = [("", (number,)) for number in range(4)]
        drawn = [
            (number, draw, one) for number, draws in enumerate(self.draws.values()) for draw, one in enumerate(draws)
        ]
        places += [("control_", (number, draw)) for number, draw, _ in drawn]
        if self.config.site == "head":
            recorded = base.observers[0].base
            assert recorded is not None
            moves = [self._moves(axes, source, mask) for axes in (self.axes, *(one for _, _, one in drawn))]
            made = set_coordinates(self.lm, recorded, moves, mask)
            return [cells[0], made[0], *cells[2:], *made[1:]], places
        here, there = base.run[stream], source[stream]
        cells[1] = [edit.swap(stream, source, self.basis.float(), at=at)]
        cells += [[edit.swap(stream, source, basis.float(), at=at)] for _, _, basis in drawn]
        for name, part in self.split.items():
            if spanned(part).shape[1]:
                part = part.to(here.device)
                moved = here.double() + (there.double() - here.double()) @ part @ part.mT
                cells.append([edit.replace(stream, moved.to(here.dtype), at=at)])
                places.append(("", (self.variants.index(name),)))
        return cells, places

    def _moves(self, axes: Sequence[Axis], source: Run, mask: Tensor) -> list[tuple[Axis, Tensor]]:
        """Each axis with the coordinate that the other prompt has there."""
        columns = columns_of(mask)
        found = []
        for axis in axes:
            z = source[Site("z", axis.head.layer)][:, columns, axis.head.head]
            found.append((axis, axis.coordinate(z).cpu()))
        return found

    def _seen(self, observers: Sequence[Observer], cells: Sequence[Sequence[Edit]]) -> tuple[np.ndarray, np.ndarray]:
        """Attention [cell, reader, span, row] and outcome [cell, row, metric and hits]."""
        found = [observer.read(cells) for observer in observers]
        order = [found[0].spans.index(span) for span in self.spans]
        attention = torch.stack([one.attention[..., order] for one in found], dim=1).transpose(2, 3)
        outcome = found[0].outcome
        assert outcome is not None
        return attention.numpy(), outcome.numpy()

    def _outcome(self, answer: Tensor, other: Tensor, want: Tensor, rows: Sequence[int]) -> Any:
        """The metrics of the clean answer against the other, and whether `want` is the better of the two, the best candidate, the best
        token: [n, position, metric + 3]."""
        listed = [self.candidates[row][0] for row in rows]
        offered = Offered(listed)
        among = torch.tensor([int(want[place]) in one for place, one in enumerate(listed)])

        def outcome(logits: Tensor, at: Tensor) -> Tensor:
            at = at.cpu()
            metrics = read_metrics(logits, answer[at][:, None], other[at][:, None])
            wide = logits.double().cpu()
            mine = wide.gather(-1, want[at][:, None, None].expand(-1, wide.shape[1], 1))[..., 0]  # [n, position]
            rival = torch.where(want[at] == answer[at], other[at], answer[at])
            two = mine > wide.gather(-1, rival[:, None, None].expand(-1, wide.shape[1], 1))[..., 0]
            best = offered.logits(wide, at).amax(dim=-1)
            picked = torch.where(among[at][:, None], (mine >= best).double(), torch.nan)
            every = mine >= wide.amax(dim=-1)
            return torch.cat([metrics, torch.stack([two.double(), picked, every.double()], dim=-1)], dim=-1)

        return outcome

    def result(self) -> ChannelPatchingResult:
        """Everything, labelled."""
        config, draws = self.config, max((len(one) for one in self.draws.values()), default=0)
        lead: dict[str, tuple[str, ...]] = {"": ("variant",), "control_": ("control", "draw")}
        columns: dict[str, Any] = {}
        for key, dims in lead.items():
            columns[f"{key}score"] = ((*dims, "direction", "pair", "metric"), self.score[key])
            columns[f"{key}hit"] = ((*dims, "direction", "pair", "among"), self.hit[key])
            columns[f"{key}attention"] = ((*dims, "direction", "reader", "span", "pair"), self.attention[key])
        columns["coordinate"] = (("component", "side", "pair"), self.coordinate)
        columns["rival_coordinate"] = (("writer", "index", "side", "pair"), self.rival)
        coords: dict[str, Any] = {
            "variant": self.variants, "direction": list(config.directions), "control": list(self.draws), "draw": np.arange(draws),
            "metric": list(METRICS), "among": list(AMONG), "reader": list(self.readers), "span": list(self.spans),
            "side": ["clean", "corrupted"], "component": [str(one) for one in self.components],
            "writer": [str(one) for one in self.owners], "index": np.arange(self.lm.spec.d_head),
            "pair": [pair.id for pair in self.pairs], "known": ("pair", self.known),
            "answer": ("pair", [words[0] for words in self.words]), "other": ("pair", [words[1] for words in self.words]),
            "split": ("pair", kinds_of([pair.clean for pair in self.pairs], "")[1]),
        }  # fmt: skip
        attrs = {
            "site": config.site, "position": config.position, "layer": self.layer, "to": self.to, "minus": self.minus,
            "rank": len(self.components), "draws": {kind: len(one) for kind, one in self.draws.items()}, "absent": self.absent,
            "chosen": [name for name in ("components", "readers") if not getattr(config, name)], "folded": config.folded,
        }  # fmt: skip
        return ChannelPatchingResult(xr.Dataset(columns, coords, attrs))
