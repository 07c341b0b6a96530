"""What every backend shares: one language model behind the contract `interp.core.lm.LM`.

A backend supplies a single primitive, `_forward(tape, stop_after)`, which runs the model once and calls `tape(site, tensor)` wherever
a hooked site is computed. Everything else is here, so that two backends cannot differ in it: reading the input, refusing what
cannot be meant, counting what fired, storing, resuming, weights, fingerprint.

    lm.run("The Eiffel Tower is in", capture="blocks.*.hook_resid_post").last_logits
    lm.run(batch, edits=[scale("blocks.2.attn.hook_z", 0.0, heads=[3])], stop_after="blocks.3.hook_resid_post")

The plain transformers model lives beside the backend's own module and shares its parameters: `record`, `resume` and `read` work on
it whatever the backend, and a weight edit reaches both. A loaded model is frozen: with `grad=True` the graph begins at the first
hooked site, and nothing is ever accumulated in the parameters.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor

from interp.core.batch import Batch
from interp.core.edit import Edit
from interp.core.errors import BadInput
from interp.core.generation import Generation
from interp.core.lm import Recording, Tokenizer, Tuning
from interp.core.run import Run, Tape
from interp.core.site import Site, SiteInfo, expand, sites_of
from interp.core.spec import ModelSpec, TensorInfo

from .families import family_of
from .plain import PlainModel
from .recording import PlainRecording
from .tokenizer import HFTokenizer
from .weights import Weights, edit_weights

_VOLATILE = {
    "transformers_version", "_name_or_path", "architectures", "dtype", "torch_dtype", "use_cache", "return_dict", "output_attentions",
    "output_hidden_states", "bos_token_id", "eos_token_id", "pad_token_id", "_attn_implementation", "attn_implementation", "id2label",
    "label2id", "problem_type",
}  # fmt: skip
"""Fields of a configuration that do not change what a forward pass computes (or that are in the key of a store anyway)."""


class BaseLM:
    """A causal language model, borrowed: after any call it is bit for bit what it was before."""

    backend = ""

    def __init__(self, module: Any, tokenizer: HFTokenizer, spec: ModelSpec) -> None:
        self.module = module
        self.family = family_of(module)
        self.tokenizer: Tokenizer = tokenizer
        self._pad_id = tokenizer.pad_id
        self.spec = dataclasses.replace(spec, backend=self.backend)
        self.plain = PlainModel(module, spec=self.spec)
        self.weights = Weights(module, self.family, self.spec)
        self._own = {info.site for info in sites_of(self.spec)}
        self._fidelity: Any = None
        self._infos = [dataclasses.replace(info, editable=self._editable(info.site)) for info in sites_of(self.spec)]

    # What a backend supplies.

    def _forward(self, tape: Tape, stop_after: Site | None) -> Tensor | None:
        """Run the model on `tape.batch`, calling `tape` at `tape.sites` (and at `stop_after`, the last thing computed)."""
        raise NotImplementedError

    def _editable(self, site: Site) -> bool:
        """Whether this backend can put a changed tensor back at `site`."""
        return True

    def _refresh(self, changed: bool = False) -> None:
        """Bring copies of parameters up to date, for a backend that keeps some; `changed` says that parameters changed."""

    # What everybody uses.

    def sites(self, like: str | None = None) -> list[SiteInfo]:
        """Every site this model has, in forward order; with `like`, those whose name contains it."""
        return [info for info in self._infos if like is None or like in info.site.name]

    def encode(self, text: str | Sequence[str], *, bos: bool | None = None) -> Batch:
        """Texts as a batch, right-padded where they differ in length; `bos=None` follows the tokenizer's default."""
        texts = [text] if isinstance(text, str) else list(text)
        rows = [self.tokenizer.encode(one, bos=bos).ids for one in texts]
        for one, row in zip(texts, rows, strict=True):
            if not row:
                raise BadInput(f"the text {one!r} has no tokens. Give some text, or bos=True.")
        if not rows:
            raise BadInput("no texts were given. Give at least one.")
        return Batch.padded(rows, pad_id=self._pad_id)

    def run(
        self,
        tokens: "Batch | Tensor | Sequence[Any] | str",
        *,
        capture: "str | Site | Sequence[str | Site]" = (),
        edits: Sequence[Edit] = (),
        grad: bool = False,
        stop_after: "Site | str | None" = None,
    ) -> Run:
        """One forward pass over texts, ids or a batch.

        Captures hold what a site was after its edits; they are detached unless `grad`. With `stop_after`, nothing behind that site
        is computed and `logits` is None. Raises `UnknownSite`, `EditDidNotFire`, `CaptureEmpty`, `BadInput`.
        """
        batch = self._batch(tokens)
        sites = self._expand(capture)
        edits = self._edits(edits)
        stop = self._expand(stop_after)[0] if stop_after is not None else None
        if stop is not None:
            self._reaches(stop, sites, edits)
        tape = Tape(batch, sites, edits, grad=grad)
        with torch.set_grad_enabled(grad):
            logits = self._forward(tape, stop)
        return tape.finish(logits)

    def record(
        self, tokens: "Batch | Tensor | Sequence[Any] | str", *, capture: Any = (), edits: Sequence[Edit] = ()
    ) -> Recording:
        """A run that keeps what partial recomputation needs. Rows must be unpadded."""
        return self.plain.record(
            self._batch(tokens), capture=self._expand(capture), edits=self._edits(edits, plain=True)
        )

    def resume(
        self,
        base: Recording,
        cells: Sequence[Sequence[Edit]],
        *,
        positions: Sequence[int] = (-1,),
        readout: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Logits [cell, row, position, vocab] of the recorded run with each cell's further edits, at `positions`.

        `readout(logits [n, position, vocab], rows [n])` may reduce them at once, where the vocabulary is large.
        """
        if not isinstance(base, PlainRecording):
            raise BadInput(f"`resume` starts from what `record` gave; not from a {type(base).__name__}.")
        checked = [self._edits(cell, plain=True) for cell in cells]
        return self.plain.resume(base, checked, positions=positions, readout=readout)

    def resume_sites(
        self,
        base: Recording,
        cells: Sequence[Sequence[Edit]],
        sites: "str | Site | Sequence[str | Site]",
        *,
        at: Sequence[int] | None = None,
    ) -> dict[Site, Tensor]:
        """What each cell makes of `sites`, [cell, row, pos, ...] at the positions `at` (all where None)."""
        if not isinstance(base, PlainRecording):
            raise BadInput(f"`resume_sites` starts from what `record` gave; not from a {type(base).__name__}.")
        checked = [self._edits(cell, plain=True) for cell in cells]
        return self.plain.resume_sites(base, checked, self._expand(sites), at=at)

    def read(self, documents: Sequence[Tensor], sites: "str | Site | Sequence[str | Site]") -> dict[Site, Tensor]:
        """Activations of whole documents [token, ...], concatenated in order, each attending to itself only."""
        for document in documents:
            self._check(document.reshape(1, -1))
        return self.plain.read(documents, self._expand(sites))

    def unembed(self, stream: Tensor) -> Tensor:
        """Logits [..., vocab] of a residual stream [..., d_model], through the model's own final norm, unembedding and soft cap."""
        return self.plain.unembed(stream)

    @contextmanager
    def edit_weights(self, changes: dict[str, Tensor]) -> Iterator[None]:
        """Parameters replaced by name inside a `with`; restored bit for bit, also after an exception."""
        try:
            with edit_weights(self.module, changes):
                self._refresh(changed=True)
                yield
        finally:
            self._refresh(changed=True)

    def generate(
        self,
        prompts: "Batch | Tensor | Sequence[Any] | str",
        tokens: int = 100,
        *,
        edits: Sequence[Edit] = (),
        stop: Any = None,
    ) -> Generation:
        """Greedy continuations; see `interp.models.generate`."""
        from .generate import generate

        return generate(self, prompts, tokens, edits=edits, stop=stop)

    def tuning(self, parameters: "str | Sequence[str] | None" = None) -> "AbstractContextManager[Tuning]":
        """Parameters that may be trained inside a `with`; see `interp.models.tuning`."""
        from .tuning import tuning

        return tuning(self, parameters)

    def save(self, folder: "str | os.PathLike[str]", overwrite: bool = False) -> Path:
        """Write the model as it is now, weight edits included; see `interp.models.save`."""
        from .save import save

        return save(self, folder, overwrite=overwrite)

    def fingerprint(self) -> str:
        """Content hash (32 hex digits) of every parameter, byte by byte, and of the configuration that computes with them."""
        content = xxhash.xxh3_128()
        content.update(json.dumps(settings_of(self.module), sort_keys=True, default=str).encode())
        for name, tensor in numbers_of(self.module):
            content.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            content.update(_bytes(tensor))
        return content.hexdigest()

    def tensors(self) -> list[TensorInfo]:
        """Every parameter (and saved buffer) once: name, shape, dtype and content hash."""
        return [
            TensorInfo(name, tuple(x.shape), str(x.dtype).removeprefix("torch."), xxhash.xxh3_128_hexdigest(_bytes(x)))
            for name, x in numbers_of(self.module)
        ]

    def fidelity(self, *, again: bool = False) -> Any:
        """Does this model agree with plain transformers? A result that prints as one line; measured once, or `again`."""
        from .fidelity import fidelity

        if again or self._fidelity is None:
            self._fidelity = fidelity(self)
        return self._fidelity

    def __repr__(self) -> str:
        processing = "" if self.spec.processing == "raw" else f" · {self.spec.processing}"
        line = f"\n{self._fidelity.line}" if self._fidelity is not None else ""
        return f"LM({self.spec.short}{processing} · {self.spec.backend}){line}"

    # Refusing what cannot be meant.

    def _batch(self, tokens: "Batch | Tensor | Sequence[Any] | str") -> Batch:
        if isinstance(tokens, str) or (isinstance(tokens, Sequence) and tokens and isinstance(tokens[0], str)):
            tokens = self.encode(tokens)  # type: ignore[arg-type]
        batch = Batch.of(tokens)  # type: ignore[arg-type]
        self._check(batch.tokens, batch.mask)
        return batch

    def _check(self, tokens: Tensor, mask: Tensor | None = None) -> None:
        low, high = (int(end) for end in torch.aminmax(tokens)) if tokens.numel() else (0, 0)
        if low < 0 or high >= self.spec.vocab:
            bad = low if low < 0 else high
            raise BadInput(
                f"token id {bad} is not in the vocabulary of {self.spec.name} (0 to {self.spec.vocab - 1}). "
                "Encode the text with this model's own tokenizer."
            )
        longest = tokens.shape[1] if mask is None else int(mask.sum(dim=1).max())
        if longest > self.spec.n_ctx:
            raise BadInput(
                f"a row of {longest} tokens is longer than the context of {self.spec.name} ({self.spec.n_ctx}). Shorten or split it."
            )
        if tokens.shape[1] > self.spec.n_ctx and not self.family.interface:
            raise BadInput(
                f"a batch of {tokens.shape[1]} columns is wider than the context of {self.spec.name} ({self.spec.n_ctx}), whose masks end "
                "there, padding or not. Pad rows no further than the longest."
            )

    def _expand(self, names: "str | Site | Sequence[str | Site]") -> list[Site]:
        """Names and patterns as sites of this model in forward order; quick where they are sites already."""
        listed = [names] if isinstance(names, Site) else names
        if not isinstance(listed, str) and all(isinstance(site, Site) and site in self._own for site in listed):
            return sorted(dict.fromkeys(listed), key=lambda site: site.order)  # type: ignore[arg-type, union-attr]
        return expand(names, self.spec)

    def _edits(self, edits: Sequence[Edit], *, plain: bool = False) -> list[Edit]:
        if isinstance(edits, Edit):
            raise BadInput(
                "edits come in a list, cells of `resume` in a list of lists. Write [edit], or [[edit]] for a cell."
            )
        for edit in edits:
            if not isinstance(edit, Edit):
                raise BadInput(
                    f"`edits` takes Edit objects; not {type(edit).__name__}. `interp.edit` builds them; unpack lists with `*`."
                )
            self._expand(edit.site)
            if not plain and not self._editable(edit.site):
                raise BadInput(
                    f"the {self.backend} backend can read {edit.site} but not edit it. Load the model with "
                    "backend='transformer_lens', or edit the z of these heads."
                )
        return list(edits)

    def _reaches(self, stop: Site, sites: Sequence[Site], edits: Sequence[Edit]) -> None:
        late = [site for site in sites if site.order > stop.order]
        late += [edit.site for edit in edits if edit.site.order > stop.order and not edit.may_not_fire]
        if late:
            raise BadInput(
                f"{late[0]} comes after `stop_after` ({stop}), so it would never be reached. Stop later, or drop it."
            )


def settings_of(module: Any) -> dict[str, Any]:
    """What of a module's configuration changes its numbers."""
    return {key: value for key, value in module.config.to_dict().items() if key not in _VOLATILE}


def numbers_of(module: torch.nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters, and the buffers that a checkpoint carries; other buffers follow from the configuration."""
    saved = module.state_dict().keys()
    return [*module.named_parameters(), *((name, buffer) for name, buffer in module.named_buffers() if name in saved)]


def _bytes(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
