"""Sequential edits: the closed form's trade-off, plain hooks on hand-edited weights, nothing where nothing is read, and refusals."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import interp
from interp.analyses.editing import WeightChange, requests_for, second_moments
from interp.analyses.editing.algebra import spread
from interp.analyses.localization import EditSequence
from interp.analyses.localization.material import running_text
from interp.core.errors import BadInput
from interp.data import Prompt
from interp.models import reference
from tests import oracle
from tests.figures.test_sequence import sequence

SMALL = {"essence": None, "text_tokens": 2000, "probe_tokens": 200}


@pytest.fixture(scope="module")
def lm():
    return interp.load("atlas")


@pytest.fixture(scope="module")
def facts():
    return interp.reference.facts("atlas", 2)


@pytest.fixture(scope="module")
def found(lm, facts):
    before = lm.fingerprint()
    result = EditSequence(editors=("MEMIT", "Ridge"), **SMALL)(lm, facts)
    assert lm.fingerprint() == before
    return result


# -- the closed form ---------------------------------------------------------------------------------------------------


def memory(held, small, *, edits=200, wide=96, out=48):
    """Growth of the norm of an associative memory after random edits, and how far the last one is from its value."""
    rng = np.random.default_rng(0)
    first = rng.normal(size=(wide, out)) / wide**0.5
    weights = torch.tensor(first)
    moment = torch.eye(wide, dtype=torch.float64)
    for number in range(edits):
        key, value = torch.tensor(rng.normal(size=(1, wide))), torch.tensor(5 * rng.normal(size=(1, out)))
        change = spread(key, value - key @ weights, moment, mom2_weight=held, norm_weight=small)
        if number in (0, edits - 1):  # the same as least squares with the penalties as further rows
            rows = np.vstack([key.numpy(), (held + small) ** 0.5 * np.eye(wide)])
            wanted = np.vstack([(value - key @ weights).numpy(), np.zeros((wide, out))])
            assert np.allclose(change.numpy(), np.linalg.lstsq(rows, wanted, rcond=None)[0], atol=1e-10)
        weights = weights + change
    error = float((key @ weights - value).norm() / value.norm())
    return float(weights.norm()) / np.linalg.norm(first), error


def test_a_norm_term_trades_growth_for_the_success_of_the_last_edit():
    """200 random edits of an associative memory (checkpoint probes, 2.16)."""
    growth, error = np.array([memory(*weights) for weights in ((0.1, 0), (10, 0), (10, 50), (10, 500))]).T
    assert (np.diff(growth) < 0).all() and (np.diff(error) > 0).all()
    assert growth[0] > 3 and growth[-1] < growth[0] / 2 and error[0] < 0.01 and error[-1] > 0.7


# -- one run, against hand-made edits and plain hooks ------------------------------------------------------------------


def test_every_number_is_what_hand_made_edits_and_plain_hooks_give(lm, facts, found):
    analysis = EditSequence(editors=("MEMIT", "Ridge"), **SMALL)
    text = running_text(lm, facts, None, tokens=200, name="sequence probe")
    moments = second_moments(lm, running_text(lm, facts, None, tokens=2000, name="editing moments"), [0])
    requests = requests_for(lm, facts, "error_injection")
    editor = analysis.editors_for(lm, "In {},")["MEMIT"]
    total, sizes, last = WeightChange.none(), [], None
    for request in requests:
        with total.apply(lm):
            change = editor.edit(lm, [request], layers=0, moments=moments)
        delta = change.deltas["W_out.0"]
        sizes.append(float(delta.norm()))
        cosine = float("nan") if last is None else float((last * delta).sum() / last.norm() / delta.norm())
        total, last = total + change, delta
    at = found.data.sel(editor="MEMIT")
    assert np.allclose(at["update"].values[:, 0], sizes, rtol=1e-5)
    assert np.isnan(at["update_cosine"].values[0, 0]) and float(at["update_cosine"][1, 0]) == pytest.approx(
        cosine, abs=1e-5
    )

    plain = AutoModelForCausalLM.from_pretrained(reference.path("atlas")).eval()
    weight = plain.transformer.h[0].mlp.c_proj.weight
    w0 = weight.detach().double().clone()
    clean = [[oracle.capture(plain, "resid_post", layer, doc[None])[0] for layer in range(4)] for doc in text.documents]
    with torch.no_grad():
        weight.copy_((w0 + total.deltas["W_out.0"]).to(weight.dtype))
    end = at.isel(edits=-1)
    assert float(end["norm"][0]) == pytest.approx(float(weight.detach().double().norm()), rel=1e-6)
    assert float(end["change"][0]) == pytest.approx(float(total.deltas["W_out.0"].norm()), rel=1e-6)
    for place, doc in enumerate(text.documents):
        logp = oracle.logits(plain, doc[None])[0].log_softmax(-1)
        nll = float(-logp[torch.arange(len(doc) - 1), doc[1:]].mean())
        assert float(end["nll"][place]) == pytest.approx(nll, abs=1e-4)
        for layer in (0, 3):
            now, was = oracle.capture(plain, "resid_post", layer, doc[None])[0], clean[place][layer]
            written = oracle.capture(plain, "mlp_out", layer, doc[None])[0]
            moved = end.isel(document=place, layer=layer)
            assert float(moved["drift"]) == pytest.approx(
                float(((now - was).norm(dim=1) / was.norm(dim=1)).mean()), abs=1e-4
            )
            assert float(moved["cosine"]) == pytest.approx(float(torch.cosine_similarity(now, was).mean()), abs=1e-4)
            assert float(moved["share"]) == pytest.approx(
                float((written.norm(dim=1) / now.norm(dim=1)).mean()), abs=1e-4
            )
    for number, request in enumerate(requests):
        ids = torch.tensor([request.tokens(lm).ids])
        p = float(oracle.logits(plain, ids)[0, -1].softmax(-1)[request.ids[0]])
        assert len(request.ids) == 1 and float(end["target"][number]) == pytest.approx(p, abs=1e-4)


def test_nothing_has_happened_before_the_first_edit(found):
    first = found.data.isel(edits=0)
    assert (first["drift"] == 0).all() and (first["change"] == 0).all() and np.allclose(first["cosine"], 1)
    assert (found.curve("growth")["mean"].isel(edits=0) == 1).all() and found.curve("retention")["mean"].isel(
        edits=0
    ).isnull().all()
    assert found.data["edits"].values.tolist() == [0, 1, 2] and not found.data.attrs["skipped"]
    assert (first["target"] < 0.2).all() and (first["kept"] > 0.5).all()


def test_a_norm_penalty_keeps_the_weights_smaller_and_edits_less(found):
    growth = found.curve("growth")["mean"].isel(edits=-1)
    change = found.curve("change")["mean"].isel(edits=-1)
    assert growth.sel(editor="Ridge") < growth.sel(editor="MEMIT") and change.sel(editor="Ridge") < change.sel(
        editor="MEMIT"
    )
    assert found.curve("retention")["mean"].sel(editor="MEMIT").values[-1] == 1
    p = found.curve("probability")["mean"].isel(edits=-1)
    assert p.sel(editor="Ridge") < p.sel(editor="MEMIT")


def test_neighbours_are_about_nobody_who_is_edited(lm, facts):
    near = [one for one in facts if one.meta["relation"] == "harvest"] or list(facts)
    given = Prompt.of(
        near[0].text, answer=near[0].answer, foil=" rye", id="a", subject=near[0].span("subject"),
        meta={"neighbours": [near[-1].text.replace(near[-1].span("subject"), facts[1].span("subject")), "The main crop of Zozdashud is"]},
    )  # fmt: skip
    from interp.analyses.editing import Request
    from interp.analyses.localization.sequence import _untouched

    request = Request.of(lm, given, " rye", neighbours=tuple(Prompt.of(text) for text in given.meta["neighbours"]))
    (kept,) = _untouched(request, {facts[0].span("subject"), facts[1].span("subject")})
    assert "Zozdashud" in kept.text


def test_it_survives_saving(found, tmp_path):
    found.save(tmp_path / "run")
    again = interp.open(tmp_path / "run")
    assert again.data.identical(found.data) and again.headline() == found.headline()
    assert again.report_lines() == found.report_lines() and "MEMIT" in "\n".join(again.report_lines())
    assert len(found.headline()) == 3 and all(np.isfinite(value) for value in found.headline().values())


def test_where_nothing_reads_the_value_a_sequence_changes_nothing(lm, facts):
    """ROME in the last layer, at a subject that does not end its prompt."""
    sequence = EditSequence(editors=("ROME",), layer=3, checkpoints=(1,), **SMALL)
    found = sequence(lm, [fact for fact in facts if not fact.text.endswith(fact.span("subject"))][:1])
    assert (found.curve("growth")["mean"] == 1).all() and (found.data["drift"] == 0).all()
    assert (found.data["target"].isel(edits=0) == found.data["target"].isel(edits=1)).all()
    assert (found.curve("locality")["mean"] == 1).all() and (found.curve("retention")["mean"].isel(edits=-1) == 0).all()
    assert found.data.sizes["edits"] == 2


# -- the result --------------------------------------------------------------------------------------------------------


def test_curves_count_the_facts_that_they_say():
    result = sequence(edits=(0, 1, 3), editors=("ROME",))
    top = np.array([[0, 0, 0], [1, 0, 1], [1, 1, 0]], dtype=float)[None]
    result.data["top"][:] = top
    result.data["latest_top"][:] = np.array([[1, 1, 0]])
    assert np.allclose(result.curve("retention")["mean"][0, 1:], [1, 2 / 3])  # a fact not edited yet does not count
    assert np.allclose(result.curve("success")["mean"][0, 1:], [1, 1 / 2])  # the first; the second and third
    result.data.attrs["objective"] = "lower"
    assert np.allclose(result.curve("retention")["mean"][0, 1:], [0, 1 / 3])
    result.data["kept"][:] = np.array([[0.5, 0.5, 0.8], [0.25, 1.0, 0.8], [0.5, 0.5, 0.4]])[None]
    assert np.allclose(result.curve("locality")["mean"][0], [1, (0.5 + 1 + 1) / 3, (1 + 1 + 0.5) / 3])


def test_text_is_weighed_by_its_tokens_and_its_interval_holds_the_mean():
    result = sequence()
    result.data = result.data.assign_coords(tokens=("document", [10, 20, 30, 40, 50, 0]))
    result.data["nll"][:, :, 5] = np.nan  # one token: nothing to predict
    nll = (result.data["nll"].isel(edits=-1) - result.data["nll"].isel(edits=0)).sel(editor="ROME").values[:5]
    found = result.curve("perplexity").sel(editor="ROME").isel(edits=-1)
    assert float(found["mean"]) == pytest.approx(np.exp(np.average(nll, weights=[10, 20, 30, 40, 50])))
    assert (result.curve("perplexity").isel(edits=0) == 1).to_array().all()  # over what it was
    assert float(found["ci_lo"]) < float(found["mean"]) < float(found["ci_hi"])
    drift = result.curve("drift", layer=2).sel(editor="ROME").isel(edits=-1)
    each = result.data["drift"].sel(editor="ROME", layer=2).isel(edits=-1).values
    assert float(drift["mean"]) == pytest.approx(np.average(each, weights=[11, 21, 31, 41, 51, 1]))
    with pytest.raises(BadInput, match="layer 9"):
        result.curve("drift", layer=9)
    with pytest.raises(BadInput, match="grow"):
        result.curve("grow")


def test_checkpoints_are_sparse():
    assert EditSequence()._steps(20) == [0, 1, 2, 5, 10, 20] and EditSequence()._steps(7) == [0, 1, 2, 5, 7]
    assert EditSequence(checkpoints=(4, 2))._steps(9) == [0, 2, 4]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"editors": ("ROM",)}, "ROM"), ({"editors": ()}, "at least one"), ({"editors": ("ROME", "ROME")}, "each editor once"),
        ({"problem": "error"}, "error_injection"), ({"window": 0}, "window"), ({"probe_tokens": 0}, "probe_tokens"),
        ({"norm_weight": -1.0}, "norm_weight"), ({"norm_weight": float("nan")}, "norm_weight"), ({"checkpoints": (0, 1)}, "1 or more"),
        ({"settings": "large"}, "settings"),
    ],
)  # fmt: skip
def test_options_are_checked(options, said):
    with pytest.raises(BadInput, match=said):
        EditSequence(**options)


def test_data_are_checked(lm, facts):
    with pytest.raises(BadInput, match=r"layer 4 is not in atlas.*0 to 3"):
        EditSequence(layer=4)(lm, facts)
    with pytest.raises(BadInput, match=r"checkpoints \[5\] lie beyond the 2 facts"):
        EditSequence(checkpoints=(1, 5))(lm, facts)
    with pytest.raises(BadInput, match="no facts"):
        EditSequence()(lm, [])
    with pytest.raises(BadInput, match="called"):
        EditSequence()(lm, [facts[0], facts[0]])
    twin = Prompt.of(facts[0].text, answer=facts[0].answer, subject=facts[0].span("subject"), id="twin")
    with pytest.raises(BadInput, match="the later edit would undo"):
        EditSequence()(lm, [facts[0], twin])
    with pytest.raises(BadInput, match=r"nowhere\.txt"):
        EditSequence(text="nowhere.txt")(lm, facts)
    assert EditSequence().cost(lm, facts).tokens > 0
