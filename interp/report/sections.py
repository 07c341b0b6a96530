"""The sections of the card: for each, its question, its result, the figure that shows it and the rows that it gives.

A section reads numbers off a result's own methods; it computes nothing.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from interp.core.analysis import Result

from .rows import Row


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
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name -> options of the result's `plot`."""
    rows: list[Row] = field(default_factory=list)


UNITS = {"frobenius": "norm", "spectral": "norm", "stable_rank": "rank", "effective_rank": "rank"}


def weights(result: Any) -> Section:
    """Norms and ranks of every matrix."""
    data = result.data
    null = {str(matrix): float(data["null"].sel(matrix=matrix)) for matrix in data["matrix"].values}
    rows = [
        Row(
            metric, float(data[metric].sel(matrix=matrix, layer=layer)), unit, site=matrix, layer=int(layer),
            chance=null[matrix] if metric == "effective_rank" else None,
        )
        for metric, unit in UNITS.items()
        for matrix in null
        for layer in data["layer"].values
    ]  # fmt: skip
    rows += [
        Row(metric, float(data[f"table_{metric}"].sel(table=name)), unit, site=str(name))
        for metric, unit in UNITS.items()
        for name in data["table"].values
    ]
    question = (
        "Is a matrix degenerate, is its rank used, does a layer or a token stand out? Read off the parameters alone."
    )
    return Section("weights", "Weights", question, result, figures={"weights": {}}, rows=rows)


def loss(result: Any) -> Section:
    """Loss, perplexity, gain from context."""
    mean, perplexity = result.mean(), result.perplexity()
    rows = [
        Row("nll", mean["nll"], "nats/token", ci_lo=mean["ci_lo"], ci_hi=mean["ci_hi"], n=int(mean["n"])),
        Row(
            "perplexity", perplexity["nll"], "", ci_lo=perplexity["ci_lo"], ci_hi=perplexity["ci_hi"], n=int(mean["n"])
        ),
    ]
    table = result.by_position()
    rows += [
        Row(
            f"nll at position {pos}",
            float(at["mean"]),
            "nats",
            ci_lo=float(at["ci_lo"]),
            ci_hi=float(at["ci_hi"]),
            n=int(at["n"]),
        )
        for pos in table["pos"].values
        for at in [table.sel(pos=pos)]
    ]
    if int(table["pos"].max()) > 10:
        gain = result.gain()
        name = f"in-context gain, position {int(gain['early'])} to {int(gain['late'])}"
        rows.append(
            Row(name, gain["gain"], "nats", ci_lo=gain["ci_lo"], ci_hi=gain["ci_hi"], n=int(gain["n"]), chance=0.0)
        )
    question = "How well does it predict running text, and does more context help?"
    return Section("loss", "Loss by position", question, result, figures={"loss": {}}, rows=rows)


def lens(result: Any) -> Section:
    """Depth curves of the logit lens."""
    table, count = result.by_depth(), int(result.data["tokens"].sum())
    units = {"nll": "nats", "kl": "nats", "agree": "share"}
    rows = [
        Row(f"lens {measure}", float(at["mean"]), units[str(measure)], layer=int(depth) - 1, ci_lo=float(at["ci_lo"]),
            ci_hi=float(at["ci_hi"]), n=count)
        for measure in table["measure"].values
        for depth in table["depth"].values
        for at in [table.sel(measure=measure, depth=depth)]
    ]  # fmt: skip
    rows.append(Row("lens half depth", float(result.half_depth()), "depth", n=count))
    rows.append(Row("lens KL area", result.kl_area(), "nats", n=count))
    question = (
        "If the residual stream were read out after each block as if it were the last: when is the prediction made?"
    )
    return Section("lens", "Logit lens", question, result, figures={"lens": {}}, rows=rows)


def heads(result: Any) -> Section:
    """Head scores and the copy ratio."""
    table, ratio = result.scores(), result.copy_ratio()
    count = result.data.sizes["sequence"]
    rows = [Row("copy ratio", ratio["ratio"], "", ci_lo=ratio["ci_lo"], ci_hi=ratio["ci_hi"], n=count, chance=1.0)]
    rows.append(Row("period gap", ratio["period_gap"], "", n=count))
    rows += [
        Row(str(metric), float(at["mean"]), "nats" if metric == "entropy" else "attention", layer=int(layer), head=int(head),
            ci_lo=float(at["ci_lo"]), ci_hi=float(at["ci_hi"]), n=count, chance=float(at["chance"]))
        for metric in table["metric"].values
        for layer in table["layer"].values
        for head in table["head"].values
        for at in [table.sel(metric=metric, layer=layer, head=head)]
    ]  # fmt: skip
    copying = result.data["copying"]
    rows += [
        Row("copying eigenvalues", float(copying.sel(layer=layer, head=head)), "", layer=int(layer), head=int(head))
        for layer in copying["layer"].values
        for head in copying["head"].values
    ]
    best = [(metric, result.top(metric, 3)) for metric in ("induction", "previous", "duplicate", "sink")]
    listed = tuple(
        (
            metric,
            " · ".join(f"{int(r.layer)}.{int(r['head'])} ({r.score:.2f})" for _, r in found.iterrows()),
            f"{found.chance.iloc[0]:.2f}",
        )
        for metric, found in best
    )
    shown = Table(("score", "highest heads", "chance"), listed)
    question = (
        "On random tokens said twice: which heads look at the previous token, at the duplicate, at what followed it; and does the "
        "model copy at all? A score without the ability, or the ability without the score, are both common: read them together."
    )
    return Section("heads", "Heads", question, result, shown, figures={"heads": {}}, rows=rows)


def tracing(result: Any) -> Section:
    """Causal tracing by token role."""
    known = result.n_known > 0
    rows = []
    for metric, unit in (("prob", "probability"), ("logit_diff", "logits")):
        total = result.total_effect(metric, known=known)
        count = int(total["n"])
        rows.append(Row(f"clean {metric}", total["clean"], unit, n=count))
        rows.append(Row(f"corrupted {metric}", total["corrupted"], unit, n=count))
        rows.append(
            Row(
                f"total effect {metric}",
                total["effect"],
                unit,
                ci_lo=total["ci_lo"],
                ci_hi=total["ci_hi"],
                n=count,
                chance=0.0,
            )
        )
        table = result.by_role(metric, known=known)
        rows += [
            Row(f"restored effect {metric}: {role}", float(at["mean"]), unit, site=str(kind), layer=int(layer), ci_lo=float(at["ci_lo"]),
                ci_hi=float(at["ci_hi"]), n=int(at["n"]), chance=0.0)
            for role in table["role"].values
            for kind in table["kind"].values
            for layer in table["layer"].values
            for at in [table.sel(role=role, kind=kind, layer=layer)]
        ]  # fmt: skip
    peak = result.peak(known=known)
    listed = tuple(_peak(str(kind), peak.sel(kind=kind)) for kind in peak["kind"].values)
    shown = Table(("kind", "strongest at", "layer", "effect, probability", "95 % interval"), listed)
    averaged = "these are averaged" if known else "all are averaged"
    question = (
        "The subject of a fact is corrupted by noise; which states, put back one at a time, bring the answer back? "
        f"The model knows {result.n_known} of {result.data.sizes['prompt']} facts; {averaged}."
    )
    pictures: dict[str, dict[str, Any]] = {"tracing": {}, "tracing-lines": {"by": "line", "metric": "logit_diff"}}
    return Section("tracing", "Causal tracing", question, result, shown, figures=pictures, rows=rows)


def _peak(kind: str, at: Any) -> tuple[str, ...]:
    interval = f"{float(at['ci_lo']):.3f} … {float(at['ci_hi']):.3f}"
    return kind, str(at["role"].item()), str(int(at["layer"])), f"{float(at['effect']):.3f}", interval


MAKERS: dict[str, Callable[[Any], Section]] = {
    "weights": weights,
    "loss": loss,
    "lens": lens,
    "heads": heads,
    "tracing": tracing,
}


def gauges(sections: Iterable[Section]) -> list[dict[str, str]]:
    """The numbers on top of the page: one or two a section."""
    wanted = {
        "loss": ("nll",), "lens": ("lens half depth",), "heads": ("copy ratio",), "tracing": ("clean prob", "total effect prob"),
    }  # fmt: skip
    found = []
    for section in sections:
        for row in section.rows:
            if row.metric in wanted.get(section.key, ()) and row.layer is None:
                interval = f"{row.ci_lo:.3g} … {row.ci_hi:.3g}" if row.ci_lo is not None else ""
                parts = [row.unit, interval, f"n = {row.n:,}" if row.n else ""]
                found.append(
                    {
                        "name": row.metric,
                        "value": f"{row.value:.3g}",
                        "note": " · ".join(part for part in parts if part),
                    }
                )
    return found
