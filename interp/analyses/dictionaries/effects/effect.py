"""Latent effects: take latents out, set them or add them, and see what the model predicts then, beside other latents and other directions.

The question. The tokens on which a latent fires and the words that it promotes are correlations and one matrix product. What does the
model do with it? Change its code and leave all else, the dictionary's error included:

    ablate   f' = (1 - strength) f                       clamp   f' = strength · u           steer   f' = f + strength · u
    x'  =  x + (f' - f) · decoder rows                   u: the latent's largest code in this data (`unit="max"`), or 1 (`unit="code"`)

and read the divergence KL(clean || changed) and the loss of the next tokens (text), or the log-probability of the answer (prompts).

Controls. Any change of an activation does something. So the same is done (a) with other latents that are on about as often, and (b) along
random directions, with shifts that are as long at every token. `effect_of` gives means with intervals over texts and two comparisons
with each control, which answer two questions. p, by flipping signs of the difference to the mean over the draws: would other texts show
that difference to *these* draws? With enough texts any two latents differ. `share`: of all draws and the latents themselves, how many do
as much? Only this says whether the latents stand out among latents; with 10 draws it is no less than 1/11.

Source. Changing latents and keeping the error: Marks et al. 2024, "Sparse Feature Circuits" (arXiv 2403.19647); clamping: Templeton et al.
2024, "Scaling Monosemanticity". Deviation: controls. Random directions are matched in length token by token, and so are other latents in
`steer` and `clamp`, since decoder rows and codes differ in size; with `ablate` other latents are taken out as they are.

When it misleads
- KL is never negative: an effect above zero says nothing, only one above the controls does.
- Steering by more than the largest code leaves what the model has ever seen. Look at the loss beside the answer.
- Latents that say the same hide each other: take them out together (they are by default; `separate` does each by itself).
- Codes are those of the unchanged run. That is exact where a dictionary reads what it writes, or an earlier site; one that reads a later
  site would see the change, and it is not followed.

    import interp
    lm = interp.load("atlas")
    text = corpus.select(range(6))
    latent = interp.Latents(dictionary="runs/sae", n=1, order="dense")(lm, text).latents
    found = interp.LatentEffect(dictionary="runs/sae", latent=latent, draws=4)(lm, text)
    found.effect_of("kl"), found.report_lines(), found.plot()
    lm.run("The king", edits=[interp.ablate_latents(sae, latent)])          # sae = interp.open("runs/sae")
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from interp.cache.gather import model_of
from interp.core.analysis import Analysis, Cost
from interp.core.dictionary import Codes, Dictionary
from interp.core.digest import publishable
from interp.core.edit import Edit, add
from interp.core.errors import BadInput, one_of
from interp.core.progress import track
from interp.core.seed import numpy_generator
from interp.core.site import Site
from interp.core.stats import random_directions

from ...streams import check_predictable
from ..latents.assemble import named
from ..latents.logits import raw_rows
from ..latents.reading import check_reading, columns
from ..source import opened
from .editing import HOW, checked, written
from .material import Material, Seen, alike, codes_of, counted, material
from .measure import MEASURES, Group
from .result import CONTROLS, LatentEffectResult

if TYPE_CHECKING:
    from interp.core.lm import LM


@dataclass(frozen=True)
class LatentEffect(Analysis[LatentEffectResult]):
    """What changing latents does to predictions, beside other latents and random directions."""

    may_take: ClassVar[tuple[str, ...]] = ("text", "prompts")

    dictionary: str = ""
    """Folder of a saved dictionary (in Python also the dictionary itself)."""
    latent: tuple[int, ...] = ()
    """Numbers of the latents that are changed, together."""
    how: str = "ablate"
    """`ablate` them, `steer` (add to their codes at every token) or `clamp` (set their codes at every token)."""
    strength: tuple[float, ...] = (1.0,)
    """How much: the share that is taken out, or codes in `unit`s. Several give a dose-response."""
    unit: str = "max"
    """Of steering and clamping: each latent's largest code in this data (`max`), or codes as they are (`code`)."""
    separate: bool = False
    """Whether each latent is changed by itself, not all together."""
    measure: str = "next"
    """`next`: divergence and loss of all next tokens of a corpus; `answer`: divergence and log-probability of the answers of prompts."""
    positions: str = "all"
    """Tokens at which codes are changed: `all` of them, or (of prompts) the `last`."""
    view: str = ""
    """Which written view is changed, of a dictionary that writes several."""
    draws: int = 10
    """Controls of each kind."""
    words: int = 10
    """Tokens that gain and lose most, which are kept."""
    bos: bool = False
    """Whether the BOS counts and is changed, too."""
    batch_tokens: int = 1024
    """Tokens that are run at once."""
    seed: int = 0
    """Of control latents and directions."""

    @property
    def takes(self) -> str:  # type: ignore[override]
        """Text, or prompts with answers."""
        return "text" if self.measure == "next" else "prompts"

    def __post_init__(self) -> None:
        one_of("how", self.how, HOW)
        one_of("unit", self.unit, ("max", "code"))
        one_of("measure", self.measure, tuple(MEASURES))
        one_of("positions", self.positions, ("all", "last"))
        for name in ("latent", "strength"):
            given = getattr(self, name)
            object.__setattr__(self, name, (given,) if isinstance(given, int | float) else tuple(given))
        if self.measure == "next" and self.positions == "last":
            raise BadInput(
                "positions='last' with measure='next' changes the one token after which nothing is known: no loss can move. Say "
                "positions='all', or measure='answer' with prompts."
            )
        if not self.strength or not all(np.isfinite(one) and one != 0 for one in self.strength):
            raise BadInput(f"`strength` must be numbers other than 0; not {list(self.strength)}.")
        if len(set(self.strength)) < len(self.strength):
            raise BadInput(f"`strength` has a number twice: {list(self.strength)}.")
        for name, low in {"draws": 1, "words": 1, "batch_tokens": 1}.items():
            if getattr(self, name) < low:
                raise BadInput(f"`{name}` must be at least {low}; not {getattr(self, name)}.")

    def __call__(
        self, lm: "LM", data: Any = None, *, store: Any = None, others: "Sequence[LM]" = ()
    ) -> LatentEffectResult:
        """Run on a model and a corpus or prompts. `others` are further models that the dictionary reads; the edited view's is changed."""
        self.check(lm, data)
        dictionary = opened(self.dictionary)
        inputs = {"data": data, "dictionary": dictionary} | {f"other {one.spec.name}": one for one in others}
        return self._recorded(lm, inputs, lambda: self._found(dictionary, [lm, *others], data))

    def check(self, lm: "LM", data: Any) -> None:
        """Data that fits, and latents that the dictionary has."""
        if self.measure == "next":
            check_predictable(lm, data)
        elif data is None or not hasattr(data, "__iter__"):
            raise BadInput(
                "measure='answer' needs prompts with answers. Give facts or pairs, or measure='next' with a corpus."
            )
        dictionary = opened(self.dictionary)
        checked(dictionary, self.latent)
        written(dictionary, self.view)

    def to_dict(self) -> dict[str, Any]:
        """The options as plain JSON values; a dictionary that was given as an object by its content hash."""
        return {
            entry.name: named(self.dictionary) if entry.name == "dictionary" else publishable(getattr(self, entry.name))
            for entry in fields(self)
        }

    @property
    def sets(self) -> list[tuple[int, ...]]:
        """The latents that are changed together."""
        return [(latent,) for latent in self.latent] if self.separate else [tuple(self.latent)]

    def cost(self, lm: "LM", data: Any = None) -> Cost:
        """Two runs, and one a set, strength and control, from the edited layer on."""
        rows = material(lm, data, answers=self.measure == "answer", bos=self.bos)
        cells = len(self.sets) * len(self.strength) * (1 + len(CONTROLS) * self.draws)
        groups = len(rows.groups(self.batch_tokens))
        layer = Site.parse(written(opened(self.dictionary), self.view).site).layer or 0
        share = 1 - layer / lm.spec.n_layers
        room = (
            self.batch_tokens * (lm.spec.d_model * 64 + opened(self.dictionary).latents * 12) + 64 * lm.spec.vocab * 24
        )
        return Cost(groups * (2 + cells * share), int(rows.data.n_tokens * (2 + cells * share)), room)

    def run(self, lm: "LM", data: Any, store: Any) -> LatentEffectResult:
        """The result, for a dictionary of this one model."""
        return self._found(opened(self.dictionary), [lm], data)

    def _found(self, dictionary: Dictionary, models: "Sequence[LM]", data: Any) -> LatentEffectResult:
        check_reading(dictionary, models)
        view = written(dictionary, self.view)
        lm = model_of(view, models)
        rows = material(lm, data, answers=self.measure == "answer", bos=self.bos)
        groups = rows.groups(self.batch_tokens)
        seen = Seen(np.zeros(dictionary.latents, dtype=np.int64), np.zeros(dictionary.latents))
        codes, keeps = [], []
        for places in track(groups, "codes"):
            codes.append(codes_of(dictionary, models, rows, places))
            keeps.append(counted(rows, places, self.positions))
            seen.add(codes[-1], keeps[-1])
        self._refuse_silent(seen)
        site = Site.parse(view.site)
        plan = _Plan(self, dictionary, view.name, seen)
        tally = _Outcomes(self, len(rows.data), lm.spec.vocab)
        for places, found, keep in track(list(zip(groups, codes, keeps, strict=True)), "latent effects"):
            batch = rows.batch(places)
            pick = [[one[place] for place in places] if one else [] for one in (rows.answers, rows.foils)]
            group = Group(lm, batch, start=rows.start, answers=pick[0], foils=pick[1], measure=self.measure)
            shape = (*batch.tokens.shape, *_tail(lm, site, view.width))
            cells, size = plan.cells(found, keep, site, shape)
            tally.add(places, group, cells, size, plan.kept)
        return tally.result(self, lm, rows, dictionary, view.name, seen, plan)

    def _refuse_silent(self, seen: Seen) -> None:
        silent = [latent for latent in self.latent if not seen.count[latent]]
        needed = self.how == "ablate" or self.unit == "max"
        if silent and needed:
            raise BadInput(
                f"latents {silent} are never on at the {seen.tokens:,} tokens that are changed, so there is nothing to "
                + ("take out." if self.how == "ablate" else "measure their largest code by. Give unit='code'.")
                + " Bring text on which they fire (`Latents` shows some), or leave them out."
            )


def _tail(lm: "LM", site: Site, width: int) -> tuple[int, ...]:
    """Axes of a site's tensor after [row, pos]."""
    if "d_head" not in site.dims:
        return (width,)
    heads = lm.spec.n_kv_heads if "kv_head" in site.dims else lm.spec.n_heads
    return (heads, width // heads)


class _Plan:
    """Which cells there are, in the order set, strength, (the latents, then each control's draws), and what each adds."""

    def __init__(self, options: LatentEffect, dictionary: Dictionary, view: str, seen: Seen) -> None:
        self.options, self.seen = options, seen
        self.controls = [
            alike(
                seen,
                members,
                options.draws,
                numpy_generator(options.seed, "control latents", *members),
                never=options.latent,
            )
            for members in options.sets
        ]
        self.every = sorted({*options.latent, *(int(one) for table in self.controls for one in table.ravel())})
        self.rows = dict(zip(self.every, raw_rows(dictionary, view, self.every), strict=True))
        width = next(iter(self.rows.values())).shape[0]
        self.directions = random_directions(options.draws, width, options.seed, "latent effect directions")
        self.each = 1 + len(CONTROLS) * options.draws
        self.kept = [place * self.each for place in range(len(options.sets) * len(options.strength))]

    def cells(
        self, codes: Codes, keep: Tensor, site: Site, shape: Sequence[int]
    ) -> tuple[list[list[Edit]], np.ndarray]:
        """Edits of every cell, and lengths of the shifts of the latents themselves [set and strength, row, pos]."""
        place, row, value = columns(codes, self.every)
        dense = torch.zeros(len(codes), len(self.every))
        dense[torch.from_numpy(row), torch.from_numpy(place)] = torch.from_numpy(value).float()
        mask = keep.reshape(-1, 1).float()
        out: list[list[Edit]] = []
        sizes = []
        for members, controls in zip(self.options.sets, self.controls, strict=True):
            for strength in self.options.strength:
                mine = self._shift(dense, members, strength) * mask  # [token, d]
                length = mine.norm(dim=1, keepdim=True)
                sizes.append(length.reshape(keep.shape).numpy())
                shifts = [mine]
                for drawn in controls:
                    other = self._shift(dense, [int(one) for one in drawn], strength) * mask
                    if self.options.how != "ablate":
                        other = other * (length / other.norm(dim=1, keepdim=True).clamp(min=1e-30))
                    shifts.append(other)
                shifts += [length * direction for direction in self.directions]
                out += [[add(site, one.reshape(*shape))] for one in shifts]
        return out, np.stack(sizes)

    def _shift(self, dense: Tensor, members: Sequence[int], strength: float) -> Tensor:
        """What is added to each token [token, d]."""
        at = [self.every.index(one) for one in members]
        now, how = dense[:, at], self.options.how
        largest = torch.tensor(
            [self.seen.largest[one] if self.options.unit == "max" else 1.0 for one in members], dtype=torch.float32
        )
        change = (
            -strength * now
            if how == "ablate"
            else (strength * largest).expand_as(now) - (now if how == "clamp" else 0.0)
        )
        return change @ torch.stack([self.rows[one] for one in members])


class _Outcomes:
    """Outcomes, row by row."""

    def __init__(self, options: LatentEffect, rows: int, vocab: int) -> None:
        sets, strengths, arms = len(options.sets), len(options.strength), 1 + len(CONTROLS) * options.draws
        self.shape = (sets, strengths, arms)
        self.values = np.full((sets * strengths * arms, len(MEASURES[options.measure]), rows), np.nan)
        self.clean = np.full((len(MEASURES[options.measure]), rows), np.nan)
        self.gain, self.positions = torch.zeros(sets * strengths, vocab, dtype=torch.float64), 0
        self.changed, self.tokens = np.zeros(sets * strengths, dtype=np.int64), 0
        self.size, self.relative = np.zeros(sets * strengths), np.zeros(sets * strengths)

    def add(
        self, places: Sequence[int], group: Group, cells: list[list[Edit]], size: np.ndarray, kept: Sequence[int]
    ) -> None:
        """One group; `size` [set and strength, row, pos] are lengths of the latents' own shifts."""
        order = [*kept, *(place for place in range(len(cells)) if place not in set(kept))]
        found, gain = group.outcomes([cells[place] for place in order], keep=len(kept))
        self.values[np.ix_(order, range(found.shape[1]), places)] = found
        self.clean[:, list(places)] = group.clean
        self.gain += gain
        self.positions += len(places) * len(group.positions)
        self.changed += (size > 0).sum(axis=(1, 2))
        self.size += size.sum(axis=(1, 2))

    def result(
        self,
        options: LatentEffect,
        lm: "LM",
        rows: Material,
        dictionary: Dictionary,
        view: str,
        seen: Seen,
        plan: _Plan,
    ) -> LatentEffectResult:
        """As labelled data."""
        sets, strengths, arms = self.shape
        gain = (self.gain / max(1, self.positions)).numpy()
        count = min(options.words, lm.spec.vocab)
        order = np.argsort(-gain, axis=1, kind="stable")
        ids = np.stack([order[:, :count], order[:, ::-1][:, :count]], axis=1)  # [set and strength, end, word]
        values = np.take_along_axis(gain[:, None, :].repeat(2, axis=1), ids, axis=2)
        words = np.array([lm.tokenizer.label(int(one)) for one in ids.ravel()], dtype=str).reshape(ids.shape)
        grid, length = ("set", "strength"), (sets, strengths)
        kinds = ["latents", *(kind for kind in CONTROLS for _ in range(options.draws))]
        arrays: dict[str, Any] = {
            "outcome": ((*grid, "arm", "measure", "document"), self.values.reshape(sets, strengths, arms, *self.values.shape[1:])),
            "clean": (("measure", "document"), self.clean),
            "gain": ((*grid, "end", "word"), values.reshape(*length, 2, count)),
            "gain_token": ((*grid, "end", "word"), words.reshape(*length, 2, count)),
            "changed": (grid, self.changed.reshape(length) / max(1, seen.tokens)),
            "shift": (grid, (self.size / np.maximum(self.changed, 1)).reshape(length)),
            "density": ("latent", seen.count[list(options.latent)] / max(1, seen.tokens)),
            "largest": ("latent", seen.largest[list(options.latent)]),
            "control": (("set", "draw", "member"), np.stack(plan.controls)),
            "control_density": (("set", "draw", "member"), seen.count[np.stack(plan.controls)] / max(1, seen.tokens)),
        }  # fmt: skip
        coords: dict[str, Any] = {
            "set": ["+".join(map(str, members)) for members in options.sets], "strength": list(options.strength), "kind": ("arm", kinds),
            "measure": list(MEASURES[options.measure]), "document": list(rows.data.ids), "text": ("document", list(rows.data.texts)),
            "end": ["gains", "loses"], "latent": list(options.latent),
        }  # fmt: skip
        attrs = {
            "how": options.how, "unit": options.unit, "positions": options.positions, "view": view, "tokens": seen.tokens,
            "seed": options.seed,
            "site": next(one.site for one in dictionary.config.writes if one.name == view), "dictionary": dictionary.digest,
        }  # fmt: skip
        return LatentEffectResult(xr.Dataset(arrays, coords, attrs))
