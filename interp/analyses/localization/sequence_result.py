"""What a sequence of edits gives, editor by editor and checkpoint by checkpoint."""

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import xarray as xr

from interp.core.analysis import Result
from interp.core.errors import BadInput, one_of
from interp.core.seed import numpy_generator
from interp.core.stats import bootstrap_ci

if TYPE_CHECKING:
    import pandas as pd

MEASURES = (
    "growth", "change", "drift", "cosine", "share", "latest", "success", "retention", "probability", "paraphrase", "locality",
    "perplexity", "essence",
)  # fmt: skip
DRAWS = 2000


class EditSequenceResult(Result):
    """Weights, activations and answers after more and more edits; at `edits` 0 the model is as it was.

    data:
        norm, change [editor, edits, matrix]           |W_n| and |W_n - W_0|, Frobenius; NaN for matrices that the editor leaves alone
        drift, cosine [editor, edits, document, layer]  of the residual stream on probe text with what it was, mean over tokens
        share [editor, edits, document, layer]         |mlp_out| / |resid_post|, mean over tokens
        nll [editor, edits, document]                  loss on the probe text, nats a token
        target, top [editor, edits, fact]              P(target | prompt) of every fact, edited by then or not; whether it is the top one
        paraphrase, kept, essence [editor, edits, fact]  P(target | paraphrase); P(a neighbour's own answer | neighbour); perplexity of
                                                       texts that the model wrote about the subject before
        latest, latest_top [editor, fact]              P(target) and whether it is on top right after the fact's own edit
        update, update_cosine [editor, fact, matrix]   norm of each edit's change, and its cosine with the change before it
    coords: editor, edits, matrix, layer, document, tokens (predicted) along document, fact (ids, in the order of editing), subject and
        wanted (the target) along fact. attrs: centre (layer), problem, objective, skipped (facts that no request could be made of).
    """

    figure: ClassVar[str] = "sequence"
    main: ClassVar[str] = "target"

    def curve(self, measure: str, *, layer: int | None = None, level: float = 0.95) -> xr.Dataset:
        """One measure over the number of edits: mean, ci_lo, ci_hi [editor, edits].

        Intervals resample facts about one subject together, or documents; weights have none (NaN). `growth` and `change` are of all edited
        matrices together, relative to the norm at first. `drift` and `cosine` are of the stream after `layer` (the last one), `share` of
        `layer`'s MLP (the centre); `perplexity` is over what it was at first, text by text. `latest` (P(target)) and `success` (whether it
        is on top) are of the edits since the checkpoint before, right after each; `retention` (on top; where the problem lowers: no
        longer) and `probability` of all edits so far; `locality` of the neighbours of all facts. NaN where no fact counts: before the
        first edit there is nothing to retain.
        """
        one_of("measure", measure, MEASURES)
        if measure in ("growth", "change"):
            mean = self._weights(measure)
            return xr.Dataset({"mean": mean, "ci_lo": mean * np.nan, "ci_hi": mean * np.nan})
        if measure in ("drift", "cosine", "share", "perplexity"):
            return self._of_text(measure, layer, level)
        values = self._of_facts(measure)
        clusters = [str(name) for name in self.data["subject"].values]
        mean, low, high = bootstrap_ci(values, "fact", level=level, clusters=clusters)
        return xr.Dataset({"mean": mean, "ci_lo": low, "ci_hi": high})

    def table(self) -> "pd.DataFrame":
        """Where each editor ends: one row an editor, one column a measure, after the last checkpoint."""
        import pandas as pd

        names = [name for name in MEASURES if name not in ("latest", "cosine")]
        ends = {name: self.curve(name)["mean"].isel(edits=-1).values for name in names}
        return pd.DataFrame({"editor": self.data["editor"].values, "edits": int(self.data["edits"].values[-1]), **ends})

    def headline(self) -> dict[str, float]:
        """The largest and the smallest growth of the norm, with the editor; and how many edits the latter kept."""
        growth = self._weights("growth").isel(edits=-1).values
        names = [str(name) for name in self.data["editor"].values]
        most, least = int(growth.argmax()), int(growth.argmin())
        kept = self._of_facts("retention").isel(edits=-1).mean("fact").values
        found = {f"|W|/|W0|, {names[most]}": float(growth[most])}
        if most != least:
            found[f"|W|/|W0|, {names[least]}"] = float(growth[least])
        return found | {f"edits that last, {names[least]}": float(kept[least])}

    def report_lines(self) -> tuple[str, ...]:
        """The table, and what was left out."""
        rows = self.table().to_string(index=False, float_format=lambda value: f"{value:.4g}").splitlines()
        return (*rows, *(f"left out: {line}" for line in self.data.attrs["skipped"]))

    def thumbnail(self) -> xr.DataArray | None:
        """Growth of the norm, editors by edits."""
        return self._weights("growth")

    def edited(self) -> xr.DataArray:
        """Whether a fact was edited by then, bool [edits, fact]."""
        return self.data["edits"] > xr.DataArray(np.arange(self.data.sizes["fact"]), dims="fact")

    def _weights(self, measure: str) -> xr.DataArray:
        squares = (self.data["norm"] ** 2).sum("matrix") ** 0.5
        first = squares.isel(edits=0, drop=True)
        if measure == "growth":
            return (squares / first).rename("growth")
        return ((self.data["change"] ** 2).sum("matrix") ** 0.5 / first).rename("change")

    def _of_text(self, measure: str, layer: int | None, level: float) -> xr.Dataset:
        layers = self.data.sizes["layer"]
        chosen = layer if layer is not None else int(self.data.attrs["centre"]) if measure == "share" else layers - 1
        if not 0 <= chosen < layers:
            raise BadInput(f"layer {chosen} is not in this model: it has layers 0 to {layers - 1}.")
        text = (
            self.data["nll"] - self.data["nll"].isel(edits=0)
            if measure == "perplexity"
            else self.data[measure].sel(layer=chosen)
        )
        values = text.transpose("document", "editor", "edits").values
        weight = self.data["tokens"].values + float(
            measure != "perplexity"
        )  # nothing predicts a document's first token
        values, weight = values[weight > 0], weight[weight > 0]
        mean = np.average(values, axis=0, weights=weight)
        low = high = mean * np.nan
        if (n := len(values)) > 1:
            counts = numpy_generator(0, "probe text").multinomial(n, np.full(n, 1 / n), size=DRAWS)  # [draw, document]
            drawn = np.einsum("nd,des->nes", counts * weight, values) / (counts @ weight)[:, None, None]
            low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
        columns = {"mean": mean, "ci_lo": low, "ci_hi": high}
        if measure == "perplexity":
            columns = {name: np.exp(column) for name, column in columns.items()}
        coords = {name: self.data[name] for name in ("editor", "edits")}
        return xr.Dataset({name: (("editor", "edits"), column) for name, column in columns.items()}, coords)

    def _of_facts(self, measure: str) -> xr.DataArray:
        """Values [editor, edits, fact]; NaN where a fact does not count."""
        lowered = self.data.attrs["objective"] == "lower"
        done = self.edited()
        if measure in ("latest", "success"):
            before = done.shift(edits=1, fill_value=False)
            values = self.data["latest" if measure == "latest" else "latest_top"]
            values = 1 - values if lowered and measure == "success" else values
            return values.where(done & ~before).transpose("editor", "edits", "fact")
        if measure == "retention":
            return (1 - self.data["top"] if lowered else self.data["top"]).where(done)
        if measure == "locality":
            return (self.data["kept"] / self.data["kept"].isel(edits=0)).clip(max=1.0)
        if measure == "essence":
            return self.data["essence"]
        return self.data["target" if measure == "probability" else "paraphrase"].where(done)
