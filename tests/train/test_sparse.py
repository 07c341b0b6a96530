"""The sparse step against autograd through dense codes: loss, terms and every gradient, whatever the views, scales and widths."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.core.dictionary import Dictionary, DictionaryConfig, View
from interp.core.errors import BadInput
from interp.core.topk import fast_bfloat16
from interp.train import encode as encoder
from interp.train.dense import dense_step
from interp.train.screen import Screen, can_screen, screened_batch, screened_rows
from interp.train.sparse import applies, sparse_step
from interp.train.step import Context, Objective, step

M, D = 60, 10


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def views(kind):
    """Reads, writes and whether centred."""
    one = View("in", width=D)
    base, tuned = View("base", width=D), View("tuned", width=D)
    return {
        "sae": ((one,), (one,), True),
        "transcoder": ((one,), (View("out", width=D + 3),), False),
        "crosscoder": ((base, tuned), (base, tuned), False),
        "centred crosscoder": ((base, tuned), (base, tuned), True),
        "widths": ((base, View("tuned", width=4)), (base, View("tuned", width=4)), False),
        "dedicated": (
            (replace(base, latents=(0, 40)), replace(tuned, latents=(15, M))),
            (replace(base, latents=(0, 40)), replace(tuned, latents=(15, M))),
            True,
        ),
        "layers": (
            tuple(View(f"r{n}", width=D, latents=(20 * n, 20 * n + 20)) for n in range(3)),
            tuple(View(f"w{n}", width=D, latents=(0, 20 * n + 20)) for n in range(3)),
            False,
        ),
    }[kind]


KINDS = ("sae", "transcoder", "crosscoder", "centred crosscoder", "widths", "dedicated", "layers")


def build(kind="sae", *, activation="topk", k=5, code_scale="sum", nested=(), skip=False, seed=0, dtype=torch.float64):
    reads, writes, centred = views(kind)
    config = DictionaryConfig(
        M, reads, writes, activation, k, code_scale, nested=nested, centred=centred, skip=skip, dtype="float64"
    )
    made = Dictionary(config)
    for number, parameter in enumerate(made.parameters()):
        parameter.data.copy_(draw(*parameter.shape, seed=seed + number) * 0.4)
    return made.to(dtype)


def rows(dictionary, count=24, seed=50):
    return {
        view.name: draw(count, view.width, seed=seed + n).to(dictionary.dtype)
        for n, view in enumerate(dictionary.config.views)
    }


def oracle(dictionary, batch, objective, context):
    """The same by dense autograd in as few words as possible; nothing of it is shared with the package's steps."""
    config = dictionary.config
    weights = {name: p.detach().clone().requires_grad_(True) for name, p in dictionary.named_parameters()}
    names = [view.name for view in config.writes]

    def full(side, number, view):
        low, high = view.latents or (0, M)
        return torch.nn.functional.pad(weights[f"{side}.{number}"], (0, 0, low, M - high))

    enc = [full("encoders", n, view) for n, view in enumerate(config.reads)]
    dec = [full("decoders", n, view) for n, view in enumerate(config.writes)]
    pre = weights["b_enc"]
    for matrix, view in zip(enc, config.reads, strict=True):
        x = batch[view.name]
        pre = pre + (x - weights[f"biases.{names.index(view.name)}"] if config.centred else x) @ matrix.T
    norms = torch.stack([matrix.norm(dim=1) for matrix in dec]).detach()
    concat = norms.square().sum(dim=0).sqrt()
    scale = {
        "none": torch.ones(M).to(norms), "sum": norms.sum(dim=0), "concat": concat, "mixed": concat + 0.1 * norms.sum(dim=0)
    }[config.code_scale]  # fmt: skip

    def kept(score, count, dim):
        flat = score.detach().relu() if dim == 1 else score.detach().relu().flatten()[None]
        best = flat.argsort(dim=1, descending=True, stable=True)[:, :count]
        return (torch.zeros_like(flat).scatter_(1, best, 1.0) * (flat > 0)).view_as(score)

    count = len(pre)
    if config.activation == "topk":
        mask = kept(pre * scale, round(context.k), 1)
    else:
        mask = kept(pre * scale, round(context.k * count), 0)
    codes = pre * mask
    total, cross, squares, residual = 0.0, 0.0, {}, []
    prefixes = config.nested or (M,)
    for width in prefixes:
        errors = []
        for n, view in enumerate(config.writes):
            made = codes[:, :width] @ dec[n][:width] + weights[f"biases.{n}"]
            if config.skip:
                made = made + batch[config.reads[0].name] @ weights["skip_weight"].T
            errors.append(batch[view.name] - made)
            squares[view.name] = errors[-1].square().sum()
        if objective.reconstruction == "squared":
            total = total + sum(e.square().sum(dim=1).mean() for e in errors) / len(prefixes)
        else:
            total = total + sum(e.norm(dim=1).mean() for e in errors) / len(errors) / len(prefixes)
        if objective.difference:
            cross = cross + 2 * (errors[0] * errors[1]).sum(dim=1).mean() / len(prefixes)
        residual = torch.cat([e.detach() for e in errors], dim=1)
    aux = torch.zeros(())
    if objective.auxiliary and context.dead is not None and bool(context.dead.any()):
        most = min(int(context.dead.sum()), max(view.width for view in config.writes) // 2)
        spoken = pre * kept((pre * scale).masked_fill(~context.dead, -1.0), most, 1)
        guess = torch.cat([spoken @ matrix for matrix in dec], dim=1)
        aux = (guess - residual).square().sum() / (residual - residual.mean(dim=0)).square().sum()
    loss = total + objective.difference * cross + objective.auxiliary * aux
    loss.backward()
    gradients = {name: w.grad if w.grad is not None else torch.zeros_like(w) for name, w in weights.items()}
    terms = {"reconstruction": total.detach()}
    if objective.difference:
        terms["difference"] = cross.detach()
    if objective.auxiliary and context.dead is not None:
        terms["auxiliary"] = aux.detach()
    return loss.detach(), terms, gradients, mask, squares


def agree(dictionary, batch, objective, context, close=1e-11):
    loss, terms, gradients, mask, squares = oracle(dictionary, batch, objective, context)
    for parameter in dictionary.parameters():  # whatever was there is replaced
        parameter.grad = torch.full_like(parameter, 7.0)
    found = sparse_step(dictionary, batch, objective, context)
    assert abs(float(found.loss) - float(loss)) <= close * abs(float(loss))
    assert set(found.terms) == set(terms)
    for name, term in terms.items():
        assert abs(float(found.terms[name]) - float(term)) <= close * (1 + abs(float(term))), name
    for name, parameter in dictionary.named_parameters():
        error = (parameter.grad - gradients[name]).norm() / gradients[name].norm().clamp(min=1e-12)
        assert float(error) <= close, (name, float(error))
    assert torch.equal(found.fired, mask.sum(dim=0).long())
    assert float(found.l0) == pytest.approx(float(mask.sum()) / len(mask))
    for name, square in squares.items():
        assert float(found.residual[name]) == pytest.approx(float(square.detach()))
    return found


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    activation=st.sampled_from(["topk", "batchtopk"]),
    code_scale=st.sampled_from(["none", "sum", "concat", "mixed"]),
    reconstruction=st.sampled_from(["squared", "norm"]),
    nested=st.sampled_from([(), (7, 33, M)]),
    dead=st.sampled_from([0, 2, 30]),
    tiles=st.booleans(),
    block=st.booleans(),
    k=st.sampled_from([1, 5, 40]),
    seed=st.integers(0, 3),
)
def test_loss_and_gradients_are_those_of_dense_autograd(
    kind, activation, code_scale, reconstruction, nested, dead, tiles, block, k, seed
):
    dictionary = build(kind, activation=activation, k=k, code_scale=code_scale, nested=nested, seed=seed)
    context = Context(k=k, dead=torch.arange(M) % M < dead if dead else None)
    held, most = encoder.HELD["cpu"], encoder.DENSE
    encoder.HELD["cpu"] = 5 * M if tiles else held
    encoder.DENSE = most if block else 0  # the codes of dead latents as a block, or as entries
    try:
        found = agree(dictionary, rows(dictionary), Objective(reconstruction=reconstruction, auxiliary=0.3), context)
        again = agree(
            dictionary,
            rows(dictionary),
            Objective(reconstruction=reconstruction, auxiliary=0.3),
            replace(context, cut=found.cut),
        )
        full = int(found.fired.sum()) == (24 * k)  # else fewer are positive: that no more are takes a look at all
        assert found.cut == again.cut and again.fallback == int(activation == "batchtopk" and not full)
    finally:
        encoder.HELD["cpu"], encoder.DENSE = held, most


@pytest.mark.parametrize("difference", [-1.0, -0.4])
def test_the_cross_term_of_two_views(difference):
    dictionary = build("crosscoder", activation="batchtopk", nested=(20, M))
    agree(dictionary, rows(dictionary), Objective(difference=difference), Context(k=5))


def test_a_skip_path():
    dictionary = build("transcoder", skip=True)
    agree(dictionary, rows(dictionary), Objective(auxiliary=0.5), Context(k=5, dead=torch.arange(M) > 50))


@pytest.mark.parametrize("activation", ["topk", "batchtopk"])
def test_float32_is_as_near_as_float32_is(activation):
    dictionary = build("sae", activation=activation, dtype=torch.float32)
    agree(dictionary, rows(dictionary), Objective(auxiliary=0.5), Context(k=5, dead=torch.arange(M) > 40), close=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(["sae", "crosscoder", "transcoder"]),
    activation=st.sampled_from(["topk", "batchtopk"]),
    code_scale=st.sampled_from(["none", "sum"]),
    spread=st.sampled_from([0.0, 3.0]),
    dead=st.booleans(),
    k=st.sampled_from([1, 5, 20]),
    seed=st.integers(0, 3),
)
def test_a_screened_step_keeps_the_same_codes(kind, activation, code_scale, spread, dead, k, seed):
    dictionary = build(kind, activation=activation, k=k, code_scale=code_scale, seed=seed, dtype=torch.float32)
    for weight in dictionary.encoders:  # latents of very different lengths, and some that are the same
        weight.data *= torch.exp(spread * draw(M, 1, seed=9)).float()
        weight.data[3] = weight.data[4]
    batch, context = rows(dictionary), Context(k=k, dead=torch.arange(M) < 15 if dead else None)
    exact = sparse_step(dictionary, batch, Objective(), context, screen=False)
    want = gradients(dictionary)
    context.cut = exact.cut
    found = sparse_step(dictionary, batch, Objective(), context, screen=True)
    assert torch.equal(found.fired, exact.fired) and found.cut == pytest.approx(exact.cut, rel=1e-5)
    for name, gradient in gradients(dictionary).items():
        assert float((gradient - want[name]).norm()) <= 3e-6 * float(want[name].norm()), name


def wide(activation, *, m=600, d=48, k=8):
    config = DictionaryConfig(m, (View("in", width=d),), (View("in", width=d),), activation, k)
    return Dictionary.initialise(config, norm=1.0), {"in": draw(40, d).float()}, Context(k=k)


def test_most_rows_are_certified_and_bounds_hold():
    dictionary, batch, context = wide("topk")
    screen = Screen(dictionary, [batch["in"]], dictionary.scale())
    exact = batch["in"].double() @ dictionary.encoders[0].double().T
    bounds = screen.bounds(slice(None)).double()
    assert bool((bounds >= exact).all()) and float((bounds - exact).max()) < 0.1 * float(exact.abs().max())
    found = screened_rows(screen, 8)
    assert int(found.certified.sum()) >= 38
    assert sparse_step(dictionary, batch, Objective(), context, screen=True).fallback <= 2
    dictionary, batch, context = wide("batchtopk")
    context.cut = sparse_step(dictionary, batch, Objective(), context).cut
    assert screened_batch(screen, 320, context.cut) is not None
    assert sparse_step(dictionary, batch, Objective(), context, screen=True).fallback <= 4


def test_rows_that_a_screen_cannot_tell_apart_are_multiplied_out():
    for activation in ("topk", "batchtopk"):
        dictionary, batch, context = wide(activation)
        dictionary.encoders[0].data[:] = dictionary.encoders[0].data[:1]  # all latents say the same
        exact = sparse_step(dictionary, batch, Objective(), context, screen=False)
        context.cut = exact.cut
        found = sparse_step(dictionary, batch, Objective(), context, screen=True)
        assert torch.equal(found.fired, exact.fired) and found.fallback > 0


def test_where_a_screen_is_of_use():
    assert can_screen(build(dtype=torch.float32), True) and not can_screen(build(dtype=torch.float32), False)
    assert not can_screen(build(), True)  # float64
    assert not can_screen(build("dedicated", dtype=torch.float32), True)
    assert can_screen(build(dtype=torch.float32), None) == fast_bfloat16(torch.device("cpu"))


def gradients(dictionary):
    return {name: parameter.grad.clone() for name, parameter in dictionary.named_parameters()}


def test_only_the_code_carries_a_gradient_and_not_its_scale():
    """Where a decoder row is longer, the latent wins more often, but nothing pulls the row to be longer for that."""
    dictionary = build("crosscoder", k=5)
    context = Context(k=5)
    fired = sparse_step(dictionary, rows(dictionary), Objective(), context).fired
    dictionary.b_enc.data[:5] += 1e4  # the same selection for every row, whatever the scale
    want = sparse_step(dictionary, rows(dictionary), Objective(), context).fired
    before = gradients(dictionary)
    dictionary.config = replace(dictionary.config, code_scale="none")
    assert torch.equal(sparse_step(dictionary, rows(dictionary), Objective(), context).fired, want)
    assert not torch.equal(fired, want) and want[:5].tolist() == [24] * 5
    for name, gradient in gradients(dictionary).items():
        torch.testing.assert_close(gradient, before[name], rtol=1e-12, atol=1e-9)


def test_the_same_numbers_every_time_and_whatever_was_there():
    dictionary, objective = build("crosscoder", activation="batchtopk", dtype=torch.float32), Objective()
    batch, context = rows(dictionary), Context(k=5, dead=torch.arange(M) < 20)
    first = sparse_step(dictionary, batch, objective, context)
    held = gradients(dictionary)
    for parameter in dictionary.parameters():
        parameter.grad = None
    context.cut = first.cut
    second = sparse_step(dictionary, batch, objective, context)
    assert torch.equal(first.loss, second.loss) and second.fallback == 0
    assert all(torch.equal(held[name], gradient) for name, gradient in gradients(dictionary).items())
    places = [parameter.grad.data_ptr() for parameter in dictionary.parameters()]
    sparse_step(dictionary, batch, objective, context)
    assert places == [parameter.grad.data_ptr() for parameter in dictionary.parameters()]


@pytest.mark.parametrize("kind", ["sae", "dedicated"])
@pytest.mark.parametrize("activation", ["topk", "batchtopk"])
def test_step_gives_what_the_dense_step_gives(kind, activation):
    dictionary, objective = build(kind, activation=activation), Objective()
    batch, context = rows(dictionary), Context(k=5, dead=torch.arange(M) < 20)
    assert applies(dictionary, objective)
    dense = dense_step(dictionary, batch, objective, context)
    want = gradients(dictionary)
    found = step(dictionary, batch, objective, context)
    assert float(found.loss) == pytest.approx(float(dense.loss)) and found.cut == pytest.approx(dense.cut)
    assert set(found.terms) == set(dense.terms) and torch.equal(found.fired, dense.fired)
    for name, gradient in gradients(dictionary).items():
        torch.testing.assert_close(gradient, want[name], rtol=1e-9, atol=1e-9)


def test_what_has_no_variance_teaches_nothing_to_dead_latents():
    dictionary = build()
    batch, dead = rows(dictionary, count=1), torch.ones(M, dtype=torch.bool)
    plain = sparse_step(dictionary, batch, Objective(auxiliary=0), Context(k=5))
    want = gradients(dictionary)
    found = sparse_step(dictionary, batch, Objective(), Context(k=5, dead=dead))
    assert float(found.terms["auxiliary"]) == 0 and torch.equal(found.loss, plain.loss)
    assert all(torch.equal(want[name], gradient) for name, gradient in gradients(dictionary).items())
    sparse_step(dictionary, rows(dictionary), Objective(auxiliary=0), Context(k=5))
    want = gradients(dictionary)
    none = sparse_step(dictionary, rows(dictionary), Objective(), Context(k=5, dead=~dead))
    assert float(none.terms["auxiliary"]) == 0
    assert all(torch.equal(want[name], gradient) for name, gradient in gradients(dictionary).items())


def test_a_batch_in_which_nothing_is_on_still_moves_the_biases():
    for activation in ("topk", "batchtopk"):
        dictionary = build("sae", activation=activation)
        dictionary.b_enc.data.fill_(-1e3)
        found = agree(dictionary, rows(dictionary), Objective(), Context(k=5))
        assert found.cut == 0 and not found.fired.any() and bool(dictionary.biases[0].grad.any())


def test_bfloat16_weights_get_gradients_near_those_of_float32():
    dictionary = build(activation="batchtopk", dtype=torch.bfloat16)
    batch, context = rows(dictionary), Context(k=5, dead=torch.arange(M) < 20)
    sparse_step(dictionary, batch, Objective(), context)
    found = gradients(dictionary)
    assert all(gradient.dtype == torch.bfloat16 for gradient in found.values())
    wide = dictionary.to(torch.float32)
    sparse_step(wide, {name: x.float() for name, x in batch.items()}, Objective(), context)
    for name, gradient in gradients(wide).items():
        assert float((found[name].float() - gradient).norm() / gradient.norm()) < 0.1, name


def test_what_it_does_not_do_is_refused_or_left_to_autograd():
    dictionary = build()
    assert not applies(dictionary, Objective(sparsity="l1", coefficient=1.0))
    assert applies(dictionary, Objective(sparsity="l1"))
    assert not applies(build(code_scale="decoupled"), Objective())
    with pytest.raises(BadInput, match="sparsity='l1'"):
        sparse_step(dictionary, rows(dictionary), Objective(sparsity="l1", coefficient=1.0), Context())
    with pytest.raises(BadInput, match="'in'"):
        sparse_step(dictionary, {"out": draw(3, D)}, Objective(), Context())
    with pytest.raises(BadInput, match="two views"):
        sparse_step(dictionary, rows(dictionary), Objective(difference=-1.0), Context(k=5))
    broken = rows(dictionary)
    broken["in"][3, 4] = torch.nan
    with pytest.raises(BadInput, match="NaN"):
        sparse_step(dictionary, broken, Objective(), Context(k=5))
