"""Cases on promises: wrong is loud, nothing stale is read, nothing is left behind, parts equal the whole."""

import copy
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.core import edit
from interp.core.batch import At, Batch
from interp.core.errors import (
    BadInput,
    CorruptShard,
    EditDidNotFire,
    InterpError,
    RaggedPair,
    SpanError,
    UnknownSite,
    UnsupportedArchitecture,
)
from interp.core.seed import generator
from interp.models import reference

if TYPE_CHECKING:
    from interp.models.base import BaseLM

STREAM = "blocks.1.hook_resid_post"


@cache
def random_lm(backend: str = "transformer_lens", dtype: str = "float32", attention: str = "sdpa") -> "BaseLM":
    """A six-layer GPT-2 with random weights, in which everything depends on everything."""
    made = reference.fact(n_layers=6, writer=1, mover=4, null=True)
    made.module.set_attn_implementation(attention)
    return reference.as_lm(replace(made, module=made.module.to(getattr(torch, dtype))), backend=backend)


def tokens(rows: int = 3, length: int = 10) -> Tensor:
    """Random ids [row, pos]."""
    return torch.randint(2, 30, (rows, length), generator=generator(0, "verify tokens"))


def agrees_with_transformers() -> tuple[bool, str]:
    """The fidelity check of a random model."""
    found = random_lm().fidelity()
    return found.ok and not found.silent, found.line.removeprefix("fidelity: ")


def backends_agree() -> tuple[bool, str]:
    """Logits and two captured sites from both backends."""
    sites = [STREAM, "blocks.3.attn.hook_z"]
    one, two = (random_lm(backend).run(tokens(), capture=sites) for backend in ("transformer_lens", "nnsight"))
    pairs = [(one.logits, two.logits), *((one[site], two[site]) for site in sites)]
    gap = max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs if a is not None and b is not None)
    return gap < 1e-5, f"largest relative difference {gap:.0e}"


def nothing_changes_nothing() -> tuple[bool, str]:
    """No edits; a site replaced by itself; the last state replaced by the clean one in a damaged run."""
    lm, last = random_lm(), f"blocks.{random_lm().spec.n_layers - 1}.hook_resid_post"
    clean = lm.run(tokens(), capture=[STREAM, last])
    same = lm.run(tokens(), edits=[])
    itself = lm.run(tokens(), edits=[edit.replace(STREAM, clean)])
    damaged = [edit.scale("hook_embed", 0.1), edit.replace(last, clean)]
    back = lm.run(tokens(), edits=damaged)
    equal = [torch.equal(run.last_logits, clean.last_logits) for run in (same, itself, back)]
    return all(equal), f"bit for bit: {', '.join('yes' if one else 'NO' for one in equal)}"


def partial_equals_full() -> tuple[bool, str]:
    """Cells of several kinds, layers and positions, recomputed in part and in full, over a corrupted base run."""
    lm, ids = random_lm(), tokens(2)
    noise = torch.randn(ids.shape[1], lm.spec.d_model, generator=generator(0, "verify noise"))
    base_edits = [edit.add("hook_embed", noise, at=At.index(2, 3))]
    clean = lm.run(ids, capture=["blocks.*.hook_resid_post", "blocks.*.hook_mlp_out", "blocks.*.attn.hook_z"])
    base = lm.record(ids, edits=base_edits)
    places = [
        ("hook_resid_post", 0, 2),
        ("hook_resid_post", 5, 9),
        ("hook_mlp_out", 3, 4),
        ("attn.hook_z", 2, 9),
        ("hook_mlp_out", 1, 0),
    ]
    cells = [[edit.replace(f"blocks.{layer}.{kind}", clean, at=At.index(pos))] for kind, layer, pos in places]
    part = lm.resume(base, cells)[:, :, 0]
    whole = torch.stack([lm.run(ids, edits=[*base_edits, *cell]).last_logits for cell in cells])
    gap = float((part - whole).abs().max() / whole.abs().max())
    moved = float((whole - base.run.last_logits).abs().max())
    return (
        gap < 1e-5 and moved > 0.01,
        f"largest relative difference {gap:.0e} over {len(cells)} cells that move logits by {moved:.1f}",
    )


def silent_edits_raise() -> tuple[bool, str]:
    """An edit whose token is absent, a mistyped site, a layer that is not there, a head that is not there."""
    lm, ids = random_lm(), tokens()
    attempts: list[tuple[type[InterpError], dict[str, Any]]] = [
        (EditDidNotFire, {"edits": [edit.scale(STREAM, 0.0, at=At.token(lm.spec.vocab - 1))]}),
        (UnknownSite, {"capture": "blocks.1.hook_resid_pots"}),
        (UnknownSite, {"capture": "blocks.6.hook_resid_post"}),
        (InterpError, {"edits": [edit.scale("blocks.1.attn.hook_z", 0.0, heads=[99])]}),
    ]
    refused = 0
    for error, options in attempts:
        try:
            lm.run(ids, **options)
        except error:
            refused += 1
    return refused == len(attempts), f"{refused} of {len(attempts)} refused"


def weights_come_back() -> tuple[bool, str]:
    """Many weight edits, one of them ending in an exception; the fingerprint before, inside and after."""
    lm = random_lm()
    before, inside = lm.fingerprint(), set()
    for neuron in range(8):
        with lm.edit_weights({f"W_out.2.{neuron}": torch.zeros(lm.spec.d_model)}):
            inside.add(lm.fingerprint())
    try:
        with lm.edit_weights({"W_Q.1": torch.zeros_like(lm.weights.W_Q(1))}):
            inside.add(lm.fingerprint())
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    ok = lm.fingerprint() == before and len(inside) == 9 and before not in inside
    return (
        ok,
        f"{len(inside)} different edits, {'the same' if lm.fingerprint() == before else 'ANOTHER'} fingerprint after",
    )


def nothing_stale_is_read() -> tuple[bool, str]:
    """A stored capture, asked for again and after each change that makes it wrong."""
    from interp.cache import Store

    lm, ids = random_lm(), tokens()
    rows = [row[: 10 - 2 * index].tolist() for index, row in enumerate(ids)]
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        right, left = (Batch.padded(rows, side=side) for side in ("right", "left"))
        store.capture(lm, right, STREAM, quiet=True)
        changed = right.tokens.clone()
        changed[0, 3] += 1
        bos = Batch.padded([[0, *row] for row in rows])
        attacks: dict[str, tuple[Any, Batch, dict[str, Any]]] = {
            "weight": (_nudged(lm), right, {}),
            "token": (lm, replace(right, tokens=changed), {}),
            "BOS": (lm, bos, {}),
            "padding side": (lm, left, {}),
            "stored dtype": (lm, right, {"dtype": "float16"}),
            "model dtype": (random_lm(dtype="bfloat16"), right, {}),
            "attention": (random_lm(attention="eager"), right, {}),
            "site": (lm, right, {"sites": "blocks.2.hook_resid_post"}),
            "edit": (lm, right, {"edits": [edit.scale("hook_embed", 2.0)]}),
        }
        hit = store.preview(lm, right, STREAM).hit
        stale = [
            name
            for name, (model, batch, options) in attacks.items()
            if store.preview(model, batch, options.pop("sites", STREAM), **options).hit
        ]
    found = f"{len(attacks) - len(stale)} of {len(attacks)} miss" + (f"; STALE: {', '.join(stale)}" if stale else "")
    return hit and not stale, f"{'a hit' if hit else 'NO hit'} when nothing changed; {found}"


def damage_is_noticed() -> tuple[bool, str]:
    """A shard with one flipped bit, a shard cut short, and one that is as it was written."""
    from interp.cache import Store

    lm, ids, refused = random_lm(), tokens(), 0
    for way in ("whole", "flipped bit", "cut short"):
        with tempfile.TemporaryDirectory() as folder:
            store = Store(Path(folder), verify="always")
            store.capture(lm, Batch.of(ids), STREAM, quiet=True)
            (shard,) = (path for path in Path(folder).rglob("0*.safetensors"))
            content = bytearray(shard.read_bytes())
            if way == "flipped bit":
                content[len(content) // 2] ^= 4
            shard.write_bytes(content[:-40] if way == "cut short" else content)
            try:
                read = store.capture(lm, Batch.of(ids), STREAM, quiet=True)[STREAM].tensor()
            except CorruptShard:
                refused += way != "whole"
                continue
            if way != "whole" or not torch.equal(read.flatten(), lm.run(ids, capture=STREAM)[STREAM].flatten()):
                return False, f"a shard that was {way} is read as if it were right, or the other way round"
    return refused == 2, f"{refused} of 2 refused, and the whole one is read"


def bad_input_is_refused() -> tuple[bool, str]:
    """A pair of prompts of different lengths, a subject that is not there, an answer of two tokens; an architecture nobody checked."""
    from interp.analyses.tracing import CausalTrace
    from interp.data import Prompt, PromptPair, tokenize_pair
    from interp.models.families import family_of

    made = reference.fact(n_layers=6, writer=1, mover=4, null=True)
    row, lm = made.prompts[0], random_lm()
    subject, answer = row["subject"], row["attribute"]
    prompt = Prompt.of(row["prompt"], subject=subject)
    longer = prompt.swap(subject=f"{subject} {subject.split()[0]}")
    unproven: Any = SimpleNamespace(model_type="gptj")
    attempts: list[tuple[type[InterpError], Callable[[], Any]]] = [
        (RaggedPair, lambda: tokenize_pair(PromptPair(prompt, longer), lm.tokenizer)),
        (SpanError, lambda: Prompt.of(row["prompt"], subject="nobody at all")),
        (BadInput, lambda: CausalTrace()(lm, Prompt.of(row["prompt"], subject=subject, answer=f"{answer} {answer}"))),
        (UnsupportedArchitecture, lambda: family_of(unproven)),
    ]
    refused = 0
    for error, attempt in attempts:
        try:
            attempt()
        except error:
            refused += 1
    return refused == len(attempts), f"{refused} of {len(attempts)} refused"


def nothing_stays_behind() -> tuple[bool, str]:
    """Hooks on every module before and after runs that edit, capture, resume, and fail."""
    lm = random_lm()
    modules = {id(part): part for owner in (lm.module, lm.plain.module) for part in owner.modules()}

    def hooks() -> list[int]:
        return [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in modules.values()]

    lm.resume(lm.record(tokens()), [[]])  # what a backend puts there once, for good, is there by now
    before, logits = hooks(), lm.run(tokens()).last_logits
    lm.run(tokens(), capture="blocks.*.hook_resid_post", edits=[edit.scale(STREAM, 0.5)])
    lm.resume(lm.record(tokens()), [[edit.scale(STREAM, 0.5, at=At.index(2))]])
    failed = False
    try:
        lm.run(tokens(), edits=[edit.add(STREAM, torch.zeros(7))])
    except (InterpError, RuntimeError):
        failed = True
    same = hooks() == before and torch.equal(lm.run(tokens()).last_logits, logits)
    return (
        failed and same,
        f"{sum(hooks()) - sum(before)} hooks left; logits {'the same' if same else 'OTHERS'} to the bit",
    )


def a_wrong_engine_is_not_believed() -> tuple[bool, str]:
    """An engine that forgets the recorded keys: its check on first use must find out and fall back to what is right."""
    import warnings

    from interp.models import strands
    from interp.models.plain import PlainModel

    plain, ids = PlainModel(random_lm().module), tokens()
    real = strands._Joined.update

    def forgetful(self: Any, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self.before is not None:
            self.before = tuple(torch.zeros_like(part) for part in self.before)
        return real(self, keys, values, *args, **kwargs)

    cell = [edit.scale(STREAM, 0.5, at=At.index(4))]
    strands._Joined.update = forgetful  # type: ignore[method-assign]
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            part = plain.resume(plain.record(ids), [cell])[0, :, 0]
    finally:
        strands._Joined.update = real  # type: ignore[method-assign]
    gap = float((part - plain.run(ids, edits=cell).last_logits).abs().max())
    return bool(
        said
    ) and gap < 1e-4, f"falls back to {plain.resume_level!r}, {'says so' if said else 'SILENTLY'}, {gap:.0e} off"


def _nudged(lm: "BaseLM") -> "BaseLM":
    """The model with one number of one weight changed, beside the original."""
    from interp.models.load import wrap

    module = copy.deepcopy(lm.module)
    with torch.no_grad():
        module.transformer.h[0].mlp.c_proj.weight[0, 0] += 1e-3
    return wrap(module, lm.tokenizer, lm.spec.name)


def padding_changes_nothing() -> tuple[bool, str]:
    """Rows of different lengths alone, padded on the left and on the right."""
    lm, ids = random_lm(), tokens()
    rows = [row[: 10 - 3 * index].tolist() for index, row in enumerate(ids)]
    gap = 0.0
    for side in ("left", "right"):
        batch = Batch.padded(rows, side=side)
        together = lm.run(batch, capture=STREAM)[STREAM]
        for index, row in enumerate(rows):
            alone = lm.run([row], capture=STREAM)[STREAM][0]
            gap = max(gap, float((together[index][batch.mask[index]] - alone).abs().max() / alone.abs().max()))
    return gap < 1e-5, f"largest relative difference {gap:.0e}"
