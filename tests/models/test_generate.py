"""Generation with a cache is a loop of full passes and argmax, for every family, under edits, and for a row alone as in a batch."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from interp.core.batch import At, Batch
from interp.core.edit import add, call, mask, project_out, scale
from interp.core.errors import BadInput, UnknownSite
from interp.core.generation import Generation
from interp.models import generate as module_under_test
from interp.models import reference
from interp.models.base import BaseLM
from interp.models.generate import ends_of
from interp.models.load import load, wrap
from tests import oracle
from tests.models.others import other
from tests.models.test_weight_edits import snapshot, unchanged
from tests.models.tiny import FAMILIES, tiny, tokens
from tests.models.wrapped import BACKENDS, lm, module, tokenizer

LENGTHS = (14, 9, 11, 9)
every = pytest.mark.parametrize("family", FAMILIES)


@cache
def atlas() -> BaseLM:
    return load("atlas", backend="nnsight", check=False)


def ragged() -> list[list[int]]:
    return [tokens(1, n, seed=seed)[0].tolist() for seed, n in enumerate(LENGTHS)]


def loop(model: Any, row: list[int], n: int, ends: tuple[int, ...] = (0,)) -> tuple[int, ...]:
    """Full passes of a bare transformers model over one unpadded row, without a cache."""
    ids, new = list(row), []
    for _ in range(n):
        with torch.no_grad():
            new.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        ids.append(new[-1])
        if new[-1] in ends:
            break
    return tuple(new)


def forced(model: Any, rows: Any, made: Generation, change: tuple[str, int | None, Any] | None = None) -> None:
    """Each new token is the argmax of one bare full pass under one change of a site by bare hooks, and as likely as was said."""
    for row, new, sure in zip(rows, made.ids, made.logprobs, strict=True):
        ids = torch.tensor([[*row, *new[:-1]]])
        logits = oracle.edited(model, [change] if change else [], ids, torch.ones_like(ids, dtype=torch.bool))
        logits = logits[0, len(row) - 1 :]
        assert tuple(logits.argmax(dim=-1).tolist()) == new, change and change[:2]
        want = logits.log_softmax(dim=-1).amax(dim=-1)
        torch.testing.assert_close(torch.tensor(sure), want, rtol=0, atol=2e-4, msg=lambda text: f"{change}: {text}")


def hooks_of(model: Any) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules())


@every
def test_a_batch_of_any_lengths_is_a_loop_of_full_passes_over_each_row(family: str) -> None:
    model, rows = lm(family, "transformer_lens"), ragged()
    before, hooks = snapshot(model.module), hooks_of(model.module)
    made = model.generate(rows, 12)
    forced(module(family), rows, made)
    assert made.ids[1] == loop(module(family), rows[1], 12)
    assert made.prompts == tuple(map(tuple, rows))
    assert made.ended == tuple(ids[-1] == 0 for ids in made.ids)
    assert all(end or len(ids) == 12 for ids, end in zip(made.ids, made.ended, strict=True))
    assert len(set(made.ids)) > 1, "rows that all continue alike would hide a mix-up"
    alone = model.generate(rows[1], 12)
    assert alone.ids == (made.ids[1],), "a row alone is the row in a batch"
    torch.testing.assert_close(list(alone.logprobs[0]), list(made.logprobs[1]), rtol=0, atol=2e-4)
    assert unchanged(model.module, before) and hooks_of(model.module) == hooks


def site(kind: str) -> str:
    return f"blocks.1.{'attn.' if kind in 'qkvz' else ''}hook_{kind}"


@every
def test_edits_act_at_every_step_as_bare_hooks_do(family: str) -> None:
    # with tied embeddings Gemma says its last token again, whatever is done
    own = {"tie_word_embeddings": False} if "gemma" in family else {}
    model, rows = lm(family, "transformer_lens", **own), ragged()[:2]
    size = 6.0 if own else 0.5  # of streams that begin with scaled embeddings
    push = size * torch.linspace(-1, 1, model.spec.d_model)
    turn = torch.linspace(
        -2, 2, model.spec.d_head
    )  # added: norms of queries and of what attention gives undo a scaling
    cases = [(add(site(kind), turn), (kind, 1, lambda x: x + turn)) for kind in ("q", "v", "z")]
    cases += [(add(site(kind), push), (kind, 1, lambda x: x + push)) for kind in ("mlp_out", "resid_post")]
    cases.append((add("hook_embed", push), ("embed", None, lambda x: x + push)))
    plain, made = model.generate(rows, 4), []
    for edit, change in cases:
        made.append(model.generate(rows, 4, edits=[edit]))
        forced(module(family, **own), rows, made[-1], change)
    for one, (edit, _) in zip(made, cases, strict=True):  # by far more than the oracle may be off
        gap = (torch.tensor(one.logprobs[0][0]) - torch.tensor(plain.logprobs[0][0])).abs()
        assert one.ids != plain.ids or float(gap) > 2e-3, f"{edit.describe()} did nothing"
    assert sum(one.ids != plain.ids for one in made) >= 3, "hardly an edit changed what is written"


@every
def test_edits_that_no_module_shows_are_those_of_run(family: str) -> None:
    """Middle of the stream, pattern and subspaces, against one run without padding and cache."""
    model, rows = lm(family, "nnsight"), ragged()[:2]
    width = model.spec.d_model
    cases = [
        project_out("blocks.2.hook_resid_post", torch.eye(width)[:, :3]),
        scale("blocks.1.attn.hook_pattern", 0.5, heads=[1]),
        mask("blocks.2.hook_mlp_out", torch.linspace(-1, 1, width), torch.tensor(0.5)),
    ]
    if model.sites("hook_resid_mid"):
        cases.append(add("blocks.1.hook_resid_mid", 0.5 * torch.linspace(-1, 1, width)))
    for edit in cases:
        made = model.generate(rows, 4, edits=[edit])
        for row, new in zip(rows, made.ids, strict=True):
            logits = model.plain.run([*row, *new[:-1]], edits=[edit]).logits[0, len(row) - 1 :]
            assert tuple(logits.argmax(dim=-1).tolist()) == new, edit.describe()


def test_a_function_may_look_at_other_positions() -> None:
    """So everything is computed again: the mean over a row's positions is not that over its newest token."""
    model, rows = lm("gpt2", "transformer_lens"), ragged()
    edit = call("blocks.1.hook_resid_post", lambda x: x - x.mean(dim=1, keepdim=True))
    made = model.generate(rows, 8, edits=[edit])
    for row, new in zip(rows, made.ids, strict=True):
        ids = list(row)
        for token in new:
            assert int(model.plain.run(ids, edits=[edit]).last_logits[0].argmax()) == token
            ids.append(token)


def test_both_backends_write_the_same() -> None:
    made = [lm("qwen3", backend).generate(ragged(), 12) for backend in BACKENDS]
    assert made[0] == made[1]


def test_weight_edits_reach_it_and_are_gone_after() -> None:
    model, rows = lm("gpt_neox", "transformer_lens"), ragged()
    before = model.generate(rows, 8)
    with model.edit_weights({"W_out.3": 3 * model.weights.W_out(3), "W_K.1": -model.weights.W_K(1)}):
        inside = model.generate(rows, 8)
        forced(module("gpt_neox"), rows, inside)
    assert inside.ids != before.ids and model.generate(rows, 8) == before


def test_logprobs_are_those_of_the_chosen_tokens() -> None:
    model, row = lm("llama", "nnsight"), ragged()[0]
    made = model.generate([row], 5)
    whole = model.run([*row, *made.ids[0]]).logits[0].log_softmax(dim=-1)
    want = [float(whole[len(row) - 1 + step, token]) for step, token in enumerate(made.ids[0])]
    torch.testing.assert_close(list(made.logprobs[0]), want, rtol=0, atol=1e-4)


def test_small_batches_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lm("mistral", "transformer_lens")
    want = model.generate(ragged(), 6)
    monkeypatch.setattr(module_under_test, "CACHE_BYTES", 1)
    assert model.generate(ragged(), 6).ids == want.ids
    monkeypatch.undo()
    monkeypatch.setattr(model.plain, "token_budget", 20)
    assert model.generate(ragged(), 6).ids == want.ids


def test_a_row_ends_at_its_end_token_and_others_go_on() -> None:
    model, rows = lm("qwen3_moe", "transformer_lens"), ragged()
    free = [loop(module("qwen3_moe"), row, 12, ends=()) for row in rows]
    stop = next(token for token in free[0][1:6] if token != 0)
    made = model.generate(rows, 12, stop=[stop])
    assert made.ids == tuple(loop(module("qwen3_moe"), row, 12, ends=(0, stop)) for row in rows)
    assert made.ids[0][-1] == stop and made.ended[0] and len(made.ids[0]) < 12
    assert not all(made.ended) and all(len(ids) == 12 for ids, end in zip(made.ids, made.ended, strict=True) if not end)


def test_prompts_may_be_texts_ids_or_a_batch() -> None:
    model = atlas()
    texts = [fact.text for fact in reference.facts("atlas", 5)]
    rows = [list(model.tokenizer.encode(text).ids) for text in texts]
    made = model.generate(texts, 8)
    batch = Batch.padded(rows, side="right")
    assert (
        made
        == model.generate(rows, 8)
        == model.generate(batch, 8)
        == model.generate([torch.tensor(r) for r in rows], 8)
    )
    one = model.generate(texts[0], 8)
    assert one == model.generate(rows[0], 8) == model.generate(torch.tensor(rows[0]), 8) and len(one) == 1
    assert made.prompts == tuple(map(tuple, rows)), "the BOS is part of the prompt"


def test_it_says_what_the_model_knows_and_stops() -> None:
    model = atlas()
    facts = reference.facts("atlas", 24)
    made = model.generate([fact.text for fact in facts], 10)
    right = [text.startswith(fact.answer) for text, fact in zip(made.texts, facts, strict=True)]
    assert sum(right) >= 22, made.texts
    assert all(made.ended) and all("<|endoftext|>" not in text for text in made.texts)
    assert "24 rows ended" in repr(made)


@pytest.mark.parametrize("name", ["stories260K-llama", "tinytalk-chat"])
def test_real_checkpoints_write_what_transformers_writes(real_models, name: str) -> None:
    model = load(real_models / name, backend="nnsight", check=False)
    texts = ["Once upon a time", "One day, Lily went to the park because"]
    made = model.generate(texts, 12)
    for text, ids, added in zip(texts, made.ids, made.texts, strict=True):
        prompt = torch.tensor([model.tokenizer.encode(text).ids])
        out = model.module.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=12, pad_token_id=0
        )
        assert tuple(out[0, prompt.shape[1] :].tolist()) == ids
        assert added.startswith((" ", ",", ".")), "a first word keeps the space before it"
        assert model.tokenizer.encode(text + added).ids[: prompt.shape[1] + 1] == (*prompt[0].tolist(), ids[0])


def test_an_end_that_this_tokenizer_does_not_know_is_a_word() -> None:
    """A configuration that nobody filled in names ids of another vocabulary."""
    made = tiny("llama", eos_token_id=[7, 0]).requires_grad_(False)
    model = wrap(made, tokenizer(), "odd")
    assert ends_of(model) == {0}
    known = int(tokenizer().fast.convert_tokens_to_ids("<|endoftext|>"))
    assert known == 0


@pytest.mark.parametrize("kind", ["bloom", "mamba"])
def test_unproven_families_write_without_a_cache(kind: str) -> None:
    with pytest.warns(UserWarning, match="unproven"):
        model = wrap(other(kind), tokenizer(), kind)
    rows, push = ragged(), add("blocks.1.hook_resid_post", torch.linspace(-2, 2, 32))
    plain, made = model.generate(rows, 6), model.generate(rows, 6, edits=[push])
    assert made.ids != plain.ids and plain.ids == tuple(loop(other(kind), row, 6) for row in rows)
    for row, new in zip(rows, made.ids, strict=True):
        logits = model.run([*row, *new[:-1]], edits=[push]).logits[0, len(row) - 1 :]
        assert tuple(logits.argmax(dim=-1).tolist()) == new


def test_the_context_may_be_filled_to_its_last_token() -> None:
    for family in ("gpt2", "gpt_neo", "llama"):
        model, row = lm(family, "nnsight"), tokens(1, 54)[0].tolist()
        ids = model.generate([row, row[:9]], 10).ids
        assert ids == (loop(module(family), row, 10), loop(module(family), row[:9], 10))


PUSH = torch.ones(32)
TOO_LONG = tokens(1, 60)[0].tolist()


@pytest.mark.parametrize(
    ("prompts", "options", "match"),
    [
        ([[5, 6, 7], TOO_LONG], {"tokens": 5}, r"prompt 1 has 60 tokens, and 5 more make 65.*is 64.*at most 4"),
        ([5, 6], {"tokens": 0}, "1 or more; not 0"),
        ([5, 6], {"tokens": True}, "1 or more"),
        ([5, 6], {"tokens": 2.5}, "not 2.5"),
        ([], {}, "no prompts"),
        ([[5], []], {}, "prompt 1 is empty"),
        ([""], {}, "has no tokens"),
        ([[5, 999]], {}, "999 is not in the vocabulary"),
        ([[5, 1.5]], {}, "neither a text nor a sequence of token ids"),
        (["a", [5]], {}, "some of each"),
        ([5, 6], {"edits": [add("hook_embed", PUSH, at=At.last())]}, r"index\(-1,\).*every token"),
        ([5, 6], {"edits": [add("hook_embed", PUSH, at=At.all().in_rows(0))]}, "in rows"),
        ([5, 6], {"edits": [add("hook_embed", torch.ones(2, 32))]}, r"\(2, 32\).*along pos"),
        ([5, 6], {"edits": [add("hook_embed", torch.ones(2, 1, 32))]}, "along batch"),
        ([5, 6], {"edits": [scale("blocks.0.attn.hook_pattern", torch.ones(3, 3))]}, "along query and key"),
        ([5, 6], {"edits": add("hook_embed", PUSH)}, "come in a list"),
        ([5, 6], {"stop": "the quick"}, "which is .* tokens"),
        ([5, 6], {"stop": 999}, "999 is not in the vocabulary"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(prompts: Any, options: dict[str, Any], match: str) -> None:
    model = lm("gpt2", "transformer_lens")
    with pytest.raises(BadInput, match=match):
        model.generate(prompts, **{"tokens": 5, **options})


def test_a_site_that_is_not_there_is_refused() -> None:
    with pytest.raises(UnknownSite):
        lm("gpt2", "nnsight").generate([5, 6], 5, edits=[scale("blocks.9.hook_mlp_out", 0.0)])


def test_logits_that_are_no_numbers_are_refused() -> None:
    model = lm("gpt2", "transformer_lens")
    with pytest.raises(BadInput, match="row 0 are not finite after 0 new tokens"):
        model.generate([[5, 6]], 5, edits=[add("blocks.1.hook_resid_post", float("nan") * PUSH)])


def test_a_failure_leaves_no_hook() -> None:
    model = lm("llama", "transformer_lens")
    hooks = hooks_of(model.module)

    def fail(x: Tensor) -> Tensor:
        raise ZeroDivisionError

    for edits in ([call("blocks.1.hook_resid_post", fail)], [add("blocks.1.hook_resid_post", torch.ones(7))]):
        with pytest.raises((ZeroDivisionError, BadInput)):
            model.generate([[5, 6]], 5, edits=edits)
        assert hooks_of(model.module) == hooks


def test_texts_are_what_is_added() -> None:
    model: BaseLM = lm("gpt2", "nnsight", vocab_size=416)
    made = model.generate("The city of", 6)
    assert isinstance(made, Generation)
    kept = made.ids[0][: len(made.ids[0]) - made.ended[0]]
    assert model.tokenizer.decode([*made.prompts[0], *kept]) == "The city of" + made.texts[0]
