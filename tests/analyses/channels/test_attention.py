"""Attention readouts: the pattern of plain transformers, in every family and under edits; a planted reader found; refusals."""

import math

import pytest
import torch

import interp
from interp import Prompt, Readout
from interp.analyses.channels import Observer, head_attention, prompt_groups, rank_readers
from interp.analyses.readout import read_metrics
from interp.core.batch import At, Batch
from interp.core.edit import add, scale
from interp.core.errors import BadInput, SpanError
from interp.models import reference
from interp.models.load import wrap
from tests import oracle
from tests.models.tiny import FAMILIES, VOCAB, tiny, tokens

WORDS = reference.channels().tokenizer
SPANS = {"a": (10, 12), "b": (9, 10), "c": (13, 14)}
"""Within the window (5 tokens) of the last of 14 columns."""


def batch_of(ids, **spans):
    rows = len(ids)
    columns = {name: torch.tensor([span] * rows) for name, span in (spans or SPANS).items()}
    return Batch(ids, torch.ones_like(ids, dtype=torch.bool), columns)


def family(name):
    return wrap(tiny(name), WORDS, name)


@pytest.fixture(scope="module")
def gpt2():
    return family("gpt2")


@pytest.fixture(scope="module")
def pointer():
    planted = reference.planted.pointer()
    return planted, reference.as_lm(planted)


def asked(n=14):
    """The planted pointer's prompts, with the item that is asked for as IO and another one as S1."""
    prompts = []
    for clean in reference.planted.pointer_pairs(n).clean:
        slot = clean.meta["slot"]
        spans = {"IO": clean.spans[f"item_{slot}"], "S1": clean.spans[f"item_{(slot + 3) % 7}"]}
        prompts.append(Prompt(clean.text, clean.answer, None, {**clean.spans, **spans}, meta=clean.meta))
    return prompts


# -- what it says is the pattern --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_it_is_the_pattern_of_plain_transformers_also_under_an_edit(name):
    lm, ids = family(name), tokens(3)
    plain = tiny(name)
    observer = Observer(lm, batch_of(ids), Readout("3.1", "a", "b"), spans=("c",))
    change = [("z", 0, lambda z: torch.cat([z[:, :, :2], torch.zeros_like(z[:, :, 2:3]), z[:, :, 3:]], 2))]
    seen = observer.read([[], [scale("blocks.0.attn.hook_z", 0.0, heads=[2])]])
    for cell, edits in enumerate(([], change)):
        patterns = []
        with oracle.eager(plain), torch.no_grad(), oracle.at(plain, *change[0]) if edits else oracle.eager(plain):
            patterns = plain(ids, output_attentions=True, use_cache=False).attentions[3][:, 1, -1].double()
        want = torch.stack([patterns[:, low:high].sum(-1) for low, high in SPANS.values()], -1)
        assert seen.spans == ("a", "b", "c") and torch.allclose(seen.attention[cell], want, atol=2e-6)
        assert torch.allclose(seen.score[cell], want[:, 0] - want[:, 1], atol=4e-6)
    assert float((seen.attention[0] - seen.attention[1]).abs().max()) > 1e-4


def test_real_models(real_models):
    for name in ("stories260K-llama", "tinytalk-chat"):
        lm = interp.load(real_models / name, check=False)
        batch = batch_of(tokens(2) + 5)
        cell = [scale("blocks.1.attn.hook_z", 0.0, heads=[0, 3], at=At.last())]
        seen = Observer(lm, batch, Readout("3.2", "a", "c")).read([[], cell])
        for edits, found in zip(([], cell), seen.attention, strict=True):
            pattern = lm.run(batch, capture="blocks.3.attn.hook_pattern", edits=edits)["blocks.3.attn.hook_pattern"]
            want = torch.stack([pattern[:, 2, -1, low:high].sum(-1) for low, high in ((10, 12), (13, 14))], -1)
            assert torch.allclose(found, want.double(), atol=2e-6)


def test_more_spans_than_a_value_has_dimensions(gpt2):
    ids = tokens(2)
    spans = {f"s{column}": (column, column + 1) for column in range(14)}
    assert len(spans) > gpt2.spec.d_head
    cells = [[], [scale("blocks.1.attn.hook_z", 2.0, heads=[0])]]
    seen = Observer(gpt2, batch_of(ids, **spans), Readout("2.3", "s4", ""), spans=tuple(spans)).read(cells)
    assert seen.spans[0] == "s4" and torch.equal(seen.score, seen.attention[..., 0])
    assert torch.allclose(seen.attention.sum(-1), torch.ones(2, 2).double(), atol=1e-5)
    pattern = oracle.capture(tiny("gpt2"), "pattern", 2, ids)[:, 3, -1]
    order = [int(name[1:]) for name in seen.spans]
    assert torch.allclose(seen.attention[0], pattern[:, order].double(), atol=1e-6)


def test_it_looks_from_the_place_that_is_named_row_by_row(gpt2):
    ids = tokens(2)
    spans = {"here": torch.tensor([[6, 8], [10, 11]]), "there": torch.tensor([[2, 4], [5, 7]])}
    batch = Batch(ids, torch.ones_like(ids, dtype=torch.bool), spans)
    readout = Readout("2.1", "there", "here.first", query="here")
    seen = Observer(gpt2, batch, readout).read([[]]).attention[0]
    pattern = oracle.capture(tiny("gpt2"), "pattern", 2, ids)[:, 1]
    assert torch.allclose(seen[0], torch.stack([pattern[0, 7, 2:4].sum(), pattern[0, 7, 6]]).double(), atol=1e-6)
    assert torch.allclose(seen[1], torch.stack([pattern[1, 10, 5:7].sum(), pattern[1, 10, 10]]).double(), atol=1e-6)
    every = head_attention(gpt2, batch, readout.spans, query="here")
    assert torch.allclose(every[:, 2, 1], seen, atol=1e-6) and every.shape == (2, 4, 4, 2)


def test_what_comes_later_moves_the_logits_and_not_the_attention(gpt2):
    answer, foil = torch.tensor([5, 6, 7]), torch.tensor([8, 9, 10])
    batch = batch_of(tokens(3))
    observer = Observer(
        gpt2, batch, Readout("2.0", "a", "b"), outcome=lambda logits, rows: read_metrics(logits, answer[rows][:, None], foil[rows][:, None])
    )  # fmt: skip
    later = [
        [add("blocks.2.attn.hook_v", 1.0)],
        [scale("blocks.2.attn.hook_z", 0.0)],
        [scale("blocks.3.hook_resid_pre", 0.3)],
        [scale("ln_final.hook_out", 0.5)],
    ]
    seen = observer.read(
        [[], *later, [*later[0], scale("blocks.0.hook_mlp_out", 0.0)], [scale("blocks.0.hook_mlp_out", 0.0)]]
    )
    assert all(torch.equal(seen.attention[cell], seen.attention[0]) for cell in range(1, 5))
    assert torch.equal(seen.attention[5], seen.attention[6]) and not torch.equal(seen.attention[5], seen.attention[0])
    for cell, edits in enumerate(later, 1):
        final = gpt2.run(batch, edits=edits).last_logits
        assert torch.allclose(seen.outcome[cell], read_metrics(final, answer, foil), atol=1e-4)
        assert not torch.equal(seen.outcome[cell], seen.outcome[0])


def test_edits_that_are_under_everything(gpt2):
    under, cell = [scale("blocks.0.attn.hook_z", 0.0, heads=[1])], [scale("blocks.1.attn.hook_z", 0.0, heads=[2])]
    batch, readout = batch_of(tokens(3)), Readout("3.2", "a", "b")
    seen = Observer(gpt2, batch, readout, edits=under, capture=["blocks.1.attn.hook_z"]).read([[], cell])
    want = Observer(gpt2, batch, readout).read([under, under + cell])
    assert torch.allclose(seen.attention, want.attention, atol=1e-6)


# -- a planted reader ---------------------------------------------------------------------------------------------------


def test_the_planted_reader_is_found_and_looks_as_it_must(pointer):
    planted, lm = pointer
    prompts = asked()
    table = rank_readers(lm, prompts)
    first, second = table.iloc[0], table.iloc[1]
    assert first["name"] == "1.4" and first["n"] == 14 and first["p_adjusted"] < 0.01 and first["ci_lo"] > 0.9
    assert second["score"] < 0.3 and list(table["score"]) == sorted(table["score"], reverse=True)
    group = prompt_groups(lm, prompts)[0]
    items = [f"item_{slot}" for slot in range(7)]
    seen = Observer(lm, group.batch, Readout("1.4"), spans=items, outcome=group.metrics).read([[]])
    angle, gain = torch.tensor(planted.answers["angles"]).double(), planted.answers["gain"]
    scores = gain * torch.cos(angle[:, None] - angle)  # [asked, item]; tokens that are no item have the score 0
    silent = group.batch.tokens.shape[1] - 7
    share = scores.exp() / (scores.exp().sum(-1, keepdim=True) + silent)
    slots = [tokens.prompt.meta["slot"] for tokens in group.tokens]
    assert torch.allclose(seen.attention[0, :, 2:], share[slots], atol=1e-3)
    assert all(group.known) and float(seen.outcome[0, :, 2].min()) > 0


def test_in_the_null_no_reader_stands_out():
    lm = reference.as_lm(reference.planted.pointer(null=True))
    table = rank_readers(lm, asked())
    assert float(table["p_adjusted"].min()) > 0.05


def test_prompts_of_any_length_come_out_in_order():
    lm, task = reference.load("atlas", check=False), reference.task("atlas", "ioi", 6)
    groups = prompt_groups(lm, task, max_rows=3)
    assert sorted(place for group in groups for place in group.index) == list(range(6)) and len(groups) > 1
    assert max(len(group.index) for group in groups) <= 3
    table, apart = rank_readers(lm, task), [rank_readers(lm, [pair.clean]).set_index("name")["score"] for pair in task]
    for name, score in zip(table["name"], table["score"], strict=True):
        assert math.isclose(score, sum(float(one[name]) for one in apart) / 6, abs_tol=1e-6)
    assert apart[0].index.is_unique and rank_readers(lm, task, minus="")["minus"].eq(0).all()


def test_heads_that_cannot_see_are_ranked_last():
    lm = family("mistral")
    ids = tokens(1)
    text = " ".join(WORDS.convert_ids_to_tokens(range(2, 14)))
    prompt = Prompt.of(text, far=(0, len(text.split()[0])), near=(len(text) - len(text.split()[-1]), len(text)))
    table = rank_readers(lm, [prompt, prompt], to="near", minus="far", bos=False)
    assert table["score"].isna().all() and len(ids) == 1
    assert rank_readers(lm, [prompt], to="near", minus="", bos=False)["score"].notna().all()


# -- refusals --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("readout", "error", "message"),
    [
        (Readout("9.1", "a", "b"), BadInput, "layers 0 to 3"),
        (Readout("2.1", "a", "S1"), SpanError, "no span 'S1'"),
        (Readout("2.1", "a.third", "b"), BadInput, "`part` must be"),
        (Readout("2.1", "c", "b", query="a"), BadInput, r"span 'c'.* column 11 sees no later tokens"),
        (Readout("2.1", "a", "b", query="S2"), SpanError, "no span 'S2'"),
    ],
)
def test_what_cannot_be_read_is_refused(gpt2, readout, error, message):
    with pytest.raises(error, match=message):
        Observer(gpt2, batch_of(tokens(2)), readout)


def test_a_span_outside_the_window_is_refused_and_in_a_layer_without_one_it_is_not():
    lm = family("gemma2")
    batch = batch_of(tokens(2), far=(1, 2), near=(12, 13))
    assert lm.spec.windows[2] == 5 and lm.spec.windows[3] is None
    with pytest.raises(BadInput, match="layer 2 in column 13 sees no later tokens and at most 4 before"):
        Observer(lm, batch, Readout("2.0", "near", "far"))
    assert float(Observer(lm, batch, Readout("3.0", "near", "far")).read([[]]).attention.min()) > 0


def test_a_row_without_the_span_is_named(gpt2):
    ids = tokens(2)
    spans = {"a": torch.tensor([[1, 2], [-1, -1]]), "b": torch.tensor([[3, 4], [3, 4]])}
    batch = Batch(ids, torch.ones_like(ids, dtype=torch.bool), spans, ("one", "two"))
    with pytest.raises(SpanError, match="prompt 'two' has no span 'a'; it has 'b'"):
        Observer(gpt2, batch, Readout("2.0", "a", "b"))


def test_a_pattern_that_is_set_is_not_read(gpt2):
    edit = scale("blocks.2.attn.hook_pattern", 0.5)
    observer = Observer(gpt2, batch_of(tokens(2)), Readout("2.0", "a", "b"))
    with pytest.raises(BadInput, match=r"sets the attention that head 2\.0 is read by"):
        observer.read([[edit]])
    with pytest.raises(BadInput, match="sets the attention"):
        Observer(gpt2, batch_of(tokens(2)), Readout("2.0", "a", "b"), edits=[edit])
    other = Observer(gpt2, batch_of(tokens(2)), Readout("3.0", "a", "b")).read(
        [[], [edit]]
    )  # of an earlier layer it is
    assert not torch.equal(other.attention[0], other.attention[1])


def test_names_and_data_that_are_none():
    with pytest.raises(BadInput, match="does not name a head"):
        Readout("9.9.1")
    with pytest.raises(BadInput, match="`to` names the span"):
        Readout("9.9", to="")
    with pytest.raises(BadInput, match="both 'IO'"):
        Readout("9.9", minus="IO")
    lm = reference.load("atlas", check=False)
    with pytest.raises(BadInput, match="no prompts"):
        prompt_groups(lm, [])
    with pytest.raises(BadInput, match="takes prompts or pairs"):
        rank_readers(lm, ["When Mary"])
    assert str(Readout("9.9")) == "9.9: A[last, IO] - A[last, S1]" and VOCAB > 16
