"""The nnsight backend: the model's own modules, traced (here; for NDIF see `interp.models.remote`).

    lm = interp.load("org/model", backend="nnsight")
    lm.nn                                             # the nnsight model itself, for anything nnsight offers

What runs is transformers' own forward pass, attention implementation included, so its numbers are those of the plain model bit for
bit. Sites are the taps of `interp.models.families`; the trace visits them in forward order, as nnsight demands. The attention
pattern has no module of its own: while it is captured or edited, attention runs eagerly and hands it over
(`interp.models.attention`), so it is editable here too.

nnsight adds a `save` method to every object of the process; that is taken back here, so write `nnsight.save(x)` in traces of yours.
"""

import copy
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from torch import Tensor

from interp.core.run import Tape
from interp.core.site import Site
from interp.core.spec import ModelSpec

from .attention import showing_patterns
from .base import BaseLM
from .families import Tap
from .tokenizer import HFTokenizer

Step = tuple[Any, str, list[tuple[Site, Tap]]]
"""An nnsight module, which side of it, and the sites that lie there."""


class TracerLM(BaseLM):
    """A language model answered by nnsight."""

    backend = "nnsight"

    def __init__(self, module: Any, tokenizer: HFTokenizer, spec: ModelSpec) -> None:
        super().__init__(module, tokenizer, spec)
        self._inner = copy.deepcopy(module, memo={id(parameter): parameter for parameter in module.parameters()})
        self.nn = load_nnsight().NNsight(self._inner)
        self._envoys: dict[str, Any] = {}

    def _forward(self, tape: Tape, stop_after: Site | None) -> Tensor | None:
        batch, device = tape.batch, self.module.device
        inputs = self.family.arguments(
            input_ids=batch.tokens.to(device),
            attention_mask=None if batch.unpadded else batch.mask.long().to(device),
            position_ids=batch.position_ids.to(device),
            use_cache=False,
        )
        shown = {site for site in tape.sites if site.kind not in self.family.taps}
        patterns: Any = showing_patterns(self._inner, tape) if shown else nullcontext()
        steps = self._steps([site for site in tape.sites if site not in shown], stop_after)
        out: list[Tensor] = []
        with patterns:  # noqa: SIM117 (nnsight reads the source of the next statement; nothing else may stand in it)
            with self.nn.trace(**inputs) as tracer:
                drive(steps, tape, self.spec)
                if stop_after is None:
                    out.append(self.nn.output.logits)
                else:
                    tracer.stop()
        return out[0] if out else None

    def _steps(self, sites: Sequence[Site], stop_after: Site | None) -> list[Step]:
        """The modules to visit, in the order in which the forward pass reaches them; sites of one module together.

        The module of `stop_after` comes last. Where that is the pattern, it is the next tensor: what the pattern weights together.
        """
        steps: dict[tuple[str, str], Step] = {}
        if stop_after is not None and stop_after.kind not in self.family.taps:
            stop_after = Site("z", stop_after.layer)
        for site in sorted({*sites, *([stop_after] if stop_after else [])}, key=lambda site: site.order):
            tap = self.family.taps[site.kind]
            path = self.family.path(site)
            if path not in self._envoys:
                self._envoys[path] = self.nn.get(path)
            group = steps.setdefault((path, tap.side), (self._envoys[path], tap.side, []))[2]
            if site in sites:
                group.append((site, tap))
        return list(steps.values())


def drive(steps: Sequence[Step], tape: Tape, spec: ModelSpec) -> None:
    """The body of a trace: visit each module, show the tape its sites, and put back what changed."""
    for envoy, side, group in steps:
        output = envoy.input if side == "in" else envoy.output
        raw = before = output[0] if isinstance(output, tuple) else output
        for site, tap in group:
            x = tap.take(raw, spec)
            new = tape(site, x)
            if new is not x:
                raw = tap.put(raw, new, spec)
        if raw is before:
            continue
        if side == "in":
            envoy.input = raw
        else:
            envoy.output = (raw, *output[1:]) if isinstance(output, tuple) else raw


def load_nnsight() -> Any:
    """Import nnsight, without the `save` method that it puts on every object of the process.

    Where nnsight was imported before by somebody else, everything stays as it is.
    """
    first = "nnsight" not in sys.modules
    import nnsight

    if first:
        from nnsight._c import unmount

        if unmount is not None and hasattr(object, "save"):
            unmount("save")
    return nnsight
