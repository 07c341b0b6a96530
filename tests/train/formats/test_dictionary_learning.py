"""dictionary_learning folders, laid out as its source does (saprmarks/dictionary_learning, commits 088e587, 5ebe376, 0ff8888), against its
coding done by hand."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from interp.core.errors import BadInput
from interp.train import formats

from .conftest import LATENTS, WIDTH, drawn, same_codes

State = dict[str, Tensor]


def linear(*extra: str) -> State:
    """`nn.Linear` layouts: encoder.weight [latent, d], decoder.weight [d, latent]."""
    state = {
        "encoder.weight": drawn(LATENTS, WIDTH, name="e", scale=0.4), "encoder.bias": drawn(LATENTS, name="b", scale=0.4),
        "decoder.weight": drawn(WIDTH, LATENTS, name="d") * torch.linspace(0.3, 2, LATENTS),
    }  # fmt: skip
    return state | {name: drawn(WIDTH, name=name) for name in extra}


def plain(**extra: Tensor) -> State:
    return {
        "W_enc": drawn(WIDTH, LATENTS, name="e", scale=0.4), "b_enc": drawn(LATENTS, name="b", scale=0.4),
        "W_dec": drawn(LATENTS, WIDTH, name="d") * torch.linspace(0.3, 2, LATENTS)[:, None], "b_dec": drawn(WIDTH, name="o"), **extra,
    }  # fmt: skip


def gated() -> State:
    state = linear("decoder_bias")
    del state["encoder.bias"]
    return state | {name: drawn(LATENTS, name=name, scale=0.4) for name in ("r_mag", "gate_bias", "mag_bias")}


def number(value: float, kind: torch.dtype = torch.int32) -> Tensor:
    return torch.tensor(value, dtype=kind)


CASES: dict[str, State] = {
    "AutoEncoder": linear("bias"),
    "AutoEncoderNew": linear("decoder.bias"),
    "AutoEncoderTopK": linear("b_dec") | {"k": number(4), "threshold": number(0.3, torch.float32)},
    "BatchTopKSAE": linear("b_dec") | {"k": number(4), "threshold": number(0.9, torch.float32)},
    "MatryoshkaBatchTopKSAE": plain(
        k=number(4), threshold=number(0.9, torch.float32), group_sizes=torch.tensor([8, LATENTS - 8])
    ),
    "JumpReluAutoEncoder": plain(threshold=drawn(LATENTS, name="t").abs()),
    "GatedAutoEncoder": gated(),
}


def by_hand(kind: str, state: State, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(codes, reconstruction, distance to the threshold) as the library's class computes them."""
    if kind in ("JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE"):
        pre = (x - (state["b_dec"] if kind[0] == "M" else 0)) @ state["W_enc"] + state["b_enc"]
        margin = pre - state["threshold"]
        norm = state["W_dec"].norm(dim=1) if kind[0] == "J" else torch.ones(LATENTS)
        codes = pre.relu() * (margin > 0) * norm
        return codes, (codes / norm) @ state["W_dec"] + state["b_dec"], margin
    weight = state["decoder.weight"]
    if kind == "GatedAutoEncoder":
        inside = (x - state["decoder_bias"]) @ state["encoder.weight"].T
        gate, norm = inside + state["gate_bias"], weight.norm(dim=0)
        codes = (gate > 0) * (state["r_mag"].exp() * inside + state["mag_bias"]).relu() * norm
        return codes, (codes / norm) @ weight.T + state["decoder_bias"], gate
    bias = next(state[name] for name in ("bias", "b_dec", "decoder.bias") if name in state)
    pre = (x - (0 if kind == "AutoEncoderNew" else bias)) @ state["encoder.weight"].T + state["encoder.bias"]
    codes, margin = pre.relu(), pre
    if kind == "AutoEncoderTopK":
        kept = codes.topk(4, dim=-1)
        codes = torch.zeros_like(codes).scatter(-1, kept.indices, kept.values)
    if kind == "BatchTopKSAE":
        margin = pre - state["threshold"]
        codes = codes * (margin > 0)
    return codes, codes @ weight.T + bias, margin


def folder(path: Path, state: dict[str, Any], **trainer: Any) -> Path:
    path.mkdir(exist_ok=True)
    torch.save(state, path / "ae.pt")
    if trainer:
        (path / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"ctx_len": 128}}))
    return path


@pytest.mark.parametrize("kind", CASES)
def test_every_class_encodes_as_there(kind: str, rows: Tensor, tmp_path: Path) -> None:
    path = folder(tmp_path / "ae", CASES[kind], dict_class=kind, layer=3, lm_name="org/toy", activation_dim=WIDTH)
    assert formats.recognise(path) == formats.recognise(path / "ae.pt") == "dictionary_learning"
    ours = formats.read(path)
    codes, output, margin = by_hand(kind, CASES[kind], rows)
    same_codes(ours.encode(rows), codes, margin)
    assert torch.allclose(ours(rows), output, atol=2e-5)
    assert (ours.cfg.hook_name, ours.cfg.model_name) == ("blocks.3.hook_resid_post", "org/toy")
    assert ours.config.nested == ((8, LATENTS) if kind.startswith("Matr") else ())


def test_the_class_is_read_off_the_weights_where_they_tell(rows: Tensor, tmp_path: Path) -> None:
    for kind, state in CASES.items():
        path = folder(tmp_path / kind, state)
        if kind in ("AutoEncoderTopK", "BatchTopKSAE"):
            with pytest.raises(BadInput, match="may be an AutoEncoderTopK or a BatchTopKSAE"):
                formats.read(path)
        else:
            same_codes(formats.read(path).encode(rows), *by_hand(kind, state, rows)[::2])


def test_a_threshold_that_was_never_set_stays_unset(rows: Tensor, tmp_path: Path) -> None:
    state = CASES["BatchTopKSAE"] | {"threshold": number(-1.0, torch.float32)}
    ours = formats.read(folder(tmp_path / "ae", state, dict_class="BatchTopKSAE"))
    assert ours.norms()["in"].shape == (LATENTS,)
    with pytest.raises(BadInput, match="no threshold yet"):
        ours.encode(rows)


def test_sites_and_refusals(tmp_path: Path) -> None:
    state = CASES["AutoEncoder"]
    for said, site in (
        ("mlp_out_layer_2", "blocks.2.hook_mlp_out"),
        ("attention_out_layer_2", "blocks.2.hook_attn_out"),
        ("odd", ""),
    ):
        path = folder(tmp_path / "ae", state, dict_class="AutoEncoder", layer=2, submodule_name=said)
        assert formats.read(path).config.reads[0].site == site
    placed = formats.read(path, site="blocks.1.hook_mlp_out", model="mine").config.reads[0]
    assert (placed.site, placed.model) == ("blocks.1.hook_mlp_out", "mine")
    with pytest.raises(BadInput, match="is a 'IdentityDict'; can be read: 'AutoEncoder'"):
        formats.read(folder(tmp_path / "ae", state, dict_class="IdentityDict"))
    with pytest.raises(BadInput, match=r"dict_size 40, and config.json says 64"):
        formats.read(folder(tmp_path / "ae", state, dict_class="AutoEncoder", dict_size=64))
    with pytest.raises(BadInput, match=r"also holds \['extra'\]"):
        formats.read(folder(tmp_path / "ae", state | {"extra": torch.ones(2)}, dict_class="AutoEncoder"))


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("harmed"),))


def test_nothing_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = folder(tmp_path / "ae", CASES["AutoEncoder"] | {"odd": Harmful()}, dict_class="AutoEncoder")
    with pytest.raises(BadInput, match="would have to be executed, which is never done"):
        formats.read(path)
    assert not Path("harmed").exists()
