"""What cells make of sites, against ordinary hooked passes and the oracle, on every family."""

import pytest
import torch
from torch import Tensor

from interp.core.batch import At, Batch
from interp.core.edit import Edit, add, call, replace, scale
from interp.core.errors import BadInput, EditDidNotFire
from interp.core.site import Site, sites_of
from interp.models.plain import PlainModel
from tests import oracle
from tests.models.test_resume import TOLERANCE, spanned
from tests.models.tiny import FAMILIES, tiny, tokens


def some_cells(plain: PlainModel, batch: Batch, clean: Batch) -> list[list[Edit]]:
    """A cell for every kind of start: embedding, stream, heads, neurons, several at once, functions, patterns."""
    noise = torch.randn(plain.spec.d_model, generator=torch.Generator().manual_seed(1))
    run = plain.run(clean, capture=["blocks.*.attn.hook_z", "blocks.*.hook_mlp_out"])
    neurons = {info.site for info in sites_of(plain.spec)} & {Site("mlp_post", 1)}  # a mixture of experts has none
    return [
        [],
        [add("hook_embed", noise, at=At.span("subject"))],
        [replace("blocks.1.attn.hook_z", run, at=At.index(5), heads=[1])],
        [add("blocks.2.hook_resid_post", noise, at=At.index(4))],
        [
            *(scale(site, 0.0, at=At.index(7)) for site in neurons),
            add("blocks.2.hook_resid_pre", noise, at=At.index(3)),
        ],
        [replace("blocks.3.hook_mlp_out", run, at=At.span("subject"))],
        [add("blocks.1.attn.hook_k", 0.5, at=At.index(0), heads=[0])],
        [call("blocks.1.hook_mlp_out", lambda x: x.flip(1), at=At.index(2, 9))],
        [scale("blocks.2.attn.hook_pattern", 0.0, heads=[0])],
    ]


def close(got: Tensor, want: Tensor, what: str) -> None:
    """Equal up to rounding of the largest value."""
    atol = TOLERANCE * max(1.0, float(want.abs().max()))
    torch.testing.assert_close(got, want, rtol=0, atol=atol, msg=lambda text: f"{what}: {text}")


@pytest.mark.parametrize(
    ("name", "attention"), [*((name, "eager") for name in FAMILIES), ("llama", "sdpa"), ("gemma3_text", "sdpa")]
)
def test_sites_equal_those_of_a_hooked_run(name: str, attention: str) -> None:
    plain = PlainModel(tiny(name, attention=attention))
    batch, clean = spanned(), Batch.of(tokens(3, 14, seed=9))
    noise = torch.randn(plain.spec.d_model, generator=torch.Generator().manual_seed(2))
    cells = some_cells(plain, batch, clean)
    every = [info.site for info in sites_of(plain.spec)]
    local = [site for site in every if site.kind != "pattern" and site.layer is not None]
    base = plain.record(batch, capture=local[::2], edits=[add("hook_embed", noise, at=At.index(2))])
    patterns, rest = ([site for site in every if (site.kind == "pattern") == is_one] for is_one in (True, False))
    runs = [
        {
            **plain.run(batch, capture=rest, edits=[*base.edits, *cell]).captured,
            **plain.run(batch, capture=patterns, edits=[*base.edits, *cell]).captured,  # this pass is eager
        }
        for cell in cells
    ]
    queries = [Site("q", 2), Site("k", 2)]
    for sites, at in ((rest, None), (patterns, [3]), (local, [-1, 4, 5]), (queries, None), ([Site("z", 1)], [5])):
        got = plain.resume_sites(base, cells, sites, at=at)
        assert list(got) == sorted(sites, key=lambda site: site.order)
        for index, run in enumerate(runs):
            for site in sites:
                axis = 2 if site.kind == "pattern" else 1
                want = run[site] if at is None else run[site].index_select(axis, torch.tensor(at) % 14)
                close(got[site][index], want, f"{site} in cell {index}")


@pytest.mark.parametrize("name", FAMILIES)
def test_sites_equal_the_oracles(name: str) -> None:
    model = tiny(name)
    plain, ids = PlainModel(model), tokens(2, 12)
    noise = torch.randn(plain.spec.d_model, generator=torch.Generator().manual_seed(2))
    hit = torch.zeros(12, 1)
    hit[5] = 1
    asked = [Site(kind, 3) for kind in ("q", "v", "z", "mlp_out")]
    got = plain.resume_sites(plain.record(ids), [[add("blocks.1.hook_attn_out", noise, at=At.index(5))]], asked)
    for site in asked:
        with oracle.at(model, "attn_out", 1, lambda x: x + noise * hit):
            want = oracle.capture(model, site.kind, site.layer, ids)
        torch.testing.assert_close(got[site][0], want, rtol=0, atol=TOLERANCE)
        assert float((want - oracle.capture(model, site.kind, site.layer, ids)).abs().max()) > 1e-3


def test_what_cannot_be_meant_is_refused() -> None:
    plain = PlainModel(tiny("gpt2"))
    base = plain.record(tokens(2, 14))
    site = Site("q", 2)
    assert plain.resume_sites(base, [], [site])[site].shape == (0, 2, 14, 4, 8)
    for at in ([14], [-15], []):
        with pytest.raises(BadInput, match="positions"):
            plain.resume_sites(base, [[]], [site], at=at)
    nowhere = At.mask(torch.zeros(2, 14, dtype=torch.bool))
    with pytest.raises(EditDidNotFire):
        plain.resume_sites(base, [[scale("blocks.1.hook_mlp_out", 0.0, at=nowhere)]], [site])
