"""The sections of the card: for each, its question, its result, the figure that shows it and the rows that it gives.

A section reads numbers off a result's own methods; it computes nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from interp.core.analysis import Result

from .rows import Row, cell, cells


@dataclass(frozen=True)
class Table:
    """A small table of the page: everything as text."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass
class Section:
    """One heading of the page."""

    key: str
    title: str
    question: str
    result: Result | None = None
    table: Table | None = None
    left_out: list[str] = field(default_factory=list)
    """What is not there, or must not be read into it, and why."""
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name -> options of the result's `plot`."""
    rows: list[Row] = field(default_factory=list)


WEIGHT_UNITS = {"frobenius": "norm", "spectral": "norm", "stable_rank": "rank", "effective_rank": "rank"}


def weights(result: Any) -> Section:
    """Norms and ranks of every matrix."""
    data = result.data
    null = {str(matrix): float(data["null"].sel(matrix=matrix)) for matrix in data["matrix"].values}
    rows = [
        Row(
            metric, float(data[metric].sel(matrix=matrix, layer=layer)), unit, site=matrix, layer=int(layer), tier=0,
            chance=null[matrix] if metric == "effective_rank" else None,
        )
        for metric, unit in WEIGHT_UNITS.items()
        for matrix in null
        for layer in data["layer"].values
    ]  # fmt: skip
    rows += [
        Row(metric, float(data[f"table_{metric}"].sel(table=name)), unit, site=str(name), tier=0)
        for metric, unit in WEIGHT_UNITS.items()
        for name in data["table"].values
    ]
    norms = data["row_norm"]
    rows += [
        Row("row norm, max / median", float(norms.sel(table=name).max() / norms.sel(table=name).median()), site=str(name), tier=0)
        for name in data["table"].values
    ]  # fmt: skip
    question = (
        "Is a matrix degenerate, is its rank used, does a layer stand out? Read off the parameters alone; effective rank is drawn as a "
        "share of what a random matrix of the same shape has."
    )
    return Section("weights", "Weights", question, result, figures={"weights": {}}, rows=rows)


def loss(result: Any) -> Section:
    """Loss, perplexity, first guesses, loss at positions 1, 2, 4, ..., gain from context."""
    mean, perplexity = result.mean(), result.perplexity()
    count = int(mean["n"])
    rows = [
        Row("nll", mean["nll"], "nats/token", ci_lo=mean["ci_lo"], ci_hi=mean["ci_hi"], n=count),
        Row("perplexity", perplexity["nll"], "", ci_lo=perplexity["ci_lo"], ci_hi=perplexity["ci_hi"], n=count),
        Row("entropy of the prediction", float(np.nanmean(result.data["entropy"].values)), "nats/token", n=count),
        Row("first guess right", float(np.nanmean(result.data["top1"].values)), "share", n=count),
    ]
    table = result.by_position()
    doubling = [pos for pos in table["pos"].values.tolist() if pos & (pos - 1) == 0]
    rows += [
        cell(f"nll at position {pos}", table.sel(pos=pos), "nats", n=int(table["n"].sel(pos=pos))) for pos in doubling
    ]
    if int(table["pos"].max()) > 10:
        gain = result.gain()
        name = f"in-context gain, position {int(gain['early'])} to {int(gain['late'])}"
        rows.append(
            Row(name, gain["gain"], "nats", ci_lo=gain["ci_lo"], ci_hi=gain["ci_hi"], n=int(gain["n"]), chance=0.0)
        )
    question = "How well does it predict running text, and does more context help? Where loss and entropy part, it is not calibrated."
    return Section("loss", "Loss by position", question, result, figures={"loss": {}}, rows=rows)


def lens(result: Any) -> Section:
    """Depth curves of the logit lens."""
    table, count = result.by_depth(), int(result.data["tokens"].sum())
    units = {"nll": "nats", "kl": "nats", "agree": "share"}
    rows = [
        cell(f"lens {measure}", at, units[measure], layer=depth - 1, n=count)
        for (measure, depth), at in cells(table, "measure", "depth")
    ]
    rows.append(Row("lens half depth", float(result.half_depth()), "depth", n=count))
    rows.append(Row("lens KL area", result.kl_area(), "nats", n=count))
    question = (
        "If the residual stream were read out after each layer as if it were the last: when is the prediction made? Depth 0 is the "
        "embedding. High KL in early layers says that the lens does not fit there, not that nothing is known."
    )
    return Section("lens", "Logit lens", question, result, figures={"lens": {}}, rows=rows)


def shares(result: Any) -> Section:
    """What each sublayer writes."""
    table, norm = result.by_layer(), result.data["norm"].mean("document")
    count = int(result.data["tokens"].sum())
    rows = [
        cell("write share", at, "share", site=f"{part}_out", layer=layer, n=count)
        for (part, layer), at in cells(table, "part", "layer")
    ]
    rows += [
        Row("stream norm", float(norm.sel(layer=layer)), "norm", site="resid_post", layer=int(layer), n=count)
        for layer in norm["layer"].values
    ]
    question = "How much of the residual stream does each sublayer write, and how does the stream grow?"
    return Section("shares", "Write shares", question, result, figures={"shares": {}}, rows=rows)


HEAD_SCORES = ("induction", "previous", "duplicate", "sink")


def heads(result: Any) -> Section:
    """Head scores and the copy ratio."""
    table, ratio = result.scores(), result.copy_ratio()
    count = result.data.sizes["sequence"]
    rows = [Row("copy ratio", ratio["ratio"], "", ci_lo=ratio["ci_lo"], ci_hi=ratio["ci_hi"], n=count, chance=1.0)]
    rows.append(Row("period gap", ratio["period_gap"], "", n=count))
    chance = {str(metric): _known(table["chance"].sel(metric=metric)) for metric in table["metric"].values}
    rows += [
        cell(metric, at, "nats" if metric == "entropy" else "attention", layer=layer, head=head, n=count, chance=chance[metric])
        for (metric, layer, head), at in cells(table, "metric", "layer", "head")
    ]  # fmt: skip
    copying = result.data["copying"]
    rows += [
        Row("copying eigenvalues", float(copying.sel(layer=layer, head=head)), layer=int(layer), head=int(head), tier=0)
        for layer in copying["layer"].values
        for head in copying["head"].values
    ]
    shown = Table(
        ("score", "highest heads", "chance", "heads above chance"),
        tuple(_best(result, table, metric) for metric in HEAD_SCORES),
    )
    question = (
        "On random tokens said twice: which heads look at the previous token, at the duplicate, at what followed it; and does the "
        "model copy at all (copy ratio 0) or not (1)? A score without the ability, or the ability without the score, are both common: "
        "read them together."
    )
    return Section("heads", "Heads", question, result, shown, figures={"heads": {}}, rows=rows)


def _best(result: Any, table: Any, metric: str) -> tuple[str, ...]:
    found, part = result.top(metric, 3), table.sel(metric=metric)
    highest = " · ".join(f"{int(row.layer)}.{int(row['head'])} ({row.score:.2f})" for _, row in found.iterrows())
    chance = float(part["chance"])
    above = int((part["ci_lo"] > chance).sum())
    return metric, highest, f"{chance:.2g}", f"{above} of {part['mean'].size}"


def channels(result: Any) -> Section:
    """The strongest channels between heads, and how well each head can be reached."""
    listed, null, attrs = result.channels(10), result.null(), result.data.attrs
    best = result.data["best"].max(("layer", "head"))
    rows = [
        Row(f"best channel into {kind}", float(score), "composition", layer=int(layer), head=int(head), tier=0, chance=null)
        for kind in best["kind"].values
        for layer in best["reader_layer"].values[1:]
        for head, score in enumerate(best.sel(kind=kind, reader_layer=layer).values)
        if np.isfinite(score)
    ]  # fmt: skip
    names, numbers = ("writer", "reader", "kind"), {"score": ".3f", "over_null": ".1f", "z": ".1f", "gap": ".2f"}
    shown = Table(
        ("component", "read by", "as", "composition", "over the null", "z in its head", "gap"),
        tuple(
            (*(row[name] for name in names), *(f"{row[name]:{form}}" for name, form in numbers.items()))
            for row in listed.to_dict("records")
        ),
    )
    question = (
        "Which component of which head writes where a later head looks? Read off the parameters alone: it says which heads are able to "
        f"talk, not which do. A random direction scores {null:.3f}; trained heads share directions, so many score more."
    )
    left_out = []
    if attrs["rotary"] and not len(attrs["offsets"]):
        left_out.append(
            "Positions are rotary: what enters queries and keys depends on the distance, so only values are scored."
        )
    return Section(
        "channels", "Channels", question, result, shown, left_out=left_out, figures={"channels": {}}, rows=rows
    )


def concepts(result: Any) -> Section:
    """Which value vectors promote tokens that belong together."""
    data, kept = result.data, result.data["kept"].values
    coherent = np.isin(data["vector"].values, result.coherent())
    layers = data["layer"].values
    rows = [
        Row(metric, float(value), unit, site="mlp", layer=int(layer), n=int((layers == layer).sum()), tier=0, chance=chance)
        for layer in np.unique(layers)
        for metric, value, unit, chance in (
            ("coherent value vectors", coherent[layers == layer].sum() / max(1, kept[layers == layer].sum()), "share of kept", None),
            ("z of the top tokens, median", np.median(data["z"].values[layers == layer]), "sd", float(data["null_z"].mean())),
        )
    ]  # fmt: skip
    listed = result.strongest(10, by="coherence")
    shown = Table(
        ("vector", "coherence", "q", "z", "first tokens"),
        tuple(
            (row["vector"], f"{row['coherence']:.3f}", f"{row['q']:.2g}", f"{row['z']:.2f}", " ".join(row["words"].split(" ")[:10]))
            for row in listed.to_dict("records")
        ),
    )  # fmt: skip
    question = (
        "What does each value vector of the MLPs promote, read in the vocabulary, and do its top tokens belong together? From the "
        "parameters alone, beside random directions of the same length; that a vector promotes a word does not make it the word's cause."
    )
    return Section("concepts", "Value vectors", question, result, shown, figures={"concepts": {}}, rows=rows)


TRACING_ROWS = "facts known, clean and corrupted probability, total effect, effect restored by token role and layer"


def tracing(result: Any) -> Section:
    """Causal tracing by token role."""
    known = result.n_known > 0
    asked = result.data.sizes["prompt"]
    rows = [Row("facts known", result.n_known / asked, "share", n=asked, tier=2)]
    for metric, unit in (("prob", "probability"), ("logit_diff", "logits")):
        total = result.total_effect(metric, known=known)
        count = int(total["n"])
        rows += [
            Row(f"clean {metric}", total["clean"], unit, n=count, tier=2),
            Row(f"corrupted {metric}", total["corrupted"], unit, n=count, tier=2),
            Row(f"total effect {metric}", total["effect"], unit, ci_lo=total["ci_lo"], ci_hi=total["ci_hi"], n=count, chance=0.0, tier=2),
        ]  # fmt: skip
        table = result.by_role(metric, known=known)
        asked_of = dict(zip(table["role"].values.tolist(), table["n"].values.tolist(), strict=True))
        rows += [
            cell(f"restored {metric}, {role}", at, unit, site=kind, layer=layer, n=asked_of[role], chance=0.0, tier=2)
            for (role, kind, layer), at in cells(table, "role", "kind", "layer")
        ]
    peak = result.peak(known=known)
    listed = tuple(_peak(str(kind), peak.sel(kind=kind)) for kind in peak["kind"].values)
    shown = Table(("restored", "strongest at", "layer", "effect on P(answer)", "95 % interval"), listed)
    averaged = "those are averaged" if known else "so all are averaged, and effects say little"
    question = (
        "The subject of a fact is corrupted by noise; which states, put back one at a time, bring the answer back? "
        f"The model knows {result.n_known} of {asked} facts (its first guess is the answer); {averaged}."
    )
    pictures: dict[str, dict[str, Any]] = {"tracing": {}, "tracing-lines": {"by": "line", "metric": "logit_diff"}}
    if known:
        pictures["tracing-example"] = {"by": "token", "prompt": int(np.argmax(result.data["known"].values))}
    return Section("tracing", "Causal tracing", question, result, shown, figures=pictures, rows=rows)


def _peak(kind: str, at: Any) -> tuple[str, ...]:
    names = {"hidden": "state", "mlp": "MLP outputs", "attn": "attention outputs"}
    interval = f"{float(at['ci_lo']):.3f} … {float(at['ci_hi']):.3f}" if np.isfinite(float(at["ci_lo"])) else "–"
    return names.get(kind, kind), str(at["role"].item()), str(int(at["layer"])), f"{float(at['effect']):.3f}", interval


def _known(value: Any) -> float | None:
    return float(value) if np.isfinite(float(value)) else None


MAKERS: dict[str, Callable[[Any], Section]] = {
    "weights": weights,
    "loss": loss,
    "lens": lens,
    "shares": shares,
    "heads": heads,
    "channels": channels,
    "concepts": concepts,
    "tracing": tracing,
}
