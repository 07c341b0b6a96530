"""Running sums from which every number about reconstructions and latents follows, in float64; nothing per token is kept."""

from dataclasses import dataclass

import torch
from torch import Tensor

from interp.core.dictionary import Codes

SCALARS = ("tokens", "error", "total", "legacy", "cosine", "ratio", "cross", "square", "sized")
"""What is summed over the evaluated tokens: see `ViewSums.add`."""


class ViewSums:
    """Sums over tokens for one written view."""

    def __init__(self, mean: Tensor, parts: int) -> None:
        """`mean` [d] of the evaluated rows, float64; `parts` kinds of token."""
        self.mean = mean
        self.scalar = dict.fromkeys(SCALARS, 0.0)
        self.shift = {name: torch.zeros_like(mean) for name in ("x", "hat")}
        self.part = {name: torch.zeros(parts, dtype=torch.float64) for name in ("tokens", "error", "energy", "spread")}
        self.whole = torch.zeros_like(mean)

    def add(self, x: Tensor, hat: Tensor, part: Tensor) -> tuple[Tensor, Tensor]:
        """Take in rows x [n, d], their reconstructions and the part of each [n]; gives each row's squared error and distance from the mean.

        Rows that are not first or massive (part 0) enter `scalar`; all enter `part`, for what the others would have changed.
        """
        device = hat.device if hat.device.type != "mps" else torch.device("cpu")  # mps has no float64
        x, hat, mean = x.to(device).double(), hat.to(device).double(), self.mean.to(device)
        centred, back = x - mean, hat - mean
        error, total = (x - hat).square().sum(dim=-1), centred.square().sum(dim=-1)
        rows = {"tokens": torch.ones_like(error), "error": error, "energy": x.square().sum(dim=-1), "spread": total}
        for name, values in rows.items():
            self.part[name].index_add_(0, part, values.cpu())
        self.whole += centred.sum(dim=0).cpu()
        keep = (part == 0).to(device)
        self._add_kept(x[keep], hat[keep], centred[keep], back[keep], error[keep], total[keep])
        return error.cpu(), total.cpu()

    def _add_kept(self, x: Tensor, hat: Tensor, centred: Tensor, back: Tensor, error: Tensor, total: Tensor) -> None:
        size, high = x.norm(dim=-1), hat.norm(dim=-1)
        some = (size > 0) & (total > 0)
        found = {
            "tokens": float(len(x)), "error": error.sum(), "total": total.sum(), "sized": some.sum(),
            "legacy": (error / total)[some].sum(), "ratio": (high / size)[some].sum(),
            "cosine": ((x * hat).sum(dim=-1) / (size * high).clamp(min=torch.finfo(torch.float64).tiny))[some].sum(),
            "cross": (centred * back).sum(), "square": back.square().sum(),
        }  # fmt: skip
        for name, value in found.items():
            self.scalar[name] += float(value)
        self.shift["x"] += centred.sum(dim=0).cpu()
        self.shift["hat"] += back.sum(dim=0).cpu()

    def numbers(self) -> dict[str, float]:
        """mse (a component), fvu_legacy, cosine, norm_ratio and slope over the evaluated tokens, and fvu_all over all tokens."""
        sums = self.scalar
        count, sized = sums["tokens"], max(sums["sized"], 1.0)
        cross = sums["cross"] - float(self.shift["x"] @ self.shift["hat"]) / count
        spread = sums["square"] - float(self.shift["hat"].square().sum()) / count
        everything = float(self.part["tokens"].sum())
        whole = float(self.part["spread"].sum()) - float(self.whole.square().sum()) / everything
        return {
            "mse": sums["error"] / count / len(self.mean),
            "fvu_legacy": sums["legacy"] / sized, "cosine": sums["cosine"] / sized, "norm_ratio": sums["ratio"] / sized,
            "slope": cross / spread if spread > 1e-12 * max(sums["square"], 1e-300) else float("nan"),
            "fvu_all": float(self.part["error"].sum()) / whole if whole > 0 else float("nan"),
        }  # fmt: skip


@dataclass
class LatentSums:
    """How often and how strongly each latent is on, [latent]."""

    fires: Tensor
    total: Tensor
    largest: Tensor

    @classmethod
    def empty(cls, latents: int) -> "LatentSums":
        """Of no token."""
        return cls(
            torch.zeros(latents, dtype=torch.int64), torch.zeros(latents, dtype=torch.float64), torch.zeros(latents)
        )

    def add(self, codes: Codes, keep: Tensor) -> Tensor:
        """Take in the codes of the rows that are kept (bool [row]); gives how many latents are on in each row, int64 [row]."""
        on = codes.values != 0  # also codes with a sign count
        row, ids, values = codes.row_of()[on].cpu(), codes.ids[on].cpu(), codes.values[on].cpu()
        counts = torch.bincount(row, minlength=len(codes))
        kept = keep[row]
        ids, values = ids[kept], values[kept]
        self.fires += torch.bincount(ids, minlength=len(self.fires))
        self.total += torch.bincount(ids, values.double(), minlength=len(self.fires))
        self.largest.scatter_reduce_(0, ids, values.float(), "amax")
        return counts
