"""Randomness by name.

Every random draw of the workbench comes from a generator that is derived from a seed and the names of what it is for:
`generator(0, "noise", "fact-17")`. Two draws with different names are independent, the same names give the same numbers,
and nothing ever touches the global generators, so adding a draw somewhere cannot change a number elsewhere.
"""

import hashlib

import numpy as np
import torch


def derive(seed: int, *names: object) -> int:
    """A 63-bit integer that depends on `seed` and every name (their `str`), stable across processes."""
    text = "\x1f".join([str(int(seed)), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *names: object) -> torch.Generator:
    """A CPU `torch.Generator` for the draw called `names`. Draw on the CPU and move, so devices agree."""
    return torch.Generator(device="cpu").manual_seed(derive(seed, *names))


def numpy_generator(seed: int, *names: object) -> np.random.Generator:
    """A `numpy` generator for the draw called `names`."""
    return np.random.default_rng(derive(seed, *names))
