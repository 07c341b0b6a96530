"""Component edits: the map is the old one less the component, whoever computes it; weights come back; what cannot be exact is refused."""

import copy

import pytest
import torch

import interp
from interp.analyses.channels import Component, Head, Observer, Readout, Setting, decompose, ov, qk, reader
from interp.analyses.channels.ablation.editing import changed_weights, component_edit, edit_components, removals
from interp.core.batch import At, Batch
from interp.core.errors import BadInput
from interp.models import reference
from interp.models.load import wrap
from tests.models.tiny import FAMILIES, tiny

CHANGES = {"1.2.1": 0.0, "1.2.3": 0.5, "1.0.0": -1.0}


def wide(name: str, real_models=None):
    lm = (
        reference.load(name, dtype="float64")
        if real_models is None
        else interp.load(real_models / name, dtype="float64")
    )
    return lm


@pytest.fixture(scope="module")
def atlas64():
    return reference.load("atlas", dtype="float64", check=False)


@pytest.fixture(scope="module")
def stories(real_models):
    return interp.load(real_models / "stories260K-llama", check=False)


@pytest.fixture(scope="module")
def chat(real_models):
    return interp.load(real_models / "tinytalk-chat", check=False)


@pytest.fixture(scope="module")
def planted():
    return reference.channels()


def some_tokens(lm, rows=3, width=12, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return Batch.of(torch.randint(2, lm.spec.vocab, (rows, width), generator=draw))


def less(parts, head, changes):
    """Σ (1 - γ) s u vᵀ, in full."""
    s, u, v = parts.values[head], parts.read[head], parts.write[head]
    return sum((1 - gamma) * s[i] * torch.outer(u[i], v[i]) for i, gamma in changes.items())


# -- the map ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("biases", ["keep", "edit"])
@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize("which", ["ov", "qk"])
def test_the_map_is_the_old_one_less_the_components(atlas64, which, folded, biases):
    check_map(atlas64, which, Setting(folded), biases, None)


@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize("which", ["ov", "qk"])
def test_so_it_is_where_values_are_shared_and_queries_are_turned(real_models, which, folded):
    lm = interp.load(
        real_models / "stories260K-llama", dtype="float64", check=False
    )  # RMSNorm of transformers is float32
    assert lm.spec.n_kv_heads < lm.spec.n_heads
    check_map(lm, which, Setting(folded), "keep", 3 if which == "qk" else None)


def check_map(lm, which, setting, biases, offset):
    def matrices():
        factors = ov(lm, 1, setting) if which == "ov" else qk(lm, 1, setting, offset=offset)
        return [factors.matrix(head) for head in range(lm.spec.n_heads)]

    def elsewhere():
        return [ov(lm, layer, setting).norm() for layer in range(lm.spec.n_layers) if layer != 1]

    before, parts, others = matrices(), decompose(lm, 1, setting, which=which, offset=offset), elsewhere()
    with edit_components(lm, CHANGES, which=which, biases=biases, setting=setting, offset=offset) as scales:
        after, same = matrices(), elsewhere()
    assert scales == CHANGES
    for head, changes in {0: {0: -1.0}, 2: {1: 0.0, 3: 0.5}}.items():
        assert torch.allclose(after[head], before[head] - less(parts, head, changes), atol=1e-12)
    for head in set(range(lm.spec.n_heads)) - {0, 2}:
        assert torch.equal(after[head], before[head])
    assert all(map(torch.equal, others, same)) and all(map(torch.equal, matrices(), before))


def test_its_score_is_zero_the_others_are_as_before_and_the_total_follows(atlas64):
    """K1d: the total is the s²-weighted mean of the components' squares."""
    side = reader(atlas64, 3, "Q").side[1]
    parts = decompose(atlas64, 1)
    score = (parts.write[2] @ side).norm(dim=-1)
    index = int(score.argmax())
    with edit_components(atlas64, Component(1, 2, index)):
        now = ov(atlas64, 1).matrix(2)
        s = torch.linalg.svdvals(now)
        after = (parts.read[2] @ now @ side).norm(dim=-1) / parts.values[2]  # along each old component
        total = (now @ side).norm() / now.norm()
    assert float(after[index]) < 1e-12 and float(s[atlas64.spec.d_head - 1]) < 1e-12
    rest = [i for i in range(len(score)) if i != index]
    assert torch.allclose(after[rest], score[rest], atol=1e-10)
    weight = parts.values[2, rest].square()
    assert abs(float(total) - float((weight * score[rest].square()).sum() / weight.sum()) ** 0.5) < 1e-10
    assert float(total) < float((ov(atlas64, 1).matrix(2) @ side).norm() / ov(atlas64, 1).norm()[2])


def test_what_is_written_falls_by_what_the_component_wrote_and_nothing_else(atlas64):
    """K2: attention gives Σ_j A_j (x̂_j · u) s v less, x̂ the normalised stream without gain."""
    lm, batch = atlas64, some_tokens(atlas64)
    sites = ["blocks.1.hook_resid_pre", "blocks.1.attn.hook_pattern", "blocks.1.hook_attn_out"]
    run = lm.run(batch, capture=sites)
    x = run[sites[0]] - run[sites[0]].mean(-1, keepdim=True)
    x = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    parts = decompose(lm, 1)
    u, s, v = parts.read[2, 1], parts.values[2, 1], parts.write[2, 1]
    gone = torch.einsum("bqk,bk->bq", run[sites[1]][:, 2], x @ u)[..., None] * s * v
    with edit_components(lm, "1.2.1"):
        after = lm.run(batch, capture=sites[2:])[sites[2]]
    change = run[sites[2]] - after
    change = change - change.mean(-1, keepdim=True)  # the folded component says nothing of the mean
    assert float(gone.norm()) > 0.1 and torch.allclose(change, gone, atol=1e-9)


def test_scores_fall_by_what_the_component_of_qk_gave(atlas64):
    """K2 for QK: the score of a query and a key falls by (x_q · u) s (v · x_k) / sqrt(d_head), up to a shift of all keys."""
    lm, batch, pattern = atlas64, some_tokens(atlas64), "blocks.1.attn.hook_pattern"
    run = lm.run(batch, capture=[pattern, "blocks.1.hook_resid_pre"])
    x = run["blocks.1.hook_resid_pre"] - run["blocks.1.hook_resid_pre"].mean(-1, keepdim=True)
    x = (x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt())[:, :, None]
    parts = decompose(lm, 1, which="qk")
    u, s, v = parts.read[2, 1], parts.values[2, 1], parts.write[2, 1]
    gone = s * (x[:, -1] @ u) * (x[:, :, 0] @ v) / lm.spec.d_head**0.5  # [row, key]
    with edit_components(lm, "1.2.1", which="qk"):
        after = lm.run(batch, capture=pattern)[pattern][:, 2, -1].log()
    change = run[pattern][:, 2, -1].log() - after
    assert float(gone.std()) > 0.01
    assert torch.allclose(change - change.mean(1, keepdim=True), gone - gone.mean(1, keepdim=True), atol=1e-9)


# -- an independent surgeon ----------------------------------------------------------------------------------------------


def operated(lm, layer, head, index, folded, leave_bias=False):
    """The paper's edit in plain torch: b_V moved into b_O, the d x d product factored anew, U sqrt(S') and sqrt(S') Vᵀ put in."""
    module = copy.deepcopy(lm.module).double()
    block, d, h = module.transformer.h[layer], module.config.n_embd, module.config.n_embd // module.config.n_head
    attn, norm = block.attn, block.ln_1
    columns, rows = slice(2 * d + head * h, 2 * d + (head + 1) * h), slice(head * h, (head + 1) * h)
    w_v, w_o = attn.c_attn.weight.data[:, columns].clone(), attn.c_proj.weight.data[rows].clone()
    gain, shift = (norm.weight.data, norm.bias.data) if folded else (torch.ones(d).double(), torch.zeros(d).double())
    mean = torch.full((d, d), 1 / d).double() if folded else torch.zeros(d, d).double()
    centre = torch.eye(d).double() - mean
    u, s, vt = torch.linalg.svd(centre @ (gain[:, None] * w_v) @ w_o @ centre)
    s = s[:h].clone()
    s[index] = 0.0
    new_v, new_o = (u[:, :h] * s.sqrt()) / gain[:, None], s.sqrt()[:, None] * vt[:h]
    attn.c_attn.weight.data[:, columns], attn.c_proj.weight.data[rows] = new_v, new_o
    if not leave_bias:
        constant = attn.c_attn.bias.data[columns] + shift @ w_v
        attn.c_proj.bias.data += constant @ w_o
        attn.c_attn.bias.data[columns] = -shift @ new_v
    return module


@pytest.mark.parametrize("folded", [True, False])
def test_surgery_by_hand_gives_the_same_model(atlas, folded):
    batch = some_tokens(atlas)
    setting = Setting(folded)
    theirs = operated(atlas, 1, 3, 2, folded)(batch.tokens).logits
    with edit_components(atlas, "1.3.2", setting=setting):
        ours = atlas.run(batch).logits
    plain = atlas.run(batch).logits
    assert float((plain - ours).abs().max()) > 0.1
    assert float((ours.log_softmax(-1) - theirs.log_softmax(-1)).abs().max()) < 1e-4


def test_a_bias_left_beside_new_factors_changes_the_head(atlas):
    """K2b, and why nothing is factored anew here: the bias would be read in another basis."""
    batch = some_tokens(atlas)
    with atlas.edit_weights(
        {"b_V.1": torch.randn(atlas.spec.n_heads, atlas.spec.d_head, generator=torch.Generator().manual_seed(1))}
    ):
        right = operated(atlas, 1, 3, 2, False)(batch.tokens).logits
        trapped = operated(atlas, 1, 3, 2, False, leave_bias=True)(batch.tokens).logits
        with edit_components(atlas, "1.3.2", setting=Setting(folded=False)):
            ours = atlas.run(batch).logits
    assert float((ours - right).abs().max()) < 1e-4 and float((ours - trapped).abs().max()) > 0.1


def test_keeping_and_editing_the_bias_differ_by_what_the_bias_writes_along_the_component(atlas64):
    lm, batch, site = atlas64, some_tokens(atlas64), "blocks.1.hook_attn_out"
    parts = decompose(lm, 1)
    outs = {}
    for biases in ("keep", "edit"):
        with edit_components(lm, "1.2.0", biases=biases):
            outs[biases] = lm.run(batch, capture=[site])[site]
    constant = lm.weights.b_V(1, folded=True)[2].double() @ lm.weights.W_O(1)[2]
    along = (constant - constant.mean()) @ parts.write[2, 0]
    change = outs["keep"] - outs["edit"]
    change = (change - change.mean(-1, keepdim=True)) @ parts.write[2, 0]
    assert abs(float(along)) > 1e-4 and torch.allclose(change, along.expand_as(change), atol=1e-9)


# -- the planted channel --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def channel(planted):
    """Log-odds of the reader's attention to `goal` against `one` (which has no part in the channel), without and with each component."""
    lm = reference.as_lm(planted)
    prompt = interp.Prompt.of(planted.answers["prompt"], goal="goal", other="one")
    tokens = interp.data.tokens.tokenize(prompt, lm.tokenizer)
    batch = interp.data.tokens.to_batch([tokens])
    found = planted.answers["channels"][0]
    observer = Observer(lm, batch, Readout(Head(*found.reader), "goal", "other"))
    writer = Head(*found.writer)
    cells = [[component_edit(lm, Component(writer.layer, writer.head, index))] for index in range(lm.spec.d_head)]
    look = observer.read([[], *cells]).attention[:, 0].log()  # [cell, span]
    return lm, planted, batch, found, (look[0] - look[1:]) @ torch.tensor([1.0, -1.0], dtype=torch.float64)


def test_the_planted_component_steers_the_reader_by_the_closed_form(channel):
    lm, planted, batch, found, fall = channel
    x = lm.run(batch, capture="hook_embed")["hook_embed"][0].double()  # [pos, d]: the wiring's norms leave it as it is
    s, goal = planted.answers["singular_values"], int(batch.spans["goal"][0, 0])
    u = decompose(lm, 0).read[found.writer[1], found.component]
    caps = decompose(lm, 1, which="qk")
    sign = caps.read[found.reader[1], 0] @ decompose(lm, 0).write[found.writer[1], found.component]
    expected = float((x @ u).mean() * s[found.component] * s[0] * sign * (x[goal] @ caps.write[found.reader[1], 0]))
    expected /= lm.spec.d_head**0.5
    others = [index for index in range(lm.spec.d_head) if index != found.component]
    assert abs(abs(float(sign)) - 1) < 1e-5 and expected > 0.1
    assert abs(float(fall[found.component]) - expected) < 0.02 * expected
    assert float(fall[others].abs().max()) < 0.1 * expected  # random directions are not quite orthogonal to the channel


def test_in_the_null_no_component_stands_out():
    lm = reference.as_lm(reference.channels(null=True))
    batch = some_tokens(lm, rows=8, width=10)
    batch = Batch(batch.tokens, batch.mask, {"a": torch.tensor([[1, 2]] * 8), "b": torch.tensor([[4, 5]] * 8)})
    observer = Observer(lm, batch, Readout("1.2", "a", "b"))
    score = observer.read([[], *[[component_edit(lm, f"0.1.{index}")] for index in range(lm.spec.d_head)]]).score
    drop = (score[0] - score[1:]).abs().mean(dim=1)
    assert float((drop.max() - drop.mean()) / drop.std()) < 3.5


# -- in the weights and in a run ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_under_the_edit_is_the_edited_model(family):
    lm = wrap(tiny(family), reference.channels().tokenizer, family)
    batch = some_tokens(lm)
    plain = lm.run(batch).logits
    assert any(one.part.any() for one in removals(lm, CHANGES, biases="edit"))
    for biases in ("keep", "edit"):
        if biases == "keep" and lm.spec.sinks:
            with pytest.raises(BadInput, match="sink"):
                component_edit(lm, CHANGES, biases=biases)
            continue
        with edit_components(lm, CHANGES, biases=biases):
            edited = lm.run(batch).logits
        acted = lm.run(batch, edits=[component_edit(lm, CHANGES, biases=biases)]).logits
        assert float((edited - acted).abs().max()) < 1e-4 and float((edited - plain).abs().max()) > 1e-2
    offset = 2 if lm.spec.positions == "rotary" else None
    how = {"which": "qk", "biases": "edit", "offset": offset}
    if "q" in lm.weights.norms:
        with pytest.raises(BadInput, match="normalises its queries"):
            component_edit(lm, CHANGES, **how)
        return
    with edit_components(lm, CHANGES, **how):
        edited = lm.run(batch).logits
    acted = lm.run(batch, edits=[component_edit(lm, CHANGES, **how)]).logits
    assert float((edited - acted).abs().max()) < 1e-4 and float((edited - plain).abs().max()) > 1e-3


def test_real_models_too(stories, chat):
    for lm in (stories, chat):
        batch = some_tokens(lm)
        plain = lm.run(batch).logits
        with edit_components(lm, {"2.1.0": 0.0, "3.4.1": 2.0}):
            edited = lm.run(batch).logits
        acted = lm.run(batch, edits=[component_edit(lm, {"2.1.0": 0.0}), component_edit(lm, {"3.4.1": 2.0})]).logits
        assert float((edited - acted).abs().max()) < 1e-4 and float((edited - plain).abs().max()) > 1e-2
        assert torch.equal(lm.run(batch).logits, plain)


def test_at_some_positions_it_is_resumed_exactly(atlas):
    batch = some_tokens(atlas)
    edit = component_edit(atlas, {"1.2.0": 0.0, "1.1.0": 0.0}, at=At.last())
    resumed = atlas.resume(atlas.record(batch), [[edit], []])
    assert torch.allclose(resumed[0, :, 0], atlas.run(batch, edits=[edit]).last_logits, atol=1e-4)
    assert float((resumed[0] - resumed[1]).abs().max()) > 0.01
    run = atlas.run(batch, edits=[edit])
    assert torch.equal(run.logits[:, :-1], atlas.run(batch).logits[:, :-1])


def test_half_precision_is_edited_in_the_run_only():
    lm = wrap(tiny("gpt2", dtype=torch.bfloat16), reference.channels().tokenizer, "gpt2")
    with pytest.raises(BadInput, match=r"bfloat16.*dtype='float32'"), edit_components(lm, "1.2.0"):
        pass
    batch = some_tokens(lm)
    z, site = (
        (
            lm.run(batch, capture="blocks.1.attn.hook_z", edits=edits)
            for edits in ([], [component_edit(lm, "1.2.0", biases="edit")])
        ),
        "blocks.1.attn.hook_z",
    )
    before, after = (run[site][:, :, 2].double() for run in z)
    parts = decompose(lm, 1)
    along = lm.weights.W_O(1)[2].double() @ parts.write[2, 0]
    assert float((after @ along).abs().max()) < 0.01 * float((before @ along).abs().max())


# -- what comes back, what does nothing --------------------------------------------------------------------------------------


def test_weights_come_back_bit_for_bit_also_after_an_error(atlas):
    before, print_before = (
        {name: value.clone() for name, value in atlas.weights.parameters().items()},
        atlas.fingerprint(),
    )
    with pytest.raises(ZeroDivisionError), edit_components(atlas, ["0.0", "1.2.3"]):
        assert atlas.fingerprint() != print_before
        raise ZeroDivisionError
    assert all(torch.equal(value, before[name]) for name, value in atlas.weights.parameters().items())
    assert atlas.fingerprint() == print_before


def test_a_head_is_edited_once_at_a_time(atlas):
    """What is left of an edited head has other components under the same names: 1.3.1 inside would have been 1.3.2."""
    with edit_components(atlas, "1.3.0"):
        with pytest.raises(BadInput, match=r"head 1\.3 are being edited already"), edit_components(atlas, "1.3.1"):
            pass
        before = ov(atlas, 1).matrix(2)
        with edit_components(atlas, "1.2.0"), edit_components(atlas, "1.3.1", which="qk"):
            assert not torch.equal(ov(atlas, 1).matrix(2), before)
    with edit_components(atlas, "1.3.1") as scales:
        assert scales == {"1.3.1": 0.0}


def test_a_scale_of_one_changes_nothing_at_all(atlas):
    batch = some_tokens(atlas)
    plain, print_before = atlas.run(batch).logits, atlas.fingerprint()
    with edit_components(atlas, {"1.2.0": 1.0, "2.0": 1.0}) as scales:
        assert scales == {} and torch.equal(atlas.run(batch).logits, plain) and atlas.fingerprint() == print_before
    assert torch.equal(atlas.run(batch, edits=[component_edit(atlas, "1.2.0", scale=1.0)]).logits, plain)


def test_keeping_only_some_is_scaling_the_others(atlas64):
    rest = {f"1.2.{index}": 0.25 for index in range(atlas64.spec.d_head) if index not in (1, 4)}
    kept = removals(atlas64, ["1.2.1", "1.2.4"], keep_only=True, scale=0.25)[0]
    assert kept.scales == rest and torch.allclose(kept.part, removals(atlas64, rest)[0].part, atol=1e-14)
    with edit_components(atlas64, ["1.2.1", "1.2.4"], keep_only=True):
        assert torch.linalg.matrix_rank(ov(atlas64, 1).matrix(2), atol=1e-9) == 2


def test_a_whole_head_is_all_of_its_components(atlas64):
    batch = some_tokens(atlas64)
    with edit_components(atlas64, "1.2", biases="edit"):
        assert float(ov(atlas64, 1).matrix(2).abs().max()) < 1e-12
        gone = atlas64.run(batch).logits
    ablated = atlas64.run(batch, edits=[interp.edit.scale("blocks.1.attn.hook_z", 0.0, heads=[2])]).logits
    assert torch.allclose(gone.log_softmax(-1), ablated.log_softmax(-1), atol=1e-9)


def test_projections_are_projections(atlas64):
    first, second = (removals(atlas64, {name: 0.0})[0].part for name in ("1.2.1", "1.2.4"))
    assert torch.allclose(first @ first, first, atol=1e-12) and float((first @ second).abs().max()) < 1e-12
    assert torch.allclose(removals(atlas64, ["1.2.1", "1.2.4"])[0].part, first + second, atol=1e-13)


def test_another_distance_is_another_matrix(stories):
    lm = stories
    near, far = qk(lm, 1, offset=1).matrix(2), qk(lm, 1, offset=9).matrix(2)
    with edit_components(lm, "1.2.0", which="qk", offset=1):
        ranks = [torch.linalg.matrix_rank(qk(lm, 1, offset=offset).matrix(2), rtol=1e-5) for offset in (1, 9)]
        assert max(ranks) == lm.spec.d_head - 1
        change = qk(lm, 1, offset=9).matrix(2) - far
    parts = decompose(lm, 1, which="qk", offset=9)
    meant = less(parts, 2, {0: 0.0})
    assert float((change + meant).norm()) > 0.1 * float(meant.norm()) and float(near.norm()) > 0


# -- refusals -----------------------------------------------------------------------------------------------------------------


def test_a_part_of_a_block_is_refused_and_the_whole_is_not(atlas):
    left, right = ov(atlas, 1).left[2], ov(atlas, 1).right[2]
    u, s, vt = torch.linalg.svd(left @ right)
    s = s[: atlas.spec.d_head].clone()
    s[3] = s[2]
    new = torch.linalg.pinv(left) @ (u[:, : len(s)] * s) @ vt[: len(s)]
    with atlas.edit_weights({"W_O.1.2": new}):
        with pytest.raises(BadInput, match=r"components 2 to 3 of head 1\.2"):
            removals(atlas, {"1.2.2": 0.0, "1.2.3": 0.5})
        with pytest.raises(BadInput, match="the same scale"):
            removals(atlas, "1.2.3")
        both = removals(atlas, ["1.2.2", "1.2.3"])[0].part
        assert torch.allclose(both @ both, both, atol=1e-4) and abs(float(both.trace()) - 2) < 1e-6


def test_a_head_that_writes_nothing_has_no_components(atlas):
    with atlas.edit_weights({"W_O.1.2": torch.zeros(atlas.spec.d_head, atlas.spec.d_model)}):
        for name in ("1.2", "1.2.0"):
            with pytest.raises(BadInput, match=r"head 1\.2 is zero"):
                removals(atlas, name)
    low = torch.zeros(atlas.spec.d_head, atlas.spec.d_model)
    low[:4] = atlas.weights.W_O(1)[2][:4]
    with atlas.edit_weights({"W_O.1.2": low}):
        with pytest.raises(BadInput, match="has rank 4: components 0 to 3"):
            removals(atlas, "1.2.4")
        assert abs(float(removals(atlas, "1.2")[0].part.trace()) - 4) < 1e-6


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ("1.9.0", {}, "heads 0 to 3"),
        ("1.2.99", {}, "components 0 to 31"),
        ("1.2.0.1", {}, "does not name a component"),
        ({}, {}, "no component is named"),
        (["1.2.0", "1.2.0"], {}, "named already"),
        (["1.2", "1.2.0"], {}, "named already"),
        ({"1.2.0": float("nan")}, {}, "finite number"),
        ({"1.2.0": "0"}, {}, "finite number"),
        ({"1.2.0": 0.5}, {"keep_only": True}, "mean nothing"),
        ("1.2.0", {"which": "mlp"}, "`which` must be one of"),
        ("1.2.0", {"biases": "drop"}, "`biases` must be one of"),
        ("1.2.0", {"setting": Setting(biases=True)}, "part of the components"),
        ("1.2.0", {"offset": 1}, "same at every distance"),
        ("1.2.0", {"which": "qk", "offset": 1}, "rotary"),
        (["1.2.0", "2.2.0"], {}, r"layers \[1, 2\]"),
    ],
)
def test_what_cannot_be_meant_is_refused(atlas, names, options, message):
    with pytest.raises(BadInput, match=message):
        component_edit(atlas, names, **options)


def test_a_bias_with_nowhere_to_go_is_said(chat, atlas, monkeypatch):
    with (
        pytest.raises(BadInput, match=r"has no b_Q that could keep.*biases='edit'"),
        edit_components(chat, "1.2.0", which="qk"),
    ):
        pass
    batch = some_tokens(chat)
    edit = component_edit(chat, "1.2.0", which="qk")  # in a run it can be kept
    assert float((chat.run(batch, edits=[edit]).logits - chat.run(batch).logits).abs().max()) > 1e-4
    monkeypatch.setattr(type(atlas.weights), "b_O", lambda self, layer=None: None)
    with pytest.raises(BadInput, match="has no b_O"):
        changed_weights(atlas, removals(atlas, "1.2.0"))
