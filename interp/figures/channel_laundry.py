"""The laundry list, what lies behind its accuracy: gains by rule, components scaled in the weights, and the order of the list.

`by="rules"` is the gain of every rule by length of the list, those that are told the answer apart from those that are not, with the
controls in grey. `by="editing"` is accuracy with the components scaled in the weights, `by="order"` how much of the answer's variance
over orders of one list the place of the missing thing makes. Accuracy itself is the result's own figure (see `laundry`).

    interp.figures.channel_laundry.plot(result, by="rules")
"""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import plotly.graph_objects as go

from interp.core.errors import one_of

from .marks import band, whiskers
from .panels import above, panels, place_legend
from .paths import caption
from .shrink import check_budget
from .theme import CATEGORY, FAINT, THEMES, Theme, dress, plain

if TYPE_CHECKING:
    from interp.analyses.channels.laundry.result import LaundryResult

ORACLES = ("answer", "outcome", "task")
"""What rules know that nobody has who wants the answer (the rule `second list` reads it off the prompt: it is told the task)."""


def plot(
    result: "LaundryResult",
    *,
    by: Literal["rules", "editing", "order"] = "rules",
    scoring: Literal["vocabulary", "listed"] = "vocabulary",
    theme: Theme = "screen",
    venue: str = "neurips",
) -> go.Figure:
    """Draw one view; `scoring` is how an answer counts: the best token of all, or the best thing listed.

    Raises `BadInput` for what was not run.
    """
    one_of("by", by, ("rules", "editing", "order"))
    one_of("scoring", scoring, ("vocabulary", "listed"))
    one_of("theme", theme, THEMES)
    figure, title, said, rows = {"rules": _rules, "editing": _editing, "order": _order}[by](result, scoring, theme)
    title += f" ({result.data.sizes['prompt']} lists a length)"
    dress(
        figure,
        result,
        theme=theme,
        title=title,
        venue=venue,
        aspect=0.46,
        height=390,
        margin=above(theme, legend_rows=rows),
    )
    caption(figure, said, theme)
    return check_budget(figure)


def _rules(result: Any, scoring: str, theme: Theme) -> tuple[go.Figure, str, str, int]:
    table = result.steering(scoring)
    knows = dict(zip(result.data["rule"].values.tolist(), result.data["knows"].values.tolist(), strict=True))
    groups = [
        [rule for rule in knows if rule != "unsteered" and (knows[rule] in ORACLES) is told] for told in (True, False)
    ]
    figure = panels(["told the answer", "not told"], theme=theme, shared_y=True)
    arms, index = [str(arm) for arm in table["arm"].values], 0
    for column, rules in enumerate(groups, start=1):
        for rule in rules:
            for arm in arms[1:]:
                figure.add_trace(
                    go.Scatter(
                        x=result.lengths, y=table["gain"].sel(arm=arm, rule=rule).values.astype(np.float32), mode="lines", showlegend=False,
                        line={"color": "#c4c9cf", "width": 1}, name="control",
                        hovertemplate=f"{plain(arm)}, {plain(rule)}<br>%{{x}}: %{{y:.3f}}<extra></extra>",
                    ),
                    row=1, col=column,
                )  # fmt: skip
        for rule in rules:
            _curve(
                figure,
                result.lengths,
                table.sel(arm=arms[0], rule=rule),
                rule,
                index,
                column,
                ("gain", "gain_lo", "gain_hi"),
            )
            index += 1
    _lengths(figure, result.lengths)
    figure.update_yaxes(zeroline=True, zerolinecolor=FAINT)
    figure.update_yaxes(title_text="gain in accuracy", row=1, col=1)
    place_legend(figure, theme=theme)
    return (
        figure,
        "What steering gains, by what it is told",
        f"grey: controls; bands: 95 %; {_scored(scoring)}",
        -(-index // 4),
    )


def _editing(result: Any, scoring: str, theme: Theme) -> tuple[go.Figure, str, str, int]:
    table = result.editing(scoring)
    figure = panels(["components scaled in the weights"], theme=theme)
    gammas = table["gamma"].values.tolist()
    for index, gamma in enumerate(gammas):
        _curve(figure, result.lengths, table.sel(gamma=gamma), f"× {gamma:g}", index, 1, ("mean", "ci_lo", "ci_hi"))
    figure.add_trace(
        go.Scatter(
            x=result.lengths, y=result.chance.values.astype(np.float32), mode="lines", name="chance",
            line={"color": FAINT, "width": 1, "dash": "1.5px,3px"}, hovertemplate="%{x}: %{y:.3f}<extra>chance</extra>",
        )
    )  # fmt: skip
    _lengths(figure, result.lengths)
    figure.update_yaxes(title_text="accuracy", range=[-0.03, 1.05])
    place_legend(figure, theme=theme)
    return figure, "Accuracy with the components scaled", f"bands: 95 %; {_scored(scoring)}", -(-(len(gammas) + 1) // 5)


def _order(result: Any, scoring: str, theme: Theme) -> tuple[go.Figure, str, str, int]:
    frame = result.order()
    figure = panels(["share of variance due to the place"], theme=theme)
    mean, low, high = (frame[name].to_numpy(np.float32) for name in ("adjusted", "ci_lo", "ci_hi"))
    figure.add_trace(
        go.Scatter(
            x=frame["length"].tolist(), y=mean, mode="markers", error_y=whiskers(mean, low, high), marker={"color": CATEGORY[0]},
            showlegend=False, customdata=frame[["sets", "orders", "sd"]].to_numpy(np.float32), name="order",
            hovertemplate="%{x} things: %{y:.3f}<br>%{customdata[0]:.0f} sets of %{customdata[1]:.0f} orders<br>"
            "SD within a set %{customdata[2]:.3g}<extra></extra>",
        )
    )  # fmt: skip
    _lengths(figure, frame["length"].tolist())
    figure.update_yaxes(title_text="share beyond chance", zeroline=True, zerolinecolor=FAINT)
    said = "0: as if the place did not matter; whiskers: 95 % over sets; P(answer)"
    return figure, "How much the order of the list matters", said, 0


def _curve(
    figure: go.Figure, x: list[int], table: Any, name: str, index: int, column: int, names: tuple[str, str, str]
) -> None:
    for trace in band(x, *(table[key].values for key in names), name=name, index=index):
        figure.add_trace(trace, row=1, col=column)


def _lengths(figure: go.Figure, lengths: list[int]) -> None:
    step = max(1, -(-len(lengths) // 8))
    shown = lengths[::step]
    figure.update_xaxes(title_text="things listed", tickvals=shown, ticktext=[str(items) for items in shown])


def _scored(scoring: str) -> str:
    return "best of all tokens" if scoring == "vocabulary" else "best of those listed"
