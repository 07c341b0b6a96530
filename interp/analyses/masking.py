"""Component masks: which few components carry a variable, found by learning where to take the source's value?

A desideratum is a base prompt, a source prompt and the answer that the base must give once the variable's value comes from the source. Each
candidate component c (a head's z or an MLP's output, at one position) gets a weight w_c in [0, 1], and nothing else learns:

    value_c = (1 - w_c) base_c + w_c source_c            loss = - mean logit[target] + lambda sum_c w_c

With Adam, w clamped to [0, 1] before every pass, starting at 0 (`start`). If the target's logit is additive in the patched components
with gains a_c, the optimum is exactly {c : a_c > lambda}. Then w is rounded (1/2 counts as patched) and the selection is tested by
patching it. Training, validation and test share no desideratum: repetitions of one stay together.

Source. Desiderata-based component masking: Davies et al. 2023 (arXiv 2307.03637); Prakash et al. 2024 (arXiv 2402.14811), whose mask
is m = 1 - w. Deviations: of epochs with equal validation accuracy the one with *fewer* components is kept (the paper's
code keeps more); targets are tokenised as continuations; base and source positions are read from each prompt; several seeds.

Beside the accuracy of the selection on held-out desiderata stand, always: nothing patched (the floor), all candidates patched, and random
selections of the same size. If more than `max_floor` of the targets are what the base answers anyway, the data say nothing: refused.

When it misleads
- Redundant or saturating components: the optimum is not unique. Look at `frequency()` over seeds, not at one mask.
- A component that only moves a saturated softmax has no gradient at 0 and is never found from there: try `start=0.5` as well.
- lambda decides what is small: a component with a gain below it is left out, however real.
- A component that carries everything (a late head that already holds the answer) passes any desideratum about the answer.

    import interp
    from interp.data import tasks
    lm = interp.load("atlas")
    pairs = interp.reference.task("atlas", "ioi", 60)
    found = interp.ComponentMask(epochs=2, seeds=1)(lm, pairs)
    found.accuracy(), found.selected(), found.frequency()
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from interp.core import edit
from interp.core.analysis import Analysis, Cost, Result
from interp.core.edit import Edit
from interp.core.errors import BadInput, one_of
from interp.core.lm import LM
from interp.core.progress import track
from interp.core.seed import generator
from interp.core.site import Site, expand
from interp.core.stats import bootstrap_ci

from .triples import TripleGroup, distinct, divided, floor_of, triple_groups

VARIANTS = ("learned", "none", "all", "random")


class MaskResult(Result):
    """Learned weights of every candidate, and what patching the selection does.

    data:
        weight [seed, component]            after training, in [0, 1]: 1 = the source's value
        hit    [seed, variant, desideratum] 1 where the base gives the target; test desiderata only. learned, none (the floor), all, random
                                            (mean over draws of as many components)
        kept   [seed, component]            bool: the selection (weight rounded)
        validation [seed, epoch], size [seed, epoch]    accuracy on validation desiderata and components selected after each epoch
    coords: seed, variant, desideratum (ids), component (`1.3` a head, `mlp 1`), layer and head (-1 for an MLP) along it. attrs: position,
        floor (share of *all* targets that the untouched base gives), penalty.
    """

    figure: ClassVar[str] = "masking"
    main: ClassVar[str] = "weight"

    def accuracy(self, level: float = 0.95) -> xr.Dataset:
        """Accuracy on the test desiderata with its bootstrap interval: mean, ci_lo, ci_hi [seed, variant]."""
        mean, low, high = bootstrap_ci(self.data["hit"], "desideratum", level=level)
        return xr.Dataset({"mean": mean, "ci_lo": low, "ci_hi": high})

    def selected(self, seed: int | None = None) -> list[str]:
        """The selected components of one seed (the first)."""
        kept = self.data["kept"].sel(seed=int(self.data["seed"][0]) if seed is None else seed)
        return [str(name) for name in self.data["component"].values[kept.values]]

    def frequency(self) -> xr.DataArray:
        """In which share of the seeds each component is selected, [component]."""
        return self.data["kept"].mean("seed").rename("frequency")

    def headline(self) -> dict[str, float]:
        """Accuracy of the selection, the floor, and the size (means over seeds)."""
        mean = self.accuracy()["mean"].mean("seed")
        return {
            "accuracy": float(mean.sel(variant="learned")),
            "nothing patched": float(mean.sel(variant="none")),
            "components": float(self.data["kept"].sum("component").mean()),
        }

    def thumbnail(self) -> xr.DataArray | None:
        """Weights, seeds by components."""
        return self.data["weight"]


@dataclass(frozen=True)
class ComponentMask(Analysis[MaskResult]):
    """Learn which components carry a variable (DCM), and test the selection against its floors."""

    takes: ClassVar[str] = "desiderata"

    components: Literal["heads", "mlps", "both"] = "heads"
    """Candidates: every head's z, every MLP's output, or both."""
    only: tuple[str, ...] = ()
    """Restrict the candidates to these: `1.3` is head 3 of layer 1, `mlp 1` an MLP."""
    position: str = "last"
    """Where they are patched: `last`, or a span's name (its last token), in base and source each at its own column."""
    penalty: float = 0.01
    """lambda: logits that a component must bring to be worth selecting."""
    start: float = 0.0
    """Where every weight starts: 0 is the base. Where attention is saturated the gradient is zero there; 0.5 finds such components too."""
    lr: float = 0.1
    """Learning rate of Adam."""
    epochs: int = 2
    """Passes over the training desiderata."""
    batch: int = 32
    """Desiderata a step."""
    seeds: int = 3
    """Training runs, each with its own split and order."""
    draws: int = 10
    """Random selections of the same size."""
    max_floor: float = 0.05
    """Largest share of targets that the untouched base may give anyway."""
    answers: Literal["single", "first"] = "single"
    """Refuse answers of several tokens, or take their first token."""
    bos: bool | None = None
    """Put a BOS before each prompt; None follows the model's tokenizer."""
    seed: int = 0
    """Seed of the first run; the others count on."""

    def __post_init__(self) -> None:
        one_of("components", self.components, ["heads", "mlps", "both"])
        one_of("answers", self.answers, ["single", "first"])
        object.__setattr__(self, "only", (self.only,) if isinstance(self.only, str) else tuple(self.only))
        for name in ("epochs", "batch", "seeds", "draws"):
            if getattr(self, name) < 1:
                raise BadInput(f"`{name}` must be at least 1; not {getattr(self, name)}.")
        if not self.penalty >= 0 or not self.lr > 0:
            raise BadInput(f"`penalty` must not be negative and `lr` positive; not {self.penalty}, {self.lr}.")
        if not 0.0 <= self.start <= 1.0:
            raise BadInput(f"`start` is a weight between 0 and 1; not {self.start}.")
        if not 0.0 <= self.max_floor <= 1.0:
            raise BadInput(f"`max_floor` is a share between 0 and 1; not {self.max_floor}.")

    def check(self, lm: LM, data: Any) -> None:
        """Refuse candidates, positions and desiderata that cannot be used."""
        expand([one.site for one in self.candidates(lm)], lm.spec)
        groups = triple_groups(lm, data, bos=self.bos, answers=self.answers)
        for group in groups:
            group.columns(self.position)
        if (total := len(distinct(groups))) < 8:
            raise BadInput(
                f"{total} different desiderata cannot be split into training, validation and test. Give at least 8 that differ in "
                "their prompts."
            )
        if (floor := floor_of(groups)) > self.max_floor:
            raise BadInput(
                f"the untouched model already gives {floor:.0%} of the targets, more than max_floor={self.max_floor:g}: any mask would "
                "seem to work. Give desiderata whose targets the base does not answer."
            )

    def cost(self, lm: LM, data: Any = None) -> Cost:
        """`epochs` forward and backward passes over half of the desiderata, and one pass a test, for each seed."""
        groups = triple_groups(lm, data, bos=self.bos, answers=self.answers)
        total = sum(len(group) for group in groups)
        width = max(group.base.tokens.shape[1] for group in groups)
        passes = (
            self.seeds * (3.0 * self.epochs * total / 2 + self.epochs * total / 4 + (self.draws + 3) * total / 4)
            + 2 * total
        )
        held = total * width * lm.spec.n_layers * lm.spec.d_model * lm.spec.bytes_per_value
        return Cost(passes, int(passes * width), held, "a backward pass counted as two forwards")

    def run(self, lm: LM, data: Any, store: Any = None) -> MaskResult:
        """Train, select and test, once a seed."""
        groups = triple_groups(lm, data, bos=self.bos, answers=self.answers)
        candidates = self.candidates(lm)
        runs = [
            _Training(self, lm, candidates, groups, seed).run()
            for seed in track(range(self.seed, self.seed + self.seeds), "component mask", total=self.seeds)
        ]
        ids = {place: name for group in groups for place, name in zip(group.index, group.ids, strict=True)}
        hit = np.full((self.seeds, len(VARIANTS), len(ids)), np.nan)
        for row, one in enumerate(runs):
            hit[row][:, one["tested"]] = one["hit"]
        coords = {
            "seed": np.arange(self.seed, self.seed + self.seeds), "variant": list(VARIANTS),
            "desideratum": [ids[place] for place in range(len(ids))], "component": [one.name for one in candidates],
            "layer": ("component", [one.layer for one in candidates]), "head": ("component", [one.head for one in candidates]),
        }  # fmt: skip
        columns: dict[str, Any] = {
            "weight": (("seed", "component"), np.stack([one["weight"] for one in runs])),
            "kept": (("seed", "component"), np.stack([one["kept"] for one in runs])),
            "hit": (("seed", "variant", "desideratum"), hit),
            "validation": (("seed", "epoch"), np.array([one["validation"] for one in runs])),
            "size": (("seed", "epoch"), np.array([one["size"] for one in runs])),
        }
        attrs = {"position": self.position, "floor": floor_of(groups), "penalty": self.penalty}
        return MaskResult(xr.Dataset(columns, coords, attrs))

    def candidates(self, lm: LM) -> "list[Component]":
        """The components that may be selected, in forward order. Raises `BadInput` for one that the model does not have."""
        expand([Site(kind, 0) for kind in ("z", "mlp_out") if (kind == "z") != (self.components == "mlps")], lm.spec)
        every = []
        for layer in range(lm.spec.n_layers):
            if self.components != "mlps":
                every += [Component(f"{layer}.{head}", layer, head) for head in range(lm.spec.n_heads)]
            if self.components != "heads":
                every.append(Component(f"mlp {layer}", layer))
        if not self.only:
            return every
        names = [one.name for one in every]
        for name in self.only:
            one_of("only", name, names)
        return [one for one in every if one.name in self.only]


@dataclass(frozen=True)
class Component:
    """One candidate."""

    name: str
    layer: int
    head: int = -1
    """-1 for an MLP."""

    @property
    def site(self) -> Site:
        """Where it is patched."""
        return Site("z" if self.head >= 0 else "mlp_out", self.layer)


@dataclass
class _Training:
    """One run: its split, its weights, its test."""

    config: ComponentMask
    lm: LM
    candidates: "list[Component]"
    groups: list[TripleGroup]
    seed: int

    def run(self) -> dict[str, Any]:
        self.sites = list(dict.fromkeys(one.site for one in self.candidates))
        train, validation, test = self._parts()
        weight = torch.full((len(self.candidates),), self.config.start, requires_grad=True)
        adam = torch.optim.Adam([weight], lr=self.config.lr)
        held = [(part, self._sources(part)) for part in train]
        best: tuple[tuple[float, int], Tensor] | None = None
        accuracies, sizes = [], []
        for epoch in range(self.config.epochs):
            self._epoch(epoch, weight, adam, held)
            kept = (weight.detach() >= 0.5).float()
            accuracy = float(np.mean(np.concatenate([self._hits(part, kept) for part in validation])))
            accuracies.append(accuracy)
            sizes.append(int(kept.sum()))
            rank = (accuracy, -sizes[-1])  # of equals, the smaller
            if best is None or rank > best[0]:
                best = rank, weight.detach().clone()
        assert best is not None
        kept = (best[1] >= 0.5).float()
        tested = [place for part in test for place in part.index]
        return {
            "weight": best[1].numpy(), "kept": (kept > 0).numpy(), "validation": accuracies, "size": sizes,
            "tested": tested, "hit": self._test(test, kept),
        }  # fmt: skip

    def _parts(self) -> tuple[list[TripleGroup], ...]:
        """Half for training, a quarter each for validation and test; repetitions of a desideratum stay together."""
        total = len(distinct(self.groups))
        cuts = (total // 2, total // 2 + total // 4)
        return tuple(divided(self.groups, cuts, generator(self.seed, "mask split")))

    def _epoch(
        self, epoch: int, weight: Tensor, adam: Any, held: "list[tuple[TripleGroup, dict[Site, Tensor]]]"
    ) -> None:
        draw = generator(self.seed, "mask order", epoch)
        steps = []
        for place, (part, _) in enumerate(held):
            order = torch.randperm(len(part), generator=draw).tolist()
            steps += [
                (place, order[first : first + self.config.batch]) for first in range(0, len(order), self.config.batch)
            ]
        for which in torch.randperm(len(steps), generator=draw).tolist():
            place, keep = steps[which]
            part, sources = held[place]
            logits = self._patched(part.rows(keep), {site: x[keep] for site, x in sources.items()}, weight, grad=True)
            target = part.target[keep].to(logits.device)
            loss = -logits.gather(1, target[:, None]).float().mean() + self.config.penalty * weight.sum().to(
                logits.device
            )
            adam.zero_grad()
            loss.backward()
            adam.step()
            with torch.no_grad():
                weight.clamp_(0.0, 1.0)

    def _sources(self, part: TripleGroup) -> dict[Site, Tensor]:
        run = self.lm.run(part.source, capture=self.sites)
        return {site: part.moved(run[site], self.config.position) for site in self.sites}

    def _patched(self, part: TripleGroup, sources: dict[Site, Tensor], weight: Tensor, *, grad: bool = False) -> Tensor:
        """Last logits [row, vocab] of the bases with each component moved towards its source by its weight."""
        edits: list[Edit] = []
        for site in self.sites:
            mine = [(place, one) for place, one in enumerate(self.candidates) if one.site == site]
            if site.kind == "mlp_out":
                strength = weight[mine[0][0]]
            else:  # heads that are no candidates keep the base
                heads = torch.tensor([one.head for _, one in mine])
                strength = weight.new_zeros(self.lm.spec.n_heads).index_put(
                    (heads,), weight[[place for place, _ in mine]]
                )
                strength = strength[:, None]  # [head, 1] against [batch, pos, head, d_head]
            source = sources[site]
            edits.append(edit.mask(site, source, strength.to(source.device), at=part.at(self.config.position)))
        return self.lm.run(part.base, edits=edits, grad=grad).last_logits

    def _hits(self, part: TripleGroup, weight: Tensor) -> np.ndarray:
        logits = self._patched(part, self._sources(part), weight)
        return (logits.argmax(dim=-1).cpu() == part.target).double().numpy()

    def _test(self, test: Sequence[TripleGroup], kept: Tensor) -> np.ndarray:
        """Hits of each variant on the test desiderata, [variant, desideratum]."""
        n, size = len(kept), int(kept.sum())
        draw = generator(self.seed, "mask random selections")
        randoms = []
        for _ in range(self.config.draws):
            one = torch.zeros(n)
            one[torch.randperm(n, generator=draw)[:size]] = 1.0
            randoms.append(one)
        out = []
        for part in test:
            rows = [self._hits(part, kept), self._hits(part, torch.zeros(n)), self._hits(part, torch.ones(n))]
            out.append(np.stack([*rows, np.mean([self._hits(part, one) for one in randoms], axis=0)]))
        return np.concatenate(out, axis=1)
