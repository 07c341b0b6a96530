"""What can be asked: the options, what is refused, what it costs; the cells are run by `job`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from interp.core.analysis import Analysis, Cost
from interp.core.errors import BadInput, one_of
from interp.core.lm import LM
from interp.core.progress import track
from interp.core.site import Site, expand
from interp.core.spec import BYTES
from interp.data.tokens import TokenPair

from ..pairs import pair_groups, token_pairs
from .assemble import assemble
from .cells import KINDS, OVER, Cell, Grid, cells_of, check_apart, columns, grid_of, head_dim, masks
from .controls import Strong, strongest
from .job import Job
from .result import PatchingResult
from .sources import SOURCES, check_mean, means_of, partners

DIRECTIONS = ("denoise", "noise")


@dataclass(frozen=True)
class ActivationPatching(Analysis[PatchingResult]):
    """Activation patching: put a component's value from one prompt of a pair into the run of the other, and see what the answer does."""

    takes: ClassVar[str] = "pairs"

    kinds: tuple[str, ...] = ("resid_pre", "attn_out", "mlp_out")
    """What is replaced: resid_pre, resid_mid, resid_post (the stream), attn_out, mlp_out, z (head outputs), q, k, v, mlp_post (neurons)."""
    over: tuple[str, ...] = ("layer pos",)
    """Axes of the cells, one for all kinds or one for each: layer, "layer pos", "layer head", "layer head pos". Without pos all places
    are replaced at once, without head all heads."""
    positions: tuple[str, ...] = ()
    """Places: names of spans, such as S2 or subject.last, and last and changed; empty for every token. Pairs of different length are
    comparable by name only."""
    layers: tuple[int, ...] = ()
    """Only these layers (centres of windows); empty for all."""
    heads: tuple[int, ...] = ()
    """Only these heads, where heads are cells; key/value heads for k and v. Empty for all."""
    direction: Literal["both", "denoise", "noise"] = "both"
    """denoise puts clean values into the corrupted run (what suffices), noise the other way (what is needed); they answer different
    questions, so both are run."""
    window: int = 1
    """Layers replaced together, around the centre layer."""
    window_rule: Literal["code", "text"] = "code"
    """Where an even window lies: -5...+4 or -4...+5 (for 10)."""
    source: Literal["counterfactual", "zero", "mean", "resample"] = "counterfactual"
    """What noise puts in: the pair's corrupted prompt, zero, the mean over all corrupted prompts at the same place, or another pair's
    corrupted prompt."""
    controls: int = 0
    """Matched random draws for each of the strongest cells: a random subspace of the layer's heads with a head's rank, or a random
    change of the same size."""
    strongest: int = 3
    """How many cells of each kind and direction get controls."""
    answers: Literal["single", "first"] = "single"
    """Refuse answers of several tokens, or score their first token."""
    bos: bool | None = None
    """Put a BOS before each prompt; None follows the model's tokenizer."""
    max_rows: int = 64
    """Pairs run at once, at most; changes the memory, not the numbers."""
    seed: int = 0
    """Seed of resampling and of controls."""

    def __post_init__(self) -> None:
        for name in ("kinds", "over", "positions"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        for name in ("layers", "heads"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, int) else tuple(map(int, value)))
        for kind in self.kinds:
            one_of("kinds", kind, KINDS)
        for name in ("kinds", "positions", "layers", "heads"):
            value = getattr(self, name)
            if len(set(value)) < len(value) or (name == "kinds" and not value):
                raise BadInput(f"`{name}` must name each of its entries once; not {value!r}.")
        one_of("direction", self.direction, ["both", *DIRECTIONS])
        one_of("window_rule", self.window_rule, ["code", "text"])
        one_of("source", self.source, SOURCES)
        one_of("answers", self.answers, ["single", "first"])
        for name in ("window", "max_rows", "strongest"):
            if getattr(self, name) < 1:
                raise BadInput(f"`{name}` must be at least 1; not {getattr(self, name)}.")
        if self.controls < 0:
            raise BadInput(f"`controls` must be 0 (none) or the number of draws; not {self.controls}.")
        self._check_axes()
        if self.source in ("zero", "mean") and self.direction != "noise":
            raise BadInput(
                f"source={self.source!r} puts something else into the clean run; no corrupted run goes with it that could be denoised. "
                "Use direction='noise', or source='counterfactual' or 'resample'."
            )
        if self.controls and self.window > 1:
            raise BadInput(
                f"`controls` need window=1, not {self.window}: inside a window later layers' values depend on what was put in before, "
                "so that a matched random value is not known in advance."
            )

    def _check_axes(self) -> None:
        for one in self.over:
            one_of("over", one, OVER)
        if len(self.over) not in (1, len(self.kinds)):
            raise BadInput(
                f"`over` names {len(self.over)} sets of axes for {len(self.kinds)} kinds. Give one for all, or one for each of "
                f"{', '.join(self.kinds)}."
            )
        flat = [kind for kind, over in self.axes if "head" in over.split() and not head_dim(kind)]
        if flat:
            raise BadInput(
                f"`over` has `head`, but {', '.join(flat)} has no head axis; q, k, v and z have. Give `over` for each kind, as in "
                "kinds=('z', 'mlp_out'), over=('layer head', 'layer pos')."
            )
        if self.heads and not any("head" in over.split() for _, over in self.axes):
            raise BadInput(
                f"`heads={list(self.heads)}` chooses among cells by head, but `over` is {self.over}. Use 'layer head'."
            )

    @property
    def axes(self) -> list[tuple[str, str]]:
        """Each kind with the axes of its cells."""
        over = self.over * len(self.kinds) if len(self.over) == 1 else self.over
        return list(zip(self.kinds, over, strict=True))

    @property
    def directions(self) -> tuple[str, ...]:
        """The directions that are run."""
        return DIRECTIONS if self.direction == "both" else (self.direction,)

    def check(self, lm: LM, data: Any) -> None:
        """Refuse pairs, places, sites and heads that do not fit (`BadInput`, `SpanError`, `RaggedPair`, `UnknownSite`) before anything is
        computed."""
        self._pairs(lm, data)

    def run(self, lm: LM, data: Any, store: Any = None) -> PatchingResult:
        """Patch every cell of every pair."""
        pairs, grids = self._pairs(lm, data), self._grids(lm)
        groups = pair_groups(lm, data, bos=self.bos, answers=self.answers, max_rows=self.max_rows)
        job = Job(self, lm, pairs, grids)
        if self.source == "mean":
            job.means = means_of(lm, groups, job.sites, self.positions)
        for index, group in enumerate(track(groups, "patching", total=len(groups))):
            job.patch(group, check=index == 0)
        strong: list[Strong] = []
        if self.controls:
            strong = strongest(job.score, job.low, job.high, grids, self.directions, self.strongest)
            for group in track(groups, "controls", total=len(groups)):
                job.control(group, strong)
        return assemble(self, lm, job, groups, strong)

    def cost(self, lm: LM, data: Any = None) -> Cost:
        """Rows through the whole model, against one full forward of a row a cell. Cells that share their beginning are counted apart, so
        windows cost less than said; in a small model, where tokens cost less than calls, neighbouring cells are run over more of them."""
        pairs, grids, spec = self._pairs(lm, data), self._grids(lm), lm.spec
        naive = rows = tokens = extra = 0.0
        both = self.source in ("counterfactual", "resample")
        for pair in pairs:
            width, start = len(pair.clean), pair.changed[0] if both else 0
            where = masks(self.positions, [pair])[:, 0]  # [place, pos]
            spent = 3.0 * width + (width if self.source == "mean" else 0)
            for grid in grids:
                for cell in cells_of(grid, len(where)):
                    at = (where.any(dim=0) if cell.place is None else where[cell.place]).nonzero().flatten()
                    at = at[at >= start]
                    naive += len(self.directions)
                    spent += len(self.directions) * _spent(cell, at.tolist(), width, spec.n_layers) / spec.n_layers
            chosen = sum(min(self.strongest, _size(grid, len(where))) for grid in grids) * len(self.directions)
            extra += self.controls * chosen + 2.0 * bool(self.controls)
            rows, tokens = (
                rows + spent / width,
                tokens + spent + width * (self.controls * chosen + 2 * bool(self.controls)),
            )
        shortest, longest = (end(len(pair.clean) for pair in pairs) for end in (min, max))
        checked = min(self.max_rows, sum(len(pair.clean) == shortest for pair in pairs)) * 2 * len(self.directions)
        rows, tokens = rows + checked, tokens + checked * shortest
        value = {"z": spec.n_heads * spec.d_head, "q": spec.n_heads * spec.d_head, "mlp_post": spec.d_mlp}
        held = sum(value.get(kind, spec.d_model) for kind in self.kinds) + 3 * spec.d_model
        size = 2 * min(len(pairs), self.max_rows) * longest * spec.n_layers * held * BYTES[spec.dtype]
        note = f"{len(pairs)} pairs; {naive / rows:.1f}x fewer rows than a full forward a cell ({naive:,.0f})"
        if self.controls:
            note += f"; controls, at most {extra:,.0f}"
        return Cost(forwards=rows + extra, tokens=int(tokens), bytes=size, note=note)

    def _pairs(self, lm: LM, data: Any) -> list[TokenPair]:
        pairs = token_pairs(lm, data, bos=self.bos, answers=self.answers)
        self._grids(lm)
        for pair in pairs:
            for name in self.positions:
                columns(name, pair)
            if self.source == "mean" and any("pos" not in over.split() for _, over in self.axes):
                check_apart(self.positions, pair)
        if self.source == "mean":
            check_mean(pairs, self.positions)
        if self.source == "resample":
            partners(pairs, self.positions, self.seed)
        return pairs

    def _grids(self, lm: LM) -> list[Grid]:
        expand([Site(kind, 0) for kind in self.kinds], lm.spec)
        how: dict[str, Any] = {"layers": self.layers, "window": self.window, "rule": self.window_rule}
        return [grid_of(kind, over, lm.spec, heads=self.heads, **how) for kind, over in self.axes]


def _size(grid: Grid, places: int) -> int:
    return len(grid.layers) * max(1, len(grid.heads)) * (places if grid.by_place else 1)


def _spent(cell: Cell, at: Sequence[int], width: int, n_layers: int) -> float:
    """Tokens through single layers that one cell of one row takes; the last layer is run where the answer is read."""
    last, first = n_layers - 1, cell.layers[0]
    if not at:
        return 0
    begins = first if cell.kind not in ("resid_post",) else first + 1
    local = cell.kind not in ("resid_pre", "k", "v", "resid_post") and at[-1] + 1 - at[0] < width - at[0]
    if first == last and (
        cell.kind == "resid_post" or (cell.kind not in ("resid_pre", "k", "v") and at[-1] < width - 1)
    ):
        return 0
    spent = 0.0
    for layer in range(begins, n_layers):
        span = width - at[0] if layer < last else 1
        spent += (at[-1] + 1 - at[0]) if local and layer == first else span
    return spent
