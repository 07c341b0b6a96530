"""The Fisher information and the dampening built on it: softmax regression, whose answers are known, and atlas."""

from typing import Any

import pytest
import torch

from interp.analyses.unlearning.methods import SelectiveDampening
from interp.analyses.unlearning.methods.dampening import dampen
from interp.analyses.unlearning.methods.fisher import Fisher, diagonal, fisher
from interp.core.errors import BadInput
from interp.core.seed import generator
from interp.models import reference


@pytest.fixture(scope="module")
def known() -> Any:
    return reference.concept_set("atlas", texts=12)


def regression(n: int = 200, private: int = 50) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Softmax regression: inputs [n, 5], the last of which only the first `private` samples use; weights [5, 4]; labels [n]."""
    rng = generator(0, "softmax regression")
    x = torch.randn(n, 5, generator=rng, dtype=torch.float64)
    x[private:, 4] = 0
    weights = 0.5 * torch.randn(5, 4, generator=rng, dtype=torch.float64)
    labels = torch.randint(4, (n,), generator=rng)
    return x, weights, labels


def of(x: torch.Tensor, weights: torch.Tensor, labels: torch.Tensor) -> Fisher:
    w = weights.clone().requires_grad_()
    return diagonal(lambda i: (x[i] @ w).log_softmax(-1)[labels[i]], {"w": w}, len(x))


def test_the_diagonal_is_the_closed_form_of_softmax_regression() -> None:
    x, weights, labels = regression()
    p = (x @ weights).softmax(-1)
    hot = torch.nn.functional.one_hot(labels, 4).double()
    wanted = torch.einsum("ni,nj->ij", x**2, (hot - p) ** 2) / len(x)
    found = of(x, weights, labels)
    assert torch.allclose(found.diagonal["w"], wanted, rtol=1e-10)
    assert found.samples == 200 and found.size == 20
    assert found.trace == pytest.approx(float(wanted.sum()), rel=1e-12)


def test_with_sampled_labels_the_trace_is_that_of_the_curvature() -> None:
    x, weights, _ = regression()
    p = (x @ weights).softmax(-1)
    curvature = float(((x**2).sum(-1) * (1 - (p**2).sum(-1))).mean())  # E |x|^2 (1 - sum p^2)
    rng = generator(1, "labels")
    draws = [of(x, weights, torch.multinomial(p, 1, generator=rng)[:, 0]).trace for _ in range(20)]
    spread = torch.tensor(draws).std() / 20**0.5
    assert abs(sum(draws) / 20 - curvature) < 4 * float(spread) < 0.3 * curvature


def test_squaring_the_gradient_of_a_batch_loses_importance() -> None:
    x, weights, labels = regression()
    w = weights.clone().requires_grad_()
    batched = []
    for start in range(0, 200, 20):
        rows = slice(start, start + 20)
        loss = (x[rows] @ w).log_softmax(-1).gather(1, labels[rows, None]).mean()
        batched.append(torch.autograd.grad(loss, w)[0] ** 2)
    assert (
        float(torch.stack(batched).mean(0).sum()) < 0.3 * of(x, weights, labels).trace
    )  # what the released program measures


@pytest.mark.parametrize("private", [50, 20])
def test_a_weight_that_only_the_forget_set_uses_cannot_fall_below_its_share(private: int) -> None:
    x, weights, labels = regression(private=private)
    forget, everything = of(x[:private], weights, labels[:private]), of(x, weights, labels)
    ratio = forget.diagonal["w"][4] / everything.diagonal["w"][4]
    assert torch.allclose(ratio, torch.full((4,), 200 / private, dtype=torch.float64), rtol=1e-10)
    factor = dampen(forget.diagonal["w"], everything.diagonal["w"], alpha=200 / private * 0.99, dampening=1.0)
    assert torch.allclose(factor[4], torch.full((4,), private / 200, dtype=torch.float64), rtol=1e-10)
    assert float(factor.min()) >= private / 200 - 1e-12
    assert bool(
        (dampen(forget.diagonal["w"], everything.diagonal["w"], alpha=200 / private * 1.01, dampening=1.0) == 1).all()
    )


def test_dampening_never_raises_a_weight_and_takes_out_what_the_rest_does_not_use() -> None:
    forget, rest = torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.tensor([0.0, 0.05, 0.2, 0.0])
    assert dampen(forget, rest, alpha=10, dampening=1.0).tolist() == pytest.approx([0.0, 0.05, 1.0, 1.0])
    assert dampen(forget, rest, alpha=10, dampening=50.0).tolist() == [0.0, 1.0, 1.0, 1.0]


def test_the_fisher_of_a_model_is_that_of_a_plain_loop(lm: Any, known: Any) -> None:
    texts = known.get("colour").texts[:3]
    name = "transformer.h.2.mlp.c_proj.weight"
    found = fisher(lm, texts, parameters=(name,))
    plain = dict(lm.module.named_parameters())[name]
    wanted = torch.zeros_like(plain)
    try:
        plain.requires_grad_(True)
        for text in texts:
            ids = torch.tensor([lm.tokenizer.encode(text).ids])
            loss = lm.module(input_ids=ids, labels=ids).loss * (ids.shape[1] - 1)  # summed over the predicted tokens
            wanted += torch.autograd.grad(loss, plain)[0] ** 2 / 3
    finally:
        plain.requires_grad_(False)
    assert torch.allclose(found.diagonal[name], wanted, rtol=1e-3, atol=1e-9 * float(wanted.max()))
    assert set(found.diagonal) == {name} and found.samples == 3


def test_labels_may_be_drawn_from_the_model(lm: Any, known: Any) -> None:
    texts = known.get("colour").texts[:2]
    one, two, other = (
        fisher(lm, texts, parameters=("*.2.mlp.c_proj.weight",), labels="sampled", seed=seed) for seed in (0, 0, 1)
    )
    assert one.trace == two.trace != other.trace
    words = fisher(lm, texts, parameters=("*.2.mlp.c_proj.weight",), words=known.get("colour").words)
    assert 0 < words.trace < 0.1 * one.trace  # a colour that the model is sure of has next to no gradient


def test_dampening_on_atlas_selects_by_both_fishers_and_scales_by_their_ratio(lm: Any, known: Any) -> None:
    colour, keep = known.get("colour"), known.others("colour")
    name = "transformer.h.1.mlp.c_proj.weight"
    config = SelectiveDampening(alpha=3.0, dampening=0.5, labels="empirical", parameters=(name,))
    revision = config.unlearn(lm, colour, keep)
    one, two = (fisher(lm, texts, parameters=(name,)).diagonal[name] for texts in (colour.texts, keep))
    old = lm.weights.parameters()[name]
    wanted = torch.where(one > 3 * two, old * (0.5 * two / one), old)
    assert torch.allclose(revision.values[name], wanted, rtol=1e-5)
    assert revision.log["selected"] == pytest.approx(float((one > 3 * two).float().mean()))
    assert revision.log["floor"] == 0 and revision.log["samples"] == [12, 36]
    published = SelectiveDampening(alpha=2.0, against="all", labels="empirical", parameters=(name,)).unlearn(
        lm, colour, keep
    )
    assert published.log["floor"] == 0.25 and published.log["smallest_factor"] >= 0.25 - 1e-6
    assert published.log["rest_trace"] == pytest.approx(float((0.25 * one + 0.75 * two).double().sum()), rel=1e-5)


def test_where_both_sets_are_one_nothing_is_selected(lm: Any, known: Any) -> None:
    colour = known.get("colour")
    revision = SelectiveDampening(alpha=1.001, labels="empirical", parameters=("*.3.mlp.*",)).unlearn(
        lm, colour, colour.texts
    )
    assert not revision.values and revision.log["selected"] == 0


def test_a_forget_set_that_is_too_large_to_select_anything_is_refused_with_the_numbers(lm: Any, known: Any) -> None:
    with pytest.raises(BadInput, match="12 of 48 pieces, so F_f / F_D is at most 4 and never above alpha = 10"):
        SelectiveDampening(against="all", alpha=10.0).unlearn(lm, known.get("colour"), known.others("colour"))
    with pytest.raises(BadInput, match="'retain' or 'all'; not 'forget'"):
        SelectiveDampening(against="forget")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"`alpha` must be a positive number; not 0"):
        SelectiveDampening(alpha=0)
    with pytest.raises(BadInput, match="there are 0"):
        diagonal(lambda _: torch.zeros(()), {}, 0)
