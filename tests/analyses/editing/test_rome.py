"""Rank-one and ridge edits: exact algebra, an associative memory, facts of `atlas`, where nothing can be edited."""

import dataclasses

import numpy as np
import pytest
import torch

import interp
import tests.oracle as oracle
from interp.analyses.editing import (
    MEMIT,
    PROBLEMS,
    ROME,
    Ridge,
    SecondMoments,
    edit_scores,
    measure,
    presets,
    probe,
    requests_for,
    second_moments,
)
from interp.analyses.editing.algebra import gradient, rank_one, spread
from interp.analyses.editing.contexts import after, rows_of, sample_prefixes
from interp.cache import Store
from interp.core.errors import BadInput
from interp.core.seed import generator
from interp.data import Prompt, tokenize

RNG = "editing tests"


def normal(*shape, name=""):
    return torch.randn(*shape, generator=generator(0, RNG, name, shape), dtype=torch.float64)


def some_moment(size=12):
    root = normal(40, size, name="moment") * torch.linspace(0.2, 3, size, dtype=torch.float64)
    return root.T @ root / 40


@pytest.fixture(scope="module")
def lm():
    return interp.load("atlas")


@pytest.fixture(scope="module")
def moments(lm):
    return second_moments(lm, interp.reference.text("atlas", 40), range(4))


@pytest.fixture(scope="module")
def facts():
    return interp.reference.facts("atlas", 30)


@pytest.fixture(scope="module")
def prefixes(lm):
    return sample_prefixes(lm)


# -- algebra (K14) -----------------------------------------------------------------------------------------------------


def test_the_key_gets_its_value():  # K14a
    matrix, key, value = normal(12, 7), normal(12, name="key"), normal(7, name="value")
    change = rank_one(key, value - key @ matrix, torch.linalg.solve(some_moment(), key))
    assert float((key @ (matrix + change) - value).abs().max()) < 1e-10
    assert int(torch.linalg.matrix_rank(change)) == 1


def test_no_other_change_that_gives_it_disturbs_ordinary_keys_less():  # K14b
    moment, key, missing = some_moment(), normal(12, name="key"), normal(7, name="value")
    change = rank_one(key, missing, torch.linalg.solve(moment, key))
    root = torch.linalg.cholesky(moment)
    least = float((root.T @ change).norm())
    for trial in range(20):
        away = normal(12, 7, name=f"away {trial}")
        away = away - torch.outer(key, key @ away) / (key @ key)  # leaves the key's value alone
        other = change + 0.1 * away
        assert float((key @ other - missing).abs().max()) < 1e-10
        assert float((root.T @ other).norm()) > least
    plain = rank_one(key, missing, key)  # C = 1 disturbs them more
    assert float((root.T @ plain).norm()) > least


def test_one_key_throughout_is_what_makes_it_hold():  # K14c
    matrix, bare, value, moment = normal(12, 7), normal(12, name="key"), normal(7, name="value"), some_moment()
    mean = bare + 0.5 * normal(12, name="other")
    solved = torch.linalg.solve(moment, mean)
    mixed = torch.outer(
        solved, (value - bare @ matrix) / (bare @ solved)
    )  # u of the mean key, the rest of the bare one
    assert float((bare @ (matrix + mixed) - value).abs().max()) < 1e-10
    assert float((mean @ (matrix + mixed) - value).norm()) > 0.1
    same = rank_one(mean, value - mean @ matrix, solved)
    assert float((mean @ (matrix + same) - value).abs().max()) < 1e-10


def test_the_ridge_solution_has_no_gradient():
    keys, missing, moment = normal(5, 12, name="keys"), normal(5, 7, name="missing"), some_moment()
    for weights in (
        {"mom2_weight": 3.0},
        {"mom2_weight": 0.5, "norm_weight": 2.0},
        {"mom2_weight": 0, "norm_weight": 1},
    ):
        change = spread(keys, missing, moment, **weights)
        assert float(gradient(change, keys, missing, moment, **weights).abs().max()) < 1e-10
        assert float(gradient(1.01 * change, keys, missing, moment, **weights).abs().max()) > 1e-3
    firm, loose = (spread(keys, missing, moment, mom2_weight=1e-9, norm_weight=w) for w in (1e3, 1e-9))
    assert float((keys @ loose - missing).abs().max()) < 1e-6 and firm.norm() < 0.1 * loose.norm()
    one = spread(keys[:1], missing[:1], moment, mom2_weight=1e-5)  # one request, hardly a ridge: the rank-one edit
    wanted = rank_one(keys[0], missing[0], torch.linalg.solve(moment, keys[0]))
    assert torch.allclose(one, wanted, rtol=1e-4, atol=1e-6)
    with pytest.raises(BadInput, match="norm_weight"):
        spread(keys, missing, moment, mom2_weight=0)


def test_the_norm_penalty_trades_the_last_edit_against_growth():
    norms, errors = [], []
    for weight in (0.1, 50.0, 500.0):
        matrix = 0.1 * normal(16, 8, name="start")
        first = float(matrix.norm())
        for number in range(100):
            key, value = normal(1, 16, name=f"k{number}"), normal(1, 8, name=f"v{number}")
            matrix = matrix + spread(
                key, 3 * value - key @ matrix, torch.eye(16, dtype=torch.float64), mom2_weight=0.1, norm_weight=weight
            )
        norms.append(float(matrix.norm()) / first)
        errors.append(float((3 * value - key @ matrix).norm() / (3 * value).norm()))
    assert norms[0] > norms[1] > norms[2] and errors[0] < 0.05 < errors[1] < errors[2]


def test_an_associative_memory_is_edited_exactly():
    keys = torch.linalg.qr(normal(20, 20))[0][:15]  # orthonormal keys: the memory holds all values exactly
    values = normal(15, 6, name="values")
    memory = keys.T @ values
    wanted = normal(6, name="wanted")
    change = rank_one(keys[3], wanted - keys[3] @ memory, keys[3])
    after_edit = keys @ (memory + change)
    assert float((after_edit[3] - wanted).abs().max()) < 1e-12
    others = [place for place in range(15) if place != 3]
    assert float((after_edit[others] - values[others]).abs().max()) < 1e-12


# -- second moments ----------------------------------------------------------------------------------------------------


def test_moments_are_those_of_the_oracle_and_the_same_through_the_store(lm, tmp_path):
    corpus = interp.data.corpus(interp.reference.text("atlas", 6), lm.tokenizer, n_ctx=lm.spec.n_ctx)
    direct, stored = (second_moments(lm, corpus, [1], store=store) for store in (None, Store(tmp_path)))
    rows = []
    projection = oracle.body(lm.module)[1][1].mlp.c_proj
    handle = projection.register_forward_pre_hook(lambda module, args: rows.append(args[0][0].detach().double()))
    with torch.no_grad():
        for document in corpus.documents:
            lm.module(document[None])
    handle.remove()
    keys = torch.cat(rows)
    wanted = keys.T @ keys / len(keys)
    assert direct.tokens == stored.tokens == len(keys)
    for found in (direct, stored):
        assert torch.allclose(found.matrices[1], wanted, rtol=1e-4, atol=1e-5)
    key = normal(lm.spec.d_mlp)
    assert torch.allclose(direct.damped(1) @ direct.solve(1, key), key, atol=1e-6)
    assert direct.scale(1) == pytest.approx(float((keys**2).sum(1).mean()), rel=1e-5)


def test_moments_without_an_inverse_are_refused(lm, moments):
    few = second_moments(lm, interp.reference.text("atlas", 1), [0], damping=0.0)
    assert few.tokens < lm.spec.d_mlp
    with pytest.raises(BadInput, match=r"no inverse.*damping"):
        few.solve(0, torch.ones(lm.spec.d_mlp))
    with pytest.raises(BadInput, match="none of"):
        few.check(lm, [2])
    with pytest.raises(BadInput, match="another model"):
        SecondMoments({0: torch.eye(3)}, 1, "x").check(lm, [0])
    with pytest.raises(BadInput, match="layers of atlas"):
        second_moments(lm, ["The king."], [7])


# -- contexts ----------------------------------------------------------------------------------------------------------


def test_prefixes_are_seeded_and_the_subject_is_found_behind_them(lm, facts):
    one, again, other = (sample_prefixes(lm, seed=seed) for seed in (0, 0, 1))
    assert one == again != other and len(one) == 10 and all(text.strip() for text in one)
    for fact in facts[:5]:
        moved = after(one[0], fact)
        assert moved.span("subject") == fact.span("subject") and moved.text.endswith(fact.text)
    request = requests_for(lm, facts[:2], "fact_forcing", draws=3)[1]
    rows = rows_of(lm, [request], one[:4])
    assert len(rows) == 7 and rows.bare.tolist() == [True] * 3 + [False] * 4
    for row, batch_row in enumerate(rows.batch.tokens.tolist()):
        last = int(rows.last_subject[row])
        own = tokenize(Prompt.of(f"a {request.subject}"), lm.tokenizer).ids[-1]
        assert batch_row[last] == own  # the subject's last piece
        noised = (rows.noise[row] != 0).any(-1).nonzero().flatten().tolist()
        start, end = rows.batch.spans["subject"][row].tolist()
        assert noised == list(range(start, end))


# -- facts of atlas ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["bare", "mean"])
def test_rome_edits_facts_of_atlas(lm, moments, facts, prefixes, key):
    editor = ROME(essence="In {},", prefixes=prefixes[:2], key=key)
    requests = requests_for(lm, facts[: 4 if key == "mean" else 2], "error_injection")
    others = lm.encode([fact.text for fact in facts[10:]])
    usual = lm.run(others).last_logits.argmax(-1)
    before = lm.fingerprint()
    done, kept = [], []
    for request in requests:
        change = editor.edit(lm, [request], layers=0, moments=moments)
        assert change.log["residual"] < 1e-5  # the edited model puts out v* for the key
        assert list(change.deltas) == ["W_out.0"] and int(torch.linalg.matrix_rank(change.deltas["W_out.0"])) == 1
        with change.apply(lm):
            done.append(int(lm.run(lm.encode(request.prompt.text)).last_logits[0].argmax()) == request.ids[0])
            kept.append(float((lm.run(others).last_logits.argmax(-1) == usual).float().mean()))
    assert np.mean(done) > 0.8 and np.mean(kept) > 0.95
    assert lm.fingerprint() == before


def test_the_written_value_is_there_by_the_oracle(lm, moments, facts):
    request = requests_for(lm, facts[:1], "error_injection")[0]
    change = ROME(key="bare", prefixes=()).edit(lm, [request], layers=1, moments=moments)
    tokens = request.tokens(lm)
    last = tokens.spans["subject"][1] - 1
    block = oracle.body(lm.module)[1][1].mlp
    seen = []
    handle = block.register_forward_hook(lambda module, args, out: seen.append(out[0, last].detach().double()))
    with torch.no_grad():
        lm.module(torch.tensor([tokens.ids]))
        with change.apply(lm):
            lm.module(torch.tensor([tokens.ids]))
    handle.remove()
    assert float((seen[1] - seen[0]).norm()) == pytest.approx(change.log["change_norm"], rel=1e-4)
    assert change.log["change_norm"] <= 4 * change.log["value_norm"] * 1.0001


def test_where_nobody_reads_the_value_nothing_is_edited(lm, moments, facts, prefixes):
    """The null: in the last layer the subject's token is read by no later one, so there is nothing to optimise."""
    request = requests_for(lm, facts[:1], "error_injection")[0]
    change = ROME(prefixes=prefixes).edit(lm, [request], layers=3, moments=moments)
    assert change.norms == {"W_out.3": 0.0} and change.log["updates"] == 0
    judge = probe(lm, request, essence=None)
    before = measure(lm, judge)
    with change.apply(lm):
        assert edit_scores(before, measure(lm, judge)).rewrite == 2e-8


def test_atlas_is_edited_early_as_its_facts_lie_early(lm, moments, facts, prefixes):
    editor = ROME(essence="In {},", prefixes=prefixes[:1], steps=10)
    requests = requests_for(lm, facts[:2], "error_injection")
    score = {}
    for layer in (0, 2):
        found = []
        for request in requests:
            judge = probe(lm, request, essence=None)
            before = measure(lm, judge)
            with editor.edit(lm, [request], layers=layer, moments=moments).apply(lm):
                found.append(edit_scores(before, measure(lm, judge)).rewrite)
        score[layer] = np.mean(found)
    assert score[0] > 0.8 > 0.5 > score[2]


@pytest.mark.parametrize("problem", [name for name in PROBLEMS if name != "error_injection"])
def test_every_problem_can_be_solved(lm, moments, facts, prefixes, problem):
    editor = dataclasses.replace(presets(problem, "paper")["ROME"], prefixes=prefixes[:4], essence="In {},")
    if problem == "fact_forcing":  # ROME's one key stands for no noised subject in particular
        editor = presets(problem, "small")["FT-1"]
    request = requests_for(lm, facts[:3], problem, draws=3)[0]
    judge = probe(lm, request, essence=None)
    before = measure(lm, judge)
    with editor.edit(lm, [request], layers=0, moments=moments).apply(lm):
        scores = edit_scores(before, measure(lm, judge), request.objective)
    moved = scores.after.rewrite - scores.before.rewrite
    if problem == "fact_erasure":
        assert moved < -0.5
    elif problem == "fact_amplification":  # hardly anything is left to gain
        assert scores.before.rewrite > 0.97 and scores.after.rewrite > 0.97
    else:
        assert scores.after.rewrite > 0.5 and moved > 0.3


def test_memit_grants_several_requests_at_once(lm, moments, facts, prefixes):
    requests = requests_for(lm, facts[:3], "error_injection")
    editor = MEMIT(
        window=2, steps=14, lr=0.2, clamp_factor=2.0, mom2_weight=20.0, essence="In {},", prefixes=prefixes[:1]
    )
    change = editor.edit(lm, requests, layers=[0, 1], moments=moments)
    assert list(change.deltas) == ["W_out.0", "W_out.1"]
    done = []
    with change.apply(lm):
        for request in requests:
            done.append(int(lm.run(lm.encode(request.prompt.text)).last_logits[0].argmax()) == request.ids[0])
    assert all(done) and max(change.log["missing"]) < 0.4
    alone = editor.edit(lm, requests[1:2], layers=[0, 1], moments=moments).log["change_norm"][0]
    assert change.log["change_norm"][1] == pytest.approx(alone, rel=0.02)  # side by side, unseen by each other


def test_ridge_edits_less_and_stops_early(lm, moments, facts, prefixes):
    requests = requests_for(lm, facts[:2], "error_injection")
    how = {"lr": 0.2, "prefixes": prefixes[:2], "essence": "In {},", "mom2_weight": 10.0, "clamp_factor": 4.0}
    plain = MEMIT(window=1, **how).edit(lm, requests, layers=0, moments=moments)
    small = Ridge(norm_weight=0.5, **how).edit(lm, requests, layers=0, moments=moments)
    assert small.norms["W_out.0"] < plain.norms["W_out.0"]
    assert all(a <= b for a, b in zip(small.log["updates"], plain.log["updates"], strict=True))
    assert small.log["weights"] == [[10.0, 0.5 * moments.scale(0)]]
    with pytest.raises(BadInput, match="norm_weight"):
        Ridge(norm_weight=-1)


def test_bad_input(lm, moments, facts):
    request = requests_for(lm, facts[:1], "error_injection")[0]
    with pytest.raises(BadInput, match="second_moments"):
        ROME().edit(lm, [request], layers=0)
    with pytest.raises(BadInput, match=r"one layer.*MEMIT"):
        ROME().edit(lm, [request], layers=[0, 1], moments=moments)
    with pytest.raises(BadInput, match="layers 0 to 3"):
        ROME().edit(lm, [request], layers=4, moments=moments)
    with pytest.raises(BadInput, match="no requests"):
        ROME().edit(lm, [], layers=0, moments=moments)
    for bad in ({"key": "both"}, {"steps": 0}, {"lr": 0}, {"kl_factor": -1}, {"essence": "it is a"}):
        with pytest.raises(BadInput, match=next(iter(bad)) if "essence" not in bad else "template"):
            ROME(**bad)
