"""The losses of unlearning, on logits, against losses written another way."""

import math

import pytest
import torch
from torch.nn import functional as F

from interp.analyses.unlearning.methods import losses
from interp.core.batch import Batch
from interp.core.seed import generator


def drawn(*shape: int, name: str = "x") -> torch.Tensor:
    return torch.randn(*shape, generator=generator(0, "losses", name), dtype=torch.float64)


@pytest.mark.parametrize("side", ["left", "right"])
def test_cross_entropies_are_those_of_torch_whatever_the_padding(side: str) -> None:
    rows = [[3, 1, 4, 1, 5], [2, 7], [1, 6, 0]]
    batch = Batch.padded(rows, side=side)
    logits = drawn(3, 5, 9)
    wanted = []
    for row, ids in enumerate(rows):
        start = 5 - len(ids) if side == "left" else 0
        wanted.append(
            F.cross_entropy(logits[row, start : start + len(ids) - 1], torch.tensor(ids[1:]), reduction="sum")
        )
    assert torch.allclose(losses.nll(logits, batch), torch.stack(wanted), rtol=1e-12)
    assert torch.allclose(losses.mean_nll(logits, batch), sum(wanted) / 7, rtol=1e-12)


def test_only_marked_tokens_count() -> None:
    batch, logits = Batch.of([[3, 1, 4], [2, 7, 1]]), drawn(2, 3, 9)
    only = torch.tensor([[True, False, True], [False, True, False]])  # a first token is never predicted
    wanted = -logits.log_softmax(-1)[[0, 1], [1, 0], [4, 7]]
    assert torch.allclose(losses.nll(logits, batch, only), wanted, rtol=1e-12)
    assert torch.allclose(losses.mean_nll(logits, batch, only), wanted.mean(), rtol=1e-12)


@pytest.mark.parametrize("beta", [0.01, 0.1, 2.0])
def test_npo_and_dpo_are_what_their_papers_say(beta: float) -> None:
    now, ref, kept, kept_ref = (drawn(6, name=name).abs() * 5 for name in ("a", "b", "c", "d"))
    now.requires_grad_()
    npo = losses.npo_loss(now, ref, beta)
    ratio = torch.exp(-now + ref)  # p / p ref
    wanted = (2 / beta * torch.log(1 + ratio**beta)).mean()  # equation 3 of NPO
    assert npo.item() == pytest.approx(wanted.item(), rel=1e-12)
    (slope,) = torch.autograd.grad(npo, now)
    weight = 2 * ratio**beta / (1 + ratio**beta)
    assert torch.allclose(slope, -weight.detach() / 6, rtol=1e-10)
    dpo = losses.dpo_loss(now, ref, kept, kept_ref, beta)
    margin = beta * ((kept_ref - kept) - (ref - now))  # of log-probabilities: preferred less rejected
    assert dpo.item() == pytest.approx((-(2 / beta) * F.logsigmoid(margin).mean()).item(), rel=1e-12)
    assert torch.equal(losses.dpo_loss(now, ref, kept, kept, beta), losses.npo_loss(now, ref, beta))


@pytest.mark.parametrize("beta", [0.01, 0.1, 3.0])
def test_npo_starts_at_its_known_loss_with_the_gradient_of_ascent(beta: float) -> None:
    batch = Batch.padded([[3, 1, 4, 1, 5], [2, 7, 1]])
    logits = drawn(2, 5, 9).requires_grad_()
    now = losses.nll(logits, batch)
    npo = losses.npo_loss(now, now.detach(), beta)
    assert npo.item() == pytest.approx(2 / beta * math.log(2), rel=1e-12) == losses.npo_start(beta)
    (slope,) = torch.autograd.grad(npo, logits, retain_graph=True)
    (ascent,) = torch.autograd.grad(-losses.mean_nll(logits, batch), logits)
    assert torch.allclose(slope, ascent * 6 / 2, rtol=1e-10)  # 6 tokens are predicted in 2 rows


def test_npo_tends_to_ascent_as_beta_goes_to_0_and_fades_where_it_does_not() -> None:
    now, ref = torch.tensor([30.0], dtype=torch.float64, requires_grad=True), torch.tensor([10.0], dtype=torch.float64)

    def slope(beta: float) -> float:
        return float(torch.autograd.grad(losses.npo_loss(now, ref, beta), now)[0])

    assert slope(1e-6) == pytest.approx(-1, abs=1e-4)
    assert abs(slope(1e-6) + 1) < abs(slope(1e-3) + 1) < abs(slope(0.1) + 1)
    assert abs(slope(1.0)) < 1e-8  # forgotten by 20 nats


def test_kl_is_that_of_torch_and_nothing_where_nothing_moved() -> None:
    batch = Batch.padded([[3, 1, 4], [2, 7]])
    before, after = drawn(2, 3, 9, name="before"), drawn(2, 3, 9, name="after")
    real = batch.mask
    wanted = F.kl_div(after.log_softmax(-1)[real], before.log_softmax(-1)[real], log_target=True, reduction="sum") / 5
    assert float(losses.kl_to(before, after, batch)) == pytest.approx(float(wanted), rel=1e-12)
    assert float(losses.kl_to(before, before, batch)) == 0
