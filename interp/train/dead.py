"""Which latents are dead, counted in rows (tokens) since each was last on: a count of steps would change with the batch size."""

import torch
from torch import Tensor


class Firing:
    """For each latent the rows since it was last on. One that was never on has as many as were seen."""

    def __init__(self, latents: int, device: "torch.device | str" = "cpu") -> None:
        self.silent = torch.zeros(latents, dtype=torch.int64, device=device)
        """Rows since each latent was last on, int64 [latent]."""
        self.seen = 0
        """Rows in all."""

    def update(self, fired: Tensor, rows: int) -> None:
        """Take in a batch of `rows`, in which latent j was on in `fired[j]` rows (int64 [latent])."""
        self.silent = (self.silent + rows).masked_fill_(fired > 0, 0)
        self.seen += rows

    def dead(self, after: int) -> Tensor | None:
        """bool [latent]: not on for at least `after` rows. None as long as none can be: fewer were seen."""
        return None if self.seen < after else self.silent >= after

    def alive(self, after: int) -> Tensor:
        """bool [latent]: on at least once, and within the last `after` rows."""
        return self.silent < min(after, self.seen)
