"""What two interventions in both orders give."""

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import xarray as xr

from interp.core.analysis import Result
from interp.core.errors import one_of
from interp.core.seed import numpy_generator

if TYPE_CHECKING:
    import pandas as pd

MEASURES = ("first", "second", "both", "unrelated", "language")
ALONE, ORDERS = ("first", "second"), ("first+second", "second+first")
DRAWS = 2000


class InterventionOrderResult(Result):
    """A model before, under each intervention alone, and under both in both orders (`first+second`: the first one came first).

    data:
        given [state, group, prompt]    1 where the group's answer is given, else 0: of an unlearner the concept's answers, of an editor the
                                        new ones, of the unrelated questions their own
        nll [state, document]           loss on neutral texts, nats a token
    coords: state, group (first, second, unrelated), prompt_text. attrs: first, second (what they were), aims, neutral, silent.
    """

    figure: ClassVar[str] = "unlearning_order"
    main: ClassVar[str] = "given"

    def values(self, *, level: float = 0.95) -> xr.Dataset:
        """Every measure in every state, between 0 and 1 (best): mean, ci_lo, ci_hi [state, measure]; intervals draw questions and texts."""
        drawn = self._drawn()
        mean, ends = drawn[0], np.nanquantile(drawn[1:], [(1 - level) / 2, (1 + level) / 2], axis=0)
        return self._dataset({"mean": mean, "ci_lo": ends[0], "ci_hi": ends[1]}, state=True)

    def order(self, *, level: float = 0.95) -> xr.Dataset:
        """Of each measure: sensitivity and error (with _lo, _hi), interference, and disagreement, [measure].

        Disagreement is the share of questions whose outcome differs between the orders (NaN for `language`).
        """
        drawn = self._drawn()
        one, two = (drawn[:, self._state(name)] for name in ORDERS)
        sensitivity, error = np.abs(one - two), 1 - np.maximum(one, two)
        columns = {"sensitivity": sensitivity[0], "error": error[0]}
        for name, values in (("sensitivity", sensitivity), ("error", error)):
            low, high = np.nanquantile(values[1:], [(1 - level) / 2, (1 + level) / 2], axis=0)
            columns |= {f"{name}_lo": low, f"{name}_hi": high}
        columns |= {"interference": self._interference(drawn[0]), "disagreement": self._disagreement()}
        return self._dataset(columns, state=False)

    def table(self) -> "pd.DataFrame":
        """A row a measure: before, each alone, both orders, sensitivity, disagreement and order-free error."""
        import pandas as pd

        values, order = self.values()["mean"], self.order()
        frame: dict[str, object] = {"measure": list(MEASURES)}
        frame |= {str(state): values.sel(state=state).values for state in values["state"].values if state != "before"}
        frame |= {name: order[name].values for name in ("sensitivity", "disagreement", "error", "interference")}
        return pd.DataFrame(frame)

    def headline(self) -> dict[str, float]:
        """Order-free error and order sensitivity of both aims, and sensitivity of the unrelated questions."""
        order = self.order()
        return {
            "order-free error": float(order["error"].sel(measure="both")),
            "order sensitivity": float(order["sensitivity"].sel(measure="both")),
            "sensitivity, unrelated": float(order["sensitivity"].sel(measure="unrelated")),
        }

    def report_lines(self) -> tuple[str, ...]:
        """The table, with intervals of sensitivity and error, and what the two interventions were."""
        order, attrs = self.order(), self.data.attrs
        lines = self.table().to_string(index=False, float_format=lambda value: f"{value:.3g}", na_rep="-").splitlines()
        spans = []
        for name in MEASURES:
            at = order.sel(measure=name)
            parts = [
                f"{kind} {float(at[kind]):.2f} [{float(at[kind + '_lo']):.2f}, {float(at[kind + '_hi']):.2f}]"
                for kind in ("sensitivity", "error")
            ]
            spans.append(f"{name}: {', '.join(parts)}")
        return (
            f"first: {attrs['first']}",
            f"second: {attrs['second']}",
            *lines,
            "95 % intervals over questions and texts",
            *spans,
        )

    def thumbnail(self) -> xr.DataArray | None:
        """Every measure in every state."""
        return self.values()["mean"]

    def _state(self, name: str) -> int:
        names = [str(state) for state in self.data["state"].values]
        one_of("state", name, names)
        return names.index(name)

    def _drawn(self) -> np.ndarray:
        """The measures [draw, state, measure]; the first draw is all questions once, the others are resampled."""
        given, nll = self.data["given"].values, self.data["nll"].values
        rng = numpy_generator(0, "intervention order")
        weights = []
        for group in range(given.shape[1]):
            there = np.isfinite(given[0, group])
            n = int(there.sum())
            counts = np.zeros((DRAWS + 1, given.shape[2]))
            counts[0, there] = 1.0
            counts[1:, there] = rng.multinomial(n, np.full(n, 1 / n), size=DRAWS)
            weights.append(counts / n)
        known = np.nan_to_num(given)
        share = np.stack([weight @ known[:, group].T for group, weight in enumerate(weights)], axis=-1)
        documents = nll.shape[1]
        drawn = rng.multinomial(documents, np.full(documents, 1 / documents), size=DRAWS)
        counts = np.concatenate([np.ones((1, documents)), drawn])
        loss = counts @ nll.T / documents  # [draw, state]
        before = self._state("before")
        kept = np.minimum(1.0, np.exp(loss[:, [before]] - loss))
        columns = []
        for place, aim in enumerate(self.data.attrs["aims"]):
            if aim == "edit":
                columns.append(share[..., place])
            else:
                base = share[:, [before], place]
                with np.errstate(divide="ignore", invalid="ignore"):
                    columns.append(np.where(base > 0, 1 - np.minimum(1.0, share[..., place] / base), np.nan))
        base = share[:, [before], 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            unrelated = np.where(base > 0, np.minimum(1.0, share[..., 2] / base), np.nan)
        return np.stack([*columns, (columns[0] + columns[1]) / 2, unrelated, kept], axis=-1)

    def _interference(self, values: np.ndarray) -> np.ndarray:
        """What each aim loses by the other intervention in the better order, [measure]; NaN for what is nobody's aim."""
        best = np.maximum(*(values[self._state(name)] for name in ORDERS))
        alone = np.array([values[self._state("first"), 0], values[self._state("second"), 1]])
        return np.array([alone[0] - best[0], alone[1] - best[1], alone.mean() - best[2], np.nan, np.nan])

    def _disagreement(self) -> np.ndarray:
        given = self.data["given"]
        differ = np.abs(given.values[self._state(ORDERS[0])] - given.values[self._state(ORDERS[1])])  # [group, prompt]
        first, second, rest = np.nanmean(differ, axis=1)
        return np.array([first, second, np.nanmean(differ[:2]), rest, np.nan])

    def _dataset(self, columns: dict[str, np.ndarray], *, state: bool) -> xr.Dataset:
        dims = ("state", "measure") if state else ("measure",)
        coords: dict[str, object] = {"measure": list(MEASURES)} | (
            {"state": self.data["state"].values} if state else {}
        )
        return xr.Dataset({name: (dims, values) for name, values in columns.items()}, coords)
