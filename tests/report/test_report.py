"""The report card: everything it promises is there, it stands alone, says what is missing and why, and is whole or not at all."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

import interp
from interp.core.errors import ArtifactError, BadInput
from interp.figures import export
from interp.report import Report, card, report
from interp.report.gauges import gauges
from interp.report.rows import Row
from interp.report.sections import Section

KEYS = ("weights", "loss", "lens", "shares", "heads", "channels", "concepts", "tracing")
COLUMNS = {  # of a number of the card
    "metric", "value", "unit", "site", "layer", "head", "ci_lo", "ci_hi", "n", "chance", "tier", "analysis", "result", "probe", "seconds",
    "model", "revision", "weights", "dtype", "seed", "code",
}  # fmt: skip


def rows(folder: Path) -> pd.DataFrame:
    return pd.read_json(folder / "card.jsonl", lines=True)


def manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


def test_the_folder_holds_what_it_promises(written):
    assert {path.name for path in written.iterdir()} == {
        "index.html",
        "card.jsonl",
        "manifest.json",
        "figures",
        "tables",
        "results",
    }
    for key in (*KEYS, "identity", "card"):
        assert (written / "tables" / f"{key}.csv").is_file() and (written / "tables" / f"{key}.parquet").is_file()
    for name in ("depth", *KEYS, "tracing-lines", "tracing-example"):
        assert (written / "figures" / f"{name}.html").is_file()
    assert not [
        path for path in written.parent.iterdir() if path.name.startswith(".")
    ]  # nothing half written beside it


def test_the_page_stands_alone(written):
    page = (written / "index.html").read_text()
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=", page)  # nothing is fetched
    for name in ("depth", *KEYS):
        assert f'id="figure-{name}"' in page
    for link in re.findall(r'href="([^"#]+)"', page[page.index("<main>") :]):
        assert (written / link).exists(), link
    assert page.count("Plotly.newPlot(") >= 9


def test_every_number_says_what_it_is(written):
    frame = rows(written)
    assert set(frame.columns) == COLUMNS
    assert frame["value"].notna().all() and (frame["analysis"] != "").all() and (frame["result"] != "").all()
    assert not frame.duplicated(["metric", "site", "layer", "head"]).any()  # two cards can be joined
    measured = frame[~frame["analysis"].isin(["identity", "WeightStats", "Channels", "ConceptScan"])]
    assert (
        measured["n"].notna().mean() > 0.9 and measured.loc[measured["analysis"] != "HeadScores", "probe"].ne("").all()
    )
    both = frame.dropna(subset=["ci_lo"])
    assert (
        len(both) > 100
        and (both["ci_lo"] <= both["value"] + 1e-9).all()
        and (both["value"] <= both["ci_hi"] + 1e-9).all()
    )
    assert pd.read_parquet(written / "tables" / "card.parquet").shape == frame.shape


def test_chance_stands_beside_what_can_be_chance(written):
    frame = rows(written).set_index("metric")
    for metric in ("induction", "previous", "duplicate", "sink"):
        assert frame.loc[metric, "chance"].between(0.001, 0.2).all()
    assert frame.loc["entropy", "chance"].isna().all()
    assert frame.loc["copy ratio", "chance"] == 1 and (frame.loc["total effect prob", "chance"]) == 0
    assert frame.loc[frame["site"] == "W_Q"].loc["effective_rank", "chance"].gt(1).all()


def test_numbers_are_the_results_own(written):
    frame = rows(written).set_index("metric")
    loss, lens, trace = (interp.open(written / "results" / key) for key in ("loss", "lens", "tracing"))
    assert frame.loc["nll", "value"] == pytest.approx(loss.mean()["nll"])
    assert frame.loc["lens half depth", "value"] == lens.half_depth()
    assert frame.loc["facts known", "value"] == trace.n_known / 4
    assert frame.loc["total effect prob", "ci_lo"] == pytest.approx(trace.total_effect()["ci_lo"])
    assert set(frame["result"]) == {
        *manifest(written)["results"].values(),
        manifest(written)["model"]["fingerprint"][:8],
    }


def test_the_manifest_says_what_produced_it_and_no_more(written):
    found = manifest(written)
    assert found["fidelity"]["ok"] and found["seeds"] == {"seed": 0} and set(found["results"]) == set(KEYS)
    text = json.dumps(found)
    assert str(written.parent) not in text and str(Path.home()) not in text
    assert interp.open(written / "results" / "tracing").manifest.hash == found["results"]["tracing"]


def test_identity_tells_size_hashes_and_agreement(written, atlas):
    tensors = pd.read_parquet(written / "tables" / "identity.parquet")
    frame = rows(written).set_index("metric")
    total = sum(parameter.numel() for parameter in atlas.module.parameters())
    assert tensors["size"].sum() == frame.loc["parameters", "value"] == total
    assert frame.loc["parameters in embeddings", "value"] == (atlas.spec.vocab + atlas.spec.n_ctx) * atlas.spec.d_model
    page = (written / "index.html").read_text()
    assert f"{total:,}" in page and atlas.fingerprint()[:8] in page and "yes: logits within" in page


def test_without_facts_and_text_it_says_what_is_left_out(atlas, tmp_path):
    folder = report(atlas, tmp_path / "card", static=False, max_tokens=600).parent
    left = manifest(folder)["left_out"]
    assert "effect restored by token role" in left["tracing"][0] and "built-in" in left["loss"][0]
    page = (folder / "index.html").read_text()
    assert left["tracing"][0] in page and "figure-tracing" not in page
    assert not rows(folder)["metric"].str.contains("restored").any()
    assert not (folder / "results" / "tracing").exists()


def test_twice_the_same_card(written, atlas, facts, tmp_path):
    text = interp.reference.text("atlas", 20)
    again = report(atlas, tmp_path / "card", facts=facts, text=text, static=False, max_tokens=900).parent
    one, other = (rows(folder).drop(columns=["seconds"]) for folder in (written, again))
    pd.testing.assert_frame_equal(one, other, rtol=1e-5, atol=1e-7)  # one through the store, one without


def test_what_the_user_brought_is_refused_before_anything_is_computed(atlas, tmp_path, monkeypatch):
    monkeypatch.setattr(card.WeightStats, "run", lambda *_: pytest.fail("something was computed"))
    long = interp.Prompt.of("The lamp " * 100 + "of Brendo", subject="Brendo", answer=" Marlow")
    for bad, match in (
        ({"facts": [long]}, "context is 128"),
        ({"facts": []}, "no prompts"),
        ({"text": []}, "text|document"),
    ):
        with pytest.raises(BadInput, match=match):
            report(atlas, tmp_path / "card", **bad)
    with pytest.raises(BadInput, match="does not exist"):
        report(atlas, tmp_path / "card", facts="missing.json")
    with pytest.raises(BadInput, match="max_tokens"):
        Report(max_tokens=1)
    assert not list(tmp_path.iterdir())


def test_a_section_that_this_model_cannot_have_is_left_out_with_its_reason(atlas, tmp_path, monkeypatch):
    def refuse(*_):
        raise BadInput("the context is too short for repeats. Use a longer one.")

    monkeypatch.setattr(card.HeadScores, "run", refuse)
    folder = report(atlas, tmp_path / "card", static=False, max_tokens=300).parent
    assert manifest(folder)["left_out"]["heads"] == [
        "Left out: the context is too short for repeats. Use a longer one."
    ]
    assert "figure-lens" in (folder / "index.html").read_text()


def test_a_failure_leaves_nothing_behind_and_the_old_report_whole(written, atlas, tmp_path, monkeypatch):
    target = tmp_path / "card"
    report(atlas, target, static=False, max_tokens=300)
    before = (target / "index.html").read_bytes()

    def break_off(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "fragment", break_off)
    with pytest.raises(KeyboardInterrupt):
        report(atlas, target, static=False, max_tokens=300, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["card"] and (target / "index.html").read_bytes() == before


def test_an_output_that_exists_is_refused(tmp_path):
    job, full, other = Report(), tmp_path / "card", tmp_path / "notes"
    full.mkdir()
    job.check(full)  # empty: nothing can be lost
    (full / "card.jsonl").write_text("")
    with pytest.raises(ArtifactError, match="--overwrite"):
        job.check(full)
    job.check(full, overwrite=True)
    other.mkdir()
    (other / "thesis.tex").write_text("")
    with pytest.raises(ArtifactError, match="not a report"):
        job.check(other, overwrite=True)
    with pytest.raises(ArtifactError, match="Make it first"):
        job.check(tmp_path / "no" / "card")


def test_cost_is_said_before_it_is_paid(atlas, facts):
    cost = Report(facts=facts, max_tokens=500).cost(atlas)
    assert cost.forwards > 10 and cost.tokens > 1500 and cost.bytes > 0


def test_gauges_show_what_is_there():
    lens = Section("lens", "", "", rows=[Row("lens half depth", 3.0, "depth"), Row("lens kl", 1.0, layer=5)])
    heads = Section("heads", "", "", rows=[Row("copy ratio", 0.4, ci_lo=0.3, ci_hi=0.5, n=8, chance=1.0)])
    shown = gauges([lens, heads])
    assert [(gauge.name, gauge.value) for gauge in shown] == [
        ("half predicted at depth", "3 of 6"),
        ("copy ratio", "0.400"),
    ]
    assert gauges([]) == []


@pytest.mark.skipif(export.browser() is None, reason="no Chromium on this machine")
def test_figures_come_as_vectors_where_a_browser_is(atlas, tmp_path, monkeypatch):
    monkeypatch.setattr(card, "TITLES", {"weights": "Weights"})
    folder = report(atlas, tmp_path / "card", max_tokens=300).parent
    assert {path.name for path in (folder / "figures").iterdir()} == {
        "plotly.min.js", *(f"{name}.{kind}" for name in ("depth", "weights") for kind in ("html", "svg", "pdf"))
    }  # fmt: skip


def test_without_a_browser_the_page_says_so(atlas, tmp_path, monkeypatch):
    monkeypatch.setattr(card, "TITLES", {"weights": "Weights"})
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "nothing"))
    folder = report(atlas, tmp_path / "card", max_tokens=300).parent
    assert "No Chromium was found" in (folder / "index.html").read_text()
    assert not list((folder / "figures").glob("*.pdf"))


def test_importing_the_package_leaves_the_function_callable() -> None:
    import importlib

    module = importlib.import_module("interp.report")
    assert callable(module) and callable(interp.report)
