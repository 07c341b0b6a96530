import subprocess
import sys

import numpy as np
import torch

from interp.core.seed import derive, generator, numpy_generator


def test_same_names_same_numbers_other_names_other_numbers() -> None:
    draw = lambda *names: torch.randn(8, generator=generator(*names))  # noqa: E731
    assert torch.equal(draw(0, "noise", "a"), draw(0, "noise", "a"))
    others = [draw(0, "noise", "b"), draw(1, "noise", "a"), draw(0, "noise"), draw(0, "noisea"), draw(0, "a", "noise")]
    assert all(not torch.equal(draw(0, "noise", "a"), other) for other in others)
    assert not torch.equal(draw(0, "ab", "c"), draw(0, "a", "bc"))


def test_seeds_hold_across_processes_and_versions() -> None:
    code = "from interp.core.seed import derive; print(derive(7, 'noise', 3))"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "5"}
    )
    assert int(out.stdout) == derive(7, "noise", 3) == 399719988791634256


def test_the_global_generators_are_left_alone() -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    torch.randn(3, generator=generator(1, "x"))
    numpy_generator(1, "x").normal(size=3)
    assert torch.equal(before[0], torch.get_rng_state()) and (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002


def test_seeds_fit_every_generator_and_do_not_collide() -> None:
    seeds = {derive(seed, name) for seed in range(100) for name in ("a", "b", 1, 2)}
    assert len(seeds) == 400 and all(0 <= seed < 2**63 for seed in seeds)
    assert derive(-1, "a") != derive(1, "a")
