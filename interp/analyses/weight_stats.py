"""Weight statistics: what the parameters alone say about a checkpoint.

The question. Before anything is run: is a matrix degenerate, has training used its rank, do some tokens' embeddings stand out, has a
layer grown beyond the others? For every matrix W of every layer, with singular values s:

    Frobenius norm   |W|_F = sqrt(sum s^2)
    spectral norm    s_max
    stable rank      |W|_F^2 / s_max^2                      1 ... rank; robust to small singular values
    effective rank   exp(-sum p ln p),  p = s / sum s       how evenly the spectrum is used (Roy & Vetterli 2007)

and the row norms of the embedding and the unembedding, token by token. The heads' matrices are taken together, [d_model, head * d_head].

When it misleads
- None of these is invariant under reparametrisation: folding a norm's gain into a matrix changes it without changing the function.
  Compare checkpoints of one run, not families; the manifest says whether weights were raw or folded.
- A random matrix of the same shape has a known effective rank (`null`), which is not the full rank: compare with that.

    import interp
    lm = interp.load("atlas")
    stats = interp.WeightStats()(lm)
    stats.data["stable_rank"].sel(matrix="W_out")
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import xarray as xr
from einops import rearrange
from torch import Tensor

from interp.core.analysis import Analysis, Cost, Result
from interp.core.errors import CheckpointError
from interp.core.progress import track
from interp.core.seed import generator

if TYPE_CHECKING:
    from interp.core.lm import LM

LAYERED = ("W_Q", "W_K", "W_V", "W_O", "W_in", "W_gate", "W_out")
MLP = ("W_in", "W_gate", "W_out")
TABLES = ("W_E", "W_U")
MEASURES = ("frobenius", "spectral", "stable_rank", "effective_rank")


class WeightResult(Result):
    """Statistics of every matrix.

    data:
        frobenius, spectral, stable_rank, effective_rank   [matrix, layer]
        null                       [matrix]           effective rank of a Gaussian matrix of the same shape (layers have one shape)
        table_frobenius, ...       [table]            the same four of the embedding W_E and the unembedding W_U
        row_norm                   [table, token]     Euclidean norm of each token's row (column, for W_U)
    coords: matrix, layer, table, token (ids). attrs: tied.
    """

    figure: ClassVar[str] = "weight_stats"
    main: ClassVar[str] = "stable_rank"

    def headline(self) -> dict[str, float]:
        """The smallest share of its null that an effective rank reaches, and how far embedding norms spread."""
        share = (self.data["effective_rank"] / self.data["null"]).values
        norms = self.data["row_norm"].sel(table="W_E").values
        return {
            "lowest effective rank / random": float(np.nanmin(share)),
            "highest spectral norm": float(self.data["spectral"].max()),
            "embedding norms, max / median": float(norms.max() / np.median(norms)),
        }

    def thumbnail(self) -> xr.DataArray | None:
        """Stable ranks, matrices by layers."""
        return self.data["stable_rank"]


@dataclass(frozen=True)
class WeightStats(Analysis[WeightResult]):
    """Norms and ranks of every weight matrix. Needs no data. In a mixture of experts the MLP's matrices, one an expert, are left out."""

    folded: bool = False
    """Fold the norms' gains into the matrices that read the residual stream, where that is exact."""
    seed: int = 0
    """Names the Gaussian matrices of the null."""

    def cost(self, lm: "LM", data: Any = None) -> Cost:
        """No forward pass; singular values of every matrix."""
        return Cost(
            bytes=lm.spec.d_model * max(lm.spec.d_mlp, lm.spec.vocab) * 8, note="singular values of every matrix"
        )

    def run(self, lm: "LM", data: Any, store: Any) -> WeightResult:
        """Measure matrix by matrix."""
        spec = lm.spec
        absent = MLP if spec.experts else () if spec.gated else ("W_gate",)
        kinds = [kind for kind in LAYERED if kind not in absent]
        values = {name: np.full((len(kinds), spec.n_layers), np.nan) for name in MEASURES}
        null = np.full(len(kinds), np.nan)
        for layer in track(range(spec.n_layers), "weight statistics"):
            for row, kind in enumerate(kinds):
                matrix = as_matrix(kind, self._view(lm, kind, layer))
                for name, value in measures(matrix, f"{kind} of layer {layer}").items():
                    values[name][row, layer] = value
                if layer == 0:
                    random = torch.randn(matrix.shape, generator=generator(self.seed, "weight null", kind))
                    null[row] = measures(random, kind)["effective_rank"]
        tables = {name: lm.weights.W_E if name == "W_E" else lm.weights.W_U.T for name in TABLES}  # [vocab, d_model]
        norms = np.stack([table.float().norm(dim=-1).cpu().numpy() for table in tables.values()])
        whole = [measures(table, name) for name, table in tables.items()]
        columns: dict[str, Any] = {name: (("matrix", "layer"), array) for name, array in values.items()}
        columns |= {f"table_{name}": ("table", [entry[name] for entry in whole]) for name in MEASURES}
        columns |= {"null": ("matrix", null), "row_norm": (("table", "token"), norms)}
        coords = {
            "matrix": kinds,
            "layer": np.arange(spec.n_layers),
            "table": list(TABLES),
            "token": np.arange(norms.shape[1]),
        }
        return WeightResult(xr.Dataset(columns, coords, {"tied": spec.tied}))

    def _view(self, lm: "LM", kind: str, layer: int) -> Tensor:
        reads = self.folded and kind in ("W_Q", "W_K", "W_V", "W_in", "W_gate")
        view: Tensor = getattr(lm.weights, kind)(layer, folded=True) if reads else getattr(lm.weights, kind)(layer)
        return view


def measures(matrix: Tensor, name: str = "the matrix") -> dict[str, float]:
    """The four statistics of a matrix [rows, columns]. Raises `CheckpointError` for NaN or infinite entries."""
    if not bool(torch.isfinite(matrix).all()):
        raise CheckpointError(
            f"{name} holds NaN or infinite values: the checkpoint is damaged or its training diverged."
        )
    values = torch.linalg.svdvals(matrix.detach().float()).double()
    total = values.sum()
    if total == 0:
        return dict.fromkeys(MEASURES, 0.0)
    share = values[values > 0] / total
    frobenius = float(values.square().sum().sqrt())
    top = float(values[0])
    rank = float((-(share * share.log()).sum()).exp())
    return {"frobenius": frobenius, "spectral": top, "stable_rank": (frobenius / top) ** 2, "effective_rank": rank}


def as_matrix(kind: str, view: Tensor) -> Tensor:
    """Heads side by side: [d_model, head * d_head], or [head * d_head, d_model] for W_O."""
    if kind == "W_O":
        return rearrange(view, "head d_head d_model -> (head d_head) d_model")
    if kind in ("W_Q", "W_K", "W_V"):
        return rearrange(view, "head d_model d_head -> d_model (head d_head)")
    return view
