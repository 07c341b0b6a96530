"""Ids, offsets, BOS and labels, for byte-level and for sentencepiece-like vocabularies."""

import json
from pathlib import Path

import pytest

from interp.core.errors import BadInput, CheckpointError
from interp.models.tokenizer import HFTokenizer, load_tokenizer
from tests.models.tiny import tiny_tokenizer
from tests.models.wrapped import tokenizer

TEXTS = ["The Eiffel Tower", " leading", "two  spaces", "Zoë 😀 é\nend", "a\tb", "…—", "trailing "]


@pytest.fixture(scope="session")
def metaspace(tmp_path_factory: pytest.TempPathFactory) -> HFTokenizer:
    """A Llama-like tokenizer: a space before the text, `▁` for blanks, bytes for the rest, BOS put first."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    pieces = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        *"TheEiflwrdanZo",
        "▁T",
        "he",
        "▁The",
        "▁a",
    ]
    vocab = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    core = Tokenizer(
        models.BPE(vocab, [("▁", "T"), ("h", "e"), ("▁T", "he"), ("▁", "a")], unk_token="<unk>", byte_fallback=True)
    )
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    core.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)])
    folder = tmp_path_factory.mktemp("metaspace")
    PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    return HFTokenizer(AutoTokenizer.from_pretrained(folder), "metaspace")


def check(tok: HFTokenizer, text: str) -> None:
    """What any tokenizer must hold to."""
    encoding = tok.encode(text, bos=False)
    assert not encoding.bos and len(encoding.ids) == len(encoding.offsets)
    assert tok.decode(encoding.ids) == text
    starts = [start for start, _ in encoding.offsets]
    assert starts == sorted(starts) and all(0 <= start <= end <= len(text) for start, end in encoding.offsets)
    covered = {place for start, end in encoding.offsets for place in range(start, end)}
    assert {place for place, sign in enumerate(text) if not sign.isspace()} <= covered
    for token_id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
        label = tok.label(token_id)
        if label.startswith("0x"):  # one byte of a character
            continue
        word = label.replace("⏎", "\n").replace("⇥", "\t").replace("␣", " ").lstrip()
        assert text[start:end] in (word, label.replace("␣", " ")) or not word, (label, text[start:end])


@pytest.mark.parametrize("text", TEXTS)
def test_offsets_and_labels_tell_the_same_characters(text: str, metaspace: HFTokenizer) -> None:
    check(tokenizer(), text)
    check(metaspace, text)


@pytest.mark.parametrize("name", ["stories260K-llama", "tinytalk-chat"])
def test_real_tokenizers(name: str, real_models: Path) -> None:
    tok = load_tokenizer(real_models / name, name, rows=16000)
    for text in TEXTS:
        check(tok, text)
    assert tok.default_bos == (name == "stories260K-llama")
    words = tok.encode("Once upon a time")
    assert words.bos == tok.default_bos and words.offsets[-4:] == ((0, 4), (5, 9), (10, 11), (12, 16))


def test_the_blank_that_is_not_in_the_text_is_empty(metaspace: HFTokenizer) -> None:
    found = metaspace.encode("Zoë", bos=True)
    assert found.offsets == ((0, 0), (0, 0), (0, 1), (1, 2), (2, 3), (2, 3))
    assert [metaspace.label(i) for i in found.ids] == ["<s>", "␣", "Z", "o", "0xC3", "0xAB"]


def test_bos_is_explicit(metaspace: HFTokenizer) -> None:
    assert metaspace.default_bos and metaspace.encode("a").bos and metaspace.encode("a").ids[0] == metaspace.bos_id
    assert metaspace.encode("a", bos=False).ids == metaspace.encode("a").ids[1:]
    assert not tokenizer().default_bos and not tokenizer().encode("a").bos
    forced = tokenizer().encode("a", bos=True)
    assert forced.bos and forced.ids[0] == tokenizer().bos_id and forced.offsets[0] == (0, 0)


def test_a_text_that_begins_with_bos_gets_no_second_one(metaspace: HFTokenizer) -> None:
    found = metaspace.encode("<s> a")
    assert not found.bos and found.ids.count(metaspace.bos_id) == 1
    with pytest.raises(BadInput, match="already begins"):
        metaspace.encode("<s> a", bos=True)


def test_a_configuration_may_ask_for_bos(tmp_path: Path) -> None:
    tiny_tokenizer(tmp_path)
    plain = load_tokenizer(tmp_path, "m", rows=1000)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "add_bos_token": True}))
    asked = load_tokenizer(tmp_path, "m", rows=1000)
    assert asked.default_bos and not plain.default_bos and asked.digest != plain.digest


def test_the_digest_is_of_the_content(metaspace: HFTokenizer, tmp_path: Path) -> None:
    tok = tokenizer()
    before = tok.digest
    tok.fast(
        ["a", "b c d e"], padding=True, truncation=True, max_length=2
    )  # leaves padding and truncation switched on inside
    assert tok.digest == before != metaspace.digest and len(before) == 32
    assert HFTokenizer(tok.fast, "another name").digest == before
    assert len(tok.encode("The Eiffel Tower is in the city").ids) > 2, "left-over truncation must not cut"


def test_labels_of_unusual_ids(metaspace: HFTokenizer) -> None:
    tok = tokenizer()
    assert tok.label(tok.bos_id) == "<|endoftext|>" and tok.label(10**6) == "<1000000>"
    assert metaspace.label(3 + 0x0A) == "⏎" and metaspace.label(3) == "U+0000" and metaspace.label(3 + 0xFF) == "0xFF"
    assert tok.vocab == len(tok.fast)


def test_only_text_can_be_encoded() -> None:
    with pytest.raises(BadInput, match="not bytes"):
        tokenizer().encode(b"bytes")  # type: ignore[arg-type]
    assert tokenizer().encode("").ids == ()


def test_a_missing_or_damaged_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no tokenizer"):
        load_tokenizer(tmp_path, "m", rows=10)
    tiny_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": 1}')
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_tokenizer(tmp_path, "m", rows=10)


def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    tiny_tokenizer(tmp_path)
    size = load_tokenizer(tmp_path, "m", rows=1000).vocab
    load_tokenizer(tmp_path, "m", rows=size)
    with pytest.raises(CheckpointError, match=rf"ids up to {size - 1}, but the embedding has {size - 1} rows"):
        load_tokenizer(tmp_path, "m", rows=size - 1)
    with pytest.raises(CheckpointError, match="does not match"):
        load_tokenizer(tmp_path, "m", rows=0)


def test_a_special_token_beyond_the_embedding_is_tolerated(tmp_path: Path) -> None:
    """Gemma 3's text models have an image token that their embedding lacks."""
    from transformers import AutoTokenizer

    tiny_tokenizer(tmp_path)
    fast = AutoTokenizer.from_pretrained(tmp_path)
    fast.add_special_tokens({"additional_special_tokens": ["<image>"]})
    fast.save_pretrained(tmp_path)
    size = len(fast)
    assert load_tokenizer(tmp_path, "m", rows=size - 1).vocab == size
