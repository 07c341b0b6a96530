"""Cases on dictionaries in the hands of other libraries."""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from interp.core.dictionary import Dictionary, DictionaryConfig, Scaling, View
from interp.core.errors import BadInput
from interp.core.seed import generator
from interp.train import formats
from interp.train.formats.sae_lens import library_of

WIDTH, LATENTS, ROWS = 16, 64, 200
RULES = ("relu", "topk", "batchtopk", "jumprelu")


def export_keeps_codes() -> tuple[bool, str]:
    """Dictionaries of every rule with decoder norms from 0.2 to 3 and rows off centre, written for SAELens: codes and reconstructions."""
    library, worst, moved, on = _library(), 0.0, 0, 0
    x = drawn("rows", ROWS, WIDTH) * 2.5 + 0.7
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        for rule in RULES:
            ours = dictionary(rule)
            place = formats.write(ours, Path(folder) / rule, "sae_lens")
            codes, output = ours.encode(x) * formats.code_units(ours), ours(x)
            assert isinstance(output, Tensor)
            read = [by_formula(place, x)]
            if library is not None:
                sae = library.SAE.load_from_disk(str(place))
                read.append((sae.encode(x), sae(x)))
            for theirs, made in read:
                worst = max(worst, float((theirs - codes).abs().max()), float((made - output).abs().max()))
                moved += int(((theirs != 0) != (codes != 0)).sum())
            on += int((codes != 0).sum())
    who = f"SAELens {library.__version__}" if library is not None else "its formulas (SAELens is not installed)"
    whole = 0 < on < len(RULES) * ROWS * LATENTS
    return (
        worst < 1e-4 and not moved and whole,
        f"{on:,} codes, {moved} moved, largest difference {worst:.0e}, by {who}",
    )


def dictionary(rule: str) -> Dictionary:
    """One whose scalings, norms and thresholds all matter."""
    view = View("in", site="blocks.1.hook_resid_post", width=WIDTH)
    new = Dictionary(DictionaryConfig(LATENTS, (view,), (view,), activation=rule, k=6))
    for name, parameter in new.named_parameters():
        parameter.data.copy_(drawn(name, *parameter.shape) * 0.4)
    new.decoders[0].data.mul_(torch.linspace(0.2, 3.0, LATENTS)[:, None])
    new.scale_views({"in": Scaling(drawn("mean", WIDTH), 0.4)})
    if rule == "jumprelu":
        new.thresholds.data.abs_()
    if rule == "batchtopk":
        new.threshold.fill_(0.9)
    return new


def by_formula(folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and reconstruction from the files alone, in the words of SAELens' documentation."""
    said, weights = json.loads((folder / "cfg.json").read_text()), load_file(folder / "sae_weights.safetensors")
    pre = (x - weights["b_dec"] * said["apply_b_dec_to_input"]) @ weights["W_enc"] + weights["b_enc"]
    norm = weights["W_dec"].norm(dim=1) if said.get("rescale_acts_by_decoder_norm") else torch.ones(LATENTS)
    codes = (pre * norm).relu()
    if said["architecture"] == "topk":
        kept = codes.topk(said["k"], dim=-1)
        codes = torch.zeros_like(codes).scatter(-1, kept.indices, kept.values)
    if said["architecture"] == "jumprelu":
        codes = codes * (pre > weights["threshold"])
    return codes, (codes / norm) @ weights["W_dec"] + weights["b_dec"]


def drawn(name: str, *shape: int) -> Tensor:
    """Normal numbers that are the same in every run."""
    return torch.randn(*shape, generator=generator(0, "verify exports", name))


def _library() -> Any:
    try:
        return library_of()
    except BadInput:
        return None
