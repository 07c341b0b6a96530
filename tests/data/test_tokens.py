import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.core.batch import At
from interp.core.errors import BadInput, RaggedPair, SpanError
from interp.data import Prompt, PromptPair, group_by_length, to_batch, tokenize, tokenize_pair
from interp.data.tokens import side_by_side

TEXTS = st.text(
    st.one_of(
        st.sampled_from(" \nabcdeXYZ019.,'-\"ïéöß“”—…日本語テスト🙂👍🏽\u00a0\u2003\u0301а"),
        st.characters(exclude_categories=["Cs", "Cn", "Co"], exclude_characters="\0"),
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(text=TEXTS, data=st.data(), bos=st.booleans())
def test_token_spans_cover_exactly_their_characters(tokenizer, text, data, bos):
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    if not text[start:end].strip():
        return
    tokens = tokenize(Prompt(text, spans={"x": (start, end)}), tokenizer, bos=bos)
    low, high = tokens.spans["x"]
    words = [i for i in range(start, end) if not text[i].isspace()]
    inside = {i for a, b in tokens.offsets[low:high] for i in range(a, b)}
    outside = {i for a, b in tokens.offsets[:low] + tokens.offsets[high:] for i in range(a, b)}
    assert set(words) <= inside and not set(words) & outside
    for edge in (low, high - 1):  # no token too many
        a, b = tokens.offsets[edge]
        assert a < words[-1] + 1 and words[0] < b
    assert tokens.bos == bos and tokens.ids[bos:] == tuple(tokenizer.encode(text, bos=False).ids)
    assert len(tokens.labels) == len(tokens.offsets) == len(tokens) and tokens.spans["last"] == (
        len(tokens) - 1,
        len(tokens),
    )
    body = tokenizer.decode(tokens.ids[bos:])
    assert body == text or tokenizer.name == "stories260K-llama"  # which strips one leading space
    assert body.removeprefix(" ") == text.removeprefix(" ")


def test_the_leading_space_belongs(gpt):  # K7g
    tokens = tokenize(Prompt.of("One day Lily was here", subject="Lily"), gpt)
    assert tokens.labels[slice(*tokens.spans["subject"])] == ("␣Lily",)


def test_split_characters_belong_whole(tokenizer):  # K7g: decoding token by token gives U+FFFD for these
    tokens = tokenize(Prompt.of("We ate at 日本 yesterday", subject="日本"), tokenizer)
    low, high = tokens.spans["subject"]
    assert tokenizer.decode(tokens.ids[low:high]).strip() == "日本"


def test_the_inserted_space_of_sentencepiece_belongs_to_nothing(llama):
    tokens = tokenize(Prompt.of("Vinson Massif is in", subject="Vinson Massif"), llama)
    assert tokens.labels[:3] == ("<s>", "␣", "V") and tokens.offsets[1] == (0, 0)
    assert tokens.spans["subject"][0] == 2


def test_relation_runs_from_the_subject_to_the_end(small):
    tokens = tokenize(Prompt.of("The shop of Vinson is in the town of", subject="Vinson"), small)
    assert tokens.spans["relation"] == (tokens.spans["subject"][1], len(tokens))
    assert "relation" not in tokenize(Prompt.of("The shop of Vinson", subject="Vinson"), small).spans
    own = tokenize(Prompt.of("The shop of Vinson is in", subject="Vinson", relation="shop"), small)
    assert own.spans["relation"][1] <= own.spans["subject"][0]


def test_bos_is_explicit_and_never_doubled(tokenizer):
    prompt = Prompt.of("Lily was here", subject="Lily")
    with_bos, without = tokenize(prompt, tokenizer, bos=True), tokenize(prompt, tokenizer, bos=False)
    assert with_bos.ids[1:] == without.ids and with_bos.bos and not without.bos
    assert tokenize(prompt, tokenizer).bos == tokenizer.default_bos
    assert with_bos.spans["subject"][0] == without.spans["subject"][0] + 1
    written = Prompt.of(tokenizer.inner.id_to_token(tokenizer.bos_id) + "Lily was here", subject="Lily")
    with pytest.raises(BadInput, match="already begins with the BOS"):
        tokenize(written, tokenizer, bos=True)
    tokens = tokenize(written, tokenizer, bos=False)
    assert tokens.bos and tokens.notes == ("the BOS is written in the text",)


def test_answers_are_continuations(tokenizer):
    prompt = Prompt.of("One day she went to the", answer="garden")
    tokens = tokenize(prompt, tokenizer, answers="whole")
    assert tokens.ids + tokens.answer_ids == tokenize(Prompt("One day she went to the garden"), tokenizer).ids
    assert tokens.notes == ()


def test_an_answer_that_is_not_one_token_names_its_pieces(small):
    prompt = Prompt.of("One day she went to", answer="Timbuktu")
    with pytest.raises(BadInput, match=r"' Timbuktu'.*must be one token and is \d+: '␣T'.* \+ .*answers='first'"):
        tokenize(prompt, small)
    first, whole = tokenize(prompt, small, answers="first"), tokenize(prompt, small, answers="whole")
    assert first.answer_ids == whole.answer_ids and not first.single_token
    assert first.answer_id == first.answer_ids[0]
    with pytest.raises(BadInput, match="no single id stands for it"):
        _ = whole.answer_id
    with pytest.raises(BadInput, match="has no foil"):
        _ = first.foil_id


def test_a_foil_with_the_same_first_token_is_refused(small):
    prompt = Prompt.of("One day she went to", answer="Timbuktu", foil="Timkuktu")
    with pytest.raises(BadInput, match="cannot be told apart"):
        tokenize(prompt, small, answers="first")
    assert tokenize(prompt, small, answers="whole").foil_ids


def test_an_answer_that_merges_is_tokenised_apart_and_noted(gpt):
    apart = tokenize(Prompt("She was very ", answer="happy"), gpt)
    joined = tokenize(Prompt("She was very", answer=" happy"), gpt)
    assert apart.answer_ids == joined.answer_ids and joined.notes == ()
    assert "merges with the end of the text" in apart.notes[0]


def test_context_length_counts_the_whole_answer(small):
    prompt = Prompt.of("One day she went to", answer="Timbuktu")
    length = len(tokenize(prompt, small, answers="first"))
    assert tokenize(prompt, small, answers="first", n_ctx=length)
    with pytest.raises(BadInput, match=rf"is {length} tokens; the model's context is {length - 1}"):
        tokenize(prompt, small, answers="first", n_ctx=length - 1)
    with pytest.raises(BadInput, match=r"and its answer \d more"):
        tokenize(prompt, small, answers="whole", n_ctx=length)


class Lossy:
    """A tokenizer that drops digits, as one with holes in its vocabulary does."""

    name, bos_id, default_bos, vocab, digest = "lossy", None, False, 1000, ""

    def encode(self, text, *, bos=None):
        from interp.core.lm import Encoding

        keep = [i for i, c in enumerate(text) if not c.isdigit()]
        return Encoding(tuple(ord(text[i]) for i in keep), tuple((i, i + 1) for i in keep), False)

    def decode(self, ids):
        return "".join(map(chr, ids))

    def label(self, token_id):
        return chr(token_id)


def test_characters_that_no_token_holds_are_refused_in_spans_and_noted_elsewhere():
    with pytest.raises(SpanError, match="in no token"):
        tokenize(Prompt.of("In 1984 it", subject="In 1984"), Lossy())
    assert "4 characters are in no token: '1984'" in tokenize(Prompt.of("In 1984 it", subject="it"), Lossy()).notes[0]
    with pytest.raises(BadInput, match="has no token in lossy"):
        tokenize(Prompt("1984"), Lossy())
    with pytest.raises(BadInput, match="the answer '7' has no token"):
        tokenize(Prompt("In 198", answer="7"), Lossy(), answers="first")


def test_pairs_line_up_or_are_refused_with_both_tokenisations(small):
    clean = Prompt.of("The man in the garden was old and", answer=" he", subject="man")
    pair = tokenize_pair(PromptPair(clean, clean.swap(subject="cat")), small)
    start, end = pair.clean.spans["subject"]
    assert set(pair.changed) <= set(range(start, end)) and pair.changed and pair.id == clean.id
    with pytest.raises(RaggedPair) as error:
        tokenize_pair(PromptPair(clean, clean.swap(subject="Quetzalcoatl")), small)
    message = str(error.value)
    assert "tokens against" in message and "span 'subject'" in message and "corrupted" in message
    assert "␣man [subject]" in message or "[subject]" in message
    assert message.endswith("of the same number of pieces).")


def test_pairs_of_equal_length_with_shifted_spans_are_refused(small):
    clean = Prompt.of("old man was here", subject="man")
    with pytest.raises(RaggedPair, match="span 'subject' in columns"):
        tokenize_pair(PromptPair(clean, Prompt.of("man old was here", subject="man")), small)


def test_side_by_side_stars_what_differs(small):
    a, b = (tokenize(Prompt.of(f"The {word} was", subject=word), small) for word in ("man", "cat"))
    lines = side_by_side(a, b).splitlines()
    assert "clean" in lines[0] and "*" in lines[a.spans["subject"][0] + 1] and "*" not in lines[1]


@pytest.mark.parametrize("side", ["left", "right"])
def test_batches_keep_spans_on_their_tokens(tokenizer, side):
    prompts = [
        Prompt.of("Lily was here", subject="Lily", id="a"),
        Prompt.of("Then one day old Timothy was there", subject="old Timothy", id="b"),
        Prompt("A third without any", id="c"),
    ]
    rows = [tokenize(p, tokenizer) for p in prompts]
    batch = to_batch(rows, side)
    assert batch.ids == ("a", "b", "c") and not batch.unpadded
    for row, tokens in enumerate(rows):
        assert tuple(batch.tokens[row][batch.mask[row]].tolist()) == tokens.ids
        for name, (start, end) in tokens.spans.items():
            low, high = batch.spans[name][row].tolist()
            assert tuple(batch.tokens[row, low:high].tolist()) == tokens.ids[start:end]
    assert batch.spans["subject"][2].tolist() == [-1, -1]
    where = At.span("subject", "last").resolve(batch)
    assert where.sum(dim=1).tolist() == [1, 1, 0]
    assert torch.equal(At.span("last").resolve(batch), At.last().resolve(batch))
    with pytest.raises(BadInput, match="no prompts"):
        to_batch([])


def test_groups_of_one_length_need_no_padding(small):
    rows = [
        tokenize(Prompt(text), small) for text in ("He was old", "It was in the garden", "He was a man", "He was out")
    ]
    groups = group_by_length(rows)
    assert sorted(i for group in groups.values() for i in group) == [0, 1, 2, 3] and list(groups) == sorted(groups)
    assert all(to_batch([rows[i] for i in group]).unpadded for group in groups.values())
