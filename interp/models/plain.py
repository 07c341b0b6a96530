"""The plain transformers model with raw hooks: what the activation store and partial recomputation run on, for every backend.

Hooks from PyTorch itself cost nothing measurable, so capture runs at the speed of the forward pass up to the last layer that is
needed. Three things are done here that a bare `model(ids)` does not do:

- positions are counted per row, so a left-padded GPT-2 row gives the numbers that it gives alone;
- the pass ends after the last site that was asked for, and the unembedding is computed only when logits are wanted;
- whole documents are read packed end to end (`read`), each attending to itself only.

    plain = PlainModel(module)
    run = plain.run(batch, capture=["blocks.3.hook_resid_post"], edits=[scale("blocks.1.attn.hook_z", 0.0, heads=[0])])
    acts = plain.read(documents, ["blocks.3.hook_resid_post"])     # {site: [token, d_model]}

The attention pattern exists only under eager attention. When it is captured or edited, that one pass runs eager, so its other
numbers may differ from those of an `sdpa` pass in the last digit.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from interp.core.batch import Batch
from interp.core.edit import Edit
from interp.core.errors import BadInput
from interp.core.run import Run, Tape
from interp.core.site import Site, expand
from interp.core.spec import ModelSpec

from .attention import attending, showing_patterns
from .families import family_of, spec_of
from .hooks import Handler, Stop, hooked
from .packed import packed_attention, restarting_positions, rows_of

if TYPE_CHECKING:
    from .recording import PlainRecording


class PlainModel:
    """A transformers causal language model, read and edited through raw hooks. It is only borrowed: nothing stays behind."""

    def __init__(self, module: nn.Module, config: Any = None, spec: ModelSpec | None = None) -> None:
        self.module = module
        found: Any = config if config is not None else module.config
        self.config = found
        self.family = family_of(module)
        self.spec = spec if spec is not None else spec_of(self.config, module, "model")
        self.modules: dict[str, nn.Module] = dict(module.named_modules())
        self.resume_level = self.family.level
        """How `resume` computes: `grouped`, `layer skip` or `full`; lowered, with a warning, where the self-check fails."""
        self.checked: set[tuple[str, str]] = set()
        """(dtype, attention implementation) for which the self-check of `resume` was made."""
        self.tuples: bool | None = None
        """Whether the layers give tuples; None until somebody had to know."""
        self.token_budget = 2048 if self.device.type == "cpu" else 32768
        """Tokens in one layer call of `read` and `resume`. On a CPU more would leave the cache."""
        self.state_bytes = 1 << 30
        """Memory for the states of `resume`; cells for which more would be needed are worked off in several passes over the layers."""
        self.shrunk = False
        """Whether `token_budget` and `state_bytes` were lowered because memory ran out."""

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.module.parameters()).device

    @property
    def implementation(self) -> str:
        """The attention implementation in use: `eager` or `sdpa`."""
        return self.config._attn_implementation or "eager"

    def layer(self, index: int) -> nn.Module:
        """A decoder layer."""
        return self.modules[self.family.layer_path(index)]

    def run(
        self,
        tokens: "Batch | Tensor | Sequence[Any]",
        *,
        capture: "str | Site | Sequence[str | Site]" = (),
        edits: Sequence[Edit] = (),
        grad: bool = False,
        stop_after: "Site | str | None" = None,
    ) -> Run:
        """One forward pass, as `LM.run`."""
        batch = Batch.of(tokens).to(self.device)
        expand([edit.site for edit in edits], self.spec)
        tape = Tape(batch, expand(capture, self.spec), edits, grad=grad)
        stop = None if stop_after is None else expand(stop_after, self.spec)[-1]
        return tape.finish(self.forward(tape, stop_after=stop))

    def forward(
        self, tape: Tape, *, stop_after: Site | None = None, logits: bool = True, keep: Tensor | None = None
    ) -> Tensor | None:
        """Run the model under a tape. Gives logits [batch, pos, vocab], or None where the pass was stopped early.

        With `stop_after`, or with `logits=False`, the pass ends after the last site that is needed. `keep` restricts the
        logits to these positions.
        """
        batch = tape.batch
        mask = None if batch.unpadded else batch.mask.long()
        sites = tape.sites
        stop = max([stop_after, *sites], key=lambda site: site.order) if stop_after else None
        if stop is None and not logits and sites:
            stop = sites[-1]
        extra = {} if keep is None else {"logits_to_keep": keep}
        with torch.enable_grad() if tape.grad else torch.no_grad(), self.visiting(sites, tape, stop=stop):
            try:
                out = self.module(
                    **self.family.arguments(
                        input_ids=batch.tokens,
                        attention_mask=mask,
                        position_ids=batch.position_ids,
                        use_cache=False,
                        **extra,
                    )
                )
            except Stop:
                return None
        if keep is not None and not self.family.arguments(**extra):
            return out.logits[:, keep] if logits else None
        return out.logits if logits else None

    @contextmanager
    def visiting(self, sites: Sequence[Site], handler: Handler, *, stop: Site | None = None) -> Iterator[None]:
        """Inside the block every forward pass calls `handler` at `sites`, and raises `Stop` after `stop`."""
        if stop is not None and stop not in sites:
            sites = sorted([*sites, stop], key=lambda site: site.order)
            handler = _only(set(sites) - {stop}, handler)
        through_registry = {site for site in sites if site.kind not in self.family.taps}  # patterns, but for GPT-Neo
        rest = [site for site in sites if site not in through_registry]
        if through_registry and stop in through_registry:
            handler = _stopping(handler, stop)
        patterns = (
            showing_patterns(self.module, _only(through_registry, handler)) if through_registry else nullcontext()
        )
        with patterns, hooked(self.modules, self.family, self.spec, rest, handler, stop=stop):
            yield

    @torch.no_grad()
    def read(
        self, documents: Sequence[Tensor], sites: "Sequence[Site | str]", *, budget: int | None = None
    ) -> dict[Site, Tensor]:
        """Activations of whole documents [token, ...], concatenated in order, as `LM.read`.

        `budget` is the length of a packed row in tokens. Raises `BadInput` for an empty document, for one longer than the
        context and for the attention pattern, which has no such shape.
        """
        wanted = expand(sites, self.spec)
        lengths = self._lengths(documents, wanted)
        budget = budget or self.token_budget
        if not self.family.interface:
            budget = min(budget, self.spec.n_ctx)
        if not self.family.proven:
            budget = 1  # documents one by one
        out: dict[Site, Tensor] = {}
        start = 0
        for part in rows_of(lengths, budget):
            tape = self._read_row(documents[part], lengths[part], wanted)
            total = sum(lengths[part])
            for site, values in tape.captured.items():
                if site not in out:
                    out[site] = values.new_empty(sum(lengths), *values.shape[2:])
                out[site][start : start + total] = values[0]
            start += total
        return out

    def _read_row(self, documents: Sequence[Tensor], lengths: Sequence[int], sites: Sequence[Site]) -> Tape:
        tokens = torch.cat([document.to(self.device, torch.int64) for document in documents])[None]  # [1, token]
        tape = Tape(Batch.of(tokens), sites)
        packed: Any = nullcontext()
        if self.family.interface and len(lengths) > 1:
            function = packed_attention(lengths, self.spec.windows, self.implementation)
            packed = attending(self.module, function, lambda **_: None)
        positions = restarting_positions(lengths).to(self.device)
        with packed, self.visiting(tape.sites, tape, stop=sites[-1]), suppress(Stop):
            self.module(**self.family.arguments(input_ids=tokens, position_ids=positions, use_cache=False))
        tape.finish(None)
        return tape

    def _lengths(self, documents: Sequence[Tensor], sites: Sequence[Site]) -> list[int]:
        if not sites or not len(documents):
            raise BadInput("nothing to read: give at least one document and one site.")
        if any(site.kind == "pattern" for site in sites):
            raise BadInput("the attention pattern of a packed row has no shape [token, ...]. Use `run` to capture it.")
        lengths = [len(document) for document in documents]
        if min(lengths) == 0:
            raise BadInput(f"document {lengths.index(0)} is empty. Drop it.")
        if max(lengths) > self.spec.n_ctx:
            worst = lengths.index(max(lengths))
            raise BadInput(
                f"document {worst} has {max(lengths)} tokens; the context of {self.spec.name} is {self.spec.n_ctx}. Cut it."
            )
        return lengths

    def unembed(self, stream: Tensor) -> Tensor:
        """Logits [..., vocab] of a residual stream [..., d_model] leaving the last layer, as `LM.unembed`."""
        from .readout import unembed

        return unembed(self, stream)

    def record(
        self,
        tokens: "Batch | Tensor | Sequence[Any]",
        *,
        capture: "str | Site | Sequence[str | Site]" = (),
        edits: Sequence[Edit] = (),
    ) -> "PlainRecording":
        """A run that keeps what `resume` needs, as `LM.record`."""
        from .recording import record

        return record(self, tokens, capture=capture, edits=edits)

    def resume(
        self,
        base: "PlainRecording",
        cells: Sequence[Sequence[Edit]],
        *,
        positions: Sequence[int] = (-1,),
        readout: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Outcomes of a recorded run under each cell's further edits, as `LM.resume`."""
        from .resume import resume

        return resume(self, base, cells, positions=positions, readout=readout)

    def resume_sites(
        self,
        base: "PlainRecording",
        cells: Sequence[Sequence[Edit]],
        sites: Sequence[Site],
        *,
        at: Sequence[int] | None = None,
    ) -> dict[Site, Tensor]:
        """What each cell makes of `sites`, as `LM.resume_sites`."""
        from .resume import resume_sites

        return resume_sites(self, base, cells, sites, at=at)


def _only(sites: set[Site], handler: Handler) -> Handler:
    return lambda site, x: handler(site, x) if site in sites else x


def _stopping(handler: Handler, stop: Site | None) -> Handler:
    def act(site: Site, x: Tensor) -> Tensor:
        x = handler(site, x)
        if site == stop:
            raise Stop
        return x

    return act
