"""The laundry list: how many things can a model keep apart, and does steering through a channel help it?

The question. A list names N things, a second one all but one of them in another order; which is left? A model in which one head points
another at a place in the list, through few directions, should fail as lists grow, because few directions have room for few places. So:
accuracy against the length of the list and the place of the missing thing; what a reader head looks at; and what becomes of both when
the channel into the reader's query is set by hand at the last token, over a grid of strengths.

    accuracy           the best token of the vocabulary, or the best of the N things listed (chance 1/N); models prefer places, so by place
    region of thing j  the grid point at which the reader's mean attention to j leads that to all others by most
    gain of a rule     accuracy at the point that the rule picks for each prompt, less that of the untouched run on the same prompts

With the answer known (rule `oracle region`) every prompt is steered to the region of its own right answer. That is the published
figure, and no way to use a model: who steers like this has solved the task already. Rules that know less stand beside it (`laundry_rules`,
coordinate `knows`): one point for all prompts, the model's own attention or answer, its self-consistency. Regions and points are
learned on one half of the prompts, balanced over places, and every number of a steered run is of the other half. The same grid along
controls (other components of the heads, random directions of their write space, other heads), in the same raw unit and with the same
rules, says what choosing from a grid buys by itself; `hindsight`, any point that happens to be right, is the ceiling of that.

The weight-edit variant scales the same components by gamma for good. Order sensitivity: the same things and the same missing one in many
orders of the first list; the share of the variance of P(answer), within sets, that the place of the missing thing explains:

    share = SS_place / SS_total       (k - 1) / (n - 1) if place did nothing: k places, n orders       adjusted: 0 there, 1 at most

Source. Merullo, Eickhoff & Pavlick 2024, "Talking Heads" (arXiv 2406.09519), section 5. Their sentences are in a figure only: the wording
here is our own, so no absolute accuracy is to be compared with theirs. They do not say how a point within a region is chosen.

How. All grid points of a batch are resumed from one recording at the writers' layer; attention is read through markers (`attention`).
Readers and components that are not given are found on the training half: the head whose last token looks more at the missing thing than
at the others, and the components that its query reads most of (weights only; in rotary models at the median distance to the list).

When it misleads
- A model may solve the task with no pointer at all: heads that promote everything listed and heads that take back what was repeated. Then
  no reader stands out (`pointing`), and steering one only disturbs. The embedded `atlas` is such a model.
- Beating `unsteered` is not enough: compare with the same rule on the controls, and look at the interval of the difference. Random
  directions of the write space hold a part of the channel (1/sqrt(rank) on average), and a reader that takes the largest score does not
  mind how large: they may do as well. What the channel must beat is the other components of its head.
- Few prompts a place make a noisy oracle; fewer than ten make `oracle point` useless.
- Near-perfect accuracy leaves nothing to gain, and P(answer) near 1 leaves order nothing to explain (`sd` says so).

    import interp
    lm = interp.load("atlas")
    words = interp.reference.lexicon("atlas", "laundry_list")
    found = interp.LaundryList(lengths=(3, 7), prompts=28, points=3, orders=6, sets=2)(lm, words)
    found.accuracy(), found.by_place(), found.bias()
    found.steering()["gain"].sel(arm="channel")         # [rule, length]
    found.order()
"""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from interp.core.analysis import Analysis, Cost
from interp.core.errors import BadInput, one_of
from interp.core.lm import LM
from interp.core.progress import Progress
from interp.data import Lexicon

from ..ablation.editing import WIDE
from ..component import Component, Head
from ..factors import Setting
from ..steering.arms import KINDS
from .lists import Lists, draw_lists
from .result import LaundryResult
from .runs import Runs

MOST = 3
"""Components that are steered at once."""


@dataclass(frozen=True)
class LaundryList(Analysis[LaundryResult]):
    """Which thing is left out of the second list? Accuracy by length and place, and steering through a channel. Makes its own prompts;
    `data` is a Lexicon of their words, or None."""

    takes: ClassVar[str] = "lexicon"

    lengths: tuple[int, ...] = (2, 3, 4, 5, 6, 7, 8)
    """How many things are listed."""
    prompts: int = 96
    """Prompts of each length; half of them, balanced over places, to learn where to steer to."""
    reader: str | None = None
    """The head whose attention is read, such as 9.9. None: the one that looks most at the missing thing rather than the others."""
    components: tuple[str, ...] = ()
    """One to three components that are steered, such as 8.10.1. None given: those that the reader's query reads most of."""
    axes: int = 2
    """How many components to find where none are given; 0 for no steering."""
    points: int = 7
    """Strengths of each component; an odd number has 0 among them."""
    reach: float = 3.0
    """The largest strength, in standard deviations of the component's own coordinate at the last token."""
    mode: Literal["replace", "coordinate"] = "replace"
    """Set the heads' whole write at the last token, or only its coordinates along the components."""
    controls: tuple[str, ...] | None = None
    """What the channel is compared with, over the same grid in the same raw unit: of same_head, random_direction and random_head. By
    default all that the model has (those it has not are told in the attrs)."""
    gammas: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0)
    """Factors by which the weight edit scales the components; none for no edit."""
    orders: int = 24
    """Orders of the first list that are tried for each set of things, and at least two for each place (of three things all six); 0 for
    none."""
    sets: int = 8
    """Sets of things, of each length, that are put into different orders."""
    objects: tuple[str, ...] = ()
    """Things to list in place of the lexicon's."""
    pieces: int = 1
    """Most tokens a thing may have; with more than 1 answers are scored by their first token."""
    folded: bool = True
    """Read weights with the norms folded in, or the raw parameters."""
    bos: bool | None = None
    """Put a BOS before each prompt; None follows the model's tokenizer."""
    seed: int = 0
    """Seed of prompts and controls."""

    def __post_init__(self) -> None:
        for name in ("lengths", "components", "controls", "gammas", "objects"):
            value = getattr(self, name)
            if value is None:
                continue
            value = (value,) if isinstance(value, str | int | float) else tuple(value)
            object.__setattr__(self, name, value)
            if len(set(value)) < len(value):
                raise BadInput(f"`{name}` must name each of its entries once; not {value!r}.")
        object.__setattr__(self, "lengths", tuple(sorted(self.lengths)))
        if not self.lengths or not all(isinstance(items, int) and items >= 2 for items in self.lengths):
            raise BadInput(f"`lengths` must be whole numbers of things, 2 or more; not {list(self.lengths)}.")
        for name, least in {"prompts": 1, "axes": 0, "points": 1, "orders": 0, "sets": 1, "pieces": 1}.items():
            if getattr(self, name) < least:
                raise BadInput(f"`{name}` must be at least {least}; not {getattr(self, name)}.")
        if max(self.axes, len(self.components)) > MOST:
            raise BadInput(
                f"at most {MOST} components are steered at once; not {max(self.axes, len(self.components))}."
            )
        one_of("mode", self.mode, ["replace", "coordinate"])
        for kind in self.controls or ():
            one_of("controls", kind, KINDS)
        if not 0 < self.reach < np.inf or not np.isfinite(self.gammas).all():
            raise BadInput(f"`reach` must be positive and `gammas` finite; not {self.reach} and {list(self.gammas)}.")
        if self.steers and self.prompts < 2 * self.lengths[-1]:
            raise BadInput(
                f"{self.prompts} prompts do not make two halves in which each of {self.lengths[-1]} places is missing. "
                f"Ask for prompts={2 * self.lengths[-1]} or more, for shorter lists, or for axes=0."
            )
        for component in self.components:
            Component.parse(component)
        if self.reader is not None:
            Head.parse(self.reader)

    @property
    def steers(self) -> bool:
        """Whether anything is steered."""
        return bool(self.components) or self.axes > 0

    @property
    def n_axes(self) -> int:
        """Components that are steered together."""
        return len(self.components) or self.axes

    @property
    def ordered(self) -> tuple[int, ...]:
        """Lengths whose order is varied: of two things, order is only the place of the missing one."""
        return tuple(items for items in self.lengths if items > 2) if self.orders else ()

    def check(self, lm: LM, data: Any) -> None:
        """Refuse words, lengths, heads and components that do not fit, before anything is run."""
        words = self.words(data)
        for items in self.lengths:
            draw_lists(lm, items, n=1, lexicon=words, pieces=self.pieces, bos=self.bos)
        reader = None if self.reader is None else Head.parse(self.reader).check(lm)
        if not self.steers:
            return
        if lm.spec.n_layers < 2:
            raise BadInput(f"{lm.spec.name} has one layer: no head can tell a later one anything. Give axes=0.")
        components = [Component.parse(name).check(lm) for name in self.components]
        late = [str(one) for one in components if one.layer >= (reader.layer if reader else lm.spec.n_layers - 1)]
        if late or (reader is not None and reader.layer == 0):
            what = f"component {late[0]!r} does not come before" if late else "no component comes before"
            raise BadInput(
                f"{what} the reader {str(reader) if reader else 'in a later layer'!r}. Give others, or axes=0."
            )
        if self.gammas and lm.spec.dtype not in WIDE:
            raise BadInput(
                f"the weights of {lm.spec.name} are {lm.spec.dtype}, too coarse to hold an edited component. Load it with dtype='float32', "
                "or give gammas=()."
            )

    def words(self, data: Any) -> Lexicon | None:
        """The lexicon that prompts are made of; None for the default one."""
        if data is not None and not isinstance(data, Lexicon):
            raise BadInput(
                f"this makes its own prompts and takes a Lexicon of words, or nothing; not a {type(data).__name__}. For prompts of your "
                "own, steer with ChannelSteering."
            )
        return replace(data or Lexicon(), objects=self.objects) if self.objects else data

    def lists(self, lm: LM, data: Any = None) -> dict[int, Lists]:
        """The prompts of every length."""
        words = self.words(data)
        return {
            items: draw_lists(
                lm, items, n=self.prompts, lexicon=words, seed=self.seed, pieces=self.pieces, bos=self.bos
            )
            for items in self.lengths
        }

    def reordered(self, lm: LM, data: Any = None) -> dict[int, Lists]:
        """The prompts of the order analysis: `sets` of `orders` each (or as many as there are)."""
        words, made = self.words(data), {}
        for items in self.ordered:
            orders = self.n_orders(items)
            made[items] = draw_lists(
                lm, items, n=self.sets * orders, lexicon=words, seed=self.seed + 1, orders=orders, pieces=self.pieces, bos=self.bos,
            )  # fmt: skip
        return made

    def n_orders(self, items: int) -> int:
        """Orders of each set of `items` things: as many as asked for, at least two for each place, at most as many as there are."""
        return min(math.factorial(items), max(self.orders, 2 * items))

    def train(self, lists: Lists) -> np.ndarray:
        """Which prompts are learned on [prompt]: every other round over the places."""
        return (np.arange(len(lists)) // lists.items) % 2 == 0

    def cost(self, lm: LM, data: Any = None) -> Cost:
        """Whole passes for untouched, reordered and edited prompts; for each grid point the last token behind the writers, twice."""
        words, tokens, widest = self.words(data), 0.0, 0
        arms = 1 + len(KINDS if self.controls is None else self.controls)
        cells = arms * self.points**self.n_axes if self.steers else 0
        layers = [Component.parse(name).layer for name in self.components] or [0]
        depth = (lm.spec.n_layers - min(layers)) / lm.spec.n_layers
        for items in self.lengths:
            width = len(draw_lists(lm, items, n=1, lexicon=words, pieces=self.pieces, bos=self.bos).tokens[0])
            passes = (4 + self.steers + (len(self.gammas) if self.steers else 0)) * self.prompts
            passes += self.sets * self.n_orders(items) if items in self.ordered else 0
            tokens += width * passes + 2 * depth * cells * self.prompts
            widest = max(widest, width)
        held = 8 * cells * self.prompts * len(self.lengths) * self.lengths[-1]
        held += 64 * widest * lm.spec.d_model * lm.spec.n_layers * 8 * lm.spec.bytes_per_value
        note = (
            f"{len(self.lengths)} lengths of {self.prompts} prompts; {cells} grid points, {arms} arms"
            if cells
            else "no steering"
        )
        return Cost(tokens / widest, int(tokens), int(held), note)

    def run(self, lm: LM, data: Any, store: Any = None) -> LaundryResult:
        """Untouched runs, steering, weight edits and reordering, length by length."""
        runs = Runs(self, lm, Setting(folded=self.folded), self.lists(lm, data))
        with Progress("laundry lists", total=len(self.lengths) * 2) as progress:
            for items in self.lengths:
                runs.steer(items)
                runs.edit(items)
                progress.update()
            for items, lists in self.reordered(lm, data).items():
                runs.reorder(items, lists)
                progress.update()
        return runs.result()
