"""Component masks: the planted components and no others, the threshold, the floors, and the defects of the reference code."""

from itertools import pairwise

import numpy as np
import pytest
import torch

import interp
from interp.analyses.masking import VARIANTS, ComponentMask, _Training
from interp.analyses.triples import distinct, triple_groups
from interp.core.artifact import open_result
from interp.core.errors import BadInput, SpanError
from interp.data.prompts import Prompt
from interp.data.tasks import Desideratum
from interp.models import reference
from interp.models.reference.planted.wiring import Planted, Wiring, one_hot, word_tokenizer

GAINS = (2.0, 0.5, 0.03, 0.004, -1.0, 0.0)
WORDS = ("ash", "elm", "fir", "oak")


def additive(gains: tuple[float, ...] = GAINS):
    """Layer 0 only: head h copies the first token's word to the last position and adds `gains[h]` times its code to the logits."""
    words = [*WORDS, "ends"]
    wire = Wiring({"word": 4, "first": 1, "out": 4}, len(words) + 2, 1, len(gains), 8, 8)
    wire.embed(one_hot([-1, -1, 0, 1, 2, 3, -1], 4), "word")
    wire.position(torch.tensor([[1.0]] + [[0.0]] * 7), "first")
    for head, gain in enumerate(gains):
        key = 200 * wire.read("first")  # [d_model, 1]
        constant = torch.zeros(wire.d_model, 1)
        constant[wire.half - 1] = 1 / 2**15  # reads the balanced direction: the same at every position
        wire.head(0, head, q=constant, k=key, v=wire.read("word"), o=gain * wire.write("out"))
    wire.unembed(wire.read("out") @ one_hot([-1, -1, 0, 1, 2, 3, -1], 4).T[:, :].reshape(4, 7))
    return reference.as_lm(Planted("additive", wire.module, word_tokenizer(words, 8), {}, "heads with known gains"))


def swaps(n: int = 48) -> list[Desideratum]:
    out = []
    for i in range(n):
        one, two = WORDS[i % 4], WORDS[(i + 1 + i // 4 % 3) % 4]
        base, source = Prompt.of(f"{one} ends", answer=one, id=f"{i}"), Prompt.of(f"{two} ends", answer=two, id=f"{i}")
        out.append(Desideratum(base, source, f" {two}"))
    return out


def test_exactly_the_components_whose_gain_exceeds_the_penalty_are_selected():
    lm = additive()
    found = ComponentMask(epochs=5, batch=6, seeds=2, draws=3)(lm, swaps())
    for seed in (0, 1):
        assert found.selected(seed) == ["0.0", "0.1", "0.2"]
    weights = found.data["weight"].sel(component=["0.3", "0.4", "0.5"])
    assert float(weights.max()) == 0.0
    assert ComponentMask(epochs=5, batch=6, seeds=1, penalty=0.1, draws=1)(lm, swaps()).selected() == ["0.0", "0.1"]
    table = found.accuracy()["mean"].sel(seed=0)
    assert float(table.sel(variant="learned")) == 1.0 and float(table.sel(variant="none")) == 0.0
    assert found.data.attrs["floor"] == 0.0 and list(found.data["variant"].values) == list(VARIANTS)


def test_half_counts_as_patched_and_of_equal_epochs_the_smaller_mask_is_kept():
    """The reference code keeps the larger one of two masks with the same validation accuracy."""
    lm = additive((2.0, 0.02, 0.0))
    found = ComponentMask(epochs=10, batch=24, seeds=1, lr=0.2)(lm, swaps())
    size, validation = found.data["size"].values[0], found.data["validation"].values[0]
    best = validation.max()
    assert int(found.data["kept"].sum()) == size[validation == best].min()
    assert np.array_equal(found.data["kept"].values, found.data["weight"].values >= 0.5)


def test_the_selection_is_confirmed_by_patching_it_with_plain_edits():
    lm = additive()
    found = ComponentMask(epochs=4, batch=8, seeds=1)(lm, swaps())
    group = triple_groups(lm, swaps())[0]
    heads = [int(name.split(".")[1]) for name in found.selected()]
    site = "blocks.0.attn.hook_z"
    source = lm.run(group.source, capture=site)
    done = lm.run(group.base, edits=[interp.edit.replace(site, source, at=interp.At.last(), heads=heads)])
    assert bool((done.last_logits.argmax(dim=-1) == group.target).all())


@pytest.mark.parametrize(
    ("variable", "position", "head"),
    [
        ("pointer", "last", "C"),
        ("pointer", "query_label", "B"),
        ("pointer", "first_label", "A"),
        ("object", "last", "D"),
    ],
)
def test_the_planted_tracker_head_is_found(variable, position, head):
    made = reference.tracker()
    layer, number = made.answers["heads"][head]
    triples = made.answers["desiderata"][variable]
    found = ComponentMask(epochs=4, batch=3, seeds=1, draws=2, position=position, start=0.5)(
        reference.as_lm(made), triples
    )
    assert found.selected() == [f"{layer}.{number}"]
    assert float(found.accuracy()["mean"].sel(variant="learned")[0]) == 1.0


def test_nothing_is_found_in_random_weights():
    made = reference.tracker()
    lm = reference.as_lm(reference.tracker(null=True))
    found = ComponentMask(epochs=2, batch=8, seeds=1, draws=2)(lm, made.answers["desiderata"]["object"])
    assert float(found.accuracy()["mean"].sel(variant="learned")[0]) < 0.3


def test_targets_the_base_gives_anyway_are_refused():
    """The reference code's base slot was always 0, so one target in seven was the untouched answer: a floor nobody printed."""
    lm = additive()
    same = [
        Desideratum(Prompt.of(f"{a} ends", answer=b), Prompt.of(f"{b} ends", answer=b), f" {a}")
        for a, b in pairwise(WORDS)
    ]
    with pytest.raises(BadInput, match="already gives 1"):
        ComponentMask()(lm, same + swaps(20))


def test_repetitions_of_a_desideratum_are_not_tested_on_what_they_were_trained_on():
    lm, data = additive(), swaps()
    groups = triple_groups(lm, data)  # 48 of which 12 differ
    training = _Training(ComponentMask(), lm, [], groups, 0)
    sides = [{(tuple(group.base.tokens[row].tolist()), tuple(group.source.tokens[row].tolist())) for group in part
              for row in range(len(group))} for part in training._parts()]  # fmt: skip
    assert [len(side) for side in sides] == [6, 3, 3] and len(set().union(*sides)) == 12 == len(distinct(groups))
    with pytest.raises(BadInput, match="1 different desiderata"):
        ComponentMask()(lm, data[:1] * 20)


def test_targets_carry_the_word_boundary():
    """The reference code tokenised a list of words, so that its targets lacked the mark and no component could ever win."""
    lm = interp.load("atlas")
    facts = interp.reference.facts("atlas", 60)
    base, source = facts[0], next(fact for fact in facts if fact.answer != facts[0].answer)
    group = triple_groups(lm, [Desideratum(base, source, source.answer)])[0]
    assert lm.tokenizer.decode([int(group.target[0])]) == source.answer


def test_it_is_repeatable_saved_and_runs_on_atlas(tmp_path):
    lm = interp.load("atlas")
    pairs = interp.reference.task("atlas", "ioi", 40)
    config = ComponentMask(epochs=1, seeds=1, draws=2, components="both")
    one, two = config(lm, pairs), config(lm, pairs)
    assert one.data.identical(two.data)
    assert open_result(one.save(tmp_path / "mask")).data.identical(one.data)
    assert len(one.headline()) == 3 and config.cost(lm, pairs).forwards > 0 and one.data.sizes["component"] == 20
    assert float(one.accuracy()["mean"].sel(variant="all")[0]) > 0.8


@pytest.mark.parametrize("name", ["stories260K-llama", "tinytalk-chat"])
def test_it_runs_on_real_checkpoints(real_models, name):
    lm = interp.load(str(real_models / name))
    source = Prompt.of("The cat saw the red", answer=" c")
    whose = ("The cat", "A dog", "He", "She", "Tom", "Lily", "They", "We")
    data = [Desideratum(Prompt.of(f"{who} saw the big", answer=" b"), source, " c") for who in whose]
    found = ComponentMask(epochs=1, seeds=1, draws=1, batch=4)(lm, data)
    assert np.isfinite(found.data["weight"]).all()


def test_bad_input_is_refused():
    lm = additive()
    with pytest.raises(BadInput, match="at least 8"):
        ComponentMask()(lm, swaps(4))
    with pytest.raises(BadInput, match=r"'9\.1'"):
        ComponentMask(only=("9.1",))(lm, swaps())
    with pytest.raises(SpanError, match="'label'"):
        ComponentMask(position="label")(lm, swaps())
    for penalty in (-1.0, float("nan")):
        with pytest.raises(BadInput, match="penalty"):
            ComponentMask(penalty=penalty)
