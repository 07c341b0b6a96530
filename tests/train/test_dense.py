"""The autograd step: losses by loops over latents, gradients by finite differences, and nothing outside of a view's latents."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from interp.core.dictionary import Dictionary, DictionaryConfig, View
from interp.core.errors import BadInput
from interp.train.dense import TANH, dense_step
from interp.train.families import Crosscoder, CrossLayerTranscoder, LayerCrosscoder
from interp.train.step import Context, Objective

ROWS = 7
READ, A, B = View("in", width=5), View("a", width=4), View("b", width=4)
SAE = DictionaryConfig(10, (A,), (A,), activation="topk", k=3)
TWO = DictionaryConfig(10, (A, B), (A, B), activation="batchtopk", k=2.5, centred=False)
PARTS = DictionaryConfig(
    10,
    (replace(A, latents=(0, 7)), replace(B, latents=(4, 10))),
    (replace(A, latents=(0, 8)), replace(B, latents=(3, 10))),
    activation="batchtopk",
    k=2.5,
    centred=False,
    groups=(("one", 4), ("two", 6)),
)
DEAD = torch.arange(10) >= 6

CASES: dict[str, tuple[DictionaryConfig, Objective]] = {
    "topk": (SAE, Objective()),
    "topk, scale none": (replace(SAE, code_scale="none"), Objective(reconstruction="norm")),
    "matryoshka": (replace(SAE, nested=(3, 6, 10)), Objective(auxiliary=0.5)),
    "batchtopk": (TWO, Objective(reconstruction="norm")),
    "concat": (replace(TWO, code_scale="concat"), Objective(difference=-1.0)),
    "mixed": (replace(TWO, code_scale="mixed", nested=(5, 10)), Objective(difference=-0.4)),
    "decoupled": (replace(TWO, code_scale="decoupled"), Objective()),
    "decoupled topk": (replace(TWO, code_scale="decoupled", activation="topk", k=2), Objective()),
    "l1": (replace(TWO, activation="relu"), Objective(sparsity="l1", coefficient=0.3)),
    "l1 concat": (replace(TWO, activation="relu"), Objective(sparsity="l1", coefficient=0.3, penalty="concat")),
    "l1 of a topk": (SAE, Objective(sparsity="l1", coefficient=0.3)),
    "groups": (
        replace(PARTS, activation="relu"),
        Objective(sparsity="l1", coefficient=0.3, group_weights=(0.2, 1.5), auxiliary=0.7),
    ),
    "parts": (PARTS, Objective(auxiliary=0.7)),
    "tanh": (replace(PARTS, activation="relu"), Objective(sparsity="l0", step="tanh", coefficient=0.1)),
    "jumprelu": (replace(SAE, activation="jumprelu"), Objective(sparsity="l0", coefficient=0.1, auxiliary=0)),
    "transcoder": (
        DictionaryConfig(10, (READ,), (A,), activation="topk", k=3, centred=False, skip=True),
        Objective(auxiliary=0.5),
    ),
}


def filled(config: DictionaryConfig) -> tuple[Dictionary, dict[str, Tensor]]:
    """A float64 dictionary of random weights, all biases included, and rows for it."""
    draw = torch.Generator().manual_seed(1)
    dictionary = Dictionary(config).double()
    for parameter in dictionary.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=draw, dtype=torch.float64) * 0.6)
    if config.activation == "jumprelu":
        dictionary.thresholds.data.abs_()
    return dictionary, {
        view.name: torch.randn(ROWS, view.width, generator=draw, dtype=torch.float64) for view in config.views
    }


def context(config: DictionaryConfig) -> Context:
    return Context(k=config.k, dead=DEAD, warmup=0.5)


def by_loops(
    dictionary: Dictionary, batch: dict[str, Tensor], objective: Objective, kept: Any = None
) -> tuple[float, dict]:
    """The loss as it is written on paper, one row, view and latent at a time. `kept`: which codes are on, where that is not to change."""
    config, m = dictionary.config, dictionary.latents
    names = [view.name for view in config.writes]
    encoders = {view.name: dictionary.encoder(view.name).tolist() for view in config.reads}
    decoders = {name: dictionary.decoder(name).tolist() for name in names}
    biases = {name: dictionary.bias(name).tolist() for name in names}
    rows = {name: x.tolist() for name, x in batch.items()}
    norms = {name: [math.hypot(*row) for row in decoders[name]] for name in names}
    pre = [[dictionary.b_enc[j].item() for j in range(m)] for _ in range(ROWS)]
    for i in range(ROWS):
        for view in config.reads:
            x = (
                [u - v for u, v in zip(rows[view.name][i], biases[view.name], strict=True)]
                if config.centred
                else rows[view.name][i]
            )
            for j in range(m):
                pre[i][j] += sum(u * v for u, v in zip(x, encoders[view.name][j], strict=True))
    score = {  # what latent j is multiplied by when it competes, in all views or one
        "none": lambda j, name: 1.0,
        "sum": lambda j, name: sum(norms[n][j] for n in names),
        "concat": lambda j, name: math.hypot(*(norms[n][j] for n in names)),
        "mixed": lambda j, name: math.hypot(*(norms[n][j] for n in names)) + 0.1 * sum(norms[n][j] for n in names),
        "decoupled": lambda j, name: norms[name][j],
    }[config.code_scale]
    if kept is None:
        kept = {}
        for name in names:
            scores = {(i, j): max(pre[i][j], 0.0) * score(j, name) for i in range(ROWS) for j in range(m)}
            ranked = sorted(scores, key=lambda place: -scores[place])
            if config.activation == "batchtopk":
                chosen = ranked[: round(config.k * ROWS)]
            elif config.activation == "topk":
                chosen = [place for i in range(ROWS) for place in [p for p in ranked if p[0] == i][: int(config.k)]]
            elif config.activation == "jumprelu":
                chosen = [(i, j) for i, j in ranked if pre[i][j] > dictionary.thresholds[j].item()]
            else:
                chosen = ranked
            kept[name] = {place for place in chosen if scores[place] > 0}
    codes = {
        name: [[pre[i][j] if (i, j) in kept[name] else 0.0 for j in range(m)] for i in range(ROWS)] for name in names
    }
    together = [[max(codes[name][i][j] for name in names) for j in range(m)] for i in range(ROWS)]
    terms = {"reconstruction": 0.0, "difference": 0.0, "sparsity": 0.0, "auxiliary": 0.0}
    widths = config.nested or (m,)
    for width in widths:
        errors = {}
        for name in names:
            errors[name] = []
            for i in range(ROWS):
                error = [u - v for u, v in zip(rows[name][i], biases[name], strict=True)]
                for j in range(width):
                    error = [e - codes[name][i][j] * w for e, w in zip(error, decoders[name][j], strict=True)]
                if config.skip:
                    straight = (dictionary.skip_weight @ batch[config.reads[0].name][i]).tolist()
                    error = [e - s for e, s in zip(error, straight, strict=True)]
                errors[name].append(error)
        squares = {name: [sum(e * e for e in row) for row in errors[name]] for name in names}
        if objective.reconstruction == "squared":
            terms["reconstruction"] += sum(map(sum, squares.values())) / ROWS / len(widths)
        else:
            terms["reconstruction"] += (
                sum(math.sqrt(s) for n in names for s in squares[n]) / ROWS / len(names) / len(widths)
            )
        if objective.difference:
            one, other = errors.values()
            inner = sum(a * b for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))
            terms["difference"] += 2 * inner / ROWS / len(widths)
    weight = [
        (math.hypot if objective.penalty == "concat" else lambda *n: sum(n))(*(norms[n][j] for n in names))
        for j in range(m)
    ]
    factor = [1.0] * m
    if objective.group_weights:
        factor = [w for (_, size), w in zip(config.groups, objective.group_weights, strict=True) for _ in range(size)]
    for i in range(ROWS):
        for j in range(m):
            if objective.sparsity == "l1":
                terms["sparsity"] += factor[j] * weight[j] * together[i][j] / ROWS
            elif objective.step == "tanh":
                terms["sparsity"] += factor[j] * math.tanh(TANH * weight[j] * together[i][j]) / ROWS
            else:
                terms["sparsity"] += (together[i][j] > 0) / ROWS
    if objective.auxiliary:
        sum_scale = config.code_scale if config.code_scale != "decoupled" else "sum"
        scale = dictionary.scale().tolist() if sum_scale != "none" else [1.0] * m
        count = min(max(view.width for view in config.writes) // 2, int(DEAD.sum()))
        above, below = 0.0, 0.0
        chosen = [
            sorted(DEAD.nonzero()[:, 0].tolist(), key=lambda j, i=i: -max(pre[i][j], 0.0) * scale[j])[:count]
            for i in range(ROWS)
        ]
        for name in names:
            for c in range(len(biases[name])):
                column = [errors[name][i][c] for i in range(ROWS)]
                mean = sum(column) / ROWS
                below += sum((e - mean) ** 2 for e in column)
                for i in range(ROWS):
                    made = sum(max(pre[i][j], 0.0) * decoders[name][j][c] for j in chosen[i])
                    above += (column[i] - made) ** 2
        terms["auxiliary"] = above / below
    loss = (
        terms["reconstruction"] + objective.difference * terms["difference"] + objective.auxiliary * terms["auxiliary"]
    )
    if objective.sparsity != "none":
        loss += objective.coefficient * 0.5 * terms["sparsity"]
    return loss, {"terms": terms, "kept": kept, "together": together, "squares": squares, "codes": codes}


@pytest.mark.parametrize("name", CASES)
def test_the_loss_is_the_one_on_paper(name: str) -> None:
    config, objective = CASES[name]
    dictionary, batch = filled(config)
    outcome = dense_step(dictionary, batch, objective, context(config))
    loss, found = by_loops(dictionary, batch, objective)
    assert outcome.loss.item() == pytest.approx(loss, rel=1e-12)
    for term, value in outcome.terms.items():
        assert value.item() == pytest.approx(found["terms"][term], rel=1e-12), term
    on = (torch.tensor(found["together"]) > 0).sum(0)
    assert outcome.fired.tolist() == on.tolist() and outcome.l0.item() == pytest.approx(on.sum().item() / ROWS)
    for view, squares in found["squares"].items():
        assert outcome.residual[view].item() == pytest.approx(sum(squares), rel=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_is_that_of_finite_differences(name: str) -> None:
    """With the codes that are on held fixed; what is left over for dead latents is a constant of the loss, so that has its own test."""
    config, objective = CASES[name]
    objective = replace(objective, auxiliary=0.0)
    dictionary, batch = filled(config)
    dense_step(dictionary, batch, objective, context(config))
    grads = {key: parameter.grad.clone() for key, parameter in dictionary.named_parameters()}
    kept = by_loops(dictionary, batch, objective)[1]["kept"]
    draw, h = torch.Generator().manual_seed(2), 1e-5
    for key, parameter in dictionary.named_parameters():
        if key == "thresholds":
            continue  # its gradient is an estimate: tests/train/test_activations.py
        for place in torch.randint(parameter.numel(), (2,), generator=draw).tolist():
            ends = []
            for shift in (h, -2 * h, h):  # the last puts it back
                parameter.data.view(-1)[place] += shift
                ends.append(by_loops(dictionary, batch, objective, kept)[0])
            assert grads[key].view(-1)[place].item() == pytest.approx(
                (ends[0] - ends[1]) / (2 * h), abs=1e-8, rel=1e-6
            ), key


def test_dead_latents_learn_and_the_others_do_not_learn_from_them() -> None:
    config = replace(PARTS, activation="topk", k=2)
    dictionary, batch = filled(config)
    grads = []
    for weight in (0.0, 1.0):
        dense_step(dictionary, batch, Objective(auxiliary=weight), context(config))
        grads.append({key: parameter.grad.clone() for key, parameter in dictionary.named_parameters()})
    change = {key: grads[1][key] - grads[0][key] for key in grads[0]}
    assert not change["b_enc"][~DEAD].any() and change["b_enc"][DEAD].any()
    assert not any(
        change[f"biases.{view}"].any() for view in (0, 1)
    )  # they decode without a bias, and the residual is given
    assert not change["decoders.0"][:6].any() and change["decoders.0"][6:].any()
    # by finite differences of the auxiliary loss; a dead latent that is off in all rows moves nothing else
    _, left = by_loops(dictionary, batch, Objective())
    (j, *_) = [j for j in range(6, 10) if not any((i, j) in left["kept"]["b"] for i in range(ROWS))]
    for key, parameter in (("decoders.1", dictionary.decoders[1]), ("encoders.1", dictionary.encoders[1])):
        row = j - (3 if key == "decoders.1" else 4)
        h, ends = 1e-6, []
        for shift in (h, -2 * h, h):
            parameter.data[row, 1] += shift
            ends.append(by_loops(dictionary, batch, Objective(), left["kept"])[1]["terms"]["auxiliary"])
        assert change[key][row, 1].item() == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-5, abs=1e-9) != 0


def test_gradients_are_replaced_and_flags_put_back() -> None:
    dictionary, batch = filled(TWO)
    first = dense_step(dictionary, batch, Objective(), context(TWO))
    once = [parameter.grad.clone() for parameter in dictionary.parameters()]
    with torch.no_grad():
        again = dense_step(dictionary, batch, Objective(), context(TWO))
    assert all(torch.equal(a, p.grad) for a, p in zip(once, dictionary.parameters(), strict=True))
    assert not any(parameter.requires_grad for parameter in dictionary.parameters())
    assert torch.equal(first.loss, again.loss) and not first.loss.requires_grad


def test_selection_keeps_as_many_as_it_says_and_tells_the_smallest() -> None:
    dictionary, batch = filled(TWO)
    dictionary.b_enc.data += 5  # everything is on
    for config in (TWO, replace(TWO, activation="topk", k=3)):
        dictionary.config = config
        outcome = dense_step(dictionary, batch, Objective(), context(config))
        assert int(outcome.fired.sum()) == round(config.k * ROWS)
        scores = dictionary.pre(batch).relu() * dictionary.scale()
        ranked = (
            scores.flatten().sort(descending=True).values[17] if config is TWO else scores.topk(3, dim=1).values.min()
        )
        assert outcome.cut == pytest.approx(ranked.item(), rel=1e-12)  # 2.5 · 7 is 18 after rounding
    dictionary.b_enc.data -= 50  # nothing is on: nothing is kept, and dead latents have nothing to say
    outcome = dense_step(dictionary, batch, Objective(), context(TWO))
    assert int(outcome.fired.sum()) == 0 and outcome.cut == 0.0 and outcome.terms["auxiliary"] >= 1


def test_decoupled_codes_may_be_on_for_one_view() -> None:
    config, objective = CASES["decoupled"]
    dictionary, batch = filled(config)
    dictionary.decoders[0].data[:5] *= 0.01  # the first five hardly write a, the last five hardly write b
    dictionary.decoders[1].data[5:] *= 0.01
    outcome = dense_step(dictionary, batch, objective, context(config))
    _, found = by_loops(dictionary, batch, objective)
    assert found["kept"]["a"] != found["kept"]["b"]
    assert outcome.extra["cuts"].shape == (2,) and outcome.cut == outcome.extra["cuts"].min().item()


def trained(config: DictionaryConfig, batch: dict[str, Tensor], objective: Objective, steps: int = 100) -> Dictionary:
    dictionary = Dictionary.initialise(config, seed=0, norm=0.5)
    for _ in range(steps):
        dense_step(dictionary, batch, objective, Context(k=config.k))
        for parameter in dictionary.parameters():
            parameter.data -= 0.05 * parameter.grad
    return dictionary


@pytest.mark.parametrize(
    "family",
    [
        LayerCrosscoder(latents=12, k=3, causal="weak"),
        LayerCrosscoder(latents=12, k=3, causal="strict"),
        Crosscoder(latents=12, k=3, dedicated=0.25),
        CrossLayerTranscoder(latents=12, k=3),
    ],
    ids=lambda family: type(family).__name__ + getattr(family, "causal", ""),
)
def test_what_a_view_may_not_write_does_not_exist(family: Any) -> None:
    """After 100 steps the blocks outside are exactly zero, and so is what a lone latent does to them."""
    names = {"crosscoder": ("base", "tuned"), "layer crosscoder": ("layer 0", "layer 1", "layer 2")}.get(
        family.family, ("in 0", "out 0", "in 1", "out 1", "in 2", "out 2")
    )
    config = family.config({name: View(name, width=6) for name in names})
    draw = torch.Generator().manual_seed(0)
    batch = {name: torch.randn(32, 6, generator=draw) for name in names}
    dictionary = trained(config, batch, Objective())
    for view, weight in zip(config.writes, dictionary.decoders, strict=True):
        low, high = config.range_of(view)
        outside = torch.ones(12, dtype=torch.bool)
        outside[low:high] = False
        assert weight.shape[0] == high - low < 12 or high - low == 12
        assert (
            dictionary.decoder(view.name)[outside].eq(0).all() and dictionary.decoder(view.name)[~outside].ne(0).any()
        )
    for view in config.reads:
        low, high = config.range_of(view)
        moved = {**batch, view.name: batch[view.name] + 1}
        change = (dictionary.pre(moved) - dictionary.pre(batch)).abs().amax(0) > 0
        assert change[low:high].all() and change.sum() == high - low


def test_refusals() -> None:
    dictionary, batch = filled(TWO)
    given = context(TWO)
    for changed, said in (
        ({"a": batch["a"]}, "'b' is missing"),
        ({**batch, "a": batch["a"][:, :3]}, r"\[row, 4\]"),
        ({**batch, "a": batch["a"][:3]}, "different rows"),
    ):
        with pytest.raises(BadInput, match=said):
            dense_step(dictionary, changed, Objective(), given)
    for objective, said in (
        (Objective(sparsity="l0", coefficient=1.0), "jumprelu"),
        (Objective(sparsity="l1", coefficient=1.0, group_weights=(1.0,)), "one weight for each"),
    ):
        with pytest.raises(BadInput, match=said):
            dense_step(dictionary, batch, objective, given)
    with pytest.raises(BadInput, match="penalty"):
        parts, rows = filled(PARTS)
        dense_step(parts, rows, Objective(group_weights=(1.0, 2.0)), given)
    with pytest.raises(BadInput, match="no minimum"):
        Objective(reconstruction="norm", difference=-0.5)
    with pytest.raises(BadInput, match="two views"):
        sae, rows = filled(SAE)
        dense_step(sae, rows, Objective(difference=-1.0), given)


@pytest.mark.parametrize(
    "config", [SAE, replace(SAE, activation="batchtopk", k=0.4), TWO, replace(TWO, code_scale="decoupled")]
)
def test_of_equal_scores_the_first_are_kept_as_in_the_sparse_step(config: DictionaryConfig) -> None:
    """Whole numbers and equal rows everywhere, so that cuts tie."""
    dictionary, batch = filled(replace(config, code_scale="none" if config.code_scale == "sum" else config.code_scale))
    for parameter in dictionary.parameters():
        parameter.data.copy_((parameter.data * 2).round())
    for weight in dictionary.decoders:
        weight.data.fill_(0.5)
    batch = {name: x.round()[:1].expand(ROWS, -1) for name, x in batch.items()}
    context = Context(k=config.k)
    outcome = dense_step(dictionary, batch, Objective(), context)
    score = (dictionary.pre(batch).relu() * dictionary.scale(None if config.code_scale == "sum" else "a")).detach()
    count = round(config.k * ROWS) if config.activation == "batchtopk" else int(config.k)
    flat = score.flatten()[None] if config.activation == "batchtopk" else score
    order = flat.argsort(dim=1, descending=True, stable=True)[:, :count]
    kept = (torch.zeros_like(flat).scatter_(1, order, 1.0) * (flat > 0)).view_as(score)
    assert int((score == outcome.cut).sum()) > int((kept * (score == outcome.cut)).sum())  # some that tie are left out
    assert torch.equal(outcome.fired, kept.sum(0).long())


def test_dead_latents_without_a_decoder_say_nothing_however_many_may_speak() -> None:
    dictionary, batch = filled(SAE)
    dictionary.decoders[0].data[8:] = 0
    found = []
    for dead in (DEAD, torch.arange(10) >= 8):  # 4 of which 2 may speak, and 2 of which both may
        dense_step(dictionary, batch, Objective(), Context(k=SAE.k, dead=dead))
        found.append(dictionary.decoders[0].grad[8:].clone())
    assert not found[0].any() and not found[1].any()
