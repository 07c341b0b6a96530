"""The method itself: its options, what it refuses, and the loop over batches of pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from interp.core.analysis import Analysis, Cost
from interp.core.errors import BadInput, one_of
from interp.core.lm import LM
from interp.core.progress import track
from interp.core.spec import BYTES

from ..pairs import PairGroup, pair_groups, token_pairs
from .nodes import Receiver, heads_of, parse, resolve
from .places import read
from .result import PathResult, assemble
from .sweep import Sender, Sweep

SENDERS = ("heads", "mlps")


@dataclass(frozen=True)
class PathPatching(Analysis[PathResult]):
    """Path patching: what a head (or MLP) tells named receivers directly, measured by what the answer makes of it."""

    takes: ClassVar[str] = "pairs"

    receivers: tuple[str, ...] = ("logits",)
    """Who listens: logits, or inputs of heads and MLPs (q:9.9,9.6 or k:3.1 or v:3.1@S2 or mlp:5; key/value heads as k:9.kv1)."""
    at: str = "last"
    """Position of receivers that name none: last, a span, a token beside one (S1+1), all."""
    senders: tuple[Literal["heads", "mlps"], ...] = ("heads",)
    """Who speaks: every head, every MLP, or both."""
    positions: tuple[str, ...] = ("own",)
    """Where senders are patched, one after the other: own (where the receivers read), last, a span, S1+1, all."""
    only: tuple[str, ...] = ()
    """Only these sender heads, such as 9.9,9.6; others score NaN. By default all."""
    together: bool = True
    """Replace the inputs of all receivers at once; otherwise one receiver at a time."""
    freeze: Literal["heads", "nothing"] = "heads"
    """What is held at the base run while the receivers listen: all other heads, or nothing (the sender's whole effect on them)."""
    freeze_mlps: bool = False
    """Hold the MLPs too, so that only the direct edge from sender to receiver is left."""
    direction: Literal["noising", "denoising"] = "noising"
    """Patch the clean run from the corrupted one, or the corrupted run from the clean one."""
    bos: bool | None = None
    """Put a BOS before each prompt; None follows the model's tokenizer."""
    answers: Literal["single", "first"] = "single"
    """Refuse answers of several tokens, or score their first token."""
    rows: int = 64
    """Pairs in a batch, at most; changes memory and speed, not the numbers."""
    memory_mb: int = 256
    """Receivers' values held at once, in MB; changes the speed, not the numbers."""

    def __post_init__(self) -> None:
        for name in ("receivers", "senders", "positions", "only"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        for kind in self.senders:
            one_of("senders", kind, SENDERS)
        one_of("freeze", self.freeze, ["heads", "nothing"])
        one_of("direction", self.direction, ["noising", "denoising"])
        one_of("answers", self.answers, ["single", "first"])
        for name in ("senders", "positions"):
            value = getattr(self, name)
            if not value or len(set(value)) < len(value):
                raise BadInput(f"`{name}` must name each entry once; not {value!r}.")
        for name in ("rows", "memory_mb"):
            if getattr(self, name) < 1:
                raise BadInput(f"`{name}` must be at least 1; not {getattr(self, name)}.")
        for role in (self.at, *(role for role in self.positions if role != "own")):
            read(role)
        heads_of(self.only)
        self._targets(parse(self.receivers, self.at))

    @property
    def rule(self) -> str:
        """What is held, in words, for captions."""
        held = [name for name, yes in (("other heads", self.freeze == "heads"), ("MLPs", self.freeze_mlps)) if yes]
        free = [name for name, yes in (("heads", self.freeze != "heads"), ("MLPs", not self.freeze_mlps)) if yes]
        parts = [f"{' and '.join(held)} held"] if held else []
        return ", ".join([*parts, f"{' and '.join(free)} recomputed"] if free else parts)

    def check(self, lm: LM, data: Any) -> None:
        """Refuse pairs that do not line up, and receivers and senders that this model does not have."""
        token_pairs(lm, data, bos=self.bos, answers=self.answers)
        resolve(parse(self.receivers, self.at), lm.spec)
        self._senders(lm)

    def run(self, lm: LM, data: Any, store: Any = None) -> PathResult:
        """Every sender's path effects on every pair."""
        return self.on(lm, pair_groups(lm, data, bos=self.bos, answers=self.answers, max_rows=self.rows))

    def on(self, lm: LM, groups: Sequence[PairGroup]) -> PathResult:
        """The same for pairs that are in groups already (`pair_groups`, their indices 0, 1, ...); without a manifest of its own."""
        receivers = parse(self.receivers, self.at)
        resolve(receivers, lm.spec)
        targets, senders = self._targets(receivers), self._senders(lm)
        parts = [self._group(lm, group, targets, senders) for group in track(groups, "path patching")]
        return assemble(self, lm, groups, targets, senders, parts)

    def cost(self, lm: LM, data: Any = None) -> Cost:
        """Rows through the whole model: the base, its counterfactual, and each sender's share in both passes."""
        spec = lm.spec
        targets, senders = self._targets(parse(self.receivers, self.at)), self._senders(lm)
        pairs = token_pairs(lm, data, bos=self.bos, answers=self.answers)
        share = 0.0
        for sender in senders:
            for group in targets:
                heard = [one for one in group if one.above(sender.kind, sender.layer, spec)]
                if group[0].kind == "logits":
                    share += (spec.n_layers - sender.layer) / spec.n_layers
                elif heard:
                    share += (
                        spec.n_layers - min(one.layer for one in heard) + max(o.layer for o in heard) - sender.layer
                    ) / spec.n_layers
        length = sum(len(pair.clean) for pair in pairs) / len(pairs)
        forwards = len(pairs) * (3 + share * len(self.positions))
        kept = 2 * min(self.rows, len(pairs)) * length * spec.n_layers * 2 * spec.d_model * BYTES[spec.dtype]
        naive = 2 * len(senders) * len(targets) * len(self.positions) * len(pairs)
        note = f"{len(pairs)} pairs; two whole forwards a sender would be {naive:,}; later positions only, so less than this"
        return Cost(forwards, int(forwards * length), int(kept) + self.memory_mb * 1_000_000, note)

    def _group(
        self, lm: LM, group: PairGroup, targets: tuple[tuple[Receiver, ...], ...], senders: list[Sender]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        base, source = group.clean, group.corrupted
        if self.direction == "denoising":
            base, source = source, base
        sweep = Sweep(
            lm, base, source, group.answer, group.foil, targets,
            hold_heads=self.freeze == "heads", hold_mlps=self.freeze_mlps, memory=self.memory_mb * 1_000_000,
        )  # fmt: skip
        found = sweep.scores(senders, self.positions)
        ends = (sweep.read_base(), sweep.read_source())
        return found, *(ends if self.direction == "noising" else ends[::-1])

    def _targets(self, receivers: tuple[Receiver, ...]) -> tuple[tuple[Receiver, ...], ...]:
        if not self.together:
            return tuple((one,) for one in receivers)
        if len(receivers) > 1 and any(one.kind == "logits" for one in receivers):
            raise BadInput(
                f"receivers {', '.join(self.receivers)}: the logits are read at once and take no second pass, so they cannot be "
                "patched together with others. Give them alone, or together=False."
            )
        if "own" in self.positions and len(places := {one.at for one in receivers}) > 1:
            raise BadInput(
                f"positions='own' with receivers at {', '.join(sorted(places))}: say where senders are patched, or together=False."
            )
        return (receivers,)

    def _senders(self, lm: LM) -> list[Sender]:
        spec, chosen = lm.spec, heads_of(self.only)
        for layer, head in chosen:
            if layer >= spec.n_layers or head >= spec.n_heads:
                raise BadInput(
                    f"there is no head {layer}.{head} in {spec.name}: layers 0 to {spec.n_layers - 1}, heads 0 to {spec.n_heads - 1}."
                )
        found = []
        for layer in range(spec.n_layers):
            if "heads" in self.senders:
                every = range(spec.n_heads)
                found += [Sender("heads", layer, head) for head in every if not chosen or (layer, head) in chosen]
            if "mlps" in self.senders:
                found.append(Sender("mlps", layer))
        return found
