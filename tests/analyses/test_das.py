"""DAS: a variable stored in a subspace is found and moved alone; the subspace illusion is told; controls are controls."""

import numpy as np
import pytest
import torch

import interp
import tests.oracle as oracle
from interp.analyses.das import DAS, VARIANTS
from interp.analyses.subspaces import dimensions, readers_of, split
from interp.analyses.triples import distinct, floor_of, triple_groups
from interp.core.artifact import open_result
from interp.core.errors import BadInput, SpanError, UnknownSite
from interp.core.site import Site
from interp.data.prompts import Prompt
from interp.data.tasks import Desideratum
from interp.models import reference
from interp.models.load import wrap
from interp.models.reference.planted.subspaces import VALUES, change_sign, illusory, move_a, outshone, two_variables
from interp.models.reference.planted.wiring import word_tokenizer
from tests.models.tiny import VOCAB, tiny

N = VALUES


def variables(*, null: bool = False):
    return reference.as_lm(two_variables(null=null))


def test_a_variable_in_a_subspace_is_found_and_moved_alone():
    made = two_variables()
    lm = reference.as_lm(made)
    found = DAS(k=N, steps=60, layers=(0,), draws=3)(lm, move_a(40))
    table = found.table()
    assert (table["trained"] == 1.0).all() and (table["row"] == 1.0).all()
    for control in ("none", "full", "shuffled", "random"):
        assert (table[control] <= 0.25).all(), table
    assert found.data.attrs["chance_floor"] == 0.0 and not found.illusion().any()
    rotation = torch.tensor(found.data["rotation"].values[0])
    differences = torch.linalg.qr((made.answers["a"][1:] - made.answers["a"][:1]).T.double())[0]  # [d, N - 1]
    b = torch.linalg.qr((made.answers["b"][1:] - made.answers["b"][:1]).T.double())[0]
    assert torch.linalg.svdvals(rotation.T @ differences).min() > torch.linalg.svdvals(rotation.T @ b).min()


def test_nothing_is_found_in_random_weights():
    lm = variables(null=True)
    found = DAS(k=1, steps=20, layers=(0,), draws=1)(lm, move_a(40))
    assert float(found.iia()["mean"].sel(variant="trained").max()) < 0.35


def test_the_subspace_illusion_is_told():
    found = DAS(kind="mlp_post", k=1, steps=80, lr=0.1, draws=2)(reference.as_lm(illusory()), change_sign())
    table = found.table().iloc[0]
    assert table["trained"] == 1.0 and table["row"] == 0.0 == table["span"] and table["null"] == 0.0
    assert (
        bool(found.illusion()[0])
        and found.data["row_dims"].values.tolist() == [1] == found.data["null_dims"].values.tolist()
    )
    direction = found.data["rotation"].values[0, :, 0]
    assert abs(direction[0] * direction[1]) > 0.25, "half of it on the disconnected neuron, half on the dormant one"


def test_a_variable_that_is_read_is_no_illusion_however_much_an_unread_copy_of_it_outshines_it():
    """(P R)(P R)^T moves what is read by cos^2 only, half of the swap here, so that half of the answers stay: alone a false alarm."""
    found = DAS(kind="mlp_post", k=1, steps=80, lr=0.1, draws=2)(reference.as_lm(outshone()), change_sign())
    table = found.table().iloc[0]
    direction = found.data["rotation"].values[0, :, 0]
    assert abs(direction[0] * direction[1]) > 0.25, "the mixture overshoots, which the loss prefers"
    assert table["trained"] == 1.0 == table["span"] and table["null"] == 0.0 == table["none"] and table["row"] < 0.7
    assert not found.illusion().any()


def test_repetitions_of_a_pair_stay_on_one_side_of_the_split():
    lm, data = variables(), move_a(10)
    found = DAS(k=1, steps=1, layers=(0,), draws=1)(lm, data * 3)
    groups = triple_groups(lm, data * 3)
    train, test = DAS()._parts(groups)
    sides = [
        {tuple(map(tuple, (group.base.tokens[row].tolist(), group.source.tokens[row].tolist()))) for group in side
         for row in range(len(group))} for side in (train, test)
    ]  # fmt: skip
    assert not sides[0] & sides[1] and len(sides[0] | sides[1]) == len(distinct(groups))
    assert found.data.sizes["pair"] + found.data.attrs["trained_on"] == 30
    with pytest.raises(BadInput, match="there are 1"):
        DAS()(lm, data[:1] * 12)


def test_without_another_order_of_the_targets_there_is_no_shuffled_control():
    lm, data = variables(), move_a(60)
    one = [each for each in data if each.target == data[0].target] + [
        each for each in move_a(200, seed=1) if each.target == data[0].target
    ]
    found = DAS(k=N, steps=2, layers=(0,), draws=1)(lm, one[:8])
    assert np.isnan(found.table()["shuffled"]).all() and np.isfinite(found.table()["trained"]).all()
    assert found.plot().data


def test_readers_of_parallel_attention_are_later_layers_only():
    lm = wrap(tiny("gpt_neox"), word_tokenizer([f"w{i}" for i in range(2, VOCAB)], 64), "tiny")
    after, out = (readers_of(lm, Site(kind, 1)) for kind in ("resid_post", "attn_out"))
    assert torch.equal(after, out)


def test_experts_are_refused_before_anything_is_trained(monkeypatch):
    lm = wrap(tiny("qwen3_moe"), word_tokenizer([f"w{i}" for i in range(2, VOCAB)], 64), "tiny")
    monkeypatch.setattr(type(lm), "run", lambda *_, **__: pytest.fail("it ran"))
    with pytest.raises(BadInput, match="expert"):
        DAS(layers=(0,))(lm, move_a(8))


def test_swaps_are_what_plain_hooks_give():
    lm = interp.load("atlas")
    facts = interp.reference.facts("atlas", 40)
    same = [
        fact for fact in facts if len(lm.tokenizer.encode(fact.text).ids) == len(lm.tokenizer.encode(facts[0].text).ids)
    ]
    base = same[0]
    source = next(fact for fact in same[1:] if fact.answer != base.answer and fact.text != base.text)
    group = triple_groups(lm, [Desideratum(base, source, source.answer)])[0]
    basis = torch.linalg.qr(torch.randn(128, 3, generator=torch.Generator().manual_seed(0)))[0]
    put, taken = (int(columns[0]) for columns in group.columns("subject"))
    site = Site("resid_post", 1)
    values = group.moved(lm.run(group.source, capture=[site])[site], "subject")
    ours = lm.run(group.base, edits=[interp.edit.swap(site, values, basis, at=group.at("subject"))]).last_logits
    there = oracle.capture(lm.module, "resid_post", 1, group.source.tokens)[0, taken]

    def change(x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        x[0, put] += (there - x[0, put]) @ basis @ basis.T
        return x

    want = oracle.edited(lm.module, [("resid_post", 1, change)], group.base.tokens)[:, -1]
    assert torch.allclose(ours, want, atol=1e-4)


@pytest.mark.parametrize("kind", ["mlp_post", "z", "resid_post", "resid_pre"])
def test_moving_along_what_no_reader_sees_changes_nothing(kind):
    lm = interp.load("atlas")
    site, head = Site(kind, 3), 1 if kind == "z" else None
    readers = readers_of(lm, site, head)
    basis = torch.randn(readers.shape[1], 2, generator=torch.Generator().manual_seed(1)).double()
    row, null, cosines = split(torch.linalg.qr(basis)[0], readers)
    assert cosines.max() <= 1 + 1e-12 and torch.allclose(row.T @ null, torch.zeros(2, 2).double(), atol=1e-9)
    if not dimensions(null):  # every direction is read
        assert kind in ("z", "resid_pre") or torch.linalg.matrix_rank(readers) == readers.shape[1]
        return
    batch = lm.encode("The banner of Crivik is")
    base = lm.run(batch).last_logits
    moved = interp.edit.add(site, 5.0 * null[:, 0].reshape(1, 1, -1)) if kind != "z" else None
    assert moved is not None and torch.allclose(lm.run(batch, edits=[moved]).last_logits, base, atol=2e-4)
    seen = interp.edit.add(site, 5.0 * row[:, 0].reshape(1, 1, -1))
    assert not torch.allclose(lm.run(batch, edits=[seen]).last_logits, base, atol=1e-2)


def test_it_is_repeatable_saved_and_says_its_numbers(tmp_path):
    lm = variables()
    config = DAS(k=2, steps=10, layers=(1,))
    one, two = config(lm, move_a(20)), config(lm, move_a(20))
    assert one.data.identical(two.data)
    assert open_result(one.save(tmp_path / "das")).data.identical(one.data)
    assert len(one.headline()) == 3 and config.cost(lm, move_a(20)).forwards > 0 and len(one._repr_html_()) < 30_000
    assert (
        list(one.data["variant"].values) == list(VARIANTS) and np.isfinite(one.data["hit"].sel(variant="trained")).all()
    )
    assert floor_of(triple_groups(lm, move_a(20))) == 0.0


def test_who_is_meant_lies_in_a_subspace_of_atlas():
    lm = interp.load("atlas")
    found = DAS(k=32, layers=(2,), steps=50, draws=2)(lm, interp.reference.task("atlas", "ioi", 60))
    table = found.table().iloc[0]
    assert (
        table["trained"] > max(table["random"], table["shuffled"]) + 0.3 and table["none"] < 0.1 and table["full"] > 0.8
    )


@pytest.mark.parametrize("name", ["stories260K-llama", "tinytalk-chat"])
def test_it_runs_on_real_checkpoints(real_models, name):
    lm = interp.load(str(real_models / name))
    other = Prompt.of("Once upon a time there was a big", answer=" d")
    data = [
        Desideratum(Prompt.of(f"{who} was a little", answer=" b"), other, " d")
        for who in ("He", "She", "Tom", "Lily", "The dog")
    ]
    found = DAS(k=2, steps=3, layers=(1,), draws=1, batch=4)(lm, data)
    assert np.isfinite(found.data["gain"].sel(variant="full")).all()


def test_bad_input_is_refused():
    lm = variables()
    data = move_a(8)
    with pytest.raises(BadInput, match="goes with kind='z'"):
        DAS(head=1)
    with pytest.raises(BadInput, match="`k=99`"):
        DAS(k=99)(lm, data)
    with pytest.raises(UnknownSite, match="layers 0 to 1"):
        DAS(layers=(7,))(lm, data)
    with pytest.raises(SpanError, match="'subject'"):
        DAS(position="subject")(lm, data)
    with pytest.raises(BadInput, match="each layer once"):
        DAS(layers=(1, 1))
    with pytest.raises(BadInput, match="at least 4 pairs"):
        DAS()(lm, data[:2])
    with pytest.raises(BadInput, match="needs desiderata or pairs"):
        DAS()(lm, [Prompt.of("s00 s01", answer="o01")])
    with pytest.raises(BadInput, match="head=9"):
        DAS(kind="z", head=9)(lm, data)
