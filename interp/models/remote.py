"""Models that run elsewhere: nnsight's remote execution on NDIF.

    lm = interp.load("meta-llama/Llama-3.1-8B", backend="nnsight", remote=True)      # needs an NDIF key and a reachable hub
    lm = interp.load("runs/last-night", backend="nnsight", remote="local")           # the same path, served by this process

The weights stay there: a trace is sent, with the edits in it, and captures and logits come back. What needs the weights here
(`record`, `resume`, `read`, `generate`, `tuning`, `save`, `weights`, `fingerprint`, and so the activation store) is refused, and so is
the attention pattern, which no module of the remote model outputs.

Only `remote="local"` is tested, which packs and unpacks everything as a remote run does; nothing was ever sent to NDIF.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from interp.core.errors import BadInput, CheckpointError
from interp.core.run import Tape
from interp.core.site import Site
from interp.core.spec import ModelSpec, TensorInfo

from .base import BaseLM
from .checkpoint import resolve
from .families import family_of, spec_of
from .tokenizer import HFTokenizer
from .tracer import Step, TracerLM, drive, load_nnsight


class RemoteLM(TracerLM):
    """A language model answered by nnsight somewhere else."""

    def __init__(self, nn: Any, name: str, *, remote: bool | str, revision: str | None = None) -> None:
        module = nn._module
        family_of(module.config)  # a module without weights cannot be observed: only proven families run elsewhere
        self.remote = remote
        spec = spec_of(module.config, module, name, backend=self.backend, revision=revision)
        BaseLM.__init__(self, module, HFTokenizer(nn.tokenizer, name), spec)
        self._inner, self.nn, self._envoys = module, nn, {}
        self._here = next(module.parameters()).device.type != "meta"
        self._infos = [info for info in self._infos if info.site.kind in self.family.taps]

    def _forward(self, tape: Tape, stop_after: Site | None) -> Tensor | None:
        if absent := [
            site for site in [*tape.sites, *([stop_after] if stop_after else [])] if site.kind not in self.family.taps
        ]:
            raise BadInput(
                f"{absent[0]} cannot be reached in a remote model. Load it without `remote`, or look at its z."
            )
        steps = self._steps(tape.sites, stop_after)
        captured, fired, logits = _send(self.nn, steps, tape, self.spec, stop_after is not None, self.remote)
        tape.captured.update(captured)
        tape.fired.update(zip(tape.fired, fired, strict=True))  # an edit that came back is another object
        return logits[0] if logits else None

    def record(self, *args: Any, **kwargs: Any) -> Any:
        """As `BaseLM.record`, where the weights are here."""
        return super().record(*args, **kwargs) if self._weights_here("record") else None

    def read(self, documents: Sequence[Tensor], sites: Any) -> dict[Site, Tensor]:
        """As `BaseLM.read`, where the weights are here."""
        return super().read(documents, sites) if self._weights_here("read") else {}

    def unembed(self, stream: Tensor) -> Tensor:
        """As `BaseLM.unembed`, where the weights are here."""
        return super().unembed(stream) if self._weights_here("unembed") else stream

    def fingerprint(self) -> str:
        """As `BaseLM.fingerprint`, where the weights are here."""
        return super().fingerprint() if self._weights_here("fingerprint") else ""

    def tensors(self) -> list[TensorInfo]:
        """As `BaseLM.tensors`, where the weights are here."""
        return super().tensors() if self._weights_here("tensors") else []

    def fidelity(self, *, again: bool = False) -> Any:
        """As `BaseLM.fidelity`, where the weights are here."""
        return super().fidelity(again=again) if self._weights_here("fidelity") else None

    def edit_weights(self, changes: dict[str, Tensor]) -> Any:
        """Refused: the model there is not ours to change."""
        raise BadInput("`edit_weights` would change a model that others use. Load it without `remote`.")

    def tuning(self, parameters: Any = None) -> Any:
        """Refused: the model there is not ours to change."""
        raise BadInput("`tuning` would change a model that others use. Load it without `remote`.")

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """As `BaseLM.generate`, where the weights are here."""
        return super().generate(*args, **kwargs) if self._weights_here("generate") else None

    def save(self, *args: Any, **kwargs: Any) -> Any:
        """As `BaseLM.save`, where the weights are here."""
        return super().save(*args, **kwargs) if self._weights_here("save") else None

    def _weights_here(self, what: str) -> bool:
        if not self._here:
            raise BadInput(f"`{what}` needs the weights of {self.spec.name} on this machine. Load it without `remote`.")
        return True


def _send(
    nn: Any, steps: Sequence[Step], tape: Tape, spec: ModelSpec, stop: bool, remote: bool | str
) -> tuple[Any, Any, Any]:
    """Run the trace there. Every local variable of this function travels, so there are few."""
    save = load_nnsight().save
    batch = {"input_ids": tape.batch.tokens, "attention_mask": tape.batch.mask.long()}
    with nn.trace(batch, position_ids=tape.batch.position_ids, use_cache=False, remote=remote) as tracer:
        drive(steps, tape, spec)
        captured, fired = save(tape.captured), save(list(tape.fired.values()))
        logits = save([] if stop else [nn.output.logits])
        if stop:
            tracer.stop()
    return captured, fired, logits


def connect(name: str, *, remote: bool | str, revision: str | None = None) -> RemoteLM:
    """A model that runs elsewhere, by hub name; `remote` is True, a host, or "local" for a run in this process."""
    import interp

    nnsight = load_nnsight()
    nnsight.register(interp)  # the server has no `interp`: what a trace uses of it is sent along
    try:
        if remote == "local":
            checkpoint = resolve(name, revision)
            checkpoint.validate()
            nn = nnsight.TransformersModel(str(checkpoint.folder), task="text-generation", dispatch=True)
            name = checkpoint.name
        else:
            extra = {"revision": revision} if revision else {}
            nn = nnsight.TransformersModel(name, task="text-generation", tokenizer=name, **extra)
    except (OSError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        reason = str(error).strip().splitlines()[0][:200]
        raise CheckpointError(
            f"{name}: cannot be reached for a remote run ({reason}). It needs a hub name and a reachable hub."
        ) from None
    nn._module.eval().requires_grad_(False)
    return RemoteLM(nn, name, remote=remote, revision=revision)
