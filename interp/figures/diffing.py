"""What two models do not share: where latents belong, which of them are artifacts, and what patching them recovers.

`by="latents"`: the histogram of delta over living latents beside the two ratios of the latents of one model alone, coloured by label, with
the thresholds; the random shared baseline in grey. `by="patching"`: the share of the KL between the models that each set of latents
recovers, with its interval; controls in grey, the random sets as one bar with its range.
"""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import plotly.graph_objects as go

from interp.core.errors import BadInput, one_of

from .marks import whiskers
from .panels import above, panels, place_legend
from .shrink import check_budget
from .theme import CATEGORY, FAINT, INK, SYMBOLS, Theme, dress, plain, text_size

if TYPE_CHECKING:
    from interp.analyses.dictionaries.diffing import DiffResult

BINS = 50
COLOURS = {"specific": 2, "complete shrinkage": 4, "latent decoupling": 1, "undecided": 6}
"""Place in the palette, and of the symbol, of each label."""
LEAST = 1e-3
"""Ratios below are drawn here: a logarithmic axis has no zero."""
MOST_POINTS = 1500


def plot(
    result: "DiffResult",
    *,
    by: Literal["auto", "latents", "patching"] = "auto",
    side: Literal["tuned", "base"] = "tuned",
    part: Literal["all", "first", "rest"] = "all",
    theme: Theme = "screen",
    venue: str = "neurips",
) -> go.Figure:
    """Draw bins and ratios (of the latents of one `side`), or what patching recovers (over a `part` of the tokens).

    `auto` draws the first, or the second where no latent is one model's alone, and so the first would be empty.
    """
    one_of("by", by, ("auto", "latents", "patching"))
    one_of("side", side, ("tuned", "base"))
    one_of("part", part, ("all", "first", "rest"))
    counts = result.counts()
    empty = side == "tuned" and not (counts["tuned only"] or counts["base only"])
    if by == "patching" or (by == "auto" and empty and "kl" in result.data):
        return _patching(result, part, theme, venue)
    return _latents(result, side, theme, venue)


def _latents(result: "DiffResult", side: str, theme: Theme, venue: str) -> go.Figure:
    data, attrs = result.data, result.data.attrs
    figure = panels(["decoder norms", f"latents of {attrs[side]} alone"], theme=theme, gap=0.13)
    living = data["bin"].values != "dead"
    counts, edges = np.histogram(data["delta"].values[living], BINS, (0.0, 1.0))
    middle = (edges[1:] + edges[:-1]) / 2
    low, high = attrs["bounds"][0], attrs["bounds"][-1]
    inks = [CATEGORY[0] if at <= low else CATEGORY[1] if at >= high else "#9aa3ad" for at in middle]
    figure.add_trace(
        go.Bar(
            x=middle, y=counts, width=1 / BINS, marker={"color": inks, "line": {"width": 0}}, showlegend=False,
            hovertemplate="delta %{x:.2f}: %{y} latents<extra></extra>",
        ),
        row=1, col=1,
    )  # fmt: skip
    for x in (low, high):
        _rule(figure, 1, x=float(x))
    log = counts.max() > 50
    figure.update_yaxes(title_text="living latents", type="log" if log else "linear", row=1, col=1)
    if log:
        figure.update_yaxes(range=[np.log10(0.5), np.log10(counts.max() * 1.6)], dtick=1, row=1, col=1)
    figure.update_xaxes(title_text="delta (0: base only, 1: tuned only)", range=[-0.02, 1.02], row=1, col=1)
    _cloud(figure, result, side, theme)
    place_legend(figure, theme=theme)
    number = result.counts()[f"{side} only"]
    title = (
        f"{attrs['tuned']} beside {attrs['base']}: {number:,} of {int(living.sum()):,} living latents are {side} only"
    )
    dress(
        figure,
        result,
        theme=theme,
        title=title,
        venue=venue,
        aspect=0.52,
        height=430,
        margin=above(theme, legend_rows=2),
    )
    return check_budget(figure)


def _cloud(figure: go.Figure, result: "DiffResult", side: str, theme: Theme) -> None:
    data, attrs = result.data, result.data.attrs
    ratios = np.clip(np.abs(result.ratios(side).values), LEAST, None)
    mine = data["bin"].values == f"{side} only"
    drawn = np.zeros(0)
    groups: list[tuple[str, np.ndarray, Any]] = [
        ("random shared latents", data["baseline"].values, {"color": "rgba(110,119,129,0.35)", "symbol": "circle-open"})
    ]
    for name, place in COLOURS.items():
        chosen = mine & (data["label"].values == name)
        groups.append((name, chosen, {"color": CATEGORY[place], "symbol": SYMBOLS[place]}))
    for name, chosen, marker in groups:
        chosen = chosen & np.isfinite(ratios).all(axis=0)
        if not chosen.any():
            continue
        places = np.flatnonzero(chosen)[:MOST_POINTS]
        drawn = np.append(drawn, ratios[:, places])
        figure.add_trace(
            go.Scatter(
                x=ratios[0, places], y=ratios[1, places], mode="markers", name=f"{name} ({int(chosen.sum()):,})",
                text=[str(one) for one in places],
                marker=marker | {"size": 7 if theme == "screen" else 4.5},
                hovertemplate="latent %{text}<br>reconstruction %{x:.3f}<br>error %{y:.3f}<extra>" + name + "</extra>",
            ),
            row=1, col=2,
        )  # fmt: skip
    if not len(drawn):
        figure.add_annotation(
            text="none", xref="x2 domain", yref="y2 domain", x=0.5, y=0.5, showarrow=False,
            font={"color": FAINT, "size": text_size(theme)},
        )  # fmt: skip
        drawn = np.array([LEAST, 1.0])
    ends = [np.log10(LEAST * 0.8), np.log10(max(2.0, float(drawn.max()) * 1.2))]
    figure.update_xaxes(title_text="ratio of the reconstruction", type="log", range=ends, dtick=1, row=1, col=2)
    figure.update_yaxes(title_text="ratio of the error", type="log", range=ends, dtick=1, row=1, col=2)
    _rule(figure, 2, x=float(attrs["decoupled"]))
    _rule(figure, 2, y=float(attrs["shrunk"]))


def _rule(figure: go.Figure, column: int, *, x: float | None = None, y: float | None = None) -> None:
    """A dashed line across a panel, at x or at y."""
    number = "" if column == 1 else str(column)
    across = {"x0": x, "x1": x, "y0": 0, "y1": 1, "xref": f"x{number}", "yref": f"y{number} domain"}
    if x is None:
        across = {"y0": y, "y1": y, "x0": 0, "x1": 1, "xref": f"x{number} domain", "yref": f"y{number}"}
    figure.add_shape(type="line", line={"color": FAINT, "width": 1, "dash": "4px,3px"}, layer="below", **across)


def _patching(result: "DiffResult", part: str, theme: Theme, venue: str) -> go.Figure:
    if "kl" not in result.data:
        raise BadInput(
            "nothing was patched in this result (patch_tokens=0, or models of two widths). Run it with patch_tokens above 0."
        )
    table = result.recovered(part)
    names = [str(name) for name in table["set"].values]
    random = [name for name in names if name.startswith("random")]
    kept = [
        name for name in names if not name.startswith(("random", "changed most", "any latents")) and name != "nothing"
    ]
    rows: list[tuple[str, float, float, float]] = [
        (plain(name) + _size(table, name), float(table["recovered"].sel(set=name)), float(table["ci_lo"].sel(set=name)),
         float(table["ci_hi"].sel(set=name)))
        for name in kept
    ]  # fmt: skip
    if random:
        shares = table["recovered"].sel(set=random).values
        place = sum(int(table["size"].sel(set=name)) > 0 for name in kept)
        rows.insert(
            place,
            (
                f"random shared ({len(random)} sets){_size(table, random[0])}",
                float(shares.mean()),
                float(shares.min()),
                float(shares.max()),
            ),
        )
    for one in result.changed(part).to_dict("records"):
        size = f" · {int(one['latents']):,}"
        name = f"changed most, {100 * float(one['share']):.3g} %"
        rows.append((name + size, float(one["recovered"]), float(one["ci_lo"]), float(one["ci_hi"])))
        if np.isfinite(float(one["any"])):
            rows.append(("as many of any" + size, float(one["any"]), float(one["any_lo"]), float(one["any_hi"])))
    rows = rows[::-1]
    found = ("tuned only", "base only", "both", "best half", "worst half", "changed most")
    labels = [name for name, *_ in rows]
    share, low, high = (np.array([row[place] for row in rows]) for place in (1, 2, 3))
    figure = go.Figure(
        go.Bar(
            x=share, y=labels, orientation="h", error_x=whiskers(share, low, high) | {"color": INK},
            marker={"color": [CATEGORY[1] if name.startswith(found) else "#b6bdc5" for name, *_ in rows], "line": {"width": 0}},
            hovertemplate="%{y}: %{x:.1%}<extra></extra>",
        )
    )  # fmt: skip
    figure.add_shape(
        type="line", x0=0, x1=0, y0=0, y1=1, yref="paper", line={"color": INK, "width": 1},
    )  # fmt: skip
    figure.update_xaxes(title_text="share of the KL to the tuned model that is recovered", tickformat=".0%")
    figure.update_yaxes(showgrid=False, ticks="")
    count = int(result.data["patched"].sel(part=part).sum())
    where = {"all": "all tokens", "first": "first tokens of a document", "rest": "all but the first tokens"}[part]
    title = f"Patched into {result.data.attrs['tuned']}: {count:,} tokens ({where})"
    dress(
        figure, result, theme=theme, title=title, venue=venue, aspect=0.16 + 0.042 * len(rows), height=150 + 25 * len(rows),
        margin={"l": 250 if theme == "screen" else 170},
    )  # fmt: skip
    return check_budget(figure)


def _size(table: Any, name: str) -> str:
    size = int(table["size"].sel(set=name))
    return f" · {size:,}" if size else ""
