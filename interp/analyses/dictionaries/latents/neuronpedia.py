"""Cards for Neuronpedia: the folder that its import reads, written from a result.

    found = interp.Latents(dictionary=sae, n=2)(lm, corpus)
    interp.export_neuronpedia(found, "exports", model="gpt2-small", source_set="res-mine", creator="Ana", creator_id="her account")

    exports/MODEL/LAYER-SOURCE_SET/    release.jsonl  model.jsonl  sourceset.jsonl  source.jsonl   one record each
        features/batch-0.jsonl.gz      a latent a line: logits of either end, histograms, density, neighbours
        activations/batch-0.jsonl.gz   an example a line: tokens, values, the largest and where it is, its interval

Names and types of the fields are those of `sae_dashboard/neuronpedia/neuronpedia_export.py` (SAEDashboard, commit 3ea1249), which writes
what Neuronpedia's bulk import takes; its public exports have the same layout (docs.neuronpedia.org, "Exports"). What is not measured here
is left empty, as it is there for dictionaries without it: alignment with neurons, attribution, losses. Correlations are of codes, with the
nearest latents only.

It was not imported into a running Neuronpedia: that needs its database. `creator_id` is an account of the site that imports.
"""

import gzip
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.core.errors import ArtifactError, BadInput
from interp.core.site import Site

from .examples import TOP

if TYPE_CHECKING:
    from .result import LatentsResult

TOP_BIN = -1.0
"""How an example that is among the strongest is marked, in place of an interval."""


def export_neuronpedia(
    result: "LatentsResult",
    folder: "str | Path",
    *,
    model: str,
    source_set: str,
    creator: str,
    creator_id: str,
    view: str = "",
    title: str = "",
    url: str = "",
) -> Path:
    """Write the latents of a result as Neuronpedia's import reads them; returns the folder of the source.

    `model` and `source_set` are the identifiers on the site, `view` whose logit effects are written (the only one, by default). Raises
    `BadInput` for identifiers that are no path components, `ArtifactError` where the folder of the source is there already.
    """
    for name, value in {"model": model, "source_set": source_set, "creator": creator, "creator_id": creator_id}.items():
        if not value or ("/" in value and name in ("model", "source_set")) or value.startswith("."):
            raise BadInput(f"`{name}` must be an identifier without slashes; not {value!r}.")
    views = [str(one) for one in result.data["view"].values]
    if (view and view not in views) or (not view and len(views) > 1):
        raise BadInput(f"`view` must be one of {views}; not {view!r}.")
    site = _site(result, view)
    source = f"{site.layer or 0}-{source_set}"
    target = Path(folder) / model / source
    if target.exists():
        raise ArtifactError(
            f"{target.name} is there already in {target.parent.name}. Name another source set, or remove it."
        )
    said = {"creatorId": creator_id, "createdAt": result.manifest.started}
    features, activations = [], []
    for latent in result.latents:
        found = _activations(result, latent)
        features.append(
            _feature(result, latent, view or (views[0] if views else ""), found)
            | said
            | {"modelId": model, "layer": source}
        )
        activations += [one | said | {"modelId": model, "layer": source, "index": str(latent)} for one in found]
    for number, one in enumerate(activations):
        one["id"] = "c" + hashlib.sha256(f"{result.manifest.hash} {source} {number}".encode()).hexdigest()[:24]
    target.mkdir(parents=True)
    _plain(target / "release.jsonl", {"name": source_set, "description": title or source_set, "descriptionShort": title or source_set,
        "urls": [url] if url else [], "creatorName": creator, "creatorNameShort": creator, **said})  # fmt: skip
    _plain(target / "model.jsonl", {"id": model, "instruct": False, "displayName": model, "displayNameShort": model, "layers": 0,
        "neuronsPerLayer": 0, "owner": "", "visibility": "PUBLIC", "updatedAt": said["createdAt"], **said})  # fmt: skip
    _plain(target / "sourceset.jsonl", {"modelId": model, "name": source_set, "description": title or source_set, "type": "",
        "creatorName": creator, "releaseName": source_set, "urls": [], "visibility": "PUBLIC", "hasDashboards": True, **said})  # fmt: skip
    _plain(target / "source.jsonl", {"id": source, "modelId": model, "setName": source_set, "dataset": str(result.data.attrs["source"]),
        "num_prompts": int(result.data.attrs["documents"]), "hasDashboards": True, "visibility": "PUBLIC", "inferenceEnabled": False,
        "notes": f"{result.manifest.line}, dictionary {str(result.data.attrs['dictionary'])[:8]}, {site.name}", **said})  # fmt: skip
    _packed(target / "features" / "batch-0.jsonl.gz", features)
    _packed(target / "activations" / "batch-0.jsonl.gz", activations)
    return target


def _site(result: "LatentsResult", view: str) -> Site:
    sites, names = list(result.data.attrs["sites"]), list(result.data.attrs["written"])
    return Site.parse(sites[names.index(view)] if view else sites[0])


def _activations(result: "LatentsResult", latent: int) -> list[dict[str, Any]]:
    texts = result.data["token_text"].values
    out = []
    for row in result.examples(latent).to_dict("records"):
        here = result.data.sel(latent=latent).isel(example=row["number"])
        ids = here["window_id"].values
        values = [round(float(one), 4) for one in np.nan_to_num(here["window_code"].values[ids >= 0])]
        most, top = max(values), row["kind"] == TOP
        low, _, high = row["kind"].partition("-")
        out.append(
            {
                "tokens": [str(texts[one]) for one in ids if one >= 0], "values": values, "maxValue": most,
                "maxValueTokenIndex": values.index(most), "minValue": min(values), "qualifyingTokenIndex": int(here["example_at"]),
                "binMin": TOP_BIN if top else row["low"], "binMax": row["high"],
                "binContains": TOP_BIN if top else float(high) - float(low),
                "dfaValues": [], "dfaTargetIndex": None, "dfaMaxValue": None, "lossValues": [], "logitContributions": None,
                "dataIndex": None, "dataSource": None,
            }
        )  # fmt: skip
    return out


def _feature(result: "LatentsResult", latent: int, view: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    card, here = result.card(latent), result.data.sel(latent=latent)
    ends = card["words"].get(view, {"promoted": [], "demoted": []})
    texts = result.data["token_text"].values
    words: dict[str, list[str]] = {}
    for end in ("promoted", "demoted"):
        ids = here["word_id"].sel(view=view, end=end).values if view else np.zeros(0, dtype=int)
        words[end] = [str(texts[one]) for one in ids if one >= 0]
    codes, logits = (here["edge"].values, here["count"].values), (np.zeros(0), np.zeros(0))
    if view:
        logits = here["logit_edge"].sel(view=view).values, here["logit_count"].sel(view=view).values
    values, r = [one[1] for one in card["near"]], [one[1] for one in card["together"]]
    return {
        "index": str(latent), "maxActApprox": max([one["maxValue"] for one in found], default=0.0), "hasVector": False, "vector": [],
        "vectorLabel": None, "hookName": None, "topkCosSimIndices": [one[0] for one in card["near"]],
        "topkCosSimValues": [round(one, 4) for one in values], "neuron_alignment_indices": [], "neuron_alignment_values": [],
        "neuron_alignment_l1": [], "correlated_neurons_indices": [], "correlated_neurons_pearson": [], "correlated_neurons_l1": [],
        "correlated_features_indices": [one[0] for one in card["together"]], "correlated_features_pearson": [round(one, 4) for one in r],
        "correlated_features_l1": [], "pos_str": words["promoted"], "pos_values": [round(one["logit"], 4) for one in ends["promoted"]],
        "neg_str": words["demoted"], "neg_values": [round(one["logit"], 4) for one in ends["demoted"]], "frac_nonzero": card["density"],
        "freq_hist_data_bar_values": _middles(codes[0]), "freq_hist_data_bar_heights": _heights(*codes),
        "logits_hist_data_bar_values": _middles(logits[0]), "logits_hist_data_bar_heights": _heights(*logits),
        "decoder_weights_dist": [], "vectorDefaultSteerStrength": 10, "sourceSetName": None,
    }  # fmt: skip


def _middles(edges: np.ndarray) -> list[float]:
    """Middles of a histogram's bars; none where nothing was counted."""
    return [] if not np.isfinite(edges).all() else [round(float(one), 4) for one in (edges[1:] + edges[:-1]) / 2]


def _heights(edges: np.ndarray, counts: np.ndarray) -> list[int]:
    return [] if not np.isfinite(edges).all() else [int(one) for one in counts]


def _plain(path: Path, record: dict[str, Any]) -> None:
    path.write_text(json.dumps(record, ensure_ascii=False) + "\n", encoding="utf-8")


def _packed(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """One record a line, compressed; the same bytes for the same records."""
    path.parent.mkdir()
    lines = "".join(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in records)
    path.write_bytes(gzip.compress(lines.encode("utf-8"), mtime=0))
