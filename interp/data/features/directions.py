"""Directions of known features: unit vectors that are as far from one another as their number allows.

Where there are no more of them than dimensions they are orthonormal. Where there are more, random unit vectors repel one another as lines
(a vector and its opposite are the same): each moves against the sum of the others, weighted by the 7th power of their cosine, which is
the gradient of the sum of the 8th powers, in steps that shrink to nothing. 48 vectors in 32 dimensions go from a mean largest |cosine| of
0.43 to 0.12; no arrangement has less than 0.103 (Welch 1974).

    from interp.data.features import lean, overlap, spread
    base = spread(48, 32, 0, "example")             # [48, 32], unit rows
    tuned = lean(base, 0.6, 0, "example")           # each has cosine 0.6 with its partner in `base`
    overlap(base).mean()
"""

import torch

from interp.core.errors import BadInput
from interp.core.seed import generator
from interp.core.shapes import Float, Tensor

POWER = 8
"""Which power of the cosines is made small. The larger, the more it is the largest cosine alone that counts."""
BLOCK = 2048
"""Rows whose cosines with all others are held at once."""


def spread(n: int, d: int, seed: int = 0, *names: object, steps: int = 100) -> Float[Tensor, "n d"]:
    """`n` unit vectors of `d` components, float32, named by `seed` and `names`: orthonormal for n <= d, else spread by repulsion.

    `steps` is how often they repel one another (each costs two products of n * n * d); 0 leaves vectors that are uniform on the sphere.
    Raises `BadInput` for a number that is not positive.
    """
    if n < 1 or d < 1 or steps < 0:
        raise BadInput(
            f"there cannot be {n} directions of {d} components after {steps} steps. Give one of each at least, and steps >= 0."
        )
    x = torch.randn(n, d, generator=generator(seed, "directions", n, d, *names), dtype=torch.float64)  # [n, d]
    if n <= d and steps:
        q, r = torch.linalg.qr(x.T)
        return (q * r.diagonal().sign()).T.contiguous().float()
    x /= x.norm(dim=1, keepdim=True)
    for step in range(steps):
        force = _force(x)
        force -= (force * x).sum(1, keepdim=True) * x  # along the sphere
        longest = float(force.norm(dim=1).max())
        if longest == 0.0:
            break
        x -= 0.1 * (1 - step / steps) / longest * force
        x /= x.norm(dim=1, keepdim=True)
    return x.float()


def lean(directions: Float[Tensor, "n d"], cosine: float, seed: int = 0, *names: object) -> Float[Tensor, "n d"]:
    """A unit vector for each of `directions` [n, d] whose cosine with it is `cosine`, leaning in a random direction, float32.

    Raises `BadInput` for a cosine outside [-1, 1], a zero direction, or where one dimension leaves no room to lean.
    """
    if not -1.0 <= cosine <= 1.0:
        raise BadInput(f"`cosine` must lie in [-1, 1]; not {cosine}.")
    x = directions.double()
    n, d = x.shape
    length = x.norm(dim=1, keepdim=True)
    if not bool((length > 0).all()):
        raise BadInput("one of the directions is zero: nothing has a cosine with it. Give unit vectors.")
    if abs(cosine) == 1.0:
        return (cosine * x / length).float()
    if d < 2:
        raise BadInput(f"in one dimension no vector has cosine {cosine} with another. Give 1, -1 or more dimensions.")
    x = x / length
    side = torch.randn(n, d, generator=generator(seed, "lean", cosine, *names), dtype=torch.float64)  # [n, d]
    side -= (side * x).sum(1, keepdim=True) * x
    side /= side.norm(dim=1, keepdim=True)
    return (cosine * x + (1 - cosine**2) ** 0.5 * side).float()


def overlap(directions: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """The largest |cosine| of each direction with any other one, float64 [n]; zeros where there is only one."""
    x = directions.double()
    x = x / x.norm(dim=1, keepdim=True)
    largest = x.new_zeros(len(x))
    for start in range(0, len(x), BLOCK):
        cosines = (x[start : start + BLOCK] @ x.T).abs()  # [block, n]
        _without_itself(cosines, start)
        largest[start : start + BLOCK] = cosines.max(dim=1).values
    return largest


def _force(x: Tensor) -> Tensor:
    """The gradient of the sum of all cosines to the power `POWER`, up to a factor, [n, d]."""
    force = torch.zeros_like(x)
    for start in range(0, len(x), BLOCK):
        cosines = x[start : start + BLOCK] @ x.T  # [block, n]
        _without_itself(cosines, start)
        square = cosines * cosines
        force[start : start + BLOCK] = (square * square * square * cosines) @ x  # POWER - 1
    return force


def _without_itself(cosines: Tensor, start: int) -> None:
    rows = torch.arange(len(cosines))
    cosines[rows, rows + start] = 0.0
