"""The plain engine against the oracle: captures, edits, padding, early stop, packed documents, and that nothing stays behind."""

import copy

import pytest
import torch

from interp.core.batch import At, Batch
from interp.core.edit import add, call, replace, scale
from interp.core.errors import BadInput, EditDidNotFire, UnknownSite
from interp.core.site import Site, sites_of
from interp.models.attention import function_of
from interp.models.packed import alone, packed_attention
from interp.models.plain import PlainModel
from tests import oracle
from tests.models.tiny import FAMILIES, SDPA, tiny, tokens


@pytest.mark.parametrize("name", FAMILIES)
def test_captures_equal_the_oracles(name: str) -> None:
    model = tiny(name)
    plain = PlainModel(model)
    ids = tokens()
    sites = [info.site for info in sites_of(plain.spec) if info.site.kind != "pattern"]
    run = plain.run(ids, capture=sites)
    assert torch.equal(run.logits, oracle.logits(model, ids))
    for site in sites:
        want = oracle.capture(model, site.kind, site.layer, ids)
        assert run[site].shape == want.shape, site
        torch.testing.assert_close(run[site], want, rtol=0, atol=1e-6, msg=str(site))
    pattern = plain.run(ids, capture=["blocks.*.attn.hook_pattern"])
    for layer in range(plain.spec.n_layers):
        want = oracle.capture(model, "pattern", layer, ids)
        torch.testing.assert_close(pattern[Site("pattern", layer)], want, rtol=0, atol=1e-6)
        total = want.sum(-1)
        assert bool((total < 1).all()) if plain.spec.sinks else torch.allclose(total, torch.ones_like(total))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_parts_sum_to_the_residual_stream(name: str) -> None:
    plain = PlainModel(tiny(name))
    run = plain.run(tokens(), capture=["blocks.*.hook_resid_*", "blocks.*.hook_attn_out", "blocks.*.hook_mlp_out"])
    for layer in range(plain.spec.n_layers):
        parts = (Site(kind, layer) for kind in ("resid_pre", "attn_out", "mlp_out"))
        torch.testing.assert_close(
            sum(run[part] for part in parts), run[Site("resid_post", layer)], rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("name", FAMILIES)
def test_edits_equal_the_oracles(name: str) -> None:
    model = tiny(name)
    plain = PlainModel(model)
    ids = tokens()
    where = torch.zeros(ids.shape, dtype=torch.bool)
    where[:, 4] = where[:, 9] = True
    base = oracle.logits(model, ids)
    for info in sites_of(plain.spec):
        site = info.site
        if site.kind == "pattern" or site.layer in (0, 3):
            continue
        shape = oracle.capture(model, site.kind, site.layer, ids).shape
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(3))
        select = where.reshape(*where.shape, *[1] * (len(shape) - 2))
        got = plain.run(ids, edits=[add(site, noise, at=At.mask(where))]).logits
        want = oracle.edited(model, [(site.kind, site.layer, lambda x, n=noise, s=select: x + n * s)], ids)
        torch.testing.assert_close(got, want, rtol=0, atol=2e-5, msg=str(site))
        assert float((got - base).abs().max()) > 1e-3, site
        assert torch.equal(got[:, :4], base[:, :4])


@pytest.mark.parametrize("name", FAMILIES)
def test_the_pattern_can_be_edited(name: str) -> None:
    plain = PlainModel(tiny(name))
    ids = tokens()
    base = plain.run(ids, capture=["blocks.1.attn.hook_pattern", "blocks.1.attn.hook_z"])
    none = plain.run(ids, edits=[scale("blocks.1.attn.hook_pattern", 0.0, heads=[2])], capture=["blocks.1.attn.hook_z"])
    z = none["blocks.1.attn.hook_z"]
    assert float(z[:, :, 2].abs().max()) == 0.0
    torch.testing.assert_close(z[:, :, 1], base["blocks.1.attn.hook_z"][:, :, 1], rtol=0, atol=1e-6)
    same = replace("blocks.1.attn.hook_pattern", base)
    torch.testing.assert_close(plain.run(ids, edits=[same]).logits, base.logits, rtol=0, atol=1e-5)
    head = plain.run(ids, edits=[scale("blocks.1.attn.hook_z", 0.0, heads=[2])]).logits
    torch.testing.assert_close(none.logits, head, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_replacing_a_site_with_itself_changes_nothing_bit_for_bit(name: str) -> None:
    plain = PlainModel(tiny(name))
    ids = tokens()
    sites = [info.site for info in sites_of(plain.spec) if info.site.kind not in ("pattern", "resid_mid")]
    run = plain.run(ids, capture=sites)
    for site in sites:
        assert torch.equal(plain.run(ids, edits=[replace(site, run)]).logits, run.logits), site
    assert torch.equal(plain.run(ids, edits=[]).logits, run.logits)


@pytest.mark.parametrize("name", FAMILIES)
def test_replacing_the_last_layers_resid_post_by_the_clean_runs_gives_the_clean_logits_exactly(name: str) -> None:
    plain = PlainModel(tiny(name))
    last = Site("resid_post", plain.spec.n_layers - 1)
    clean = plain.run(tokens(seed=1), capture=[last])
    assert torch.equal(plain.run(tokens(seed=2), edits=[replace(last, clean)]).logits, clean.logits)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_row_alone_equals_the_row_in_a_padded_batch(name: str, side: str, attention: str) -> None:
    if attention == "sdpa" and name not in SDPA:
        pytest.skip(f"{name} has no sdpa attention in transformers")
    plain = PlainModel(tiny(name, attention=attention))
    rows = [tokens(1, n, seed=n)[0].tolist() for n in (5, 13, 9)]
    batch = Batch.padded(rows, side=side)
    sites = [Site("resid_post", 3), Site("z", 2)]
    run = plain.run(batch, capture=sites)
    for index, row in enumerate(rows):
        alone = plain.run([row], capture=sites)
        real = batch.mask[index]
        torch.testing.assert_close(run.logits[index, real], alone.logits[0], rtol=1e-5, atol=1e-5)
        for site in sites:
            torch.testing.assert_close(run[site][index, real], alone[site][0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_hooks_before_equal_hooks_after(name: str) -> None:
    model = tiny(name)
    plain = PlainModel(model)
    seen: list[int] = []
    mine = model.get_submodule(plain.family.layers)[1].register_forward_hook(lambda *_: seen.append(1) and None)
    hooks, implementation = oracle.hook_count(model), model.config._attn_implementation
    weights = copy.deepcopy(model.state_dict())
    everything = [info.site for info in sites_of(plain.spec)]
    plain.run(tokens(), capture=everything)
    plain.run(tokens(), capture=["blocks.0.hook_resid_post"], stop_after="blocks.0.hook_resid_post")
    plain.read([tokens(1, 7)[0], tokens(1, 5)[0]], ["blocks.1.hook_resid_post"])

    def bad(x: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError

    for site in ("blocks.2.hook_resid_post", "blocks.2.attn.hook_pattern"):
        with pytest.raises(ZeroDivisionError):
            plain.run(tokens(), capture=everything, edits=[call(site, bad)])
    assert oracle.hook_count(model) == hooks
    assert model.config._attn_implementation == implementation
    assert len(seen) == 4  # every pass that reached layer 1, the failed ones included
    mine.remove()
    for key, value in model.state_dict().items():
        assert torch.equal(value, weights[key])


@pytest.mark.parametrize("name", FAMILIES)
def test_an_early_stop_never_calls_the_later_layers(name: str) -> None:
    model = tiny(name)
    plain = PlainModel(model)
    calls: list[str] = []
    layers = model.get_submodule(plain.family.layers)
    for index, layer in enumerate(layers):
        layer.register_forward_pre_hook(lambda *_a, index=index: calls.append(f"layer {index}"))
        layer.get_submodule("mlp").register_forward_pre_hook(lambda *_a, index=index: calls.append(f"mlp {index}"))
    model.get_output_embeddings().register_forward_pre_hook(lambda *_a: calls.append("head"))
    run = plain.run(tokens(), capture=["blocks.1.attn.hook_z"], stop_after="blocks.1.attn.hook_z")
    assert run.logits is None and calls == ["layer 0", "mlp 0", "layer 1"]
    calls.clear()
    plain.run(tokens(), stop_after="blocks.1.attn.hook_pattern", capture=["blocks.0.hook_mlp_out"])
    assert calls == ["layer 0", "mlp 0", "layer 1"]
    calls.clear()
    plain.read([tokens(1, 6)[0]] * 3, ["blocks.2.hook_mlp_out", "blocks.0.hook_resid_pre"])
    assert calls == ["layer 0", "mlp 0", "layer 1", "mlp 1", "layer 2", "mlp 2"]
    calls.clear()
    plain.read([tokens(1, 6)[0]] * 3, ["ln_final.hook_out"])
    assert "head" not in calls


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_packed_document_equals_the_document_alone(name: str, attention: str) -> None:
    if attention == "sdpa" and name not in SDPA:
        pytest.skip(f"{name} has no sdpa attention in transformers")
    plain = PlainModel(tiny(name, attention=attention))
    documents = [tokens(1, n, seed=n)[0] for n in (7, 7, 12, 1, 3, 20, 20, 9)]
    sites = [info.site for info in sites_of(plain.spec) if info.site.kind != "pattern"]
    together = plain.read(documents, sites, budget=48)
    start = 0
    for (
        document
    ) in documents:  # the same numbers; the last digit differs where a GEMM kernel depends on the number of rows
        alone = plain.run(document, capture=sites)
        for site in sites:
            got = together[site][start : start + len(document)]
            scale = float(alone[site].abs().max())
            torch.testing.assert_close(got, alone[site][0], rtol=0, atol=5e-6 * scale, msg=str(site))
        start += len(document)
    assert together[sites[0]].shape[0] == start
    one = plain.read(documents[5:6], sites)
    assert torch.equal(one[sites[-1]], plain.run(documents[5], capture=sites)[sites[-1]][0])


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_packed_attention_is_bitwise_the_attention_of_each_document(implementation: str) -> None:
    model = tiny("mistral", attention=implementation)
    attention = model.model.layers[1].self_attn
    lengths = [7, 7, 3, 1, 12]
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, heads, sum(lengths), 8, generator=draw) for heads in (4, 2, 2))
    packed = packed_attention(lengths, [5] * 4, implementation)(attention, query, key, value, None, scaling=0.3)[0]
    start = 0
    for length in lengths:
        part = [x[:, :, start : start + length] for x in (query, key, value)]
        own = function_of(attention, implementation)
        want = own(attention, *part, alone(length, 5, implementation, query), scaling=0.3)[0]
        assert torch.equal(packed[:, start : start + length], want)
        start += length


def test_what_cannot_be_meant_is_refused() -> None:
    plain = PlainModel(tiny("llama"))
    with pytest.raises(UnknownSite):
        plain.run(tokens(), capture=["blocks.1.hook_resid_pst"])
    with pytest.raises(UnknownSite):
        plain.run(tokens(), edits=[scale("blocks.9.hook_mlp_out", 0.0)])
    with pytest.raises(UnknownSite):
        plain.run(tokens(), capture=["hook_pos_embed"])
    with pytest.raises(EditDidNotFire):
        plain.run(tokens(), edits=[scale("blocks.1.hook_mlp_out", 0.0, at=At.token(0))])
    with pytest.raises(BadInput, match="empty"):
        plain.read([tokens(1, 4)[0], torch.zeros(0, dtype=torch.int64)], ["blocks.1.hook_mlp_out"])
    with pytest.raises(BadInput, match="context"):
        plain.read([tokens(1, 65)[0]], ["blocks.1.hook_mlp_out"])
    with pytest.raises(BadInput, match="pattern"):
        plain.read([tokens(1, 6)[0]], ["blocks.1.attn.hook_pattern"])


def test_gradients_reach_an_edit_when_asked_for() -> None:
    plain = PlainModel(tiny("llama"))
    vector = torch.zeros(plain.spec.d_model, requires_grad=True)
    run = plain.run(tokens(), edits=[add("blocks.1.hook_resid_post", vector)], grad=True)
    run.logits[:, -1].logsumexp(-1).sum().backward()
    assert float(vector.grad.abs().sum()) > 0
    assert not plain.run(tokens()).logits.requires_grad
