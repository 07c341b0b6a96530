"""One group of pairs of one length: gradients, attributions in both forms, and the truth about some of the cells."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from interp.core.batch import Batch
from interp.core.edit import Edit, replace
from interp.core.lm import LM, Recording
from interp.core.site import Site

from ..pairs import PairGroup
from .backward import ENTRY, activation_path, dropped, embedding_path, fractions, point, values
from .metric import Metric
from .nodes import Patches, sites, summed
from .qkfix import fixed
from .reading import held_norms
from .truth import Truth, choose

if TYPE_CHECKING:
    from .attribute import Attribution


@dataclass(frozen=True, eq=False)
class Part:
    """The numbers of one group of pairs."""

    group: PairGroup
    clean: np.ndarray
    """M of the clean run [pair]."""
    corrupted: np.ndarray
    maps: dict[str, np.ndarray]
    """score, true, and where asked for unfixed and dropped, [pair, form, *cells]; chosen [form, *cells]: 0 not patched, 1 as one of all or
    of the random cells, 2 as one of the best."""
    totals: dict[str, np.ndarray]
    """attributed, moved [pair, form, stage]; subsets [pair, form, subset]."""


@dataclass(eq=False)
class Attributor:
    """One group of pairs."""

    config: "Attribution"
    lm: LM
    group: PairGroup
    maps: dict[str, list[np.ndarray]] = field(default_factory=dict)
    totals: dict[str, list[np.ndarray]] = field(default_factory=dict)
    recordings: dict[str, Recording] = field(default_factory=dict)

    def part(self) -> Part:
        """All numbers of the group."""
        config, lm, group = self.config, self.lm, self.group
        self.metric, self.sites = Metric.of(config.metric, group), sites(config.nodes, lm.spec)
        need = [*self.sites, ENTRY]
        if config.qk_fix:
            need += [Site("z", layer) for layer in range(lm.spec.n_layers)]
        self.ends: dict[str, dict[Site, Tensor]] = {}
        scores: dict[str, Tensor] = {}
        for name, batch in (("clean", group.clean), ("corrupted", group.corrupted)):
            self.ends[name], scores[name] = values(lm, batch, need, self.metric)
        for form in config.forms:
            self._form(form, scores)
        maps = {name: np.stack(found, axis=0 if name == "chosen" else 1) for name, found in self.maps.items()}
        totals = {name: np.stack(found, axis=1) for name, found in self.totals.items()}
        return Part(group, scores["clean"].cpu().numpy(), scores["corrupted"].cpu().numpy(), maps, totals)

    def _form(self, form: str, scores: dict[str, Tensor]) -> None:
        config = self.config
        batch = self.group.clean if form == "noising" else self.group.corrupted
        score = self._ig(form, batch, scores) if config.method == "ig" else self._atp(form, batch)
        self._keep("score", score)
        if config.graddrop:
            self._keep("dropped", self._graddrop(form, batch))
        self._verify(form, score)

    def _difference(self, site: Site) -> Tensor:
        """clean - corrupted, in both forms: effects are positive where a node carries the answer."""
        return self.ends["clean"][site].double() - self.ends["corrupted"][site].double()

    def _map(self, grads: dict[Site, Tensor]) -> Tensor:
        """(clean - corrupted) . gradient, summed to cells: [pair, layer, ...]."""
        parts = [summed(self.config.nodes, self._difference(site) * grads[site].double()) for site in self.sites]
        return torch.stack(parts, dim=1)

    def _atp(self, form: str, batch: Batch) -> np.ndarray:
        config, lm = self.config, self.lm
        edits = held_norms(lm) if config.freeze_norms else []
        z = [Site("z", layer) for layer in range(lm.spec.n_layers)] if config.qk_fix else []
        here = point(lm, batch, [*self.sites, *z], self.metric, edits=edits)
        plain = self._map(here.grads).cpu().numpy()
        if not config.qk_fix:
            return plain
        self._keep("unfixed", plain)
        return self._fixed(form, batch, [here.grads])[0].cpu().numpy()

    def _fixed(self, form: str, batch: Batch, grads: Sequence[dict[Site, Tensor]]) -> Tensor:
        """Attributions through the attention that patched queries or keys give, [gradient, pair, layer, head, pos]."""
        base, donor = ("clean", "corrupted") if form == "noising" else ("corrupted", "clean")
        moved = fixed(self.lm, batch, self.config.nodes, self.ends[donor], self.ends[base], grads)
        return -moved if form == "noising" else moved

    def _ig(self, form: str, batch: Batch, scores: dict[str, Tensor]) -> np.ndarray:
        config, lm = self.config, self.lm
        at = fractions(config.rule, config.steps)
        if config.path == "embedding":
            if "score" in self.maps:  # the path is the same in both forms
                self.totals["attributed"].append(self.totals["attributed"][0])
                self.totals["moved"].append(self.totals["moved"][0])
                return self.maps["score"][0]
            ends = self.ends["corrupted"][ENTRY], self.ends["clean"][ENTRY]
            grads = embedding_path(lm, batch, [*self.sites, ENTRY], self.metric, ends=ends, at=at)
            entry = (self._difference(ENTRY) * grads[ENTRY]).sum(dim=(1, 2))
            self._totals(entry[:, None], (scores["clean"] - scores["corrupted"])[:, None])
            return self._map(grads).cpu().numpy()
        grads, moved = {}, []
        donor, base = ("corrupted", "clean") if form == "noising" else ("clean", "corrupted")
        for site in self.sites:
            ends = self.ends["corrupted"][site], self.ends["clean"][site]
            grads[site] = activation_path(lm, batch, site, self.metric, ends=ends, at=at)
            edit: Edit = replace(site, self.ends[donor][site])
            patched = self.metric(lm.run(batch, edits=[edit]).last_logits).double()
            moved.append(scores[base] - patched if form == "noising" else patched - scores[base])
        found = self._map(grads)
        self._totals(found.flatten(2).sum(dim=2), torch.stack(moved, dim=1))
        return found.cpu().numpy()

    def _totals(self, attributed: Tensor, moved: Tensor) -> None:
        self.totals.setdefault("attributed", []).append(attributed.cpu().numpy())
        self.totals.setdefault("moved", []).append(moved.cpu().numpy())

    def _graddrop(self, form: str, batch: Batch) -> np.ndarray:
        """Of the same gradients as the score: with the fix, or with the norms held, where those are asked for."""
        lm, layers = self.lm, range(self.lm.spec.n_layers)
        edits = held_norms(lm) if self.config.freeze_norms else []
        if self.config.qk_fix:
            total = self._fixed(form, batch, list(dropped(lm, batch, [Site("z", n) for n in layers], self.metric)))
        else:
            cut = dropped(lm, batch, self.sites, self.metric, edits=edits)
            total = torch.stack([self._map(grads) for grads in cut])
        return (total.abs().sum(dim=0) / (len(layers) - 1)).cpu().numpy()

    def _verify(self, form: str, score: np.ndarray) -> None:
        """True effects of all cells, or of the best and of random ones; and the bound on those that are left."""
        config, shape = self.config, score.shape[1:]
        wanted = config.verified(int(np.prod(shape)))
        if not wanted and not config.bound:
            return
        patched, donor = ("clean", "corrupted") if form == "noising" else ("corrupted", "clean")
        values = {site: self._recording(donor).run[site] for site in self.sites}
        truth = Truth(self.lm, self._recording(patched), self.metric, Patches(config.nodes, values), form)
        name = f"{form} {' '.join(self.group.clean.ids)}"
        true, chosen = np.full(score.shape, np.nan), np.zeros(shape, dtype=np.int64)
        if wanted == chosen.size:
            chosen[:] = 1
        elif wanted:
            best, others = choose(score, wanted // 2, seed=config.seed, name=name)
            chosen[tuple(best.T)], chosen[tuple(others.T)] = 2, 1
        cells = np.argwhere(chosen > 0)
        if len(cells):
            true[(slice(None), *cells.T)] = truth.effects(cells.tolist())
        if wanted:
            self._keep("true", true)
            self._keep("chosen", chosen)
        if config.bound:
            rest = np.argwhere(chosen == 0)
            found = (
                truth.subsets(rest.tolist(), config.bound, seed=config.seed, name=name)
                if len(rest)
                else np.zeros((len(score), config.bound))
            )
            self.totals.setdefault("subsets", []).append(found)

    def _recording(self, name: str) -> Recording:
        """One of the two runs as partial recomputation starts from it, made once."""
        if name not in self.recordings:
            self.recordings[name] = self.lm.record(getattr(self.group, name), capture=self.sites)
        return self.recordings[name]

    def _keep(self, name: str, values: np.ndarray) -> None:
        self.maps.setdefault(name, []).append(values)
