"""The runs behind a laundry list: reader and components, the grid at the last token, edited weights, reordered lists."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from interp.core.edit import Edit
from interp.core.errors import BadInput
from interp.core.lm import LM
from interp.core.site import Site

from ..ablation.editing import edit_components
from ..attention import Observer, Readout
from ..component import Component, Head
from ..decompose import decompose
from ..factors import Setting
from ..readers import head_attention
from ..scoring.engine import scores_into
from ..steering.along import Spaces, set_coordinates
from ..steering.arms import Arm, arms_of
from .lists import Group, Lists
from .result import LaundryResult
from .rules import KNOWS, RULES, choose

if TYPE_CHECKING:
    from .laundry import LaundryList

ROWS = 256
"""Rows of cells that are resumed at once."""


class Runs:
    """All numbers of one call, filled in length by length."""

    def __init__(self, config: "LaundryList", lm: LM, setting: Setting, lists: dict[int, Lists]) -> None:
        self.config, self.lm, self.setting, self.lists = config, lm, setting, lists
        self.train = {items: config.train(one) for items, one in lists.items()}
        self.pointing = np.stack([self._pointing(items) for items in lists])  # [length, layer, head]
        self.reader = self._find_reader()
        self.arms: list[Arm] = []
        self.absent: dict[str, str] = {}
        self.alpha = np.full((1, 0), np.nan)
        self.size = np.zeros(0)
        if config.steers:
            names = config.components or self._find_components()
            self.arms, self.absent = arms_of(
                Spaces(lm, setting), names, kinds=config.controls, draws=1, seed=config.seed, below=self.reader.layer - 1,
            )  # fmt: skip
            self.size = self._sizes(self.arms[0])
            ticks = np.linspace(-config.reach, config.reach, config.points) if config.points > 1 else np.zeros(1)
            grid = np.array(list(itertools.product(ticks, repeat=len(names))))
            self.alpha = np.concatenate([np.full((1, len(names)), np.nan), grid])  # point 0 is the untouched run
        self.columns = _columns(config, lists, self.arms, len(self.alpha))

    def _pointing(self, items: int) -> np.ndarray:
        """How much more the last token looks at the missing thing than at the others, on training prompts, [layer, head]."""
        lists, total = self.lists[items], 0.0
        rows = np.flatnonzero(self.train[items])
        for group in lists.groups(rows):
            looks = head_attention(self.lm, group.batch, _spans(items)).numpy()  # [row, layer, head, item]
            missing = lists.missing[list(group.places)]
            right = looks[np.arange(len(missing)), :, :, missing]
            total = total + (right - (looks.sum(-1) - right) / (items - 1)).sum(axis=0)
        return np.asarray(total / len(rows))

    def _find_reader(self) -> Head:
        if self.config.reader is not None:
            return Head.parse(self.config.reader)
        mean = self.pointing.mean(axis=0)
        first = 1 if self.config.steers else 0
        if self.config.components:
            first = max(Component.parse(name).layer for name in self.config.components) + 1
        seen = np.where(np.isfinite(mean) & (np.arange(len(mean)) >= first)[:, None], mean, -np.inf)
        if not np.isfinite(seen).any():
            raise BadInput(
                f"no head of {self.lm.spec.name} sees the whole first list from the last token: its attention windows are "
                f"{list(self.lm.spec.windows)} tokens. Ask for shorter `lengths`."
            )
        return Head(*(int(place) for place in np.unravel_index(seen.argmax(), seen.shape)))

    def _find_components(self) -> tuple[str, ...]:
        """The components that the reader's query reads most of, told apart from their neighbours."""
        distance = int(np.median([lists.distance for lists in self.lists.values()]))
        self.offset = distance if self.lm.spec.positions == "rotary" else None
        score = scores_into(self.lm, self.reader, kind="Q", setting=self.setting, offset=self.offset).values
        parts = {layer: decompose(self.lm, layer, self.setting) for layer in range(self.reader.layer)}
        found: list[str] = []
        for place in np.argsort(-np.nan_to_num(score, nan=-1.0), axis=None, kind="stable"):
            layer, head, index = (int(one) for one in np.unravel_index(place, score.shape))
            if np.isfinite(score[layer, head, index]) and len(parts[layer].block(head, index)) == 1:
                found.append(f"{layer}.{head}.{index}")
            if len(found) == self.config.axes:
                return tuple(found)
        raise BadInput(
            f"the query of head {self.reader} reads {len(found)} components that can be told apart; {self.config.axes} were asked for. "
            "Name the `components`, or ask for fewer `axes`."
        )

    def _sizes(self, arm: Arm) -> np.ndarray:
        """Standard deviation of each component's own coordinate at the last token of training prompts [axis]."""
        values: list[list[np.ndarray]] = [[] for _ in arm.axes]
        layers = sorted({axis.head.layer for axis in arm.axes})
        for items, lists in self.lists.items():
            for group in lists.groups(np.flatnonzero(self.train[items])):
                run = self.lm.run(group.batch, capture=[Site("z", layer) for layer in layers])
                for place, axis in enumerate(arm.axes):
                    z = run[Site("z", axis.head.layer)][:, -1, axis.head.head]
                    values[place].append(axis.coordinate(z).cpu().numpy())
        each = [np.concatenate(part) for part in values]
        size = np.array([part.std() for part in each])
        for axis, part, one in zip(arm.axes, each, size, strict=True):
            if not one > 1e-6 * np.sqrt((part**2).mean()):
                raise BadInput(
                    f"the coordinate of {axis.name} at the last token is {part.mean():.3g} in every prompt, so its standard deviation is "
                    "no unit to steer in. Name other components."
                )
        return size

    def steer(self, items: int) -> None:
        """The untouched run of every prompt and all points of every arm's grid; then what each rule picks."""
        lists, place = self.lists[items], list(self.lists).index(items)
        layers = sorted({axis.head.layer for arm in self.arms for axis in arm.axes})
        names = _spans(items)
        for group in lists.groups():
            observer = Observer(
                self.lm, group.batch, Readout(self.reader, names[0], ""), spans=names, outcome=lists.outcome(group.places),
                capture=[Site("z", layer) for layer in layers],
            )  # fmt: skip
            rows = list(group.places)
            looks, says = self._seen(observer, [[]])
            for name, values in {"attention": looks[0], "logprob": says[0, :, :items]}.items():
                self.columns[name][place, rows, :items] = values
            self.columns["answered"][place, rows] = says[0, :, items]
            for number, arm in enumerate(self.arms):
                self._grid(observer, arm, (number, place), group, items)
        if self.arms:
            self._choose(items, place)

    def _grid(self, observer: Observer, arm: Arm, at: tuple[int, int], group: Group, items: int) -> None:
        rows = list(group.places)
        target = {name: self.columns[f"steered_{name}"][at] for name in ("attention", "logprob", "answered")}
        for name in target:
            target[name][rows, 0] = self.columns[name][at[1], rows]
        step = max(1, ROWS // len(rows))
        for first in range(1, len(self.alpha), step):
            points = slice(first, min(first + step, len(self.alpha)))
            looks, says = self._seen(observer, self._cells(observer, arm, self.alpha[points]))
            target["attention"][rows, points, :items] = looks.transpose(1, 0, 2)
            target["logprob"][rows, points, :items] = says[..., :items].transpose(1, 0, 2)
            target["answered"][rows, points] = says[..., items].T

    def _cells(self, observer: Observer, arm: Arm, alphas: np.ndarray) -> list[list[Edit]]:
        """The edits of some points: coordinates in the channel's raw unit, whatever the arm."""
        mask = torch.zeros_like(observer.batch.mask)
        mask[:, -1] = True
        moves = [
            [
                (axis, torch.full((1, 1), float(c), dtype=torch.float64))
                for axis, c in zip(arm.axes, amounts, strict=True)
            ]
            for amounts in alphas * self.size
        ]
        assert observer.base is not None
        return set_coordinates(self.lm, observer.base, moves, mask, whole=self.config.mode == "replace")

    @staticmethod
    def _seen(observer: Observer, cells: Sequence[Sequence[Edit]]) -> tuple[np.ndarray, np.ndarray]:
        """Attention [cell, row, item], and what is kept of the logits [cell, row, item + 1]."""
        seen = observer.read(cells)
        assert seen.outcome is not None
        return seen.attention.numpy(), seen.outcome.numpy()

    def _choose(self, items: int, place: int) -> None:
        lists = self.lists[items]
        for number in range(len(self.arms)):
            looks, says = (
                self.columns[f"steered_{name}"][number, place, :, :, :items] for name in ("attention", "logprob")
            )
            chosen, region = choose(
                looks, says, self.columns["steered_answered"][number, place], missing=lists.missing, unrepeated=lists.unrepeated,
                train=self.train[items],
            )  # fmt: skip
            self.columns["chosen"][number, place] = chosen
            self.columns["region"][number, place, :items] = region

    def edit(self, items: int) -> None:
        """The prompts under scaled components."""
        if not self.arms:
            return
        lists, place = self.lists[items], list(self.lists).index(items)
        names = [axis.name for axis in self.arms[0].axes]
        for number, gamma in enumerate(self.config.gammas):
            with edit_components(self.lm, names, scale=float(gamma), setting=self.setting):
                for group in lists.groups():
                    says = self._plain(lists, group)
                    self.columns["edited_logprob"][number, place, list(group.places), :items] = says[:, :items]
                    self.columns["edited_answered"][number, place, list(group.places)] = says[:, items]

    def reorder(self, items: int, lists: Lists) -> None:
        """The same sets of things in many orders."""
        place, orders = list(self.lists).index(items), self.config.n_orders(items)
        rows = np.arange(len(lists))
        right = np.full(len(lists), np.nan)
        for group in lists.groups():
            says = self._plain(lists, group)
            mine = list(group.places)
            right[mine] = says[np.arange(len(mine)), lists.missing[mine]]
        at = (place, rows // orders, rows % orders)
        self.columns["order_logprob"][at] = right
        self.columns["order_missing"][at] = lists.missing

    def _plain(self, lists: Lists, group: Group) -> np.ndarray:
        """What is kept of the logits of an ordinary run, [row, item + 1]."""
        logits: Tensor = self.lm.run(group.batch).last_logits
        rows = torch.arange(len(group.places), device=logits.device)
        return lists.outcome(group.places)(logits[:, None], rows)[:, 0].cpu().numpy()

    def result(self) -> LaundryResult:
        """Everything, labelled."""
        config, lengths = self.config, list(self.lists)
        most, n = lengths[-1], config.prompts
        known = {name: np.full((len(lengths), n), -1, dtype=np.int16) for name in ("missing", "template")}
        second = np.full((len(lengths), n, most), np.nan, dtype=np.float32)
        for place, lists in enumerate(self.lists.values()):
            known["missing"][place] = lists.missing
            known["template"][place] = [one.meta["template"] for one in lists.prompts]
            second[place, :, : lists.items] = lists.second
        per = ("length", "prompt")
        data: dict[str, Any] = {name: (DIMS[name], values) for name, values in self.columns.items()}
        data |= {name: (per, values) for name, values in known.items()}
        data |= {"second": ((*per, "item"), second), "train": (per, np.stack(list(self.train.values())))}
        data["pointing"] = (("length", "layer", "head"), self.pointing)
        coords: dict[str, Any] = {
            "length": lengths, "prompt": np.arange(n), "item": np.arange(most),
            "id": (per, [[one.id for one in lists.tokens] for lists in self.lists.values()]),
            "layer": np.arange(self.lm.spec.n_layers), "head": np.arange(self.lm.spec.n_heads),
        }  # fmt: skip
        if self.arms:
            axes = [axis.name for axis in self.arms[0].axes]
            coords |= {
                "arm": [arm.name for arm in self.arms], "writes": ("arm", [arm.writes for arm in self.arms]), "axis": axes,
                "point": np.arange(len(self.alpha)), "alpha": (("point", "axis"), self.alpha), "size": ("axis", self.size),
                "rule": list(RULES), "knows": ("rule", list(KNOWS)),
            }  # fmt: skip
            if config.gammas:
                coords["gamma"] = np.array(config.gammas, dtype=float)
        attrs = {
            "reader": str(self.reader), "found": [name for name in ("reader", "components") if not getattr(config, name)],
            "mode": config.mode, "absent": self.absent, "pieces": config.pieces, "folded": config.folded,
            "offset": getattr(self, "offset", None) or 0,
        }  # fmt: skip
        return LaundryResult(xr.Dataset(data, coords, attrs))


_PER, _GRID = ("length", "prompt"), ("arm", "length", "prompt", "point")
DIMS: dict[str, tuple[str, ...]] = {
    "attention": (*_PER, "item"), "logprob": (*_PER, "item"), "answered": _PER,
    "steered_attention": (*_GRID, "item"), "steered_logprob": (*_GRID, "item"), "steered_answered": _GRID,
    "chosen": ("arm", "length", "prompt", "rule"), "region": ("arm", "length", "item"),
    "edited_logprob": ("gamma", *_PER, "item"), "edited_answered": ("gamma", *_PER),
    "order_logprob": ("length", "set", "order"), "order_missing": ("length", "set", "order"),
}  # fmt: skip


def _columns(config: "LaundryList", lists: dict[int, Lists], arms: Sequence[Arm], points: int) -> dict[str, np.ndarray]:
    """Empty arrays for everything that is measured: NaN, and -1 where whole numbers are kept."""
    orders = max((config.n_orders(items) for items in config.ordered), default=0)
    sizes = {
        "length": len(lists), "prompt": config.prompts, "item": max(lists), "arm": len(arms), "point": points, "rule": len(RULES),
        "gamma": len(config.gammas) if arms else 0, "set": config.sets, "order": orders,
    }  # fmt: skip
    whole = ("answered", "steered_answered", "chosen", "region", "edited_answered", "order_missing")
    columns = {}
    for name, dims in DIMS.items():
        shape = tuple(sizes[dim] for dim in dims)
        if 0 not in shape:
            kind: Any = np.int16 if name in whole else np.float32
            columns[name] = np.full(shape, -1 if name in whole else np.nan, dtype=kind)
    return columns


def _spans(items: int) -> tuple[str, ...]:
    return tuple(f"item_{place}" for place in range(items))
