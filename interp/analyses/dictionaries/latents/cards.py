"""A latent on a few lines of a terminal, and on a small piece of HTML."""

import html
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from .result import LatentsResult

SHOWN = {"lines": 3, "html": 4, "words": 6, "around": 7}
"""Examples on a card, words of a list, and tokens on either side of an example in HTML."""


def card_lines(result: "LatentsResult", latent: int) -> list[str]:
    """A card in text."""
    card = result.card(latent)
    head = f"latent {latent}: on at {_often(result, card)}, largest {card['largest']:.3g}, mean {card['mean_on']:.3g} where on"
    if not card["density"]:
        return [f"latent {latent}: never on in this text", *_writes(card)]
    lines = [head]
    lines += ["    fires on  " + _fires(card)] if card["fires_on"] else []
    for row in result.examples(latent, "top").head(SHOWN["lines"]).to_dict("records"):
        lines.append(f"    {row['value']:8.3g}  {_cut(row['context'])}")
    middle = result.examples(latent)
    shown = result.examples(latent, "top").head(SHOWN["lines"])[["document", "position"]]
    middle = middle[(middle["kind"] != "top") & ~_among(middle, shown)].sort_values("value").head(1)
    for row in middle.to_dict("records"):
        lines.append(f"    {row['value']:8.3g}  {_cut(row['context'])}  (of its weakest)")
    return [*lines, *_writes(card), *_near(card)]


def _often(result: "LatentsResult", card: dict[str, Any]) -> str:
    """How often a latent is on: its share of the tokens, and their number where that is small."""
    rows = int(result.data.attrs["rows"])
    count = round(card["density"] * rows)
    return f"{card['density']:.2%} of tokens" + (f" ({count} of {rows:,})" if count < 20 else "")


def _among(rows: "pd.DataFrame", others: "pd.DataFrame") -> np.ndarray:
    """Which examples are among others, bool [row]."""
    places = set(zip(others["document"], others["position"], strict=True))
    return np.array([place in places for place in zip(rows["document"], rows["position"], strict=True)], dtype=bool)


def _fires(card: dict[str, Any]) -> str:
    return ", ".join(
        f"{one['token']} ({one['share']:.0%} of {one['seen']})" for one in card["fires_on"][: SHOWN["words"]]
    )


def _writes(card: dict[str, Any]) -> list[str]:
    lines = []
    for view, ends in card["words"].items():
        where = f" in {view}" if len(card["words"]) > 1 else ""
        if ends["promoted"]:
            up, down = (
                ", ".join(f"{one['token']} {one['z']:+.1f}" for one in ends[end][: SHOWN["words"]]) for end in ends
            )
            lines.append(f"    promotes{where}  {up}   demotes  {down}   (sd of its logits)")
    return lines


def _near(card: dict[str, Any]) -> list[str]:
    lines = []
    if card["near"]:
        lines.append("    writes like  " + ", ".join(f"{one} ({cosine:.2f})" for one, cosine in card["near"]))
    if card["together"]:
        lines.append("    on with  " + ", ".join(f"{one} (r {r:.2f})" for one, r, _ in card["together"]))
    return lines


def _cut(text: str, width: int = 100) -> str:
    """The part of a context around its bracketed token."""
    text = text.replace("\n", " ")
    at = text.find("[")
    start = max(0, min(at - width // 2, len(text) - width))
    return ("…" if start else "") + text[start : start + width] + ("…" if start + width < len(text) else "")


def card_html(result: "LatentsResult", latent: int) -> str:
    """A card in HTML: numbers, examples with shaded tokens, words; two or three kilobytes."""
    card = result.card(latent)
    grey = "color:#6e7781"
    head = (
        f"<b>latent {latent}</b> <span style='{grey}'>on at {_often(result, card)} · largest {card['largest']:.3g} · "
        f"{html.escape(_fires(card))}</span>"
    )
    rows = "".join(
        f"<div style='white-space:nowrap;overflow:hidden'><span style='{grey}'>{row['value']:.2f}</span> "
        f"{_strip(result, latent, row['number'])}</div>"
        for row in result.examples(latent, "top").head(SHOWN["html"]).to_dict("records")
    )
    words = "".join(f"<div style='{grey}'>{html.escape(line.strip())}</div>" for line in [*_writes(card), *_near(card)])
    return f"<div style='margin:8px 0;border-left:3px solid #e7e9ec;padding-left:8px;font-size:12px'>{head}{rows}{words}</div>"


def _strip(result: "LatentsResult", latent: int, number: int) -> str:
    labels, codes, at = result.window_of(latent, number)
    most = float(result.data["largest"][latent]) or 1.0
    low = max(0, at - SHOWN["around"])
    spaced = any("␣" in label for label in labels)
    out = ""
    for place in range(low, min(len(labels), at + SHOWN["around"] + 1)):
        share = float(np.nan_to_num(codes[place])) / most
        text = html.escape(labels[place].replace("␣", " ") if spaced else f" {labels[place]}")
        out += (
            f"<span style='background:rgba(213,94,0,{min(share, 1) * 0.75:.2f})'>{text}</span>"
            if share > 0.01
            else text
        )
    return out
