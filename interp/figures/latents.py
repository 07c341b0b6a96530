"""Cards of latents: where one fires, how strongly, and what it writes.

`by="card"`: of one latent the histogram of its codes (tokens on which it is on, on a logarithmic axis), the tokens that it promotes and
demotes (in standard deviations of its logits), and text around its strongest tokens and around some of every quantile of its codes, each
token shaded by its code. `by="search"`: for each word that was searched for, the AUC of the latents that were tested, filled where they
fire on it beyond chance.
"""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.core.errors import BadInput, one_of

from .panels import above, panels, place_legend
from .paths import caption
from .sentences import EM, sentence, shade_quantity
from .shrink import check_budget
from .theme import CATEGORY, FAINT, INK, THEMES, Theme, dress, plain, text_size, translucent

if TYPE_CHECKING:
    from interp.analyses.dictionaries.latents.result import LatentsResult

LEFT = 0.3
"""Share of the width that the two small panels have."""
MOST_WORDS = 6
"""Tokens of an end."""
MOST_TESTED = 12
"""Latents of a word in a search."""


def plot(
    result: "LatentsResult",
    *,
    by: Literal["card", "search"] = "card",
    latent: int | None = None,
    view: str | None = None,
    n: int = 8,
    theme: Theme = "screen",
    venue: str = "neurips",
) -> go.Figure:
    """Draw the card of `latent` (the first by default) with `n` strongest examples, logit effects of `view`; or a search."""
    one_of("by", by, ("card", "search"))
    one_of("theme", theme, THEMES)
    if by == "search":
        return _search(result, theme, venue)
    if n < 1:
        raise BadInput(f"`n` must be at least 1; not {n}.")
    number = result.latents[0] if latent is None else int(latent)
    card = result.card(number)
    if view is not None:
        one_of("view", view, tuple(card["words"]))
    return _card(result, card, view or next(iter(card["words"]), ""), n, theme, venue)


def _card(result: Any, card: dict[str, Any], view: str, n: int, theme: Theme, venue: str) -> go.Figure:
    size = text_size(theme, small=True)
    rows = _rows(result, card["latent"], n)
    page = (900 * (1 - LEFT) - 150) if theme == "screen" else 5.5 * 96 * (1 - LEFT) - 60
    figure = make_subplots(
        rows=2, cols=2, specs=[[{}, {"rowspan": 2}], [{}, None]], column_widths=[LEFT, 1 - LEFT], row_heights=[0.38, 0.62],
        horizontal_spacing=0.07, vertical_spacing=0.24 if theme == "screen" else 0.27,
    )  # fmt: skip
    _histogram(figure, result, card["latent"])
    ends = card["words"].get(view, {"promoted": [], "demoted": []})
    _words(figure, ends, size)
    bottom = _examples(figure, result, card, rows, size=size, page=page)
    head = ("codes", "what it writes" + (f" in {view}" if len(card["words"]) > 1 else ""), "where it fires")
    for place, (number, title) in enumerate(zip(("", "3", "2"), head, strict=True)):
        letter = f"<b>{'abc'[place]}</b>  " if theme == "paper" else ""
        figure.add_annotation(
            text=letter + plain(title), showarrow=False, xref=f"x{number} domain", yref=f"y{number} domain", x=0.0, y=1.0, xanchor="left",
            yanchor="bottom", yshift=3, font={"size": text_size(theme), "color": INK}, borderpad=0, name="panel title",
        )  # fmt: skip
    high = 19 if theme == "screen" else 14
    said = f"Latent {card['latent']}: on at {card['density']:.2%} of {int(result.data.attrs['rows']):,} tokens"
    dress(
        figure, result, theme=theme, title=said, venue=venue, aspect=max(0.55, (high * -bottom + 70) / (5.5 * 96)),
        height=max(430, 150 + int(high * -bottom)), margin=above(theme),
    )  # fmt: skip
    figure.update_layout(showlegend=False, bargap=0.06)
    return check_budget(figure)


def _rows(result: Any, latent: int, n: int) -> list[tuple[str, list[dict[str, Any]]]]:
    """Examples to show, by kind: the strongest, then one of each quantile."""
    table = result.examples(latent)
    kinds = list(dict.fromkeys(table["kind"]))
    found = []
    for kind in kinds:
        mine = table[table["kind"] == kind].head(n if kind == "top" else 1)
        found.append((kind, mine.to_dict("records")))
    return found


def _histogram(figure: go.Figure, result: Any, latent: int) -> None:
    here = result.data.sel(latent=latent)
    edges, counts = here["edge"].values, here["count"].values
    if np.isfinite(edges).all():
        figure.add_trace(
            go.Bar(
                x=((edges[1:] + edges[:-1]) / 2).astype(np.float32), y=counts, width=np.diff(edges).astype(np.float32),
                marker={"color": CATEGORY[0], "line": {"width": 0}}, hovertemplate="%{x:.3g}: %{y} tokens<extra></extra>", name="codes",
            ),
            row=1, col=1,
        )  # fmt: skip
    figure.update_yaxes(type="log", title_text="tokens", dtick=1, row=1, col=1)
    figure.update_xaxes(title_text="code", nticks=4, row=1, col=1)


def _words(figure: go.Figure, ends: dict[str, list[dict[str, Any]]], size: float) -> None:
    """Promoted tokens from above, demoted ones below, the furthest at either end."""
    shown = [(one, 0) for one in ends["promoted"][:MOST_WORDS] if one["z"] > 0]
    shown += [(one, 1) for one in ends["demoted"][:MOST_WORDS][::-1] if one["z"] < 0]
    if not shown:
        figure.update_xaxes(visible=False, row=2, col=1)
        figure.update_yaxes(visible=False, row=2, col=1)
        return
    figure.add_trace(
        go.Bar(
            x=[one["z"] for one, _ in shown], y=list(range(len(shown))), orientation="h", text=[one["token"] for one, _ in shown],
            marker={"color": [translucent(CATEGORY[0 if side == 0 else 1], 0.85) for _, side in shown]}, textposition="none",
            customdata=[one["logit"] for one, _ in shown], name="words",
            hovertemplate="%{text}: %{x:.2f} sd, %{customdata:.3g}<extra></extra>",
        ),
        row=2, col=1,
    )  # fmt: skip
    figure.update_yaxes(
        tickvals=list(range(len(shown))), ticktext=[plain(one["token"].replace("␣", "")) for one, _ in shown], ticks="",
        range=[len(shown) - 0.4, -0.6],
        tickfont={"size": size}, showgrid=False, row=2, col=1,
    )  # fmt: skip
    figure.update_xaxes(
        title_text="logit, sd over the vocabulary", zeroline=True, zerolinecolor=FAINT, nticks=5, row=2, col=1
    )


def _examples(
    figure: go.Figure,
    result: Any,
    card: dict[str, Any],
    rows: list[tuple[str, list[dict[str, Any]]]],
    *,
    size: float,
    page: float,
) -> float:
    """Rows of text; returns the lowest height."""
    y, unit = 0.0, size * EM
    for kind, found in rows:
        if kind != "top" and y > -100 and found is rows[1][1]:
            y -= 0.5
            figure.add_annotation(
                text="drawn from quantiles of its codes", x=0, y=y, xref="x2", yref="y2", xanchor="left", showarrow=False, borderpad=0,
                font={"size": size, "color": FAINT}, name="quantiles",
            )  # fmt: skip
            y -= 1
        for row in found:
            labels, codes, at = result.window_of(card["latent"], row["number"])
            sentence(
                figure,
                labels,
                codes,
                at,
                y,
                limit=card["largest"] or 1.0,
                size=size,
                page=page,
                shade=shade_quantity,
                axis="2",
                middle=0.55,
            )
            figure.add_annotation(
                text=f"{row['value']:.3g}" + ("" if kind == "top" else f"  {_quantile(kind)}"),
                x=-unit, y=y, xref="x2", yref="y2", xanchor="right", showarrow=False, borderpad=0,
                font={"size": size, "color": FAINT}, name="code",
            )  # fmt: skip
            y -= 1
    if not rows:
        figure.add_annotation(
            text="never on in this text",
            x=page / 2,
            y=y,
            xref="x2",
            yref="y2",
            showarrow=False,
            font={"size": size, "color": FAINT},
            name="silent",
        )
        y -= 1
    figure.add_trace(go.Scatter(x=[None], y=[None], mode="markers", hoverinfo="skip", showlegend=False), row=1, col=2)
    figure.update_xaxes(visible=False, range=[-9 * unit, page], fixedrange=True, row=1, col=2)
    figure.update_yaxes(visible=False, range=[y + 0.4, 0.7], row=1, col=2)
    return y


def _quantile(kind: str) -> str:
    low, _, high = kind.partition("-")
    return f"{float(low):.0%} to {float(high):.0%}".replace("%", "", 1)


def _search(result: Any, theme: Theme, venue: str) -> go.Figure:
    words = [str(one) for one in result.data["query"].values] if "query" in result.data.coords else []
    result.searched()  # refuses where nothing was searched for
    rows = []
    for word in words:
        rows += [(word, row) for row in result.searched(word).head(MOST_TESTED).to_dict("records")]
    figure = panels(["AUC"], theme=theme)
    figure.layout.annotations = ()
    for sure, name in ((True, "fires on the word (p < 0.05)"), (False, "not beyond chance")):
        mine = [(place, row) for place, (_, row) in enumerate(rows) if (row["p_holm"] < 0.05) == sure]
        figure.add_trace(
            go.Scatter(
                x=[row["auc"] for _, row in mine], y=[place for place, _ in mine], mode="markers", name=name,
                marker={"color": CATEGORY[1] if sure else "rgba(255,255,255,1)",
                        "line": {"color": CATEGORY[1] if sure else FAINT, "width": 1.2}, "size": 9 if theme == "screen" else 6},
                text=[f"{row['on']:.3g} on it, {row['off']:.3g} elsewhere; p {row['p_holm']:.2g}" for _, row in mine],
                hovertemplate="%{x:.3f}<br>%{text}<extra></extra>",
            )
        )  # fmt: skip
    figure.add_vline(x=0.5, line={"color": FAINT, "width": 1, "dash": "4px,3px"})
    figure.update_xaxes(title_text="AUC, the word's tokens against all others", range=[0, 1.03])
    figure.update_yaxes(
        tickvals=list(range(len(rows))), ticktext=[plain(f"{word}: latent {row['latent']}") for word, row in rows],
        range=[len(rows) - 0.4, -0.6], showgrid=False, ticks="",
    )  # fmt: skip
    place_legend(figure, theme=theme)
    dress(
        figure, result, theme=theme, title=f"Latents that fire on {', '.join(words)}", venue=venue, aspect=0.2 + 0.032 * len(rows),
        height=190 + 24 * len(rows), margin=above(theme, legend_rows=1),
    )  # fmt: skip
    how = (
        "picked on one half of the texts, tested on the other" if result.data.attrs["picked"] else "tested on all texts"
    )
    caption(figure, f"{how}; null: texts rotated against codes", theme)
    return check_budget(figure)
