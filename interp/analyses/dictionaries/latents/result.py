"""What `Latents` gives: for each latent that is shown, where it fires, what it writes and what is near it."""

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import xarray as xr

from interp.core.analysis import LARGEST_REPR, Result
from interp.core.errors import BadInput, one_of

from .cards import card_html, card_lines

if TYPE_CHECKING:
    import pandas as pd


class LatentsResult(Result):
    """Cards of latents.

    data:
        density, largest, mean_on [unit]       of all latents: share of tokens on, largest code, mean of the codes that are on
        example_value, _kind (`top` or quantiles), _document, _position, _low, _high, _at [latent, example]; window_id, window_code
                                               [latent, example, place]   surroundings, the example at place `example_at`
        count [latent, bin], edge              tokens on which it is on, by code
        fires_id, fires_mean, fires_share, fires_seen [latent, token]      tokens with the largest mean code
        word_id, word_logit, word_z [latent, view, end, word]              what it promotes and demotes; logit_count, logit_edge: all tokens
        near_latent, near_cosine [latent, near]; together_latent, together_r, together_share   by decoder, by firing
        search_latent, _difference, _on, _off, _auc, _p, _p_holm [query, candidate], search_hits [query]   where words were searched for
        text_score [latent], text_code [latent, text_place]                where a text was
    Ids of tokens are places in `token_label`, `token_text`, `token_id` [entry]; -1 and NaN where there is nothing.
    attrs: rows (tokens that count), documents, picked (whether by `Latents` and not by name), source, family, views, written and sites (of
    written views), dictionary (its content hash).
    """

    figure: ClassVar[str] = "latents"
    main: ClassVar[str] = "density"

    @property
    def latents(self) -> list[int]:
        """Numbers of the latents that are shown."""
        return [int(one) for one in self.data["latent"].values]

    def labels(self, ids: Any) -> list[str]:
        """Tokens by their places in the table; the absent ones are left out."""
        table = self.data["token_label"].values
        return [str(table[one]) for one in np.asarray(ids).ravel() if one >= 0]

    def card(self, latent: int) -> dict[str, Any]:
        """All that is known of one latent, as plain values and lists: what the card, the figure and exports are made of."""
        one_of("latent", int(latent), self.latents)
        here = self.data.sel(latent=latent)
        fires = [
            {"token": self.labels(token)[0], "mean": float(mean), "share": float(share), "seen": int(seen)}
            for token, mean, share, seen in zip(
                *(here[name].values for name in ("fires_id", "fires_mean", "fires_share", "fires_seen")), strict=True
            )
            if token >= 0
        ]
        return {
            "latent": int(latent), "density": float(self.data["density"][latent]), "largest": float(self.data["largest"][latent]),
            "mean_on": float(self.data["mean_on"][latent]), "fires_on": fires, "words": self._words(here),
            "near": _pairs(here, "near_latent", "near_cosine"), "together": _pairs(here, "together_latent", "together_r", "together_share"),
            "search": self._found(latent),
        }  # fmt: skip

    def examples(self, latent: int, kind: str | None = None) -> "pd.DataFrame":
        """A row for each example of a latent: value, token, context (the token in [brackets]), kind, document, position, low, high."""
        import pandas as pd

        one_of("latent", int(latent), self.latents)
        rows = []
        for number in range(self.data.sizes["example"]):
            here = self.data.sel(latent=latent).isel(example=number)
            if not str(here["example_kind"].values) or kind not in (None, str(here["example_kind"].values)):
                continue
            labels, _, at = self.window_of(latent, number)
            rows.append(
                {
                    "value": float(here["example_value"]), "token": labels[at], "context": running(labels, at),
                    "kind": str(here["example_kind"].values), "document": str(here["example_document"].values),
                    "position": int(here["example_position"]), "low": float(here["example_low"]), "high": float(here["example_high"]),
                    "number": number,
                }
            )  # fmt: skip
        return pd.DataFrame(
            rows, columns=["value", "token", "context", "kind", "document", "position", "low", "high", "number"]
        )

    def window_of(self, latent: int, number: int) -> tuple[list[str], np.ndarray, int]:
        """Labels and codes [token] of an example's surroundings (NaN at a BOS that does not count), and where in them it stands."""
        here = self.data.sel(latent=latent).isel(example=number)
        ids = here["window_id"].values
        return self.labels(ids), here["window_code"].values[ids >= 0], int(here["example_at"])

    def searched(self, word: str | None = None) -> "pd.DataFrame":
        """What a search found: word, latent, difference, on, off, auc, p, p_holm; the surest first. Raises `BadInput` without a search."""
        import pandas as pd

        if "search_latent" not in self.data:
            raise BadInput("nothing was searched for. Give `search=('word',)` to `Latents`.")
        words = [str(one) for one in self.data["query"].values]
        if word is not None:
            one_of("word", word, words)
        rows = []
        for query in words if word is None else [word]:
            here = self.data.sel(query=query)
            for number in np.flatnonzero(here["search_latent"].values >= 0):
                named = ("difference", "on", "off", "auc", "p", "p_holm")
                row = {name: float(here[f"search_{name}"].values[number]) for name in named}
                rows.append({"word": query, "latent": int(here["search_latent"].values[number]), **row})
        table = pd.DataFrame(rows, columns=["word", "latent", "difference", "on", "off", "auc", "p", "p_holm"])
        return table.sort_values(["word", "p_holm", "auc"], ascending=[True, True, False], ignore_index=True)

    def headline(self) -> dict[str, float]:
        """How many latents fire in this text, how many are on at a token, and the highest density; or what a search found."""
        density = self.data["density"].values
        out = {
            f"latents that fire, of {len(density):,}": float((density > 0).sum()),
            "on at a token, mean": float(density.sum()),
            "highest density": float(density.max()),
        }
        if "search_latent" in self.data:
            sure = int((self.data["search_p_holm"].values < 0.05).sum())
            return {
                f"fire on {', '.join(map(str, self.data['query'].values))} (p < 0.05 after Holm)": float(sure),
                **out,
            }
        return out

    def report_lines(self) -> tuple[str, ...]:
        """What a search found, then a card a latent."""
        lines: list[str] = []
        if "search_latent" in self.data:
            for row in self.searched().head(10).to_dict("records"):
                verdict = "" if row["p_holm"] < 0.05 else "  (not beyond chance)"
                lines.append(
                    f"{row['word']!r}: latent {row['latent']}  {row['on']:.3g} on it, {row['off']:.3g} elsewhere; AUC {row['auc']:.3f}, "
                    f"p {row['p_holm']:.2g}{verdict}"
                )
        for latent in self.latents:
            lines += card_lines(self, latent)
        return tuple(lines)

    def thumbnail(self) -> xr.DataArray | None:
        """Nothing but cards: see `_picture`."""
        return None

    def _picture(self) -> str:
        """Cards in HTML, as many as fit."""
        out, room = "", LARGEST_REPR - 4000
        for latent in self.latents:
            more = card_html(self, latent)
            if len((out + more).encode()) > room:
                break
            out += more
        return out

    def _words(self, here: xr.Dataset) -> dict[str, dict[str, list[dict[str, Any]]]]:
        return {
            str(view): {
                str(end): [
                    {"token": self.labels(token)[0], "logit": float(logit), "z": float(z)}
                    for token, logit, z in zip(
                        *(here[name].sel(view=view, end=end).values for name in ("word_id", "word_logit", "word_z")),
                        strict=True,
                    )
                    if token >= 0
                ]
                for end in here["end"].values
            }
            for view in here["view"].values
        }

    def _found(self, latent: int) -> list[dict[str, Any]]:
        if "search_latent" not in self.data:
            return []
        table = self.searched()
        return [
            {str(key): value for key, value in row.items()}
            for row in table[table["latent"] == latent].to_dict("records")
        ]


def _pairs(here: xr.Dataset, *names: str) -> list[tuple[float, ...]]:
    return [
        (int(row[0]), *(float(one) for one in row[1:]))
        for row in zip(*(here[name].values for name in names), strict=True)
        if row[0] >= 0
    ]


def running(labels: list[str], at: int) -> str:
    """Tokens as running text, the one at `at` in brackets. A tokenizer of whole words has no spaces of its own."""
    spaced = any("␣" in label for label in labels)
    pieces = [label.replace("␣", " ") if spaced else f" {label}" for label in labels]
    room = len(pieces[at]) - len(pieces[at].lstrip(" "))
    pieces[at] = pieces[at][:room] + "[" + pieces[at][room:] + "]"
    return "".join(pieces).strip()
