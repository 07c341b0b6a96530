"""DAS: a variable stored in a subspace is found and moved alone; the subspace illusion is told; controls are controls."""

import itertools

import numpy as np
import pytest
import torch

import interp
import tests.oracle as oracle
from interp.analyses.das import DAS, VARIANTS
from interp.analyses.subspaces import dimensions, readers_of, split
from interp.analyses.triples import floor_of, triple_groups
from interp.core.artifact import open_result
from interp.core.errors import BadInput, SpanError, UnknownSite
from interp.core.seed import numpy_generator
from interp.core.site import Site
from interp.data.prompts import Prompt
from interp.data.tasks import Desideratum
from interp.models import reference
from interp.models.reference.planted.wiring import Planted, Wiring, one_hot, scramble, word_tokenizer

N = 4


def two_variables(null: bool = False):
    """Token s_ij holds variable A = i and variable B = j in separate blocks; the answer o_ij needs both."""
    pairs = list(itertools.product(range(N), repeat=2))
    words = [f"s{i}{j}" for i, j in pairs] + [f"o{i}{j}" for i, j in pairs]
    vocab = len(words) + 2
    wire = Wiring({"a": N, "b": N}, vocab, 2, 2, 16, 8)
    wire.embed(one_hot([-1, -1] + [i for i, _ in pairs] + [-1] * N * N, N), "a")
    wire.embed(one_hot([-1, -1] + [j for _, j in pairs] + [-1] * N * N, N), "b")
    matrix = torch.zeros(wire.d_model, vocab)
    for place, (i, j) in enumerate(pairs):
        matrix[:, 2 + N * N + place] = 10 * (wire.read("a")[:, i] + wire.read("b")[:, j])
    wire.unembed(matrix)
    module = scramble(wire.module, 0) if null else wire.module
    return reference.as_lm(Planted("two-variables", module, word_tokenizer(words, 8), {}, "two variables")), wire


def move_a(n: int = 60) -> list[Desideratum]:
    """A from the source, B from the base; both differ."""
    draw = numpy_generator(0, "move a")
    out = []
    while len(out) < n:
        i, j, k, m = (int(value) for value in draw.integers(N, size=4))
        if i != k and j != m:
            base = Prompt.of(f"s{k}{m} s{i}{j}", answer=f"o{i}{j}", id=f"{len(out)}")
            source = Prompt.of(f"s{i}{m} s{k}{m}", answer=f"o{k}{m}", id=f"{len(out)}")
            out.append(Desideratum(base, source, f" o{k}{j}"))
    return out


def test_a_variable_in_a_subspace_is_found_and_moved_alone():
    lm, wire = two_variables()
    found = DAS(k=N, steps=60, layers=(0,), draws=3)(lm, move_a(40))
    table = found.table()
    assert (table["trained"] == 1.0).all() and (table["row"] == 1.0).all()
    for control in ("none", "full", "shuffled", "random"):
        assert (table[control] <= 0.25).all(), table
    assert found.data.attrs["chance_floor"] == 0.0 and not found.illusion().any()
    rotation = torch.tensor(found.data["rotation"].values[0])
    differences = torch.linalg.qr((wire.write("a")[1:] - wire.write("a")[:1]).T.double())[0]  # [d, N - 1]
    b = torch.linalg.qr((wire.write("b")[1:] - wire.write("b")[:1]).T.double())[0]
    assert torch.linalg.svdvals(rotation.T @ differences).min() > torch.linalg.svdvals(rotation.T @ b).min()


def test_nothing_is_found_in_random_weights():
    lm, _ = two_variables(null=True)
    found = DAS(k=1, steps=20, layers=(0,), draws=1)(lm, move_a(40))
    assert float(found.iia()["mean"].sel(variant="trained").max()) < 0.35


def illusory():
    """Neuron 0 follows the variable and is read by nobody, neuron 1 is always silent and would be read; the answer comes past the MLP."""
    words = ["plus", "minus", "yes", "no"]
    wire = Wiring({"x": 1, "out": 1}, 6, 1, 2, 8, 8, 4)
    wire.embed(torch.tensor([[0.0], [0.0], [1.0], [-1.0], [0.0], [0.0]]), "x")
    w_in = torch.zeros(wire.d_model, 4)
    w_in[:, 0] = 10 * wire.read("x")[:, 0]
    w_out = torch.zeros(4, wire.d_model)
    w_out[1] = 2 * wire.write("out")[0]
    wire.neurons(0, 0, w_in, torch.tensor([10.0, -100.0, 0.0, 0.0]), w_out)
    answer = 5 * wire.read("x")[:, 0] + wire.read("out")[:, 0]
    wire.unembed(torch.stack([*[torch.zeros(wire.d_model)] * 4, answer, -answer], dim=1))
    return reference.as_lm(
        Planted("illusory", wire.module, word_tokenizer(words, 8), {}, "a dormant and a disconnected neuron")
    )


def test_the_subspace_illusion_is_told():
    lm = illusory()
    plus, minus = Prompt.of("no plus", answer="yes"), Prompt.of("no minus", answer="no")
    data = [Desideratum(plus, minus, " no"), Desideratum(minus, plus, " yes")] * 8
    found = DAS(kind="mlp_post", k=1, steps=80, lr=0.1, draws=2)(lm, data)
    table = found.table().iloc[0]
    assert table["trained"] == 1.0 and table["row"] == 0.0 and table["null"] == 0.0
    assert (
        bool(found.illusion()[0])
        and found.data["row_dims"].values.tolist() == [1] == found.data["null_dims"].values.tolist()
    )
    direction = found.data["rotation"].values[0, :, 0]
    assert abs(direction[0] * direction[1]) > 0.25, "half of it on the disconnected neuron, half on the dormant one"


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
    lm, _ = two_variables()
    config = DAS(k=2, steps=10, layers=(1,))
    one, two = config(lm, move_a(20)), config(lm, move_a(20))
    assert one.data.identical(two.data)
    assert open_result(one.save(tmp_path / "das")).data.identical(one.data)
    assert len(one.headline()) == 3 and config.cost(lm, move_a(20)).forwards > 0 and len(one._repr_html_()) < 30_000
    assert (
        list(one.data["variant"].values) == list(VARIANTS) and np.isfinite(one.data["hit"].sel(variant="trained")).all()
    )
    assert floor_of(triple_groups(lm, move_a(20))) == 0.0


def test_atlas_facts_lie_in_a_subspace_of_the_subject():
    lm = interp.load("atlas")
    pairs = interp.reference.task("atlas", "facts", 60)
    found = DAS(k=16, layers=(0,), position="subject", steps=60)(lm, pairs)
    table = found.table().iloc[0]
    assert table["trained"] > table["random"] + 0.3 and table["none"] < 0.1 and table["full"] > 0.8


@pytest.mark.parametrize("name", ["stories260K-llama", "tinytalk-chat"])
def test_it_runs_on_real_checkpoints(real_models, name):
    lm = interp.load(str(real_models / name))
    base = Prompt.of("Once upon a time there was a little", answer=" b")
    other = Prompt.of("Once upon a time there was a big", answer=" d")
    found = DAS(k=2, steps=3, layers=(1,), draws=1, batch=4)(lm, [Desideratum(base, other, " d")] * 6)
    assert np.isfinite(found.data["gain"].sel(variant="full")).all()


def test_bad_input_is_refused():
    lm, _ = two_variables()
    data = move_a(8)
    with pytest.raises(BadInput, match="goes with kind='z'"):
        DAS(head=1)
    with pytest.raises(BadInput, match="`k=99`"):
        DAS(k=99)(lm, data)
    with pytest.raises(UnknownSite, match="layers 0 to 1"):
        DAS(layers=(7,))(lm, data)
    with pytest.raises(SpanError, match="'subject'"):
        DAS(position="subject")(lm, data)
    with pytest.raises(BadInput, match="at least 4 pairs"):
        DAS()(lm, data[:2])
    with pytest.raises(BadInput, match="needs desiderata or pairs"):
        DAS()(lm, [Prompt.of("s00 s01", answer="o01")])
    with pytest.raises(BadInput, match="head=9"):
        DAS(kind="z", head=9)(lm, data)
