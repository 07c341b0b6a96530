"""A dictionary's encoding and decoding against its formula, folding, keeping, and every refusal."""

from pathlib import Path

import pytest
import torch

from interp.core.dictionary import Codes, Dictionary, DictionaryConfig, Scaling, View
from interp.core.errors import ArtifactError, BadInput

IN = View("in", site="blocks.1.hook_resid_post", width=8, model="toy")
BASE, TUNED = View("base", width=8, latents=(0, 24)), View("tuned", width=6, latents=(8, 32))


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sae(activation: str = "topk", **options: object) -> Dictionary:
    config = DictionaryConfig(32, (IN,), (IN,), activation=activation, k=4, **options)  # type: ignore[arg-type]
    made = Dictionary.initialise(
        config, norm=1.0, biases={"in": rows(8, seed=5)}, scalings={"in": Scaling(rows(8), 2.0)}
    )
    made.decoders[0].data *= torch.linspace(0.5, 2, 32)[:, None]
    if activation == "batchtopk":
        made.threshold.fill_(1.5)
    if activation == "jumprelu":
        made.thresholds.data.copy_(torch.linspace(0, 2, 32))
    return made


def crosscoder(**options: object) -> Dictionary:
    config = DictionaryConfig(
        32, (BASE, TUNED), (BASE, TUNED), activation="batchtopk", k=4, centred=False, family="crosscoder", **options
    )  # type: ignore[arg-type]
    made = Dictionary.initialise(
        config, norm=1.0, scalings={"base": Scaling(rows(8), 2.0), "tuned": Scaling(rows(6), 0.3)}
    )
    made.threshold.fill_(1.0)
    return made


def test_a_topk_code_is_the_formula() -> None:
    made, x = sae(), rows(10, 8, seed=1)
    normal = (x - made.scalings["in"].mean) * 2.0
    pre = (normal - made.b_dec) @ made.W_enc + made.b_enc
    score = pre.relu() * made.W_dec.norm(dim=1)
    cut = score.sort(dim=1).values[:, -4]
    want = torch.where(score >= cut[:, None], pre.relu(), 0)
    assert torch.equal(made.encode(x), want)
    back = (want @ made.W_dec + made.b_dec) / 2.0 + made.scalings["in"].mean
    assert torch.allclose(made.decode(want), back, atol=1e-6)
    assert torch.equal(made(x), made.decode(made.encode(x)))


def test_a_crosscoder_reads_and_writes_only_its_ranges() -> None:
    made = crosscoder()
    x = {"base": rows(5, 8, seed=1), "tuned": rows(5, 6, seed=2)}
    normal = made.normalise(x)
    pre = torch.zeros(5, 32)
    pre[:, :24] += normal["base"] @ made.encoders[0].T
    pre[:, 8:] += normal["tuned"] @ made.encoders[1].T
    assert torch.allclose(made.pre(normal), pre, atol=1e-6)
    scale = torch.zeros(32)
    scale[:24] += made.decoders[0].norm(dim=1)
    scale[8:] += made.decoders[1].norm(dim=1)
    assert torch.allclose(made.scale(), scale)
    codes = made.encode(x)
    assert torch.equal(codes != 0, pre.relu() * scale > 1.0)
    out = made.decode(codes)
    assert isinstance(out, dict)
    assert torch.allclose((out["base"] - made.scalings["base"].mean) * 2.0, codes[:, :24] @ made.decoders[0], atol=1e-5)
    assert not made.decoder("base")[24:].any()
    assert not made.decoder("tuned")[:8].any()


@pytest.mark.parametrize("kind", ["relu", "topk", "batchtopk", "jumprelu"])
@pytest.mark.parametrize("centred", [True, False])
def test_folding_changes_nothing_but_the_units(kind: str, centred: bool) -> None:
    made, x = sae(kind, centred=centred), rows(50, 8, seed=3)
    new = made.folded()
    assert all(scaling.trivial for scaling in new.scalings.values())
    assert torch.allclose(new.encode(x), made.encode(x), atol=1e-4)
    assert torch.allclose(new(x), made(x), atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["topk", "batchtopk", "jumprelu"])
def test_half_precision_is_not_rounded_again_by_folding(kind: str, dtype: torch.dtype) -> None:
    half, x = sae(kind).to(dtype), rows(50, 8, seed=3)
    new, wide = half.folded(), sae(kind).to(dtype).float()
    assert half.dtype == dtype and new.dtype == torch.float32 and new.config.dtype == "float32"
    assert torch.allclose(new.encode(x), wide.encode(x), atol=1e-4)
    assert torch.allclose(new(x), wide(x), atol=1e-4)


def test_folding_several_views() -> None:
    made, x = crosscoder(), {"base": rows(50, 8, seed=1), "tuned": rows(50, 6, seed=2)}
    new = made.folded()
    assert torch.allclose(new.encode(x), made.encode(x), atol=1e-4)
    for name, back in made(x).items():
        assert torch.allclose(new(x)[name], back, atol=1e-4)


def test_folding_topk_over_views_moves_the_scale_into_the_codes() -> None:
    config = DictionaryConfig(32, (BASE, TUNED), (BASE, TUNED), activation="topk", k=4, centred=False)
    made = Dictionary.initialise(
        config, norm=0.7, scalings={"base": Scaling(rows(8), 2.0), "tuned": Scaling(rows(6), 0.3)}
    )
    x = {"base": rows(50, 8, seed=1), "tuned": rows(50, 6, seed=2)}
    new = made.folded()
    assert torch.allclose(new.encode(x), made.encode(x) * made.scale(), atol=1e-4)
    for name, back in made(x).items():
        assert torch.allclose(new(x)[name], back, atol=1e-4)


def test_a_skip_path_is_folded_too() -> None:
    out = View("out", width=6)
    config = DictionaryConfig(32, (IN,), (out,), k=4, centred=False, skip=True, family="transcoder")
    made = Dictionary.initialise(config, norm=1.0, scalings={"in": Scaling(rows(8), 2.0), "out": Scaling(rows(6), 0.5)})
    made.skip_weight.data.copy_(rows(6, 8, seed=4))
    x = rows(20, 8, seed=1)
    assert torch.allclose(made.folded()(x), made(x), atol=1e-4)
    with pytest.raises(BadInput, match="skip path"):
        made.decode(made.encode(x))


def test_a_skip_path_of_a_centred_sae_is_folded_too() -> None:
    config = DictionaryConfig(32, (IN,), (IN,), k=4, skip=True)
    made = Dictionary.initialise(
        config, norm=1.0, biases={"in": rows(8, seed=5)}, scalings={"in": Scaling(rows(8), 2.0)}
    )
    made.skip_weight.data.copy_(rows(8, 8, seed=4) / 4)
    x = rows(20, 8, seed=1)
    assert torch.allclose(made.folded().encode(x), made.encode(x), atol=1e-4)
    assert torch.allclose(made.folded()(x), made(x), atol=1e-4)


def test_the_scale_of_a_code_is_what_its_name_says() -> None:
    first, second = crosscoder().norms()["base"], crosscoder().norms()["tuned"]
    together = (first**2 + second**2).sqrt()
    want = {
        "none": torch.ones(32),
        "sum": first + second,
        "concat": together,
        "mixed": together + 0.1 * (first + second),
    }
    for kind, scale in want.items():
        assert torch.allclose(crosscoder(code_scale=kind).scale(), scale), kind


def by_itself(kind: str, **options: object) -> Dictionary:
    """One component a latent, decoder rows of length 1: the codes are the positive components."""
    view = View("in", width=4)
    made = Dictionary(DictionaryConfig(4, (view,), (view,), activation=kind, k=3, **options))  # type: ignore[arg-type]
    for weight in (made.encoders[0], made.decoders[0]):
        weight.copy_(torch.eye(4))
    return made


def test_what_only_reaches_its_threshold_is_off() -> None:
    x = torch.tensor([[0.5, 0.25, 1.0, -2.0]])
    jump, batch = by_itself("jumprelu"), by_itself("batchtopk")
    jump.thresholds.fill_(0.5)
    batch.threshold.fill_(0.5)
    for made in (jump, batch):
        assert made.encode(x).tolist() == [[0.0, 0.0, 1.0, 0.0]]
        assert made.folded().encode(x).tolist() == [[0.0, 0.0, 1.0, 0.0]]


def test_topk_keeps_no_more_than_what_is_positive_and_writes_something() -> None:
    made = by_itself("topk")
    assert made.encode(torch.tensor([[0.5, -1.0, -2.0, -3.0]])).tolist() == [[0.5, 0.0, 0.0, 0.0]]
    made.decoders[0][0] = 0  # a latent that writes nothing wins no competition by its decoder norm
    x = torch.tensor([[9.0, 1.0, -2.0, 0.0]])
    assert made.encode(x).tolist() == made.folded().encode(x).tolist() == [[0.0, 1.0, 0.0, 0.0]]
    batch = by_itself("batchtopk")
    batch.threshold.fill_(0.0)
    batch.decoders[0][0] = 0
    assert batch.encode(x).tolist() == batch.folded().encode(x).tolist() == [[0.0, 1.0, 0.0, 0.0]]


def test_views_may_compete_apart() -> None:
    made = crosscoder(code_scale="decoupled")
    made.threshold.copy_(torch.tensor([1.0, 3.0]))
    x = {"base": rows(9, 8, seed=1), "tuned": rows(9, 6, seed=2)}
    codes = made.pre(made.normalise(x)).relu()
    on = {name: codes * made.scale(name) > cut for name, cut in (("base", 1.0), ("tuned", 3.0))}
    assert torch.equal(made.encode(x), torch.where(on["base"] | on["tuned"], codes, 0))
    dense, sparse = made.decode(made.encode(x)), made.decode(made.codes(x))
    for name in ("base", "tuned"):
        want = made.scalings[name].undo(torch.where(on[name], codes, 0) @ made.decoder(name))
        assert torch.allclose(dense[name], want, atol=1e-4)
        assert torch.allclose(sparse[name], want, atol=1e-4)
    with pytest.raises(BadInput, match="decoupled"):
        made.folded()


def test_sparse_codes_are_the_dense_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.core.dictionary.coder.TILE", 3 * 32)
    made, x = sae(), rows(10, 8, seed=1)
    codes = made.codes(x)
    dense = codes.dense()
    assert torch.allclose(dense, made.encode(x), atol=1e-6)  # tiles of other heights round otherwise

    assert torch.equal(Codes.of(dense).dense(), dense)
    assert torch.equal(codes.rows(2, 5).dense(), dense[2:5])
    assert torch.equal(codes.column(int(codes.ids[0])), dense[:, codes.ids[0]])
    assert torch.equal(Codes.cat([codes.rows(0, 4), codes.rows(4, 10)]).dense(), dense)
    assert torch.allclose(made.decode(codes), made.decode(dense), atol=1e-6)
    assert codes.counts().tolist() == [4] * 10
    best = dense.topk(4)
    assert torch.equal(Codes.chosen(best.indices, best.values, 32).dense(), dense)
    assert len(made.codes(x[:0])) == 0


def test_it_survives_the_disk_bit_for_bit(tmp_path: Path) -> None:
    made = crosscoder()
    made.save(tmp_path / "cc")
    back = Dictionary.load(tmp_path / "cc")
    assert back.digest == made.digest
    assert back.config == made.config
    assert back.scalings["tuned"].factor == 0.3
    with pytest.raises(ArtifactError, match="exists already"):
        made.save(tmp_path / "cc")
    made.b_enc.data[3] += 1e-3
    assert back.digest != made.digest


def test_the_threshold_keeps_its_digits() -> None:
    made = crosscoder()
    made.threshold.fill_(1 / 3)
    half = made.to(torch.bfloat16)
    assert float(half.threshold) == 1 / 3
    assert half.config.dtype == "bfloat16"


def test_what_other_tools_ask_for() -> None:
    made = sae("jumprelu")
    assert (made.cfg.d_in, made.cfg.d_sae, made.cfg.hook_layer, made.cfg.hook_name) == (8, 32, 1, IN.site)
    assert tuple(made.W_enc.shape) == (8, 32)
    assert tuple(made.W_dec.shape) == (32, 8)
    assert not made.W_dec.requires_grad
    with pytest.raises(BadInput, match="encoder"):
        _ = crosscoder().W_enc


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "softmax"}, "activation"),
        ({"k": 33.0}, "at most the 32 latents"),
        ({"k": 2.5}, "whole number"),
        ({"nested": (4, 16)}, "rise to the 32"),
        ({"groups": (("a", 3),)}, "not 32"),
        ({"reads": (View("in", width=8, latents=(0, 40)),)}, "0 to 40"),
        ({"reads": (View("in", width=8, latents=(0, 20)),)}, "read nothing"),
        ({"reads": (View("in", width=9),)}, "one place"),
        ({"reads": (IN, IN)}, "different names"),
        ({"reads": (View("other", width=8),)}, "centred"),
        ({"writes": (IN, View("b", width=3)), "skip": True}, "skip"),
        ({"activation": "relu", "code_scale": "decoupled"}, "decoupled"),
    ],
)
def test_what_cannot_be_a_dictionary_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        DictionaryConfig(**({"latents": 32, "reads": (IN,), "writes": (IN,)} | change))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["relu", "topk", "batchtopk", "jumprelu"])
def test_rows_that_are_not_finite_have_no_codes(kind: str) -> None:
    x = rows(5, 8)
    for bad in (torch.nan, torch.inf):
        x[3, 2] = bad
        for encode in (sae(kind).encode, sae(kind).codes):
            with pytest.raises(BadInput, match="'in' hold NaN or infinite"):
                encode(x)


def test_views_of_different_numbers_of_rows_are_not_spread_over_each_other() -> None:
    for call in (crosscoder().encode, crosscoder().codes, crosscoder().normalise):
        with pytest.raises(BadInput, match=r"different numbers, .*\[5, 8\].*\[1, 6\]"):
            call({"base": rows(5, 8), "tuned": rows(1, 6)})


def test_codes_of_other_dictionaries_are_not_joined() -> None:
    with pytest.raises(BadInput, match=r"\[4, 5\] latents"):
        Codes.cat([Codes.of(rows(2, 4)), Codes.of(rows(2, 5))])


def test_rows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(BadInput, match=r"width 8; the rows given have 9"):
        sae().encode(rows(3, 9))
    with pytest.raises(BadInput, match=r"\['tuned'\] are missing"):
        crosscoder().encode({"base": rows(3, 8)})
    made = sae("batchtopk")
    made.threshold.fill_(-torch.inf)
    with pytest.raises(BadInput, match="no threshold"):
        made.encode(rows(3, 8))
