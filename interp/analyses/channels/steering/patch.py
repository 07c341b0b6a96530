"""Patching a channel between two prompts: does what one component says, taken from another prompt, take the answer along?

Steering shows what a channel can do; this shows what it does with the values that it really takes. Only the part of a write that lies along
the named components is exchanged, at one position:

    site="head"      z of each writer gets the other prompt's coordinates along its components; the rest of what it writes stays
    site="stream"    x' = x + (x_other - x) R Rᵀ   before the reader's layer, R spanning the components: whoever wrote there

    FLDD = mean (LD - LD patched) / LD        fraction of the logit difference destroyed: 1 removes it, 2 turns it round
    interchange accuracy                      share of pairs whose answer becomes that of the other prompt

LD is that of the prompt patched into, `logit(answer) - logit(other answer)`; beside the mean of ratios stands the ratio of means, since a
small LD makes a large ratio. Interchange accuracy is counted among the two answers, among the candidates of the prompt, and among all
tokens, and beside it what it is with nothing patched. `separability` asks how often the two prompts of a pair fall on opposite sides of the
component, of 0 and of the mean: what a channel does not tell apart it cannot carry.

Controls: `same_head`, as many other components of the same heads; `random`, a random subspace of as many dimensions, of the heads' write
spaces (of the stream, for a stream patch). Bounds: `head`, all that the writers write there, and `stream`, the whole stream before the
reader at that position.

A stream patch moves along R whatever was there, also what no head of the channel wrote, and it may work by putting what the reader does
not see in front of it. So it is split, as in `interp.analyses.subspaces`, with P the projector on what the readers' inputs see: `row` is
the part of R that they see moved by what they see of it, `null` the rest, `span` the whole swap of the seen directions. Where the patch
works and none of the three does, it is the subspace illusion (`illusion()`). A head's own write cannot be split: it writes v_i.

Source. Merullo et al. 2024, "Talking Heads" (arXiv 2406.09519), section 4; FLDD and the illusion: Makelov, Lange & Nanda 2023 (arXiv
2311.17030). The latter's definition of the interchange accuracy is over all tokens.

When it misleads
- The other prompt must differ in what the channel carries. If it carries a place and both prompts have the name in the same place, an
  exchange does nothing, and that is no evidence against it.
- A component that works has the answer changed by one of many paths; the others stay. Compare `head` and `stream`, not 1.
- The more pairs have a small LD, the less the mean of ratios means; pairs at or below the tolerance are refused, or dropped if told to.
- Components chosen on these very pairs (attrs `chosen`) look better than they are, and one of them beats some random draws by luck:
  `controls` says how often.

    import interp
    lm = interp.load("atlas")
    task = interp.reference.task("atlas", "ioi", 8)
    patched = interp.ChannelPatching(components=("2.0.0",), readers=("3.0",), draws=9)(lm, task)
    patched.table()                                 # none, channel, head, stream and the controls
    patched.fldd(known=False, drop=True)            # mean, ci_lo, ci_hi, ratio [variant]
    patched.separability()
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from interp.core.analysis import Analysis, Cost
from interp.core.errors import BadInput, one_of
from interp.core.lm import LM
from interp.core.progress import track

from ...pairs import pair_groups, token_pairs
from ..component import Component
from .material import check_names, check_order, check_places, looked_at
from .patch_job import PatchingJob, other_answer
from .patch_result import ChannelPatchingResult

DIRECTIONS = ("noise", "denoise")


@dataclass(frozen=True)
class ChannelPatching(Analysis[ChannelPatchingResult]):
    """Exchange what components of heads write between the two prompts of a pair, and see whether the answer goes along."""

    takes: ClassVar[str] = "pairs"

    components: tuple[str, ...] = ()
    """Components whose directions are exchanged, together. None given: the one whose difference between the two prompts the first reader's
    query reads most of."""
    readers: tuple[str, ...] = ()
    """Heads whose attention is read, such as 9.9. None given: the head behind the components that attends most to `to` rather than
    `minus`."""
    site: Literal["head", "stream"] = "head"
    """Exchange the coordinates in the heads' own writes, or in the residual stream before the reader's layer."""
    position: str = "last"
    """Where: last, or a span such as S2 (all its tokens)."""
    layer: int | None = None
    """The layer whose incoming stream is patched; by default the first reader's."""
    direction: Literal["noise", "denoise", "both"] = "noise"
    """noise puts the corrupted prompt's values into the clean run, denoise the other way round."""
    into: Literal["Q", "K", "V"] = "Q"
    """For the split of a stream patch: which input of the readers must see a direction for it to count as seen."""
    draws: int = 99
    """Random draws of each control (of other components, as many as the heads have)."""
    spans: tuple[str, ...] = ()
    """Spans whose attention is read; by default item_0, item_1, ... where marked, else IO and S1."""
    to: str = ""
    """Span whose attention counts for the score; by default the first of `spans`."""
    minus: str = ""
    """Span whose attention counts against it; by default the second."""
    folded: bool = True
    """Read weights with the norms folded in, or the raw parameters."""
    answers: Literal["single", "first"] = "single"
    """Refuse answers of several tokens, or score their first token."""
    bos: bool | None = None
    """Put a BOS before each prompt; None follows the model's tokenizer."""
    max_rows: int = 64
    """Pairs of one length at once; changes the memory, not the numbers."""
    seed: int = 0
    """Seed of the controls."""

    def __post_init__(self) -> None:
        check_names(self)
        one_of("site", self.site, ["head", "stream"])
        one_of("direction", self.direction, [*DIRECTIONS, "both"])
        one_of("into", self.into, ["Q", "K", "V"])
        one_of("answers", self.answers, ["single", "first"])
        if self.max_rows < 1 or self.draws < 0:
            raise BadInput(
                f"`max_rows` must be at least 1 and `draws` not negative; not {self.max_rows}, {self.draws}."
            )

    @property
    def directions(self) -> tuple[str, ...]:
        """The directions that are run."""
        return DIRECTIONS if self.direction == "both" else (self.direction,)

    def check(self, lm: LM, data: Any) -> None:
        """Refuse pairs, components, readers and spans that do not fit (`BadInput`, `SpanError`) before anything is run."""
        pairs = token_pairs(lm, data, bos=self.bos, answers=self.answers)
        for pair in pairs:
            other_answer(pair)
        clean = [pair.clean for pair in pairs]
        check_places(clean, looked_at(clean, self.spans, self.to, self.minus)[0], [self.position])
        readers = check_order(lm, self.components, self.readers)
        if self.layer is not None and (late := [str(reader) for reader in readers if reader.layer < self.layer]):
            raise BadInput(f"the reader {late[0]} comes before `layer={self.layer}`, whose incoming stream is patched.")
        if self.layer is not None and not 0 < self.layer < lm.spec.n_layers:
            raise BadInput(
                f"`layer={self.layer}`: {lm.spec.name} has layers 0 to {lm.spec.n_layers - 1}, and nothing writes before layer 0."
            )
        for component in self.components:
            if self.layer is not None and self.layer <= Component.parse(component).layer:
                raise BadInput(f"`layer={self.layer}` does not come after component {component!r}.")

    def cost(self, lm: LM, data: Any = None) -> Cost:
        """Rows that are resumed from the writers' layer on, twice (attention apart from logits); and six passes to record."""
        pairs = token_pairs(lm, data, bos=self.bos, answers=self.answers)
        cells = len(self.directions) * (4 + 3 * (self.site == "stream") + 2 * self.draws)
        layers = [Component.parse(name).layer for name in self.components] or [lm.spec.n_layers // 2]
        width = sum(len(pair.clean) for pair in pairs)
        behind = width if self.position != "last" else len(pairs)
        tokens = 7 * width + cells * behind * 2 * (lm.spec.n_layers - min(layers)) / lm.spec.n_layers
        longest = max(len(pair.clean) for pair in pairs)
        held = (
            6 * longest * lm.spec.d_model * lm.spec.n_layers * min(self.max_rows, len(pairs)) * lm.spec.bytes_per_value
        )
        note = f"{len(pairs)} pairs, {cells} patches each at most"
        return Cost(tokens / longest, int(tokens), int(held), note)

    def run(self, lm: LM, data: Any, store: Any = None) -> ChannelPatchingResult:
        """Patch every pair: the channel, what it is compared with, and what bounds it."""
        pairs = token_pairs(lm, data, bos=self.bos, answers=self.answers)
        groups = pair_groups(lm, data, bos=self.bos, answers=self.answers, max_rows=self.max_rows)
        job = PatchingJob(self, lm, pairs, groups)
        for group in track(groups, "channel patching", total=len(groups)):
            job.patch(group)
        return job.result()
