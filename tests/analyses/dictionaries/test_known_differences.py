"""What is known to differ between the two embedded checkpoints, found by the documented commands at a small size.

`atlas-tuned` was taught a relation (`beast`) and a festival (Emberfest) that `atlas` never met. Neither is a latent of one model alone: the
base has some direction for these words too, so the difference is in latents whose two decoders point apart (`change`). Those must be on at
the new words, must carry the difference on texts that have it, and must do nothing on texts that do not.
"""

import pytest
from scipy.stats import mannwhitneyu

from interp.analyses.dictionaries.diffing import ModelDiff
from interp.data import corpus
from interp.models import reference
from interp.train import Crosscoder, Training, fit

NEW, OLD = ("beast", "festival"), ("harvest", "craft")


@pytest.fixture(scope="module")
def pair(atlas, atlas_tuned):
    return atlas, atlas_tuned


@pytest.fixture(scope="module")
def crosscoder(pair, tmp_path_factory):
    tuned = pair[1]
    text = corpus(reference.text("atlas-tuned", 1200), tuned.tokenizer, n_ctx=tuned.spec.n_ctx)
    family = Crosscoder(site="blocks.1.hook_resid_post", latents=768, k=16, activation="batchtopk")
    folder = tmp_path_factory.mktemp("runs") / "cc"
    return fit(family, pair, text, Training(tokens=200_000, batch=256, lr=3e-3), skip_first=1, folder=folder), folder


@pytest.fixture(scope="module")
def results(pair, crosscoder):
    concepts, tuned = reference.concept_set("atlas-tuned"), pair[1]
    method = ModelDiff(dictionary=str(crosscoder[1]), patch_tokens=600, random_sets=3, changed=(0.1,), shown=20)
    out = {}
    for topic in (*NEW, *OLD):
        text = corpus([str(one) for one in concepts.get(topic).texts][:100], tuned.tokenizer, n_ctx=tuned.spec.n_ctx)
        out[topic] = method(*pair, text)
    return out


def where_on(results) -> dict:
    """Share of the tokens of each topic's texts on which each latent is on."""
    return {topic: result.data["on"].values / result.data.attrs["tokens"] for topic, result in results.items()}


@pytest.mark.parametrize("topic", NEW)
def test_latents_of_what_is_new_are_those_changed_most(results, topic):
    on, change = where_on(results), results[topic].data["change"].values
    alive = sum(on.values()) > 0
    new = on[topic] > 4 * sum(on[old] for old in OLD)
    assert (alive & new).sum() > 20
    assert mannwhitneyu(change[alive & new], change[alive & ~new], alternative="greater").pvalue < 1e-3


def test_words_of_the_festival_are_printed(results):
    report = "\n".join(results["festival"].report_lines())
    said = [
        word for word in ("Emberfest", "stilts", "antlers", "garlands", "bagpipes", "sparklers") if f"␣{word}" in report
    ]
    assert "Emberfest" in said and len(said) >= 3


def test_latents_changed_most_carry_what_is_new_and_nothing_else(results):
    rows = {topic: result.changed().iloc[0] for topic, result in results.items()}
    assert rows["festival"]["recovered"] > 0.25 and rows["beast"]["recovered"] > 0.05
    for topic in NEW:
        assert rows[topic]["ci_lo"] > 1.5 * rows[topic]["any_hi"]
    for topic in OLD:
        assert abs(rows[topic]["recovered"]) < 0.06


def test_norms_alone_do_not_find_it(results):
    assert all(result.counts()["tuned only"] == 0 for result in results.values())
    assert "KL recovered, 10 % changed most" in results["festival"].headline()
