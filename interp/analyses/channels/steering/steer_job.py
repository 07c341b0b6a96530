"""The steering itself: arms and their units, every point of the grid as a cell of edits, and what is seen there."""

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from interp.core import edit
from interp.core.batch import At
from interp.core.edit import Edit
from interp.core.errors import BadInput
from interp.core.lm import LM
from interp.core.site import Site
from interp.data.tokens import TokenPrompt

from ...paths.places import where
from ...readout import METRICS
from ..attention import Observer, PromptGroup, Readout
from ..component import Component, Head
from ..factors import Setting
from .along import Spaces, loudest_into, set_coordinates
from .arms import Arm, arms_of
from .material import Offered, candidates_of, kinds_of, matching, readers_of
from .steer_result import SteeringResult

if TYPE_CHECKING:
    from .steer import ChannelSteering

ROUNDING = 1e-6
"""A spread below this share of |z| |take|, the largest that the coordinate could be, is one of rounding."""
ROWS = 1024
"""Rows of cells that are resumed at once."""


class SteeringJob:
    """The arms, their units, and what is filled in group by group."""

    def __init__(
        self,
        config: "ChannelSteering",
        lm: LM,
        prompts: Sequence[TokenPrompt],
        groups: Sequence[PromptGroup],
        spans: tuple[str, ...],
        to: str,
        minus: str,
    ) -> None:
        self.config, self.lm, self.prompts, self.groups = config, lm, prompts, groups
        self.spans, self.to, self.minus = spans, to, minus
        data = [one.prompt for one in prompts]
        adds, named = config.mode == "add", [Component.parse(name).layer for name in config.components]
        after = [config.layer or 0, *named] if adds else [layer + 1 for layer in named]
        self.readers = readers_of(config, lm, data, to, minus, first=max([1, *after]))
        self.layer = -1
        space = Spaces(lm, Setting(folded=config.folded))
        first = min((Head.parse(name) for name in self.readers), key=lambda head: head.layer)
        names = config.components or (
            str(loudest_into(space, first, [group.batch for group in groups], config.measured_at or config.position)),
        )
        if adds:
            self.layer = first.layer if config.layer is None else config.layer
        self.alphas = np.array(list(itertools.product(*config.ticks)))  # [point, axis]
        arms, self.absent = arms_of(
            space,
            names,
            kinds=config.controls,
            draws=config.draws,
            seed=config.seed,
            below=first.layer - (not adds),
        )
        self._measure(arms)
        n, points = len(prompts), len(self.alphas)
        shape = (len(self.arms), points)
        self.attention = np.full((*shape, len(self.readers), len(spans), n), np.nan, dtype=np.float32)
        self.outcome = np.full((*shape, len(METRICS) + 1, n), np.nan, dtype=np.float32)
        self.base_attention = np.full((len(self.readers), len(spans), n), np.nan)
        self.base_outcome = np.full((len(METRICS) + 1, n), np.nan)
        self.known = np.zeros(n, dtype=bool)
        self.candidates = candidates_of(lm, prompts, bos=config.bos, answers=config.answers)
        self.answer = [""] * n

    def _measure(self, arms: Sequence[Arm]) -> None:
        """Coordinates of every arm's heads, from them signs and units; arms that have no unit are left out, or refused."""
        config, place = self.config, self.config.measured_at or self.config.position
        layers = sorted({axis.head.layer for arm in arms for axis in arm.axes})
        coordinate = np.full((len(arms), len(arms[0].axes), len(self.prompts)), np.nan)
        square, size = np.full_like(coordinate, np.nan), np.full_like(coordinate, np.nan)
        for group in self.groups:
            run = self.lm.run(group.batch, capture=[Site("z", layer) for layer in layers])
            mask = where(group.batch, place).cpu().double()  # [row, pos]
            for number, arm in enumerate(arms):
                for column, axis in enumerate(arm.axes):
                    z = run[Site("z", axis.head.layer)][:, :, axis.head.head]
                    c = axis.coordinate(z).cpu()  # [row, pos]
                    most = (z.double().norm(dim=-1).cpu() * axis.take.norm()).square()
                    for store, values in ((coordinate, c), (square, c.square()), (size, most)):
                        store[number, column, list(group.index)] = ((values * mask).sum(1) / mask.sum(1)).numpy()
        rule, chosen = matching(self.prompts, config.sign)
        sample = coordinate[:, :, chosen]
        mean = sample.mean(axis=-1)
        sign = np.where((mean < 0) & (rule != "svd"), -1.0, 1.0)
        spread = np.sqrt(np.maximum(square.mean(axis=-1) - coordinate.mean(axis=-1) ** 2, 0.0))
        scale = spread if config.unit == "std" else np.ones_like(spread)
        floor = (
            ROUNDING * np.sqrt(size.mean(axis=-1)) * (config.unit == "std")
        )  # what rounding z alone makes of a constant
        good = np.all(scale > floor, axis=1)
        if not good[0]:
            bad = arms[0].axes[int(np.argmin(scale[0] > floor[0]))]
            raise BadInput(
                f"the coordinate of {bad.name} at {place!r} is the same in all {len(self.prompts)} prompts ({coordinate[0, 0, 0]:.3g}), so "
                "its standard deviation is no unit. Use unit='raw', other prompts, or `measured_at`."
            )
        for number in np.flatnonzero(~good).tolist():
            self.absent[arms[number].name] = f"{arms[number].writes} is the same in all prompts: no unit"
        keep = np.flatnonzero(good).tolist()
        self.rule, self.sign, self.scale = rule, sign[keep], scale[keep]
        self.coordinate = coordinate[keep] * self.sign[..., None]
        self.sign_mean = mean[keep] * self.sign
        self.sign_se = sample[keep].std(axis=-1) / np.sqrt(max(1, int(chosen.sum())))
        self.arms = [arms[number].signed(sign[number]) for number in keep]

    def steer(self, group: PromptGroup) -> None:
        """Every point of the grid for the prompts of one group."""
        rows, config = list(group.index), self.config
        layers = sorted({axis.head.layer for arm in self.arms for axis in arm.axes})
        capture = [Site("z", layer) for layer in layers]
        observers = [
            Observer(
                self.lm, group.batch, Readout(name, self.to, self.minus), spans=self.spans, capture=capture,
                outcome=None if number else _outcome(group, [self.candidates[row][0] for row in rows]),
            )
            for number, name in enumerate(self.readers)
        ]  # fmt: skip
        for row, ids, known in zip(rows, group.answer.tolist(), group.known, strict=True):
            self.answer[row], self.known[row] = self.lm.tokenizer.label(ids), known
        attention, outcome = self._seen(observers, [[]])
        self.base_attention[:, :, rows], self.base_outcome[:, rows] = attention[0], outcome[0]
        mask = where(group.batch, config.position)
        step = max(1, ROWS // len(rows))
        for number, arm in enumerate(self.arms):
            for first in range(0, len(self.alphas), step):
                part = slice(first, first + step)
                attention, outcome = self._seen(
                    observers, self._cells(observers[0], arm, self.scale[number], part, mask)
                )
                self.attention[number, part][..., rows] = attention
                self.outcome[number, part][..., rows] = outcome

    def _cells(
        self, observer: Observer, arm: Arm, scale: np.ndarray, part: slice, mask: Tensor
    ) -> Sequence[Sequence[Edit]]:
        """The edits of some points of the grid."""
        amounts = [
            np.broadcast_to(alpha, len(arm.axes)) * scale for alpha in self.alphas[part]
        ]  # raw, [direction] a point
        if self.config.mode == "add":
            site, at = Site("resid_pre", self.layer), At.mask(mask)
            sums: Iterator[Tensor] = (
                torch.stack([float(c) * axis.write for c, axis in zip(amount, arm.axes, strict=True)]).sum(0)
                for amount in amounts
            )
            return [[edit.add(site, total.float(), at=at)] for total in sums]
        moves = [
            [
                (axis, torch.full((1, 1), float(c), dtype=torch.float64))
                for c, axis in zip(amount, arm.axes, strict=True)
            ]
            for amount in amounts
        ]
        assert observer.base is not None
        return set_coordinates(self.lm, observer.base, moves, mask, whole=self.config.mode == "replace")

    def _seen(self, observers: Sequence[Observer], cells: Sequence[Sequence[Edit]]) -> tuple[np.ndarray, np.ndarray]:
        """Attention [cell, reader, span, row] and outcome [cell, metric or choice, row]."""
        found = [observer.read(cells) for observer in observers]
        order = [found[0].spans.index(span) for span in self.spans]
        attention = torch.stack([one.attention[..., order] for one in found], dim=1)  # [cell, reader, row, span]
        outcome = found[0].outcome
        assert outcome is not None
        return attention.transpose(2, 3).numpy(), outcome.transpose(1, 2).numpy()

    def result(self) -> SteeringResult:
        """Everything, labelled."""
        config = self.config
        base = {
            "outcome": self.outcome[:, :, : len(METRICS)], "choice": _whole(self.outcome[:, :, len(METRICS)]),
            "base_outcome": self.base_outcome[: len(METRICS)], "base_choice": _whole(self.base_outcome[len(METRICS)]),
            "attention": self.attention, "base_attention": self.base_attention, "coordinate": self.coordinate,
            "scale": self.scale, "sign": self.sign, "sign_mean": self.sign_mean, "sign_se": self.sign_se,
        }  # fmt: skip
        grid, per = ("arm", "point"), ("arm", "direction")
        dims: dict[str, tuple[str, ...]] = {
            "outcome": (*grid, "metric", "prompt"), "choice": (*grid, "prompt"), "base_outcome": ("metric", "prompt"),
            "base_choice": ("prompt",), "attention": (*grid, "reader", "span", "prompt"),
            "base_attention": ("reader", "span", "prompt"), "coordinate": (*per, "prompt"),
            "scale": per, "sign": per, "sign_mean": per, "sign_se": per,
        }  # fmt: skip
        split_by, kinds = kinds_of(self.prompts, config.split)
        channel = [axis.name for axis in self.arms[0].axes]
        coords: dict[str, Any] = {
            "arm": [arm.name for arm in self.arms], "arm_kind": ("arm", [arm.kind for arm in self.arms]),
            "writes": ("arm", [arm.writes for arm in self.arms]), "point": np.arange(len(self.alphas)),
            "alpha": (("point", "axis"), self.alphas), "axis": ["+".join(channel)] if config.diagonal else channel,
            "direction": channel, "reader": list(self.readers), "span": list(self.spans), "metric": list(METRICS),
            "prompt": [one.id for one in self.prompts], "split": ("prompt", kinds), "answer": ("prompt", self.answer),
            "known": ("prompt", self.known), "correct": ("prompt", [right for _, right in self.candidates]),
        }  # fmt: skip
        attrs = {
            "mode": config.mode, "position": config.position, "layer": self.layer, "unit": config.unit, "sign_rule": self.rule,
            "split_by": split_by, "to": self.to, "minus": self.minus, "measured_at": config.measured_at or config.position,
            "chosen": [name for name in ("components", "readers") if not getattr(config, name)], "absent": self.absent,
            "folded": config.folded,
        }  # fmt: skip
        return SteeringResult(xr.Dataset({name: (dims[name], values) for name, values in base.items()}, coords, attrs))


def _outcome(group: PromptGroup, candidates: Sequence[Sequence[int]]) -> Any:
    """The metrics, and the place of the best candidate (-1 without any), of logits: [n, position, metric + 1]."""
    offered = Offered(candidates)

    def outcome(logits: Tensor, rows: Tensor) -> Tensor:
        listed = offered.logits(logits, rows.cpu())
        best = listed.argmax(dim=-1, keepdim=True).double()
        none = listed.isneginf().all(dim=-1, keepdim=True)
        return torch.cat([group.metrics(logits, rows), best.masked_fill(none, -1.0)], dim=-1)

    return outcome


def _whole(values: np.ndarray) -> np.ndarray:
    return values.astype(np.int16)
