"""Partial recomputation against ordinary hooked forward passes, on every family, both attentions, every level."""

import dataclasses
import warnings

import pytest
import torch
from torch import Tensor

from interp.core.batch import At, Batch
from interp.core.edit import Edit, add, call, project_out, replace, scale, swap
from interp.core.edit import mask as blend
from interp.core.errors import BadInput, EditDidNotFire, WrongModel
from interp.core.site import Site, sites_of
from interp.models import resume as engine
from interp.models import runner
from interp.models.plain import PlainModel
from tests import oracle
from tests.models.tiny import FAMILIES, SDPA, tiny, tokens

BOTH = [(name, how) for name in FAMILIES for how in ("eager", "sdpa") if how == "eager" or name in SDPA]
TOLERANCE = 1e-5


def full(plain: PlainModel, batch: Batch, edits: list[Edit]) -> Tensor:
    return plain.run(batch, edits=edits).logits


def spanned(rows: int = 3, width: int = 14) -> Batch:
    """Unpadded rows whose spans differ from row to row."""
    spans = torch.tensor([[3, 5], [6, 9], [12, 14], [1, 2]])[:rows]
    return dataclasses.replace(Batch.of(tokens(rows, width)), spans={"subject": spans})


def varied_cells(plain: PlainModel, batch: Batch, clean: Batch) -> list[list[Edit]]:
    """One cell for every site and operation, windows, ragged spans, heads, several edits at once."""
    draw = torch.Generator().manual_seed(5)
    sites = [info.site for info in sites_of(plain.spec) if info.site.kind != "pattern"]
    run = plain.run(clean, capture=sites)
    cells = [[replace(site, run, at=At.span("subject", "last"))] for site in sites if site.layer in (None, 1, 3)]
    basis = torch.randn(plain.spec.d_model, 3, generator=draw)
    noise = torch.randn(plain.spec.d_model, generator=draw)
    window = [Site(kind, layer) for layer in range(1, 4) for kind in ("mlp_out", "attn_out")]
    cells += [
        [],
        [replace(site, run, at=At.span("subject")) for site in window],
        [scale("blocks.2.attn.hook_z", 0.0, heads=[1, 3])],
        [scale("blocks.0.attn.hook_v", 0.5, heads=[0], at=At.index(0))],
        [add("blocks.2.hook_resid_pre", noise, at=At.last()), scale("blocks.1.hook_mlp_out", 0.0, at=At.index(7))],
        [add("blocks.3.hook_mlp_out", noise, at=At.index(2))],
        [add("blocks.3.hook_resid_pre", noise, at=At.index(2).in_rows(1))],
        [
            project_out("blocks.1.hook_resid_post", basis),
            swap("blocks.2.hook_resid_post", run, basis, at=At.index(4, 9)),
        ],
        [blend("blocks.1.hook_mlp_out", run, torch.rand(len(batch), 14, 1, generator=draw), at=At.index(5, 6))],
        [
            replace("blocks.2.hook_attn_out", noise, at=At.index(6)),
            add("blocks.2.hook_attn_out", noise, at=At.index(6)),
        ],
        [add("hook_embed", noise, at=At.span("subject")), scale("blocks.2.hook_mlp_out", 0.0, at=At.index(0))],
        [add("ln_final.hook_out", noise, at=At.last()), replace("blocks.1.hook_resid_post", run, at=At.index(3))],
        [call("blocks.1.hook_resid_post", lambda x: x.flip(1).roll(1, 0))],
        [call("ln_final.hook_out", lambda x: x.flip(1))],
        [scale("blocks.2.attn.hook_pattern", 0.0, heads=[0])],
    ]
    if not plain.spec.parallel:
        twice = [
            add("blocks.1.hook_resid_mid", noise, at=At.index(5)),
            scale("blocks.1.hook_attn_out", 2.0, at=At.index(5)),
        ]
        cells += [twice, [scale("blocks.2.hook_resid_mid", 0.0, at=At.index(5))]]
    return cells


@pytest.mark.parametrize(("name", "attention"), BOTH)
def test_partial_recomputation_equals_full_recomputation(name: str, attention: str) -> None:
    plain = PlainModel(tiny(name, attention=attention))
    batch, clean = spanned(), Batch.of(tokens(3, 14, seed=9))
    cells = varied_cells(plain, batch, clean)
    noise = torch.randn(plain.spec.d_model, generator=torch.Generator().manual_seed(1))
    for edits in ([], [add("hook_embed", noise, at=At.span("subject")), scale("blocks.2.hook_mlp_out", 0.5)]):
        base = plain.record(batch, edits=edits)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            got = plain.resume(base, cells, positions=[-1, 4, -3])
        assert plain.resume_level == "grouped"
        acting = 0
        for index, cell in enumerate(cells):
            want = full(plain, batch, [*edits, *cell])[:, [-1, 4, -3]]
            torch.testing.assert_close(
                got[index], want, rtol=0, atol=TOLERANCE, msg=lambda text, n=index: f"cell {n}: {text}"
            )
            acting += float((want - base.run.logits[:, [-1, 4, -3]]).abs().max()) > 1e-3
        assert acting > 0.7 * len(cells)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_lower_levels_are_exact_too(name: str) -> None:
    plain = PlainModel(tiny(name))
    batch, clean = spanned(2), Batch.of(tokens(2, 14, seed=9))
    cells = varied_cells(plain, batch, clean)
    base = plain.record(batch, edits=[scale("blocks.1.hook_mlp_out", 0.5)])
    want = torch.stack([full(plain, batch, [*base.edits, *cell])[:, -1:] for cell in cells])
    for level in engine.LEVELS:
        got = engine.compute(plain, base, cells, (-1,), None, level)
        torch.testing.assert_close(got, want, rtol=0, atol=TOLERANCE, msg=level)


def test_resume_equals_the_oracle() -> None:
    for name in FAMILIES:
        model = tiny(name)
        plain = PlainModel(model)
        ids = tokens(2, 12)
        noise = torch.randn(plain.spec.d_model, generator=torch.Generator().manual_seed(2))
        hit = torch.zeros(12, 1)
        hit[5] = 1
        base = plain.record(ids)
        got = plain.resume(base, [[add("blocks.1.hook_attn_out", noise, at=At.index(5))]])[0, :, 0]
        want = oracle.edited(model, [("attn_out", 1, lambda x, n=noise, h=hit: x + n * h)], ids)[:, -1]
        torch.testing.assert_close(got, want, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_position_before_the_first_changed_token_has_effect_exactly_0(name: str) -> None:
    plain = PlainModel(tiny(name))
    clean_ids = tokens(2, 14)
    corrupt_ids = clean_ids.clone()
    corrupt_ids[:, 6] = clean_ids[:, 6] % 100 + 1
    sites = [Site(kind, layer) for layer in range(4) for kind in ("resid_post", "mlp_out", "attn_out", "z", "k")]
    clean, base = plain.record(clean_ids, capture=sites), plain.record(corrupt_ids, capture=sites)
    cells = [[replace(site, clean.run, at=At.index(t))] for site in sites for t in range(14)]
    effect = (
        (plain.resume(base, cells)[:, :, 0] - base.run.logits[:, -1]).abs().amax(dim=(1, 2)).reshape(len(sites), 14)
    )
    assert float(effect[:, :6].max()) == 0.0
    assert float(effect[0, 6]) > 0.0
    for site, row in zip(sites, effect, strict=True):  # in the last layer only keys and values reach another position
        assert site.layer != 3 or site.kind == "k" or float(row[:-1].max()) == 0.0


@pytest.mark.parametrize("name", FAMILIES)
def test_replacing_the_last_layers_resid_post_gives_the_clean_logits(name: str) -> None:
    plain = PlainModel(tiny(name))
    last = Site("resid_post", 3)
    clean, base = plain.record(tokens(2, seed=1), capture=[last]), plain.record(tokens(2, seed=2))
    got = plain.resume(base, [[replace(last, clean.run)]], positions=range(14))[0]
    torch.testing.assert_close(got, clean.run.logits, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_recording_is_an_ordinary_run_and_leaves_nothing_behind(name: str) -> None:
    model = tiny(name)
    plain = PlainModel(model)
    mine = model.get_submodule(plain.family.layers)[1].register_forward_hook(lambda *_: None)
    hooks, implementation = oracle.hook_count(model), model.config._attn_implementation
    base = plain.record(tokens(), capture=["blocks.1.hook_mlp_out"])
    run = plain.run(tokens(), capture=["blocks.1.hook_mlp_out"])
    assert torch.equal(base.run.logits, run.logits)
    assert torch.equal(base.run["blocks.1.hook_mlp_out"], run["blocks.1.hook_mlp_out"])
    assert base.nbytes > 5 * 2 * 14 * 32 * 4
    plain.resume(base, [[scale("blocks.1.attn.hook_z", 0.0)], [scale("blocks.3.hook_mlp_out", 0.0, at=At.index(3))]])
    with pytest.raises(BadInput):
        plain.resume(base, [[add("blocks.1.hook_mlp_out", torch.zeros(7, 7, 7))]])
    assert oracle.hook_count(model) == hooks and model.config._attn_implementation == implementation
    assert not any("forward" in vars(module) for module in model.modules())
    mine.remove()


def test_only_what_can_change_is_computed() -> None:
    plain = PlainModel(tiny("llama"))
    seen: list[tuple[int, tuple[int, ...]]] = []
    base = plain.record(tokens(2, 14), capture=["blocks.*.hook_mlp_out"])
    plain.resume(base, [[scale("blocks.1.hook_mlp_out", 0.5)]])  # the self-check is done here
    for index in range(4):
        plain.layer(index).mlp.register_forward_hook(
            lambda _m, args, _o, index=index: seen.append((index, tuple(args[0].shape)))
        )
    plain.resume(base, [[scale("blocks.1.hook_mlp_out", 0.0, at=At.index(10))]])
    assert seen == [(1, (2, 1, 32)), (2, (2, 4, 32)), (3, (2, 1, 32))]
    seen.clear()
    shared = [scale(Site("mlp_out", layer), 0.0, at=At.index(10)) for layer in (0, 1, 2)]
    plain.resume(base, [shared[:1], shared[:2], shared])  # one row set until the cells part ways
    assert seen == [(0, (2, 1, 32)), (1, (4, 4, 32)), (2, (6, 4, 32)), (3, (6, 1, 32))]
    seen.clear()
    plain.resume(
        base,
        [[], [replace("blocks.2.hook_mlp_out", base.run)], [scale("blocks.3.hook_resid_post", 0.0, at=At.index(2))]],
    )
    assert seen == []


def test_the_engine_notices_a_layer_that_ignores_its_cache_and_falls_down_visibly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = PlainModel(tiny("llama"))
    base = plain.record(tokens(2, 14))
    from interp.models.strands import _Joined

    def forgetful(
        self: _Joined, keys: Tensor, values: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        self.calls += 1
        n = 0 if self.before is None else self.before[0].shape[2]
        return torch.nn.functional.pad(keys, (0, 0, n, 0)), torch.nn.functional.pad(values, (0, 0, n, 0))

    monkeypatch.setattr(_Joined, "update", forgetful)
    cells = [[scale("blocks.1.hook_mlp_out", 0.0, at=At.index(5))]]
    with pytest.warns(UserWarning, match="Falling back to 'layer skip'"):
        got = plain.resume(base, cells)
    assert plain.resume_level == "layer skip"
    torch.testing.assert_close(got[0, :, 0], full(plain, base.batch, cells[0])[:, -1], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "llama"])
def test_bfloat16_agrees_as_well_as_two_batch_sizes_agree(name: str) -> None:
    plain = PlainModel(tiny(name, dtype=torch.bfloat16))
    ids = tokens(3, 14)
    base = plain.record(ids)
    noise = torch.randn(32, generator=torch.Generator().manual_seed(2))
    cells = [[add(Site("resid_post", layer), noise, at=At.index(t))] for layer in (0, 2) for t in (3, 8)]
    got = plain.resume(base, cells)[:, :, 0].float()
    assert plain.resume_level == "grouped"
    want = torch.stack([full(plain, base.batch, cell)[:, -1] for cell in cells]).float()
    single = torch.stack(
        [torch.cat([full(plain, base.batch.rows([r]), cell)[:, -1] for r in range(3)]) for cell in cells]
    ).float()
    assert float((got - want).abs().max()) <= 3 * float((single - want).abs().max()) + 0.02 * float(want.abs().max())


def test_chunks_and_passes_do_not_change_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = PlainModel(tiny("qwen3"))
    base, clean = plain.record(spanned()), plain.run(tokens(3, 14, seed=9), capture=["blocks.*.hook_resid_post"])
    cells = [[replace(Site("resid_post", layer), clean, at=At.index(t))] for layer in range(4) for t in range(14)]
    want = plain.resume(base, cells)
    plain.token_budget = 9
    plain.state_bytes = 20_000
    monkeypatch.setattr(engine, "READ_ROWS", 4)
    torch.testing.assert_close(plain.resume(base, cells), want, rtol=0, atol=TOLERANCE)
    for cost in (0.0, 5e5):  # no span shares a call with another; a few neighbours do
        plain.token_budget = 2048
        monkeypatch.setitem(runner.CALL_FLOPS, "cpu", cost)
        torch.testing.assert_close(plain.resume(base, cells), want, rtol=0, atol=TOLERANCE)
    columns = torch.tensor([[3, 5], [7, 1], [9, 9]])
    some = plain.resume(base, cells, readout=lambda logits, rows: logits.gather(-1, columns[rows][:, None]))
    torch.testing.assert_close(
        some[:, :, 0], want[:, :, 0].gather(-1, columns.expand(len(cells), 3, 2)), rtol=0, atol=TOLERANCE
    )


def test_what_cannot_be_meant_is_refused() -> None:
    model = tiny("llama")
    plain = PlainModel(model)
    with pytest.raises(BadInput, match="padding"):
        plain.record(Batch.padded([[1, 2, 3], [4, 5]]))
    base = plain.record(tokens(2, 14))
    nowhere = At.mask(torch.zeros(2, 14, dtype=torch.bool))
    with pytest.raises(EditDidNotFire):
        plain.resume(base, [[scale("blocks.1.hook_mlp_out", 0.0, at=nowhere)]])
    quiet = dataclasses.replace(scale("blocks.1.hook_mlp_out", 0.0, at=nowhere), may_not_fire=True)
    assert torch.equal(plain.resume(base, [[quiet]])[0, :, 0], base.run.logits[:, -1])
    with pytest.raises(BadInput, match="positions"):
        plain.resume(base, [[]], positions=[14])
    with torch.no_grad():
        model.lm_head.weight.mul_(2.0)
    with pytest.raises(WrongModel):
        plain.resume(base, [[]])


@pytest.mark.parametrize("view", ["W_Q", "W_V", "W_O", "W_out"])
def test_a_recording_is_stale_after_changes_that_pytorch_does_not_count(view: str) -> None:
    """One head zeroed through `.data`: keys recorded before it and layers computed after it are of two models."""
    model = tiny("llama")
    plain = PlainModel(model)
    base = plain.record(tokens(2, 9))
    plain.resume(base, [[]])
    layer = model.model.layers[2]
    match view:
        case "W_Q":
            layer.self_attn.q_proj.weight.data[8:16] = 0.0
        case "W_V":
            layer.self_attn.v_proj.weight.data[8:] = 0.0
        case "W_O":
            layer.self_attn.o_proj.weight.data[:, 16:24] = 0.0
        case "W_out":
            layer.mlp.down_proj.weight.data.mul_(1.1)
    with pytest.raises(WrongModel):
        plain.resume(base, [[]])
