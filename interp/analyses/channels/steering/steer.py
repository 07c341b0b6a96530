"""Steering: write along a channel by hand, and see where the reader looks and what the model says.

The question. A component of a head writes along a fixed direction v, whatever it has read. If a later head is steered by that write, then
putting any amount of v there must move its attention, on every prompt and without the writer's own attention and values taking part. Three
ways, at one position (the last token, as a rule):

    replace      the head's whole write becomes  Σ alpha_i s_i v_i        its attention and values are bypassed
    coordinate   only its coordinates along v_i become alpha_i s_i        the rest of its write is kept
    add          Σ alpha_i s_i v_i is added to the stream before a layer  the head goes on as it is

One to three components, each an axis of a grid of alphas (or all together along the `diagonal`). s_i is the standard deviation of the
head's own coordinate over the prompts, so that alpha = 2 means the same for every component, and for the controls.

At every point of the grid: attention of the readers from the last token to each span; the score, attention to `to` less that to
`minus` (for IOI the inhibition score); the usual metrics; the best of the prompt's candidates. `regions` says which span the reader looks
at most (the decision regions), `reachable` which spans it can be made to look at at all. If the reader's keys are fixed vectors k_j and
the query moves along a line alpha w, that is the upper envelope of alpha (w . k_j): two spans for one component, more for more dimensions.

Signs. The sign of a singular vector is arbitrary, and alphas of two runs can be compared only under one rule. `sign="order=BAB"` makes the
mean coordinate positive on the prompts whose `meta` says so (in IOI: subject first); `svd` keeps the decomposition's. It is in the attrs,
and sign_mean / sign_se say how clear it was: a mean within two standard errors of 0 has fixed nothing.

Source. Merullo et al. 2024, "Talking Heads" (arXiv 2406.09519), sections 4 and 5. Their range of alpha is in figures only.

How. Each point is a cell of edits on a recorded run, resumed at the writer's layer; z of the head is set through the pseudoinverse of its
W_O, so nothing but the write moves. Writers in several layers are set in order. Grid points are streamed; no logits are kept.

When it misleads
- A large alpha is far from anything the head ever writes: everything steers something. Compare the controls at the same alpha, in the same
  unit: another component of the same head, a random direction of its write space (which holds a part of the channel, 1/sqrt(rank) on
  average; where nothing else is in the way, it reaches as many spans by that part), the same component of another head of the layer. And
  look where the head's own coordinates lie (`coordinate`).
- `replace` with alpha = 0 is an ablation of the head, not the untouched run.
- Components are numbers in a decomposition; which one matters depends on the folding. Heads and components chosen on these very prompts
  (attrs `chosen`) look better than they are.
- Where a norm stands behind attention (Gemma 2/3, OLMo 2), what a head writes is divided by a number that all heads of its layer make:
  units are those before it, and a large alpha makes the other heads quieter.
- A region is the winner of a mean over prompts. Prompts of two kinds may disagree: pass `split` to `regions`.

    import interp
    lm = interp.load("atlas")
    task = interp.reference.task("atlas", "ioi", 8)
    steered = interp.ChannelSteering(components=("2.0.0",), readers=("3.0",), reach=(4,), steps=(5,))(lm, task)
    steered.curve()                         # score [split, alpha]: mean, ci_lo, ci_hi
    steered.slopes()["mean"]                # [arm, split]: the channel beside its controls
    steered.regions(), steered.reachable()
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from interp.core.analysis import Analysis, Cost
from interp.core.errors import BadInput, one_of
from interp.core.lm import LM
from interp.core.progress import track

from ...readout import METRICS
from ..attention import prompt_groups, token_prompts
from ..component import Component
from .arms import KINDS
from .material import check_names, check_order, check_places, kinds_of, looked_at, matching
from .steer_job import SteeringJob
from .steer_result import SteeringResult

MODES = ("replace", "coordinate", "add")
MOST = 3
"""Components that are steered at once."""


@dataclass(frozen=True)
class ChannelSteering(Analysis[SteeringResult]):
    """Write along one to three components of heads by hand, over a grid of strengths, and read attention and answer at every point."""

    takes: ClassVar[str] = "pairs"

    components: tuple[str, ...] = ()
    """One to three components, such as 8.10.1. None given: the one whose spread over the prompts the first reader's query reads most
    of."""
    readers: tuple[str, ...] = ()
    """Heads whose attention is read, such as 9.9. None given: the head behind the components that attends most to `to` rather than
    `minus`."""
    mode: Literal["replace", "coordinate", "add"] = "replace"
    """What is done: replace the head's whole write, set its coordinate along the component, or add to the residual stream."""
    position: str = "last"
    """Where: last, or a span such as S1 or S2.last (all its tokens)."""
    layer: int | None = None
    """For `add`: the layer that the stream enters; by default the first reader's."""
    reach: tuple[float, ...] = (6.0,)
    """Largest alpha of each axis, one for all or one an axis; the grid runs from minus to plus this."""
    steps: tuple[int, ...] = (13,)
    """Points of each axis, one for all or one an axis; odd numbers have 0 among them."""
    alphas: tuple[float, ...] = ()
    """These alphas on every axis instead of `reach` and `steps`."""
    diagonal: bool = False
    """Move all components together, along one axis."""
    unit: Literal["std", "raw"] = "std"
    """What alpha = 1 is: a standard deviation of the head's own coordinate over the prompts, or 1 in the stream's own unit."""
    measured_at: str = ""
    """Where that deviation, and the sign, are measured; by default at `position`."""
    sign: str = ""
    """Which prompts have a positive mean coordinate, as key=value of their `meta` (order=BAB), or svd for the decomposition's own sign.
    By default order=BAB (the subject first) where prompts have an order, else svd."""
    split: str = ""
    """Key of the prompts' `meta` by which curves are separated; by default `order` where prompts have one."""
    spans: tuple[str, ...] = ()
    """Spans that compete for attention; by default item_0, item_1, ... where marked, else IO and S1."""
    to: str = ""
    """Span whose attention counts for the score; by default the first of `spans`."""
    minus: str = ""
    """Span whose attention counts against it; by default the second."""
    controls: tuple[str, ...] | None = None
    """Of same_head, random_direction, random_head; by default all that the model has (those it has not are told in the attrs)."""
    draws: int = 1
    """How many of each control."""
    folded: bool = True
    """Read weights with the norms folded in, or the raw parameters."""
    answers: Literal["single", "first"] = "single"
    """Refuse answers of several tokens, or score their first token."""
    bos: bool | None = None
    """Put a BOS before each prompt; None follows the model's tokenizer."""
    max_rows: int = 64
    """Prompts of one length at once; changes the memory, not the numbers."""
    seed: int = 0
    """Seed of the controls."""

    def __post_init__(self) -> None:
        check_names(self)
        if len(self.components) > MOST:
            raise BadInput(
                f"`components` names {len(self.components)}; steer along at most {MOST} at once, or along their `diagonal` in turns."
            )
        one_of("mode", self.mode, MODES)
        one_of("unit", self.unit, ["std", "raw"])
        one_of("answers", self.answers, ["single", "first"])
        for name in ("draws", "max_rows"):
            if getattr(self, name) < 1:
                raise BadInput(f"`{name}` must be at least 1; not {getattr(self, name)}.")
        if self.controls is not None:
            object.__setattr__(
                self, "controls", (self.controls,) if isinstance(self.controls, str) else tuple(self.controls)
            )
            for kind in self.controls or ():
                one_of("controls", kind, KINDS)
        if self.layer is not None and self.mode != "add":
            raise BadInput(
                f"`layer={self.layer}` says where something is added to the stream; mode={self.mode!r} acts at the head itself. "
                "Leave it out, or use mode='add'."
            )
        if self.sign not in ("", "svd") and "=" not in self.sign:
            raise BadInput(
                f"`sign` must be svd or key=value of the prompts' meta, such as order=BAB; not {self.sign!r}."
            )
        self._check_grid()

    def _check_grid(self) -> None:
        for name in ("reach", "steps", "alphas"):
            value = getattr(self, name)
            value = (value,) if isinstance(value, int | float) else tuple(value)
            object.__setattr__(self, name, value)
        if len(set(self.alphas)) < len(self.alphas) or not np.isfinite(self.alphas).all():
            raise BadInput(f"`alphas` must be finite and each there once; not {list(self.alphas)}.")
        n = self._n_axes
        for name in ("reach", "steps"):
            if len(getattr(self, name)) not in (1, n):
                raise BadInput(
                    f"`{name}` has {len(getattr(self, name))} entries for {n} axes. Give one for all, or one an axis."
                )
        if any(not 0 < reach < np.inf for reach in self.reach) or any(step < 1 for step in self.steps):
            raise BadInput(f"`reach` must be positive and `steps` at least 1; not {self.reach} and {self.steps}.")

    @property
    def _n_axes(self) -> int:
        return 1 if self.diagonal else max(1, len(self.components))

    @property
    def ticks(self) -> list[list[float]]:
        """The alphas of each axis, as they are run."""
        n = self._n_axes
        if self.alphas:
            return [[float(alpha) for alpha in self.alphas]] * n
        reach = self.reach * n if len(self.reach) == 1 else self.reach
        steps = self.steps * n if len(self.steps) == 1 else self.steps
        return [
            [0.0] if count == 1 else np.linspace(-far, far, count).tolist()
            for far, count in zip(reach, steps, strict=True)
        ]

    def check(self, lm: LM, data: Any) -> None:
        """Refuse components, readers, spans and positions that do not fit (`BadInput`, `SpanError`) before anything is run."""
        prompts = token_prompts(lm, data, bos=self.bos, answers=self.answers)
        spans, _, _ = looked_at(prompts, self.spans, self.to, self.minus)
        check_places(prompts, spans, [self.position, self.measured_at])
        kinds_of(prompts, self.split)
        matching(prompts, self.sign)
        readers = check_order(lm, self.components, self.readers, later=self.mode != "add")
        if self.layer is not None and not 0 <= self.layer < lm.spec.n_layers:
            raise BadInput(f"`layer={self.layer}`: {lm.spec.name} has layers 0 to {lm.spec.n_layers - 1}.")
        if self.layer is not None and (bad := [str(reader) for reader in readers if reader.layer < self.layer]):
            raise BadInput(f"the reader {bad[0]} comes before `layer={self.layer}`, where something is to be added.")

    def cost(self, lm: LM, data: Any = None) -> Cost:
        """Rows that are resumed from the first writer's layer on, twice (attention apart from logits), against whole passes; and four
        passes to record."""
        prompts = token_prompts(lm, data, bos=self.bos, answers=self.answers)
        points = int(np.prod([len(one) for one in self.ticks]))
        kinds = len(KINDS) if self.controls is None else len(self.controls)
        cells = points * (1 + kinds * self.draws)
        layers = [Component.parse(name).layer for name in self.components] or [lm.spec.n_layers // 2]
        first = min(layers) if self.mode != "add" else (self.layer or 0)
        width = sum(len(one) for one in prompts)
        behind = width if self.position != "last" else len(prompts)  # tokens that one cell of all prompts recomputes
        tokens = 5 * width + cells * behind * 2 * (lm.spec.n_layers - first) / lm.spec.n_layers
        rows = min(self.max_rows, len(prompts))
        held = 4 * max(map(len, prompts)) * lm.spec.d_model * lm.spec.n_layers * rows * lm.spec.bytes_per_value
        size = held + 4 * cells * len(prompts) * (len(METRICS) + 8 * max(1, len(self.readers)))
        note = f"{points} points for the channel and up to {kinds * self.draws} controls, {len(prompts)} prompts"
        return Cost(tokens / max(map(len, prompts)), int(tokens), int(size), note)

    def run(self, lm: LM, data: Any, store: Any = None) -> SteeringResult:
        """Steer every prompt at every point of the grid, for the channel and its controls."""
        prompts = token_prompts(lm, data, bos=self.bos, answers=self.answers)
        groups = prompt_groups(lm, data, bos=self.bos, answers=self.answers, max_rows=self.max_rows)
        spans = looked_at(prompts, self.spans, self.to, self.minus)
        job = SteeringJob(self, lm, prompts, groups, *spans)
        for group in track(groups, "steering", total=len(groups)):
            job.steer(group)
        return job.result()
