"""Closing a channel and watching the reader: one component of a writer head after the other removed, and what becomes of the readout.

The question. Composition says that component i of a writer *can* be heard by a reader head. Does the reader look elsewhere when it is
silent, and does the answer change? For each component, on each prompt,

    drop = readout - readout | OV' = OV - s_i u_i v_iᵀ          readout = A[to] - A[minus] of the reader (`attention`)

and the four metrics of the logits likewise. What is named by its composition score is then compared with what could have done as much:
the other components of the same head (each removed too), random directions of the head's write space (as many dimensions, drawn
uniformly), and the whole head. Keeping *only* the strongest component, only component 0 and the strongest at several strengths say whether
the channel suffices and how it grades. With several writers these are also done in all of them together.

Source. Merullo et al. 2024, "Talking Heads" (arXiv 2406.09519), section 4: in GPT-2 small, removing 8.10.1 and the like takes 7 to 14 % of
the inhibition score of 9.9; keeping only the strongest component of each inhibition head leaves 0.3 of 0.7, keeping only component 0
leaves 0.04.

How. Edits act on z in a run recorded once, at all positions, and are exactly the weight edit of `editing`; the first group of prompts is
also run with edited weights, and the difference is kept (attrs weight_difference; more than rounding raises). The reader is, unless
named, the head with the largest readout; writers are those with the strongest component into it. Both are chosen before anything is
removed.

When it misleads
- A small drop is not a closed question: other heads write the same (backup), and norms rescale what is left.
- Removing takes away the mean of what a component says too. A drop that the random directions share is about size, not content.
- p among the head's other components has at best 1 / (their number): with d_head = 8 nothing is ever below 0.125.
- A reader found on the same prompts has a readout that is large by selection too; differences to it, prompt by prompt, are not.
- Components that cannot be told apart are removed together (`size` above 1).
- In rotary models composition with the query or key is that at one distance (`offset`; by default the median one from query to `to`).

    import interp
    lm, task = interp.load("atlas"), interp.reference.task("atlas", "ioi", 8)
    result = interp.ComponentAblation(strongest=1, controls=5)(lm, task)
    result.components(), result.controls(), result.agreement(n=200)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from interp.core.analysis import Analysis, Cost
from interp.core.batch import At
from interp.core.edit import Edit, replace
from interp.core.errors import BadInput, InterpError, SpanError, listing, one_of
from interp.core.lm import LM, Recording
from interp.core.progress import track
from interp.core.site import Site
from interp.data.tokens import TokenPrompt

from ...readout import METRICS
from ..attention import Observer, PromptGroup, Readout, prompt_groups, token_prompts
from ..component import Head
from ..factors import KINDS, Setting, reader
from ..readers import best_reader
from .editing import WIDE, Removal, changed_weights, removing
from .result import ComponentAblationResult
from .trials import Trial, strongest_writers, together, trials_of

CELLS = 48
"""Cells whose values are held at once."""
CLOSE = 1e-3
"""What edited weights and an edited run may differ by, in a readout."""


@dataclass(frozen=True)
class ComponentAblation(Analysis[ComponentAblationResult]):
    """Remove the components of writer heads one by one; see what a reader's attention and the answer do."""

    takes: ClassVar[str] = "pairs"

    reader: str = ""
    """The head whose attention is read, such as "9.9"; by default the one behind the writers with the largest readout on the prompts."""
    to: str = "IO"
    """Span that the reader should look at."""
    minus: str = "S1"
    """Span whose attention is subtracted; empty for none."""
    query: str = "last"
    """Where the reader looks from: the last token of this span."""
    writers: tuple[str, ...] = ()
    """Heads whose components are removed; by default the `strongest`."""
    strongest: int = 3
    """How many heads are taken, those with the highest composition score of any of their components with the reader."""
    kind: Literal["Q", "K", "V"] = "Q"
    """The reader's input that composition is scored with: query, key or value."""
    scales: tuple[float, ...] = (0.5, 2.0)
    """Strengths that each writer's strongest component is set to, besides 0."""
    controls: int = 20
    """Random directions of each writer's write space that are removed, as many dimensions as the strongest component has."""
    at: Literal["all", "query"] = "all"
    """Remove at all tokens, as a weight edit does, or only where the reader looks from."""
    biases: Literal["keep", "edit"] = "keep"
    """Leave what the head's biases write alone, or scale their part in a component with it."""
    folded: bool = True
    """Components of weights with the norms' gains folded in, or of the raw parameters."""
    offset: int | None = None
    """Distance at which rotary models' queries and keys are scored; by default the median one from the query to `to`."""
    answers: Literal["single", "first"] = "single"
    """Refuse answers of several tokens, or score their first token."""
    bos: bool | None = None
    """Put a BOS before each prompt; None follows the model's tokenizer."""
    max_rows: int = 64
    """Prompts run at once, at most; changes the memory, not the numbers."""
    seed: int = 0
    """Seed of the random directions."""

    def __post_init__(self) -> None:
        for name in ("writers", "scales"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str | int | float) else tuple(value))
        one_of("kind", self.kind, KINDS)
        one_of("at", self.at, ["all", "query"])
        one_of("biases", self.biases, ["keep", "edit"])
        one_of("answers", self.answers, ["single", "first"])
        heads = self._heads
        if len(set(heads)) < len(heads):
            raise BadInput(f"`writers` and `reader` must be different heads; not {self.writers!r} and {self.reader!r}.")
        if self.strongest < 1 or self.max_rows < 1 or self.controls < 0:
            raise BadInput(
                f"`strongest` and `max_rows` must be at least 1 and `controls` at least 0; not {self.strongest}, {self.max_rows} and "
                f"{self.controls}."
            )
        if bad := [scale for scale in self.scales if not np.isfinite(scale) or scale in (0.0, 1.0)]:
            raise BadInput(f"`scales` are strengths besides 0 (which is always run) and 1 (no edit); not {bad}.")
        Readout(self.reader or Head(0, 0), self.to, self.minus, self.query)

    @property
    def _heads(self) -> list[Head]:
        """The writers and the reader, of those that are named."""
        return [Head.parse(name) for name in (*self.writers, *((self.reader,) if self.reader else ()))]

    @property
    def setting(self) -> Setting:
        """In which coordinates components are taken."""
        return Setting(self.folded)

    def check(self, lm: LM, data: Any) -> None:
        """Refuse heads that the model lacks, prompts without the spans, and a distance that the model does not know."""
        heads = [head.check(lm) for head in self._heads]
        if self.reader:
            _before(heads[:-1], heads[-1])
        if lm.spec.n_layers < 2 or (self.reader and Head.parse(self.reader).layer == 0):
            raise BadInput(f"no head writes into a reader of the first layer of {lm.spec.name}. Name a later reader.")
        self._offset(lm, self._tokens(lm, data))

    def cost(self, lm: LM, data: Any = None) -> Cost:
        """Rows through a part of the model for each edit: the layers behind the writer for the logits, those up to the reader for its
        attention; an upper bound where the reader is not named."""
        prompts, spec = self._tokens(lm, data), lm.spec
        last = Head.parse(self.reader).layer if self.reader else spec.n_layers - 1
        layers = [Head.parse(name).layer for name in self.writers] or [0] * min(self.strongest, last * spec.n_heads)
        share = sum((spec.n_layers - layer + last - layer) / spec.n_layers for layer in layers)
        each = spec.d_head + 3 + len(self.scales) + self.controls
        rows = len(prompts) * (share * each + 4 * (len(layers) > 1) + 3 + (not self.reader))
        width = max(len(tokens) for tokens in prompts)
        held = CELLS * min(self.max_rows, len(prompts)) * width * spec.d_head * spec.bytes_per_value
        tokens = int(rows * sum(map(len, prompts)) / len(prompts))
        return Cost(
            rows, tokens, held, f"{each * len(layers)} edits of {len(layers)} writers on {len(prompts)} prompts"
        )

    def run(self, lm: LM, data: Any, store: Any = None) -> ComponentAblationResult:
        """Remove, read, put back; prompts of one length at a time."""
        prompts = self._tokens(lm, data)
        offset = self._offset(lm, prompts)
        name, ranked = (self.reader, {}) if self.reader else self._found(lm, data)
        readout = Readout(name, self.to, self.minus, self.query)
        trials = self.trials(lm, readout.reader, offset)
        groups = prompt_groups(lm, data, bos=self.bos, answers=self.answers, max_rows=self.max_rows)
        tables = _Tables(len(trials), len(prompts), len(readout.spans))
        difference: float | None = None
        for group in track(groups, "component ablation", total=len(groups)):
            seen = self._observer(lm, group, readout, trials)
            tables.put(None, group, seen, [[]])
            for first in range(0, len(trials), CELLS):
                part = trials[first : first + CELLS]
                tables.put(slice(first, first + len(part)), group, seen, [self._cell(lm, seen, one) for one in part])
            if difference is None:
                difference = self._weights_agree(lm, group, readout, trials, tables)
        attrs = {
            "reader": name, "to": self.to, "minus": self.minus, "query": self.query, "kind": self.kind, "at": self.at,
            "biases": self.biases, "folded": self.folded, **({} if offset is None else {"offset": offset}), **ranked,
            **({} if difference is None or difference < 0 else {"weight_difference": difference}),
        }  # fmt: skip
        return ComponentAblationResult(_dataset(lm, trials, groups, tables, readout, attrs))

    def _found(self, lm: LM, data: Any) -> tuple[str, dict[str, float]]:
        """The head with the largest readout behind the writers, and its p-value among all heads."""
        how: dict[str, Any] = {"query": self.query, "bos": self.bos, "answers": self.answers, "seed": self.seed}
        first = 1 + max((Head.parse(name).layer for name in self.writers), default=0)
        name, p = best_reader(lm, data, first=first, to=self.to, minus=self.minus, **how)
        return name, {"reader_p": p}

    def trials(self, lm: LM, head: Head, offset: int | None = None) -> list[Trial]:
        """Every edit, writer by writer, then those of all writers together. Raises `BadInput` for writers that do not come before."""
        writers = [Head.parse(name) for name in self.writers]
        far = None if self.kind == "V" else offset
        if not writers:
            writers = strongest_writers(lm, head, self.strongest, kind=self.kind, setting=self.setting, offset=far)
        _before(writers, head)
        side = reader(lm, head.layer, self.kind, self.setting, offset=far).side[head.head]  # [d_model, d_head]
        if not bool(side.isfinite().all()):
            raise BadInput(f"the reader {str(head)!r} weighs nothing: its {self.kind} matrix is zero. Name another.")
        how: dict[str, Any] = {"setting": self.setting, "biases": self.biases, "scales": self.scales}
        each = [trials_of(lm, one, side, controls=self.controls, seed=self.seed, **how) for one in writers]
        return [*(trial for found in each for trial in found), *together(each)]

    def _observer(self, lm: LM, group: PromptGroup, readout: Readout, trials: Sequence[Trial]) -> Observer:
        layers = sorted({one.head.layer for trial in trials for one in trial.removals})
        sites = [Site("z", layer) for layer in layers]
        return Observer(lm, group.batch, readout, outcome=group.metrics, capture=sites)

    def _cell(self, lm: LM, seen: Observer, trial: Trial) -> list[Edit]:
        where = At("all") if self.at == "all" else _at_query(seen)
        if (
            len(trial.removals) > 1
        ):  # a later writer has heard of the earlier ones' edits, so its z is not the recorded one
            layers = dict.fromkeys(sorted(one.head.layer for one in trial.removals))
            return [
                removing(lm, [one for one in trial.removals if one.head.layer == layer], layer, at=where)
                for layer in layers
            ]
        one, base = trial.removals[0], seen.base
        assert base is not None
        return [replace(Site("z", one.head.layer), _without(base, one), heads=[one.head.head], at=where)]

    def _weights_agree(
        self, lm: LM, group: PromptGroup, readout: Readout, trials: Sequence[Trial], tables: "_Tables"
    ) -> float:
        """Run the first edit of all in the weights too; the largest difference of a readout, -1 where the weights cannot hold it."""
        if self.at != "all" or lm.spec.dtype not in WIDE:
            return -1.0
        try:
            new = changed_weights(lm, trials[0].removals, biases=self.biases, setting=self.setting)
        except BadInput:  # no b_O that could keep what biases write
            return -1.0
        with lm.edit_weights(new):
            seen = Observer(lm, group.batch, readout).read([[]])
        off = float((seen.score[0] - torch.from_numpy(tables.score[0, list(group.index)])).abs().max())
        if not off <= CLOSE:
            raise InterpError(
                f"removing {', '.join(trials[0].removals[0].scales)} from the weights of {lm.spec.name} moves the readout by {off:.3g} "
                "more than removing it in a run. One of the two is not what it says; report this checkpoint."
            )
        return off

    def _tokens(self, lm: LM, data: Any) -> list[TokenPrompt]:
        prompts = token_prompts(lm, data, bos=self.bos, answers=self.answers)
        for tokens in prompts:
            for name in filter(None, (self.to, self.minus, self.query)):
                if name.partition(".")[0] not in tokens.spans:
                    raise SpanError(
                        f"the prompt {tokens.prompt.text!r} has no span {name!r}; it has {listing(tokens.spans)}. Name another with `to`, "
                        "`minus` or `query`."
                    )
        return prompts

    def _offset(self, lm: LM, prompts: Sequence[TokenPrompt]) -> int | None:
        rotary = lm.spec.positions == "rotary"
        if self.offset is not None and not (rotary and self.kind != "V"):
            raise BadInput(f"offset={self.offset} is for queries and keys of rotary models. Leave it out.")
        if not rotary or self.kind == "V" or self.offset is not None:
            return self.offset
        query, to = (name.partition(".")[0] for name in (self.query, self.to))
        return int(np.median([max(0, one.spans[query][1] - one.spans[to][1]) for one in prompts]))


@dataclass(eq=False)
class _Tables:
    """What every edit made of every prompt, and before any edit."""

    edits: int
    prompts: int
    spans: int
    score: np.ndarray = field(init=False)
    attention: np.ndarray = field(init=False)
    outcome: np.ndarray = field(init=False)
    before: "dict[str, np.ndarray]" = field(init=False)

    def __post_init__(self) -> None:
        shapes = {"score": (), "attention": (self.spans,), "outcome": (len(METRICS),)}
        self.before = {name: np.full((self.prompts, *shape), np.nan) for name, shape in shapes.items()}
        for name, shape in shapes.items():
            setattr(self, name, np.full((self.edits, self.prompts, *shape), np.nan))

    def put(self, where: slice | None, group: PromptGroup, seen: Observer, cells: Sequence[Sequence[Edit]]) -> None:
        """Read some cells of a group; None for the recorded run."""
        found, rows = seen.read(cells), list(group.index)
        assert found.outcome is not None
        for name, values in (("score", found.score), ("attention", found.attention), ("outcome", found.outcome)):
            if where is None:
                self.before[name][rows] = values[0].numpy()
            else:
                getattr(self, name)[where, rows] = values.numpy()


def _without(base: Recording, one: Removal) -> Tensor:
    """What is left of a head's recorded z, [row, pos, 1, d_head]."""
    z = base.run[Site("z", one.head.layer)][:, :, one.head.head]
    wide = z.double()
    left = wide - (wide - one.constant.to(wide.device)) @ one.part.to(wide.device)
    return left.to(z.dtype)[:, :, None]


def _before(writers: Sequence[Head], head: Head) -> None:
    if late := [str(one) for one in writers if one.layer >= head.layer]:
        raise BadInput(
            f"the reader {str(head)!r} cannot hear {listing(late)}: a writer must be in an earlier layer. Name earlier ones."
        )


def _at_query(seen: Observer) -> At:
    columns = torch.arange(seen.batch.tokens.shape[1])
    return At.mask(columns == seen.query[:, None])


def _along(trials: Sequence[Trial]) -> Iterator[tuple[str, list[Any]]]:
    yield "edit", [f"{number}" for number in range(len(trials))]
    yield "edit_kind", [one.kind for one in trials]
    for name in ("writer", "component", "size", "scale", "draw", "composition", "value"):
        yield name, [getattr(one, name) for one in trials]


def _dataset(
    lm: LM,
    trials: Sequence[Trial],
    groups: Sequence[PromptGroup],
    tables: _Tables,
    readout: Readout,
    attrs: dict[str, Any],
) -> xr.Dataset:
    """Everything by name; prompts in the order of the data."""
    order = sorted((place, group, row) for group in groups for row, place in enumerate(group.index))
    label = lm.tokenizer.label
    columns: dict[str, Any] = {
        "score": (("edit", "prompt"), tables.score),
        "attention": (("edit", "prompt", "span"), tables.attention),
        "outcome": (("edit", "prompt", "metric"), tables.outcome),
        "score_before": ("prompt", tables.before["score"]),
        "attention_before": (("prompt", "span"), tables.before["attention"]),
        "outcome_before": (("prompt", "metric"), tables.before["outcome"]),
    }
    coords: dict[str, Any] = {name: ("edit", values) for name, values in _along(trials)}
    coords |= {
        "prompt": [group.tokens[row].id for _, group, row in order],
        "known": ("prompt", [group.known[row] for _, group, row in order]),
        "answer": ("prompt", [label(int(group.answer[row])) for _, group, row in order]),
        "foil": ("prompt", [label(int(group.foil[row])) for _, group, row in order]),
        "span": list(readout.spans), "metric": list(METRICS),
    }  # fmt: skip
    return xr.Dataset(columns, coords, attrs)
