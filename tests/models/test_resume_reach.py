"""What is left out may be left out: random mixtures of changes and freezes against full forwards, and what is really run."""

import random

import pytest
import torch
from torch import Tensor

from interp.core.batch import At, Batch
from interp.core.edit import Edit, add, freeze, replace, scale, swap
from interp.core.run import Run
from interp.core.site import Site, sites_of
from interp.models.plain import PlainModel
from interp.models.recording import PlainRecording
from tests.models.test_resume_sites import close
from tests.models.tiny import FAMILIES, tiny, tokens

WIDTH, ROWS = 12, 3
HEADED = ("q", "k", "v", "z")


def mixtures(plain: PlainModel, base: PlainRecording, other: Run, pick: random.Random, n: int) -> list[list[Edit]]:
    """Cells of one to three changes and up to five freezes at recorded values, anywhere; edits are shared between cells."""
    kinds = {info.site.kind for info in sites_of(plain.spec) if info.site.layer is not None} - {"pattern"}
    heads = {"q": plain.spec.n_heads, "z": plain.spec.n_heads, "k": plain.spec.n_kv_heads, "v": plain.spec.n_kv_heads}

    def at() -> At:
        if pick.random() < 0.25:
            return At.all()
        mask = torch.zeros(ROWS, WIDTH, dtype=torch.bool)
        for row in pick.sample(range(ROWS), pick.randint(1, ROWS)):
            mask[row, pick.sample(range(WIDTH), pick.randint(1, 4))] = True
        return At.mask(mask)

    def some(kind: str) -> list[int] | None:
        alone = kind in HEADED and pick.random() < 0.5
        return sorted(pick.sample(range(heads[kind]), pick.randint(1, heads[kind]))) if alone else None

    def change() -> Edit:
        kind = pick.choice(sorted(kinds))
        site = Site(kind, pick.randrange(plain.spec.n_layers - 1))
        position = At.index(*pick.sample(range(WIDTH), pick.randint(1, 2)))
        position = position.in_rows(pick.randrange(ROWS)) if pick.random() < 0.5 else position
        if pick.random() < 0.5:
            return replace(site, other, at=position, heads=some(kind))
        return add(site, 0.3, at=position, heads=some(kind))

    def frozen() -> Edit:
        kind = pick.choice(["z", "z", "attn_out", "k", "v", "q", "mlp_out", "resid_post", *sorted(kinds)])
        return replace(Site(kind, pick.randrange(plain.spec.n_layers)), base.run, at=at(), heads=some(kind))

    changes, freezes = [change() for _ in range(n)], [frozen() for _ in range(16)]
    every = freeze([Site("z", layer) for layer in range(plain.spec.n_layers)], base.run)
    cells = [pick.sample(changes, pick.randint(1, 3)) + pick.sample(freezes, pick.randint(0, 5)) for _ in range(n)]
    return [*([change] for change in changes[:3]), *cells, *([*pick.sample(changes, 1), *every[k:]] for k in (0, 2))]


@pytest.mark.parametrize(
    ("name", "edited"),
    [*((name, False) for name in FAMILIES), *((name, True) for name in ("gpt2", "gpt_neox", "gemma2"))],
)
def test_changes_among_freezes_equal_full_forwards(name: str, edited: bool) -> None:
    plain = PlainModel(tiny(name))
    pick = random.Random(f"{name} {edited}")
    sites = [info.site for info in sites_of(plain.spec) if info.site.layer is not None and info.site.kind != "pattern"]
    clean = plain.run(tokens(ROWS, WIDTH, seed=4), capture=sites)
    under = []
    if edited:
        under = [scale("blocks.1.hook_mlp_out", 0.5), replace("blocks.2.attn.hook_z", clean, at=At.index(3, 4, 5))]
        if not plain.spec.parallel:
            under.append(add("blocks.2.hook_resid_mid", 0.2, at=At.index(6)))
    base = plain.record(tokens(ROWS, WIDTH), capture=sites, edits=under)
    blind = plain.record(tokens(ROWS, WIDTH), edits=under)  # knows no site's values, so no freeze is recognised
    cells = mixtures(plain, base, clean, pick, 8)
    asked = [Site(kind, layer) for kind, layer in (("q", 3), ("v", 2), ("z", 2), ("attn_out", 2), ("mlp_out", 3))]
    got = plain.resume(base, cells, positions=[-1, 5, 8])
    assert plain.resume_level == "grouped"
    unseeing = plain.resume(blind, cells, positions=[-1, 5, 8])
    taken = plain.resume_sites(base, cells, asked, at=[-1, 7, 2])
    acting = 0
    for index, cell in enumerate(cells):
        run = plain.run(base.batch, capture=asked, edits=[*under, *cell])
        want = run.logits[:, [-1, 5, 8]]
        close(got[index], want, f"cell {index}")
        close(unseeing[index], want, f"cell {index}, nothing captured")
        for site in asked:
            close(taken[site][index], run[site][:, [-1, 7, 2]], f"{site} in cell {index}")
        acting += float((want - base.run.logits[:, [-1, 5, 8]]).abs().max()) > 1e-3
    assert acting >= 4


@pytest.mark.parametrize("name", FAMILIES)
def test_freezes_at_recorded_values_change_nothing_to_the_bit(name: str) -> None:
    plain = PlainModel(tiny(name))
    kinds = ("z", "mlp_out", "k", "resid_post")
    sites = [Site(kind, layer) for kind in kinds for layer in range(4)]
    base = plain.record(tokens(2, WIDTH), capture=sites)
    copies = {site: base.run[site].clone() for site in sites}
    basis = torch.randn(32, 2, generator=torch.Generator().manual_seed(0))
    cells = [
        freeze(sites, base.run),
        [replace(site, value) for site, value in copies.items()],
        [swap("blocks.1.hook_mlp_out", base.run, basis)],
        [replace("blocks.2.attn.hook_z", copies[Site("z", 2)], heads=[1], at=At.last())],
    ]
    got = plain.resume(base, cells)
    assert all(torch.equal(one[:, 0], base.run.logits[:, -1]) for one in got)
    change = add("blocks.1.hook_mlp_out", 0.5, at=At.index(4))
    alone, kept = plain.resume(base, [[change], [change, replace("blocks.1.hook_mlp_out", base.run)]])
    assert torch.equal(kept[:, 0], base.run.logits[:, -1]) and not torch.equal(alone[:, 0], base.run.logits[:, -1])


class Watch:
    """Tokens that each layer's MLP sees, and how often each attention is called."""

    def __init__(self, plain: PlainModel) -> None:
        self.mlp: list[tuple[int, int]] = []
        self.attention: list[int] = []
        for index in range(plain.spec.n_layers):
            layer, attention = plain.layer(index), plain.family.layer_path(index, plain.family.attention)
            layer.mlp.register_forward_hook(
                lambda _m, args, _o, index=index: self.mlp.append((index, args[0].shape[:2].numel()))
            )
            plain.modules[attention].o_proj.register_forward_hook(lambda *_, index=index: self.attention.append(index))


def test_frozen_attention_is_skipped_and_positions_stay_apart() -> None:
    """Path patching's first pass: the MLPs of the changed positions, nothing else, and nothing behind the receiver."""
    plain = PlainModel(tiny("llama"))
    z = [Site("z", layer) for layer in range(4)]
    base, other = plain.record(tokens(2, WIDTH), capture=z), plain.run(tokens(2, WIDTH, seed=5), capture=z)
    plain.resume(base, [[]])
    held = freeze(z, base.run)
    cells = [[*held, replace(z[0], other, at=At.index(t), heads=[h])] for t in (3, 9) for h in (0, 2)]
    receiver = Site("q", 3)
    want = [plain.run(base.batch, capture=[receiver], edits=cell)[receiver] for cell in cells]
    plain.resume_sites(base, cells, [receiver])  # what attention adds is recorded once
    watch = Watch(plain)
    got = plain.resume_sites(base, cells, [receiver])[receiver]
    # 4 cells x 2 rows: one position each, but in the senders' layer, where one call over [3, 10) is cheaper than two in a tiny model
    assert watch.mlp == [(0, 4 * 2 * 7), (1, 4 * 2), (2, 4 * 2)]
    assert watch.attention == [0]
    for cell, (one, full) in enumerate(zip(got, want, strict=True)):
        close(one, full, f"cell {cell}")
        assert torch.equal(one[:, :3], base.later[receiver][:, :3])


def test_what_cannot_reach_the_answer_is_not_run() -> None:
    plain = PlainModel(tiny("llama"))
    base = plain.record(tokens(2, WIDTH), capture=["blocks.*.attn.hook_z", "blocks.1.hook_mlp_out"])
    plain.resume(base, [[]])
    watch = Watch(plain)
    held = freeze([Site("z", layer) for layer in range(4)], base.run)
    change = add("blocks.0.hook_mlp_out", 1.0, at=At.index(4))
    assert torch.equal(plain.resume(base, [[change, *held]])[0, :, 0], base.run.logits[:, -1])
    plain.resume_sites(base, [[change]], [Site("resid_post", 2)], at=[3])  # a later position changes nothing here
    assert watch.mlp == []
    plain.resume_sites(base, [[change]], [Site("mlp_out", 1)])
    assert {layer for layer, _ in watch.mlp} == {0, 1}


def test_rows_with_their_own_positions_run_no_more_than_they_need() -> None:
    """Rows that are different prompts: each starts at its own position, rows of many cells share a call."""
    plain = PlainModel(tiny("llama"))
    batch = Batch.of(tokens(4, 14))
    base, other = plain.record(batch), plain.run(tokens(4, 14, seed=8), capture=["blocks.*.hook_resid_post"])
    starts = [2, 5, 9, 12]
    cells = []
    for layer in range(3):
        for shift in (0, 1):
            mask = torch.zeros(4, 14, dtype=torch.bool)
            mask[range(4), [start + shift for start in starts]] = True
            cells.append([replace(Site("resid_post", layer), other, at=At.mask(mask))])
    plain.resume(base, [[]])
    watch = Watch(plain)
    got = plain.resume(base, cells)
    for cell, one in zip(cells, got, strict=True):
        close(one[:, 0], plain.run(batch, edits=cell).logits[:, -1], "cell")
    watch.mlp.clear()
    plain.resume(base, cells)
    singles = [[replace(Site("resid_post", layer), other, at=At.index(start + shift).in_rows(row))]
               for row, start in enumerate(starts) for layer in range(3) for shift in (0, 1)]  # fmt: skip
    together, watch.mlp = list(watch.mlp), []
    apart = plain.resume(base, singles)
    assert together == watch.mlp
    for index, one in enumerate(apart):
        row, cell = divmod(index, 6)
        assert float((one[row] - got[cell][row]).abs().max()) < 1e-6


def test_a_readout_may_have_any_last_axis_and_precision() -> None:
    plain = PlainModel(tiny("gpt2"))
    base = plain.record(tokens(2, 14))
    cells = [[add(Site("resid_post", layer), 0.5, at=At.index(t))] for layer in (0, 3) for t in (4, 13)]
    logits = plain.resume(base, cells, positions=[-1, 4])

    def both(x: Tensor, rows: Tensor) -> Tensor:
        x = x.double()
        return torch.stack([x.logsumexp(-1), x[..., 3], rows[:, None].expand(x.shape[:2]).double()], dim=-1)

    got = plain.resume(base, cells, positions=[-1, 4], readout=both)
    assert got.dtype == torch.float64 and got.shape == (4, 2, 2, 3)
    torch.testing.assert_close(got[..., 0], logits.double().logsumexp(-1), rtol=0, atol=1e-5)
    assert torch.equal(got[..., 2], torch.arange(2.0).double()[None, :, None].expand(4, 2, 2))
    with pytest.raises(ValueError, match="last axis"):
        plain.resume(base, cells, readout=lambda x, rows: x.logsumexp(-1))
