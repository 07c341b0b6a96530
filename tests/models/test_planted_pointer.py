"""The planted pointer, by plain hooks: which items one component, two, and all the others can reach."""

import math

import pytest
import torch
from torch import Tensor

from interp.core.errors import BadInput
from interp.models import reference
from tests.models.test_planted import attention, component_scores, logits_of

ATTENTION = "transformer.h.0.attn"
READS = "transformer.h.1.attn.c_attn"


@pytest.fixture(scope="module")
def planted():
    return reference.pointer()


@pytest.fixture(scope="module")
def task():
    return reference.pointer_pairs(42)


def ids(planted, prompts) -> Tensor:
    rows = [planted.tokenizer(prompt.text, add_special_tokens=False)["input_ids"] for prompt in prompts]
    assert all(1 not in row for row in rows)  # no unknown word
    return torch.tensor(rows)


def words(planted, said) -> Tensor:
    return torch.tensor(
        [planted.tokenizer(str(word).strip(), add_special_tokens=False)["input_ids"][0] for word in said]
    )


def written(planted, tokens: Tensor) -> Tensor:
    """What the writer alone adds to the stream at the last token, [row, d_model]."""
    head = planted.answers["writer"][1]
    rows = slice(16 * head, 16 * head + 16)
    z: dict[str, Tensor] = {}

    def keep(_, args):
        z["in"] = args[0][:, -1, rows]

    handle = planted.module.get_submodule(f"{ATTENTION}.c_proj").register_forward_pre_hook(keep)
    logits_of(planted.module, tokens)
    handle.remove()
    return z["in"] @ planted.module.transformer.h[0].attn.c_proj.weight.detach()[rows]


def put(change: Tensor):
    """Add [row, d_model] to what layer 0's attention writes at the last token."""

    def edit(x: Tensor) -> Tensor:
        return torch.cat([x[:, :-1], x[:, -1:] + change[:, None]], dim=1)

    return {ATTENTION: edit}


def looked_at(planted, tokens: Tensor, alpha: Tensor) -> Tensor:
    """The item that the reader attends to most when the channel's two coordinates are `alpha` [row, 2] instead."""
    basis = planted.answers["write"]
    now = written(planted, tokens) @ basis.T
    kept: dict[str, Tensor] = {}
    changes = put((alpha - now) @ basis) | {READS: lambda x: kept.setdefault("qkv", x)}
    logits_of(planted.module, tokens, changes)
    q, k, _ = kept["qkv"].reshape(*tokens.shape, 3, 8, 16)[:, :, :, planted.answers["reader"][1]].unbind(2)
    scores = torch.einsum("bh,bjh->bj", q[:, -1], k)
    top = scores.argmax(-1)
    assert bool((top < 7).all())
    return top


def circle(n: int) -> Tensor:
    turns = 2 * math.pi * torch.arange(n) / n
    return torch.stack([turns.cos(), turns.sin()], dim=1)


def test_it_answers_and_its_channel_says_which_item(planted, task):
    tokens = ids(planted, task.clean)
    slots = torch.tensor([prompt.meta["slot"] for prompt in task.clean])
    logits = logits_of(planted.module, tokens)[:, -1]
    assert torch.equal(logits.argmax(-1), words(planted, [prompt.answer for prompt in task.clean]))
    alpha = written(planted, tokens) @ planted.answers["write"].T
    torch.testing.assert_close(alpha, planted.answers["alpha"][slots], rtol=0, atol=1e-5)
    out = attention(planted.module, tokens).attentions
    (_, writer), (_, reader) = planted.answers["writer"], planted.answers["reader"]
    rows = torch.arange(len(tokens))
    assert float(out[1][rows, reader, -1, slots].min()) > 0.999999
    assert float(out[0][:, writer, -1, 9].min()) > 0.999999  # the ordinal
    for row in planted.prompts:
        said = planted.tokenizer(row["prompt"], return_tensors="pt").input_ids
        assert int(logits_of(planted.module, said)[0, -1].argmax()) == int(words(planted, [row["attribute"]]))


def test_a_line_through_the_origin_reaches_two_items_and_the_plane_all(planted, task):
    tokens = ids(planted, task.clean)[:1].expand(56, -1)
    reach, sizes = planted.answers["reachable"], torch.tensor([-9.0, -2.0, -0.5, 0.5, 2.0, 9.0])
    for axis, name in enumerate("AB"):
        alpha = torch.zeros(len(sizes), 2)
        alpha[:, axis] = sizes
        found = looked_at(planted, tokens[: len(sizes)], alpha)
        assert set(found.tolist()) == set(reach[name])
        assert len(set(found[sizes > 0].tolist())) == 1 == len(set(found[sizes < 0].tolist()))
    every = looked_at(planted, tokens, 1.5 * circle(56))
    assert set(every.tolist()) == set(reach["both"])
    opposite = every.roll(28)
    lines = {(min(a, b), max(a, b)) for a, b in zip(every.tolist(), opposite.tolist(), strict=True)}
    assert all(a != b for a, b in lines)  # a line through the origin: two items, and no line more
    keys = torch.tensor([[math.cos(angle), math.sin(angle)] for angle in planted.answers["angles"]])
    assert torch.equal(every, (circle(56) @ keys.T).argmax(-1))
    assert keys[:, 0].diff().min() > 0.05  # the first component's coordinate rises with the place in the list


def test_a_content_free_pointer(planted, task):
    """What the channel says in one list means the same place in every other."""
    tokens = ids(planted, task.clean)
    slots = torch.tensor([prompt.meta["slot"] for prompt in task.clean])
    moved = slots.roll(5)
    assert torch.equal(looked_at(planted, tokens, planted.answers["alpha"][moved]), moved)


def test_patching_the_channel_exchanges_the_answers_and_nothing_else_does(planted, task):
    clean, corrupted = ids(planted, task.clean), ids(planted, task.corrupted)
    answer, foil = (words(planted, [getattr(p, name) for p in task.clean]) for name in ("answer", "foil"))
    rows = torch.arange(len(clean))

    def difference(logits):
        return logits[rows, answer] - logits[rows, foil]

    before = logits_of(planted.module, clean)[:, -1]
    basis = planted.answers["write"]
    change = written(planted, corrupted) - written(planted, clean)
    along = change @ basis.T @ basis
    assert float((change - along).norm(dim=1).min()) > 0.1  # the others have something to say
    patched = logits_of(planted.module, clean, put(along))[:, -1]
    assert torch.equal(patched.argmax(-1), foil)
    lost = (difference(before) - difference(patched)) / difference(before)
    torch.testing.assert_close(lost, torch.full_like(lost, planted.answers["fldd"]), rtol=0, atol=1e-4)
    others = logits_of(planted.module, clean, put(change - along))[:, -1]
    assert float((others - before).abs().max()) < 1e-5
    whole = logits_of(planted.module, clean, put(change))[:, -1]
    assert float((whole - patched).abs().max()) < 1e-5
    for axis in range(2):  # half of the channel does not do
        half = logits_of(planted.module, clean, put((along @ basis[axis])[:, None] * basis[axis]))[:, -1]
        assert float((half.argmax(-1) == foil).float().mean()) < 0.5


def test_composition_scores_are_those_of_the_formula(planted):
    answers = planted.answers
    scores, writes, _ = component_scores(planted.module, answers["writer"], answers["reader"], "Q")
    torch.testing.assert_close(torch.linalg.svdvals(writes)[:16], answers["singular_values"], rtol=1e-5, atol=1e-6)
    assert scores[list(answers["components"])].tolist() == pytest.approx(answers["score"], abs=1e-6)
    rest = [float(score) for index, score in enumerate(scores) if index not in answers["components"]]
    assert min(rest) > 0.03 and max(rest) < 0.2 < min(answers["score"])  # able to talk, though it makes no difference
    directions = torch.linalg.svd(writes).Vh[list(answers["components"])]
    torch.testing.assert_close(
        (directions @ answers["write"].double().T).abs(), torch.eye(2).double(), rtol=0, atol=1e-5
    )


def test_pairs_line_up(planted, task):
    assert [pair.clean.meta["slot"] for pair in task] == [number % 7 for number in range(42)]
    assert len({(pair.clean.meta["slot"], pair.corrupted.meta["slot"]) for pair in task}) == 42
    for pair in task:
        listed = [word.strip() for word in pair.clean.meta["candidates"]]
        for prompt in (pair.clean, pair.corrupted):
            assert [prompt.span(f"item_{slot}") for slot in range(7)] == listed
            assert prompt.text.split()[9] == prompt.span("cue") != "the"
            assert str(prompt.answer).strip() == listed[prompt.meta["slot"]]
        assert pair.clean.foil == pair.corrupted.answer != pair.clean.answer == pair.corrupted.foil
    for odd in (0, -1, 2.5, True):
        with pytest.raises(BadInput, match=f"not {odd!r}"):
            reference.pointer_pairs(odd)


def test_the_null_points_at_nothing(task):
    null = reference.pointer(null=True)
    assert null.answers == {} and null.null
    tokens = ids(null, task.clean)
    right = logits_of(null.module, tokens)[:, -1].argmax(-1) == words(null, [prompt.answer for prompt in task.clean])
    assert float(right.float().mean()) < 0.3
