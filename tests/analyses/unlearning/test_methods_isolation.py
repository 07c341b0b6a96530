"""Parameter isolation: a net whose inputs are known to be private, shared or other, and hooks on plain transformers."""

from typing import Any

import pytest
import torch
from torch import nn

import interp
from interp.analyses.unlearning.methods import ParameterIsolation
from interp.analyses.unlearning.methods.inputs import feature_norms, linears
from interp.analyses.unlearning.methods.isolation import scores, top_share
from interp.analyses.unlearning.methods.pieces import pieces
from interp.core.errors import BadInput, UnsupportedArchitecture
from interp.core.seed import generator
from interp.models import reference


@pytest.fixture(scope="module")
def known() -> Any:
    return reference.concept_set("atlas", texts=12)


def test_isolated_weights_carry_one_skill_where_wandas_carry_both() -> None:
    """Twelve inputs: four private to skill A, four that both use, four of B. Agreement with the whole net after pruning."""
    rng = generator(0, "skills")
    weight = torch.randn(12, 10, generator=rng, dtype=torch.float64).sign() * 1.0  # equal sizes: the inputs decide
    a, b = (torch.randn(400, 12, generator=rng, dtype=torch.float64) for _ in range(2))
    a[:, 8:], b[:, :4] = 0, 0
    norms = [x.norm(dim=0) for x in (a, b)]
    leaned = [top_share(scores(weight, one), 8 / 12) for one in norms]
    isolated, wanda = leaned[0] & ~leaned[1], leaned[0]
    assert isolated[:4].all() and not isolated[4:].any()  # exactly the private rows
    assert wanda[:8].all() and not wanda[8:].any()

    def agreement(x: torch.Tensor, mask: torch.Tensor) -> float:
        return float(((x @ (weight * ~mask)).argmax(-1) == (x @ weight).argmax(-1)).double().mean())

    assert agreement(a, isolated) < 0.6 and agreement(b, isolated) == 1.0
    assert agreement(a, wanda) < 0.3 and agreement(b, wanda) < 0.6
    chance = torch.zeros(120, dtype=torch.bool)
    chance[torch.randperm(120, generator=rng)[: int(isolated.sum())]] = True
    random = chance.reshape(12, 10)
    assert agreement(b, random) < 1.0


def test_the_share_is_of_a_whole_matrix_not_of_its_rows() -> None:
    score = torch.tensor([[9.0, 8.0, 7.0], [1.0, 2.0, 3.0]])
    assert top_share(score, 0.5).tolist() == [[True] * 3, [False] * 3]
    assert int(top_share(score, 0.01).sum()) == 1
    assert top_share(torch.ones(2, 2), 0.5).tolist() == [[True, True], [False, False]]  # of equals the first


@pytest.mark.parametrize("name", ["atlas", "stories260K-llama"])
def test_inputs_are_those_that_hooks_on_the_linear_modules_see(name: str, real_models: Any) -> None:
    lm = interp.load(name if name == "atlas" else real_models / name)
    texts = ["Once upon a time there was a small dog.", "The king of Norvik sent the soldier away."]
    rows = pieces(lm, texts, what="texts")
    found = feature_norms(lm, rows)
    paths = {
        "gpt2": ("transformer.h", {"attn": "attn.c_attn", "z": "attn.c_proj", "mlp": "mlp.c_fc", "post": "mlp.c_proj"}),
        "llama": ("model.layers", {"attn": "self_attn.v_proj", "z": "self_attn.o_proj", "mlp": "mlp.up_proj", "post": "mlp.down_proj"}),
    }  # fmt: skip
    layers, inside = paths[lm.spec.family]
    for row, ids in enumerate(rows.rows):
        seen: dict[tuple[int, str], torch.Tensor] = {}
        handles = []
        for layer in range(lm.spec.n_layers):
            for source, path in inside.items():
                module: nn.Module = lm.module.get_submodule(f"{layers}.{layer}.{path}")

                def look(_: Any, args: Any, key: Any = (layer, source), seen: Any = seen) -> None:
                    seen[key] = args[0][0].double().norm(dim=0)

                handles.append(module.register_forward_pre_hook(look))
        with torch.no_grad():
            lm.module(input_ids=torch.tensor([ids]))
        for handle in handles:
            handle.remove()
        assert set(seen) == set(found)
        for key, wanted in seen.items():
            assert torch.allclose(found[key][row], wanted, rtol=2e-3, atol=1e-4 * float(wanted.max())), (name, key)


def test_every_block_matrix_is_scored_and_nothing_else_is_touched(lm: Any, known: Any) -> None:
    maps = linears(lm)
    assert len(maps) == 4 * 6 and {one.key for one in linears(lm, mlp_only=True)} == {
        f"{name}.{layer}" for name in ("W_in", "W_out") for layer in range(4)
    }
    before = {key: value.clone() for key, value in lm.weights.parameters().items()}
    colour, keep = known.get("colour"), known.others("colour")
    with ParameterIsolation(keep=0.1).unlearn(lm, colour, keep).apply(lm):
        touched = {key for key, value in lm.weights.parameters().items() if not torch.equal(value, before[key])}
        pruned = {key: lm.weights.parameters()[key] == 0 for key in touched}
    assert touched and all(key.endswith("weight") and ".ln_" not in key and "wte" not in key for key in touched)
    assert all(int(mask.sum()) < 0.1 * mask.numel() for mask in pruned.values())


def test_the_mask_is_the_published_one_written_out(lm: Any, known: Any) -> None:
    colour, keep = known.get("colour"), known.others("colour")
    revision = ParameterIsolation(keep=0.02, factor=1.1, matrices="mlp").unlearn(lm, colour, keep)
    old = lm.weights.W_out(1)
    score = {}
    for kind, texts in {"forget": colour.texts, "retain": keep}.items():
        total = torch.zeros(lm.spec.d_mlp, dtype=torch.float64)
        for text in texts:
            total += lm.run(text, capture="blocks.1.mlp.hook_post")["blocks.1.mlp.hook_post"][0].double().norm(dim=0)
        score[kind] = (old.double().abs() * total[:, None]).flatten()
    k = round(0.02 * old.numel())
    tops = {kind: set(one.topk(k).indices.tolist()) for kind, one in score.items()}
    mask = torch.zeros(old.numel(), dtype=torch.bool)
    mask[sorted(tops["forget"] - tops["retain"])] = True
    wanted = torch.where(mask.reshape(old.shape), 1.1 * old, old)
    got = revision.values["W_out.1"]
    assert float((got == wanted).float().mean()) > 0.9999  # rounding may swap two at the edge of the share
    assert abs(revision.log["by_matrix"]["W_out.1"] - int(mask.sum())) <= 2


def test_controls_take_as_many_or_more_and_equal_texts_isolate_nothing(lm: Any, known: Any) -> None:
    colour, keep = known.get("colour"), known.others("colour")
    common: dict[str, Any] = {"keep": 0.05, "matrices": "mlp"}
    plain, random, wanda = (
        ParameterIsolation(control=control, **common).unlearn(lm, colour, keep)  # type: ignore[arg-type]
        for control in ("none", "random", "wanda")
    )
    assert random.log["by_matrix"] == plain.log["by_matrix"]
    assert not torch.equal(random.values["W_in.0"], plain.values["W_in.0"])
    assert wanda.log["isolated"] == pytest.approx(0.05, rel=1e-3) and 0 < plain.log["isolated"] < 0.05
    null = ParameterIsolation(**common).unlearn(lm, colour, colour.texts)
    assert not null.values and null.log["isolated"] == 0
    drawn = ParameterIsolation(draws=3, **common).unlearn(lm, colour, keep)
    assert 0 < drawn.log["agreement"] < 1


def test_bad_input_and_families_without_one_mlp_are_refused(lm: Any) -> None:
    import dataclasses
    from types import SimpleNamespace

    with pytest.raises(BadInput, match="between 0 and 1; not 5"):
        ParameterIsolation(keep=5)
    with pytest.raises(BadInput, match=r"`factor` must be 0 or more; not -1"):
        ParameterIsolation(factor=-1)
    with pytest.raises(BadInput, match="'none', 'wanda' or 'random'; not 'magnitude'"):
        ParameterIsolation(control="magnitude")  # type: ignore[arg-type]
    odd: Any = SimpleNamespace(spec=dataclasses.replace(lm.spec, family="qwen3_moe", experts=8))
    with pytest.raises(UnsupportedArchitecture, match=r"qwen3_moe.*8 experts a layer"):
        linears(odd)
