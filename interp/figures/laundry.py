"""The laundry list: accuracy by length, place and rule; where the reader can be made to look; edited weights; the order of the list.

by          what is drawn
accuracy    the untouched model against chance; what it becomes under rules that know the answer and rules that do not, on prompts that
            nothing was learned on; and the same oracle on the controls
place       accuracy for each place of the missing thing
map         the place that gets most attention at each point of the grid, the channel beside its controls (two components)
rules       the gain of every rule, those that are told the answer apart from those that are not, with the controls in grey
editing     accuracy with the components scaled in the weights
order       how much of the variance of P(answer) over orders of one list the place of the missing thing makes

Intervals are 95 % over prompts (`order`: over sets of things). Dotted lines are chance.

    result.plot(by="rules", scoring="listed")
"""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import plotly.graph_objects as go

from interp.core.errors import BadInput, one_of

from .channel_axes import HOLE
from .channel_regions import Items, add_regions
from .marks import band, grid, whiskers
from .panels import above, panels, place_legend
from .paths import caption
from .shrink import check_budget
from .theme import CATEGORY, FAINT, THEMES, Theme, dress, plain

if TYPE_CHECKING:
    from interp.analyses.channels.laundry.result import LaundryResult

View = Literal["accuracy", "place", "map", "rules", "editing", "order"]
SCORED = {"vocabulary": "best of all tokens", "listed": "best of the things listed"}
"""How an answer counts, in words."""
SHOWN = {"unsteered": 0, "oracle region": 3, "single point": 4, "self-consistent": 5}
"""Rules of the second panel and their styles: untouched, with the answer known, and two without."""
CONTROLS = (6, 7, 2)
"""Styles of the controls, which no rule has."""
ORACLES = ("answer", "outcome", "task")
"""What rules know that nobody has who wants the answer (the rule `second list` reads it off the prompt: it is told the task)."""


def plot(
    result: "LaundryResult",
    *,
    by: View = "accuracy",
    scoring: Literal["vocabulary", "listed"] = "vocabulary",
    length: int | None = None,
    theme: Theme = "screen",
    venue: str = "neurips",
) -> go.Figure:
    """Draw one view; `scoring` is how an answer counts, `length` the list of by='map' (the longest).

    Raises `BadInput` for what was not run, and for options that the view does not have.
    """
    scored = {"accuracy": _accuracy, "place": _place, "rules": _rules, "editing": _editing}
    one_of("by", by, [*scored, "map", "order"])
    one_of("scoring", scoring, list(SCORED))
    one_of("theme", theme, THEMES)
    if length is not None and by != "map":
        raise BadInput(f"`length={length}` is for by='map'; by={by!r} shows all lengths. Leave it out.")
    if by not in scored:
        if scoring != "vocabulary":
            raise BadInput(f"by={by!r} shows no accuracy, so `scoring={scoring!r}` changes nothing. Leave it out.")
        return _map(result, length, theme, venue) if by == "map" else _order(result, theme, venue)
    return scored[by](result, scoring, theme, venue)


def _accuracy(result: Any, scoring: str, theme: Theme, venue: str) -> go.Figure:
    titles = ["untouched", "steered", "oracle, by directions"][
        : 3 if len(result.arms) > 1 else 2 if result.steers else 1
    ]
    figure = panels(titles, theme=theme, shared_y=True)
    lengths = result.lengths
    for index, (name, way) in enumerate({"best of all tokens": "vocabulary", "best of the list": "listed"}.items()):
        _line(figure, lengths, result.accuracy(way), name, index, 1)
    if result.steers:
        table = result.steering(scoring)
        for rule, index in SHOWN.items():
            _line(figure, lengths, table.sel(arm="channel", rule=rule), rule, index, 2)
        for index, arm in enumerate(result.arms if len(result.arms) > 1 else ()):
            style = (SHOWN["oracle region"], *CONTROLS)[index]
            chosen = table.sel(arm=arm, rule="oracle region")
            _line(figure, lengths, chosen, arm.replace("_", " "), style, 3, bare=index > 0)
    for column in range(1, len(titles) + 1):
        _chance(figure, result, column)
    _lengths(figure, lengths)
    figure.update_yaxes(range=[-0.03, 1.05])
    figure.update_yaxes(title_text="accuracy", row=1, col=1)
    steered = (
        f", steered by {' '.join(map(str, result.data['axis'].values))} into {result.data.attrs['reader']}"
        if result.steers
        else ""
    )
    rows = 1 + (len(titles) > 1) + (len(titles) > 2)
    said = f"steered: {scoring}, prompts that nothing was learned on" if result.steers else ""
    return _finished(figure, result, f"Laundry lists{steered}", said, rows, theme, venue)


def _line(
    figure: go.Figure, lengths: list[int], table: Any, name: str, index: int, column: int, *, value: str = "", bare: bool = False,
) -> None:  # fmt: skip
    """A mean with its band; `bare` without, where bands of several lines would hide one another."""
    names = (value, f"{value}_lo", f"{value}_hi") if value else ("mean", "ci_lo", "ci_hi")
    mean, low, high = (table[key].values for key in names)
    if bare:
        low, high = low * np.nan, high * np.nan
    for trace in band(lengths, mean, low, high, name=name, index=index):
        figure.add_trace(trace, row=1, col=column)


def _place(result: Any, scoring: str, theme: Theme, venue: str) -> go.Figure:
    table = result.by_place(scoring)
    most = table.sizes["item"]
    figure = panels(["accuracy by place of the missing thing"], theme=theme)
    lengths = [str(items) for items in result.lengths]
    cells = grid(
        table["mean"].values, x=list(range(most)), y=lengths, limit=1.0, name="accuracy", hover="%{y} things, place %{x}<br>%{z:.3f}",
        ends=(table["ci_lo"].values, table["ci_hi"].values),
    )  # fmt: skip
    figure.add_trace(cells, row=1, col=1)
    figure.update_xaxes(title_text="place of the missing thing, from 0", dtick=1 if most <= 12 else 2)
    figure.update_yaxes(title_text="things listed", type="category")
    figure.update_xaxes(showgrid=False).update_yaxes(showgrid=False).update_layout(plot_bgcolor=HOLE)  # no such place
    title = f"Accuracy by length and place ({result.data.sizes['prompt']} prompts a length)"
    dress(figure, result, theme=theme, title=title, venue=venue, aspect=0.5, height=420, margin=above(theme))
    caption(figure, SCORED[scoring], theme)
    return check_budget(figure)


def _map(result: Any, length: int | None, theme: Theme, venue: str) -> go.Figure:
    if not result.steers or result.data.sizes["axis"] != 2:
        have = result.data.sizes.get("axis", 0) if result.steers else 0
        raise BadInput(f"by='map' needs two components that are steered; this result has {have}. Use by='accuracy'.")
    length = result.lengths[-1] if length is None else length
    pictures = [(arm.replace("_", " "), result.owners(length, arm)) for arm in result.arms]
    figure = panels([name for name, _ in pictures], theme=theme, shared_y=True)
    items = Items.of([f"item_{place}" for place in range(length)])
    names = [str(name) for name in result.data["axis"].values]
    for column, (_, owners) in enumerate(pictures, start=1):
        laid = owners.transpose("axis_1", "axis_0")
        x, y = laid["axis_0"].values.tolist(), laid["axis_1"].values.tolist()
        most = 7 if len(pictures) < 3 else 5 if theme == "screen" else 4
        add_regions(
            figure, laid.values, items, x=x, y=y, column=column, theme=theme, scale=column == len(pictures), most=most
        )
        figure.update_xaxes(title_text=f"{names[0]} (s.d.)" if column == 1 else "axis 1", row=1, col=column)
    figure.update_yaxes(title_text=f"{names[1]} (s.d.)", row=1, col=1)
    title = f"Place that head {result.data.attrs['reader']} looks at most, lists of {length}"
    wide = len(pictures)
    dress(
        figure, result, theme=theme, title=title, venue=venue, aspect={1: 0.8, 2: 0.52, 3: 0.4}.get(wide, 0.34),
        height={1: 560, 2: 470}.get(wide, 400), margin=above(theme),
    )  # fmt: skip
    caption(figure, f"{result.data.attrs['mode']} at the last token; grey: no place leads", theme)
    return check_budget(figure)


def _rules(result: Any, scoring: str, theme: Theme, venue: str) -> go.Figure:
    table = result.steering(scoring)
    knows = dict(zip(result.data["rule"].values.tolist(), result.data["knows"].values.tolist(), strict=True))
    figure = panels(["told the answer", "not told"], theme=theme, shared_y=True)
    arms, index = result.arms, 0
    for column, told in enumerate((True, False), start=1):
        rules = [rule for rule in knows if rule != "unsteered" and (knows[rule] in ORACLES) is told]
        for rule in rules:
            for arm in arms[1:]:
                beside = go.Scatter(
                    x=result.lengths, y=table["gain"].sel(arm=arm, rule=rule).values.astype(np.float32), mode="lines", showlegend=False,
                    line={"color": "#c4c9cf", "width": 1}, name="control",
                    hovertemplate=f"{plain(arm)}, {plain(rule)}<br>%{{x}}: %{{y:.3f}}<extra></extra>",
                )  # fmt: skip
                figure.add_trace(beside, row=1, col=column)
        for rule in rules:
            _line(figure, result.lengths, table.sel(arm=arms[0], rule=rule), rule, index, column, value="gain")
            index += 1
    _lengths(figure, result.lengths)
    figure.update_yaxes(zeroline=True, zerolinecolor=FAINT)
    figure.update_yaxes(title_text="gain in accuracy", row=1, col=1)
    said = f"grey: controls; bands: 95 %; {SCORED[scoring]}"
    return _finished(figure, result, "What steering gains, by what it is told", said, -(-index // 4), theme, venue)


def _editing(result: Any, scoring: str, theme: Theme, venue: str) -> go.Figure:
    table = result.editing(scoring)
    figure = panels(["components scaled in the weights"], theme=theme)
    gammas = table["gamma"].values.tolist()
    for index, gamma in enumerate(gammas):
        _line(figure, result.lengths, table.sel(gamma=gamma), f"× {gamma:g}", index, 1)
    _chance(figure, result, 1)
    _lengths(figure, result.lengths)
    figure.update_yaxes(title_text="accuracy", range=[-0.03, 1.05])
    said, rows = f"bands: 95 %; {SCORED[scoring]}", -(-(len(gammas) + 1) // 5)
    return _finished(figure, result, "Accuracy with the components scaled", said, rows, theme, venue)


def _order(result: Any, theme: Theme, venue: str) -> go.Figure:
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
    return _finished(figure, result, "How much the order of the list matters", said, 0, theme, venue, prompts=False)


def _finished(
    figure: go.Figure, result: Any, title: str, said: str, rows: int, theme: Theme, venue: str, *, prompts: bool = True
) -> go.Figure:
    """With a legend of `rows` rows, title and caption."""
    title += f" ({result.data.sizes['prompt']} prompts a length)" if prompts else ""
    place_legend(figure, theme=theme)
    margin = above(theme, legend_rows=rows)
    dress(figure, result, theme=theme, title=title, venue=venue, aspect=0.46, height=400, margin=margin)
    if said:
        caption(figure, said, theme)
    return check_budget(figure)


def _chance(figure: go.Figure, result: Any, column: int) -> None:
    line = go.Scatter(
        x=result.lengths, y=result.chance.values.astype(np.float32), mode="lines", line={"color": FAINT, "width": 1, "dash": "1.5px,3px"},
        name="chance", showlegend=column == 1, hovertemplate="chance %{y:.3f}<extra></extra>",
    )  # fmt: skip
    figure.add_trace(line, row=1, col=column)


def _lengths(figure: go.Figure, lengths: list[int]) -> None:
    figure.update_xaxes(title_text="things listed", tickvals=lengths[:: -(-len(lengths) // 8)])
