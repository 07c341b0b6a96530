"""Discovery: from the answer backwards, group by group, each group the heads that tell the last one what it needs."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np

from interp.core.analysis import Analysis, Cost, Result
from interp.core.errors import BadInput, one_of
from interp.core.lm import LM
from interp.core.stats import holm, sign_flip_test

from ..pairs import PairGroup, pair_groups
from ..paths import PathPatching, PathResult
from ..paths.nodes import Receiver, reading
from .assemble import Edge, assemble_discovery
from .circuit import Circuit, Group, Head
from .result import DiscoveryResult

R = TypeVar("R", bound=Result)

PLANS: dict[str, tuple[str, ...]] = {
    "ioi": ("movers@last>logits", "inhibition@last>q:movers", "duplicates@S2>v:inhibition"),
    "entity_tracking": (
        "fetchers@last>logits", "transmitters@last>q:fetchers", "detectors@query_label>v:transmitters", "readers@first_label>v:detectors",
    ),
}  # fmt: skip
"""Plans of known tasks: what Wang et al. and Prakash et al. looked for, in their order."""


@dataclass(frozen=True)
class Discovering(Analysis[R]):
    """What both discovery and an evaluation that discovers first need to know."""

    takes: ClassVar[str] = "pairs"

    plan: tuple[str, ...] = ()
    """Groups in the order in which they are looked for (movers@last>logits, inhibition@last>q:movers); by default the task's own."""
    select: Literal["significant", "top"] = "significant"
    """Keep heads whose effect is significant and large enough, or the strongest `top` of each step."""
    top: tuple[int, ...] = (5,)
    """Heads a step for select="top": one number for all, or one a step."""
    metric: Literal["logit_diff", "logprob", "prob"] = "logit_diff"
    """What effects are measured in."""
    alpha: float = 0.05
    """Level of significance, Holm-corrected over the heads of a step."""
    least: float = 0.02
    """Smallest mean effect that is kept, as a share of clean - corrupted."""
    freeze_mlps: bool = False
    """Hold MLPs while the receivers listen; by default only other heads are held."""
    known_only: bool = True
    """Use only pairs whose answer the model gives, where there are any."""
    bos: bool | None = None
    """Put a BOS before each prompt; None follows the model's tokenizer."""
    rows: int = 64
    """Pairs in a batch, at most; changes memory and speed, not the numbers."""

    def __post_init__(self) -> None:
        for name in ("plan", "top"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str | int) else tuple(value))
        one_of("select", self.select, ["significant", "top"])
        one_of("metric", self.metric, ["logit_diff", "logprob", "prob"])
        if not 0 < self.alpha < 1:
            raise BadInput(f"`alpha` must lie between 0 and 1; not {self.alpha}.")
        if not 0 <= self.least < 1:
            raise BadInput(f"`least` is a share, from 0 to below 1; not {self.least}.")
        if self.rows < 1 or not self.top or min(self.top) < 1:
            raise BadInput(f"`rows` and `top` must be at least 1; not {self.rows} and {self.top}.")
        if self.plan:
            self._check_plan(Circuit.parse(self.plan))

    def plan_for(self, data: Any) -> Circuit:
        """The groups to look for: the caller's, or those of the task. Raises `BadInput` where neither says."""
        name = getattr(data, "name", "")
        if not self.plan and name not in PLANS:
            raise BadInput(
                f"there is no plan for {name or 'these pairs'}; known tasks are {', '.join(PLANS)}. Say what to look for, from the answer "
                "backwards: plan=('movers@last>logits', 'senders@last>q:movers')."
            )
        plan = Circuit.parse(self.plan or PLANS[name])
        if not self.plan:
            spans = set(data[0].clean.spans) | {"last"}
            groups = tuple(group for group in plan.groups if group.at.partition("+")[0] in spans)
            plan = Circuit(groups)
        self._check_plan(plan)
        return plan

    def _check_plan(self, plan: Circuit) -> None:
        seen: dict[str, Group] = {}
        for group in plan.groups:
            if not group.reads:
                raise BadInput(
                    f"the group {group.name!r} does not say who reads it. Write {group.name}@{group.at}>logits or >q:group."
                )
            if group.into and group.into not in seen:
                raise BadInput(
                    f"the group {group.name!r} is read by {group.into!r}, which comes no earlier in the plan. Begin at the logits."
                )
            if group.reads == "logits" and group.at != "last":
                raise BadInput(
                    f"the group {group.name!r} at {group.at}: logits read the last token only. Write {group.name}@last>logits."
                )
            if group.reads == "q" and group.at != seen[group.into].at:
                raise BadInput(
                    f"the group {group.name!r} at {group.at} is read by the queries of {group.into!r}, which lie at {seen[group.into].at}: "
                    "with heads held nothing gets there. Put it at the same position."
                )
            if group.heads:
                raise BadInput(f"the plan names heads of {group.name!r}. A plan says what to look for; drop `=...`.")
            seen[group.name] = group
        if self.select == "top" and len(self.top) not in (1, len(plan.groups)):
            raise BadInput(f"`top` has {len(self.top)} numbers for {len(plan.groups)} steps. Give one, or one a step.")

    def _usable(self, lm: LM, data: Any) -> list[PairGroup]:
        """The pairs that effects are averaged over, numbered anew: the known ones, or all where none is known."""
        groups = pair_groups(lm, data, bos=self.bos, max_rows=self.rows)
        if self.known_only and any(any(group.known) for group in groups):
            groups = [
                group.rows([row for row, yes in enumerate(group.known) if yes]) for group in groups if any(group.known)
            ]
        place = {
            index: number for number, index in enumerate(sorted(index for group in groups for index in group.index))
        }
        return [dataclasses.replace(group, index=tuple(place[index] for index in group.index)) for group in groups]


@dataclass(frozen=True)
class CircuitDiscovery(Discovering[DiscoveryResult]):
    """Iterative circuit discovery by path patching: each step's receivers are the heads that the step before found."""

    def check(self, lm: LM, data: Any) -> None:
        """Refuse a plan that cannot be carried out, and pairs that do not line up."""
        plan = self.plan_for(data)
        PathPatching(positions=tuple(dict.fromkeys(group.at for group in plan.groups)), bos=self.bos).check(lm, data)

    def run(self, lm: LM, data: Any, store: Any = None) -> DiscoveryResult:
        """Every step of the plan; a step whose readers were not found finds nothing."""
        plan, groups = self.plan_for(data), self._usable(lm, data)
        found: dict[str, Group] = {}
        steps: list[tuple[PathResult | None, np.ndarray]] = []
        for number, group in enumerate(plan.groups):
            readers = self._readers(lm, group, found)
            paths = self._paths(lm, groups, readers, group.at) if readers else None
            p = self._p(paths, lm)
            found[group.name] = Group(group.name, group.at, self._chosen(paths, p, number), group.reads, group.into)
            steps.append((paths, p))
        circuit = Circuit(tuple(found.values()))
        joint = [one for one, _ in steps]
        why = self._absent(joint[0]) if joint[0] is not None else ""
        edges = self._edges(lm, groups, circuit, joint)
        return assemble_discovery(self, lm, circuit, steps, edges, given=len(list(data)), why=why)

    def cost(self, lm: LM, data: Any = None) -> Cost:
        """One sweep of paths a step, at most."""
        plan = self.plan_for(data)
        one = PathPatching(receivers=(f"q:{lm.spec.n_layers - 1}.0",), bos=self.bos, rows=self.rows).cost(lm, data)
        note = f"{len(plan.groups)} steps; later ones cost less"
        return Cost(one.forwards * len(plan.groups), one.tokens * len(plan.groups), one.bytes, note)

    def _readers(self, lm: LM, group: Group, found: dict[str, Group]) -> tuple[Receiver, ...]:
        if not group.into:
            return (Receiver("logits"),)
        return reading(group.reads, found[group.into].heads, group.at, lm.spec)

    def _paths(
        self,
        lm: LM,
        groups: list[PairGroup],
        readers: tuple[Receiver, ...],
        at: str,
        only: tuple[Head, ...] = (),
        *,
        each: bool = False,
    ) -> PathResult:
        config = PathPatching(
            receivers=tuple(one.name for one in readers), at=at, positions=(at,), together=not each, freeze_mlps=self.freeze_mlps,
            only=tuple(f"{layer}.{head}" for layer, head in only), bos=self.bos, rows=self.rows,
        )  # fmt: skip
        return config.on(lm, groups)

    def _p(self, paths: PathResult | None, lm: LM) -> np.ndarray:
        """Holm-corrected p-values that a head's effect is not positive, [layer, head]; paths that cannot exist are no tests."""
        shape = (lm.spec.n_layers, lm.spec.n_heads)
        if paths is None:
            return np.full(shape, np.nan)
        effect = paths.effects(self.metric).isel(receiver=0, role=0, drop=True)
        idle = (effect == 0).all("pair")
        n = max(9999, 40 * idle.size)
        pairs, tests = effect.sizes["pair"], int((~idle).sum())
        if self.select == "significant" and tests * 0.5**pairs > self.alpha:
            raise BadInput(
                f"with {pairs} usable pairs no head can be significant at {self.alpha:g} among {tests}: the smallest p-value is "
                f"{0.5**pairs:.2g}. Bring at least {math.ceil(math.log2(tests / self.alpha))} pairs whose answer the model gives, or "
                "use select='top'."
            )
        p = sign_flip_test(effect, axis="pair", alternative="greater", n=n, name="circuit")
        return np.asarray(holm(p.where(~idle)).where(~idle, 1.0).values)

    def _chosen(self, paths: PathResult | None, p: np.ndarray, number: int) -> tuple[Head, ...]:
        if paths is None or self._absent(paths):
            return ()
        mean = paths.effects(self.metric).isel(receiver=0, role=0).mean("pair").values  # [layer, head]
        if self.select == "top":
            count = self.top[number if len(self.top) > 1 else 0]
            order = np.argsort(-mean, axis=None, kind="stable")[:count]
            flat = np.zeros(mean.size, dtype=bool)
            flat[order] = mean.ravel()[order] > 0
            keep = flat.reshape(mean.shape)
        else:
            total = paths.total_effect(self.metric, known=False)["effect"]
            keep = (p <= self.alpha) & (mean >= self.least * abs(total)) & (mean > 0)
        return tuple((int(layer), int(head)) for layer, head in np.argwhere(keep))

    def _absent(self, paths: PathResult) -> str:
        """Why there is nothing to explain: the corruption does not lower the answer's metric on average. Empty where it does."""
        total = (paths.data["clean"] - paths.data["corrupted"]).sel(metric=self.metric).values
        p = float(sign_flip_test(total, alternative="greater", name="circuit"))
        if total.mean() > 0 and (p <= self.alpha or self.select == "top"):
            return ""
        return f"the model does not do this: {self.metric}, clean - corrupted, is {total.mean():.3g} (p = {p:.2g})"

    def _edges(
        self, lm: LM, groups: list[PairGroup], circuit: Circuit, joint: Sequence[PathResult | None]
    ) -> list[Edge]:
        """Every chosen head into every single reader; `joint` are the steps' own paths, which are single where there is one reader."""
        edges: list[Edge] = []
        found = {group.name: group for group in circuit.groups}
        for group, paths in zip(circuit.groups, joint, strict=True):
            if not group.heads or paths is None:
                continue
            readers = self._readers(lm, group, found)
            if len(readers) > 1:
                paths = self._paths(lm, groups, readers, group.at, group.heads, each=True)
            effect = paths.effects(self.metric).isel(role=0)
            for place, one in enumerate(readers):
                target = f"{group.into} {one.name}" if group.into else "logits"
                listeners = " ".join(
                    f"{group.into}:{layer}.{head}" for layer, head in (found[group.into].heads if group.into else ())
                    if reading(group.reads, [(layer, head)], group.at, lm.spec) == (one,)
                )  # fmt: skip
                for layer, head in group.heads:
                    if one.above("heads", layer, lm.spec):
                        values = effect.isel(receiver=place).sel(layer=layer, head=head).values
                        edges.append(Edge(f"{group.name} {layer}.{head}", target, listeners, values))
        return edges
