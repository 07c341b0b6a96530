"""The sweep over facts and layers: against plain forward passes, interrupted and resumed, on a real checkpoint, and what it refuses."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import interp
from interp.analyses.editing import requests_for
from interp.analyses.localization import EditSweep, sweep
from interp.core.errors import ArtifactError, BadInput
from interp.core.stats import spearman
from interp.data import Prompt
from interp.models import reference
from tests import oracle
from tests.figures.test_localization import sweep as made

OPTIONS = {
    "problems": ("error_injection",), "editors": ("FT-1", "ROME"), "layers": (0, 3), "essence": None, "trace_samples": 1,
    "text_tokens": 2000,
}  # fmt: skip


@pytest.fixture(scope="module")
def lm():
    return interp.load("atlas")


@pytest.fixture(scope="module")
def facts():
    return interp.reference.facts("atlas", 2)


@pytest.fixture(scope="module")
def found(lm, facts):
    before = lm.fingerprint()
    result = EditSweep(**OPTIONS)(lm, facts)
    assert lm.fingerprint() == before
    return result


def test_a_fact_is_edited_in_the_first_layer_and_rome_cannot_in_the_last(found):
    rewrite = found.data["scores"].sel(score="rewrite", problem="error_injection")
    assert (rewrite.sel(layer=0) > 0.8).all() and (rewrite.sel(layer=3, editor="ROME") < 1e-6).all()
    assert (rewrite.sel(layer=3, editor="FT-1") > 0.1).all()  # it may change what every token gets
    assert np.allclose(
        found.data["scores"].sel(score="neighbourhood", editor="ROME", layer=3), 1
    )  # where nothing is written
    table = found.by_layer("rewrite").sel(problem="error_injection", editor="ROME")
    assert np.allclose(table["mean"], rewrite.sel(editor="ROME").mean("fact"))


def test_probabilities_before_are_those_of_a_plain_model(lm, facts, found):
    plain = AutoModelForCausalLM.from_pretrained(reference.path("atlas")).eval()
    for number, request in enumerate(requests_for(lm, facts, "error_injection")):
        p = oracle.logits(plain, torch.tensor([request.tokens(lm).ids]))[0, -1].softmax(-1)
        here = found.data.sel(fact=request.id)
        assert np.allclose(here["before"].values, float(p[request.ids[0]]), atol=1e-5)
        answer = lm.tokenizer.encode(facts[number].text + facts[number].answer).ids[-1]
        assert float(here["clean"]) == pytest.approx(float(p[answer]), abs=1e-5)
        gained = (here["after"] - here["before"]) / (1 - here["before"])
        assert np.allclose(here["scores"].sel(score="rewrite"), np.maximum(2e-8, gained), atol=1e-6)
    effect, total = found.data["effect"].sel(how="max"), found.data["total"]
    assert np.allclose(effect.sel(measure="effect") / total, effect.sel(measure="fraction"), atol=1e-5)


def test_an_interrupted_sweep_goes_on_and_ends_the_same(lm, facts, tmp_path, monkeypatch):
    cheap = OPTIONS | {"editors": ("FT-1",), "layers": (0,)}
    real, calls, found = EditSweep._edit, [], EditSweep(**cheap)(lm, facts)

    def failing(self, *args):
        calls.append(args[1].id)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, *args)

    kept = EditSweep(**cheap, resume_from=str(tmp_path / "parts"))
    before = lm.fingerprint()
    with monkeypatch.context() as patch:
        patch.setattr(EditSweep, "_edit", failing)
        with pytest.raises(KeyboardInterrupt):
            kept(lm, facts)
        assert len(list((tmp_path / "parts").iterdir())) == 1 and lm.fingerprint() == before
        resumed = kept(lm, facts)
    assert calls == [facts[0].id, facts[1].id, facts[1].id]  # the first fact was not edited again
    assert resumed.data.identical(found.data)
    with pytest.raises(ArtifactError, match="another sweep"):
        EditSweep(**cheap | {"layers": (1,)}, resume_from=str(tmp_path / "parts"))(lm, facts)


def test_it_survives_saving(found, tmp_path):
    found.save(tmp_path / "run")
    again = interp.open(tmp_path / "run")
    assert again.data.identical(found.data) and again.headline() == found.headline()
    said = "\n".join(again.report_lines())
    assert (
        "at least 4 facts" in said and found.headline()["facts"] == 2
    )  # two facts cannot be regressed, and it says so


def test_facts_without_a_request_are_said_and_stay_empty(lm, facts, monkeypatch):
    def few(*args, **options):
        made = requests_for(*args, **options)
        made.skipped = (f"{made.pop().id}: no target",)
        return made

    monkeypatch.setattr(sweep, "requests_for", few)
    one = EditSweep(**OPTIONS | {"editors": ("FT-1",), "layers": (0,)})(lm, facts)
    assert one.data.attrs["skipped"] == [f"error_injection: {facts[1].id}: no target"]
    assert one.data["scores"].sel(fact=facts[1].id).isnull().all() and one.data["effect"].notnull().all()
    assert any("no target" in line for line in one.report_lines())


def test_a_real_checkpoint(real_models):
    lm = interp.load(str(real_models / "tinytalk-chat"))
    before = lm.fingerprint()
    fact = Prompt.of(
        "Once upon a time, there was a little girl named Lily. She liked to play in the", answer=" park", foil=" snow", subject="Lily",
        id="lily", meta={"neighbours": ["There was a boy named Tim. He liked to play in the"], "paraphrases": ["Lily ran to the"]},
    )  # fmt: skip
    analysis = EditSweep(problems="error_injection", editors="FT-1", layers=1, essence=None, trace_samples=1)
    found = analysis(lm, [fact])
    assert lm.fingerprint() == before
    at = found.data.isel(editor=0, fact=0, layer=0)
    assert float(at["after"][0]) > 0.5 > 10 * float(at["before"][0])
    assert found.data["scores"].sel(score=["rewrite", "paraphrase", "neighbourhood"]).notnull().all()


# -- the result --------------------------------------------------------------------------------------------------------


def test_the_table_has_the_null_gain_first():
    result = made(problems=("error_injection",))
    table = result.table(permutations=20, resamples=20)
    assert list(table.columns)[:8] == [
        "problem",
        "editor",
        "last layer",
        "null",
        "null ratio",
        "layer",
        "tracing",
        "both",
    ]
    assert len(table) == 4 and (table["facts"] == 20).all()
    last, inner = table.iloc[0], table.iloc[1]
    assert last["layer"] > 0.9 > inner["layer"]  # the last layer, in which nothing works, is most of it
    cell = result.regression("error_injection", "FT-1", last_layer=False, permutations=20, resamples=20)
    assert cell.layer == inner["layer"] and cell.n_rows == 20 * 5 and cell.diff == pytest.approx(inner["diff"])
    lines = result.report_lines()
    assert len(lines) == 5 and lines[0].split()[:4] == ["problem", "editor", "last", "layer"] and "null" in lines[0]


def test_facts_hardly_known_are_left_out_of_regressions_at_any_threshold():
    result = made(problems=("error_injection",))
    result.data["clean"][:4] = 0.3
    result.data["clean"][4] = 0.001
    count = [
        result.regression("error_injection", "ROME", min_prob=p, permutations=1, resamples=1).n_facts
        for p in (0.0, None, 0.5)
    ]
    assert count == [20, 19, 15]
    with pytest.raises(BadInput, match="there are 0 facts"):
        result.regression("error_injection", "ROME", min_prob=1.0)
    row = result.table(min_prob=1.0, permutations=1, resamples=1).iloc[0]
    assert "there are 0 facts" in row["note"]


def test_ranks_within_facts_and_across_them():
    result = made(facts=8, problems=("error_injection",), editors=("ROME",), layers=5)
    effect = result.data["effect"].sel(measure="fraction", how="max").values
    best = effect.argmax(axis=1)
    score = np.eye(5)[best] + 0.01 * np.arange(5)
    result.data["scores"][0, 0, :, :, 0] = score
    found = result.best_layer()
    assert float(found["share"][0, 0]) == 1 and int(found["facts"][0, 0]) == 8 and found.attrs["chance"] == 0.2
    result.data["scores"][0, 0, 0, :, 0] = 0.5  # every layer is the best one
    result.data["scores"][0, 0, 1, :, 0] = -effect[1]
    found = result.best_layer(top=1)
    assert int(found["facts"][0, 0]) == 7 and float(found["share"][0, 0]) == pytest.approx(6 / 7)
    assert float(result.best_layer(top=5)["share"][0, 0]) == 1
    rho = result.correlations()
    wanted = spearman(effect[:, 2], result.data["scores"].values[0, 0, :, 2, 0]).rho
    assert float(rho[0, 0, 2]) == pytest.approx(wanted)
    with pytest.raises(BadInput, match="between 1 and the 5 layers"):
        result.best_layer(top=6)


@pytest.mark.parametrize("name", ["problem", "editor", "score", "effect", "how"])
def test_unknown_cells_are_refused(name):
    given = {"problem": "error_injection", "editor": "ROME"} | {name: "nothing"}
    with pytest.raises(BadInput, match=name):
        made().regression(**given)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"problems": ("error",)}, "error_injection"), ({"problems": ()}, "each problem once"), ({"settings": "tiny"}, "settings"),
        ({"problems": ("fact_erasure",) * 2}, "each problem once"), ({"trace_samples": 0}, "trace_samples"), ({"window": 0}, "window"),
        ({"text_tokens": 0}, "text_tokens"),
    ],
)  # fmt: skip
def test_options_are_checked(options, said):
    with pytest.raises(BadInput, match=said):
        EditSweep(**options)


def test_data_are_checked(lm, facts):
    for given, said in (
        ([], "no facts"), ([facts[0], facts[0]], "called"), ([Prompt.of("A cat")], "subject and an answer"),
        (["a text"], "subject and an answer"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=said):
            EditSweep(**OPTIONS)(lm, given)
    for options, said in (
        ({"layers": (0, 7)}, r"layers \[7\] are not in atlas"), ({"editors": ("FT-5",)}, "FT-3"), ({"text": "nowhere.txt"}, "nowhere.txt"),
        ({"settings": "paper", "editors": ("FT-3",)}, "FT-5"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=said):
            EditSweep(**OPTIONS | options)(lm, facts)
    assert EditSweep(**OPTIONS).cost(lm, facts).forwards > 100
