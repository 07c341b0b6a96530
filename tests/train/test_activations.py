"""Straight-through steps: forward by hand, backward by finite differences of the sum over many rows."""

import pytest
import torch

from interp.core.errors import BadInput
from interp.train.activations import jumprelu, step

WIDTH = 0.1  # of the kernel


@pytest.fixture(scope="module")
def rows() -> torch.Tensor:
    """[row, latent], float64: normal with another centre for each latent."""
    draw = torch.Generator().manual_seed(0)
    return torch.randn(200_000, 3, dtype=torch.float64, generator=draw) + torch.tensor([0.0, 0.5, -0.3])


def thresholds() -> torch.Tensor:
    return torch.tensor([0.3, 0.8, 0.2], dtype=torch.float64, requires_grad=True)


def test_forward() -> None:
    pre = torch.tensor([[-1.0, 0.2, 0.31]]).T.expand(3, 2)
    found = jumprelu(pre, torch.tensor([0.3, -0.5]), WIDTH)
    assert found.tolist() == [[0, 0], [0, pytest.approx(0.2)], [pytest.approx(0.31), pytest.approx(0.31)]]
    assert step(pre, torch.tensor([0.3, -0.5]), WIDTH).tolist() == [[0, 0], [0, 1], [1, 1]]


def test_the_count_is_differentiated_like_its_central_difference(rows: torch.Tensor) -> None:
    t = thresholds()
    step(rows, t, WIDTH).sum().backward()
    with torch.no_grad():
        up, down = ((rows > t + shift).double().sum(0) for shift in (WIDTH / 2, -WIDTH / 2))
    torch.testing.assert_close(t.grad, (up - down) / WIDTH)  # the same rows counted: exact


def test_the_jump_is_differentiated_like_its_central_difference(rows: torch.Tensor) -> None:
    """Of the sum of codes and of a squared error, which weighs rows by what is left of them."""
    for loss in (lambda code: code.sum(), lambda code: (code - 0.9).square().sum()):
        t = thresholds()
        loss(jumprelu(rows, t, WIDTH)).backward()
        found = []
        for latent in range(3):
            ends = []
            for shift in (WIDTH / 2, -WIDTH / 2):
                moved = t.detach().clone()
                moved[latent] += shift
                ends.append(loss(torch.where(rows > moved, rows, 0)))
            found.append((ends[0] - ends[1]) / WIDTH)
        # t stands for x within the kernel, where the density is not flat: at most 2.4 % here (measured)
        expected = torch.stack(found)
        assert ((t.grad - expected) / expected).abs().max() < 0.04


def test_the_gradient_of_the_jump_by_hand() -> None:
    pre = torch.tensor([[0.26], [0.34], [0.2], [-0.01]], dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([[1.0], [10.0], [100.0], [1000.0]], dtype=torch.float64)
    (jumprelu(pre, t, WIDTH) * weight).sum().backward()
    assert pre.grad.flatten().tolist() == [0, 10, 0, 0]  # only where it is on
    torch.testing.assert_close(t.grad, torch.tensor([-0.3 / WIDTH * 11], dtype=torch.float64))  # the first two are near


def test_outside_the_bandwidth_nothing_moves() -> None:
    pre, t = torch.tensor([[0.2], [0.4]]), torch.tensor([0.3], requires_grad=True)
    (jumprelu(pre, t, WIDTH).sum() + step(pre, t, WIDTH).sum()).backward()
    assert t.grad.tolist() == [0.0]


def test_a_threshold_below_zero_is_one_of_zero_and_only_the_count_moves_it() -> None:
    pre = torch.tensor([[0.03], [-0.03]])
    for function, expected in ((jumprelu, 0.0), (step, -1 / WIDTH)):
        t = torch.tensor([-0.2], requires_grad=True)
        function(pre, t, WIDTH).sum().backward()
        assert t.grad.item() == pytest.approx(expected)


def test_a_bandwidth_must_be_positive() -> None:
    for bandwidth in (0.0, -1.0, float("inf")):
        with pytest.raises(BadInput, match="bandwidth"):
            jumprelu(torch.ones(1, 1), torch.ones(1), bandwidth)
        with pytest.raises(BadInput, match="bandwidth"):
            step(torch.ones(1, 1), torch.ones(1), bandwidth)
