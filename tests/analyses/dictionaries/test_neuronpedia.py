"""Cards for Neuronpedia: the layout and the fields that its import takes, and values that are the result's own."""

import gzip
import json

import numpy as np
import pytest

from interp.analyses.dictionaries.latents import Latents, export_neuronpedia
from interp.core.errors import ArtifactError, BadInput
from tests.analyses.dictionaries.planted_latents import planted_world

FEATURE = (
    "modelId layer index creatorId createdAt maxActApprox hasVector vector vectorLabel vectorDefaultSteerStrength hookName "
    "topkCosSimIndices topkCosSimValues neuron_alignment_indices neuron_alignment_values neuron_alignment_l1 correlated_neurons_indices "
    "correlated_neurons_pearson correlated_neurons_l1 correlated_features_indices correlated_features_pearson correlated_features_l1 "
    "neg_str neg_values pos_str pos_values frac_nonzero freq_hist_data_bar_heights freq_hist_data_bar_values logits_hist_data_bar_heights "
    "logits_hist_data_bar_values decoder_weights_dist sourceSetName"
)
"""Fields of a feature and of an activation, as SAEDashboard's writer for the bulk import names them."""
ACTIVATION = (
    "id tokens index layer modelId maxValue maxValueTokenIndex minValue values creatorId dataSource dataIndex dfaValues dfaTargetIndex "
    "dfaMaxValue createdAt lossValues logitContributions binMin binMax binContains qualifyingTokenIndex"
)


def lines(path):
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines()]


@pytest.fixture(scope="module")
def found():
    lm, dictionary, _, data = planted_world(n=40)
    return Latents(dictionary=dictionary, latent=(0, 1), top=4, intervals=2, each=2)(lm, data)


NAMED = {"model": "planted", "source_set": "hand", "creator": "A. Person", "creator_id": "person-1"}


def test_the_layout_and_the_fields_are_those_of_the_import(found, tmp_path):
    folder = export_neuronpedia(found, tmp_path, **NAMED)
    assert folder == tmp_path / "planted" / "1-hand"
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    plain = ["model.jsonl", "release.jsonl", "source.jsonl", "sourceset.jsonl"]
    assert names == ["activations/batch-0.jsonl.gz", "features/batch-0.jsonl.gz", *plain]
    for name in plain:
        (record,) = (json.loads(line) for line in (folder / name).read_text().splitlines())
        assert record["creatorId"] == "person-1" and record["createdAt"] == found.manifest.started
    features, activations = (lines(folder / kind / "batch-0.jsonl.gz") for kind in ("features", "activations"))
    assert all(set(one) == set(FEATURE.split()) for one in features) and [one["index"] for one in features] == [
        "0",
        "1",
    ]
    assert all(set(one) == set(ACTIVATION.split()) for one in activations)
    assert len({one["id"] for one in activations}) == len(activations) == 2 * (4 + 4)
    assert {one["layer"] for one in (*features, *activations)} == {"1-hand"}


def test_the_values_are_the_results_own(found, tmp_path):
    folder = export_neuronpedia(found, tmp_path, **NAMED, title="By hand")
    features, activations = (lines(folder / kind / "batch-0.jsonl.gz") for kind in ("features", "activations"))
    for feature in features:
        latent = int(feature["index"])
        card = found.card(latent)
        assert feature["frac_nonzero"] == card["density"] and feature["maxActApprox"] == pytest.approx(
            card["largest"], abs=1e-4
        )
        assert feature["pos_str"] == [one["token"] for one in card["words"]["in"]["promoted"]]
        assert sum(feature["freq_hist_data_bar_heights"]) == int(found.data["count"].sel(latent=latent).sum())
        assert len(feature["logits_hist_data_bar_values"]) == len(feature["logits_hist_data_bar_heights"]) == 50
        assert feature["pos_values"] == sorted(feature["pos_values"], reverse=True) and feature["neg_values"] == sorted(
            feature["neg_values"]
        )
        mine = [one for one in activations if one["index"] == feature["index"]]
        for one, row in zip(mine, found.examples(latent).to_dict("records"), strict=True):
            at = one["qualifyingTokenIndex"]
            assert len(one["tokens"]) == len(one["values"]) and one["values"][at] == pytest.approx(
                row["value"], abs=1e-4
            )
            assert one["tokens"][at] == row["token"] and one["maxValue"] == one["values"][one["maxValueTokenIndex"]]
            assert one["minValue"] == min(one["values"]) and np.isfinite(one["values"]).all()
            interval = (one["binMin"], one["binContains"]) == (-1, -1)
            assert interval == (row["kind"] == "top") and (interval or one["binContains"] == 0.5)
    again = export_neuronpedia(found, tmp_path / "again", **NAMED, title="By hand")
    for name in ("features", "activations"):
        assert (folder / name / "batch-0.jsonl.gz").read_bytes() == (again / name / "batch-0.jsonl.gz").read_bytes()


def test_bad_input_is_refused_by_name(found, tmp_path):
    export_neuronpedia(found, tmp_path, **NAMED)
    with pytest.raises(ArtifactError, match="there already"):
        export_neuronpedia(found, tmp_path, **NAMED)
    for change in ({"model": "a/b"}, {"source_set": ""}, {"creator_id": ""}, {"model": ".."}):
        with pytest.raises(BadInput, match=next(iter(change))):
            export_neuronpedia(found, tmp_path, **(NAMED | change))
    with pytest.raises(BadInput, match="view"):
        export_neuronpedia(found, tmp_path, **NAMED, view="tuned")
