import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.core.errors import BadInput
from interp.data import Corpus, corpus, neutral_text, pack

TEXTS = ["The garden was cold.", "A man came in.", "Nobody was surprised, and the soup was good."]


def test_documents_are_the_texts(tokenizer):
    data = corpus(TEXTS, tokenizer)
    assert data.ids == ("0", "1", "2") and data.bos == tokenizer.default_bos
    assert [tuple(d.tolist()) for d in data.documents] == [tokenizer.encode(t).ids for t in TEXTS]
    assert data.n_tokens == sum(data.lengths) and f"{data.n_tokens:,} tokens" in repr(data)


def test_the_digest_sees_ids_boundaries_order_and_bos(small):
    base = corpus(TEXTS, small)
    assert (
        base.digest() == corpus(TEXTS, small).digest() == Corpus.from_ids(base.documents, ids=["a", "b", "c"]).digest()
    )
    joined = Corpus.from_ids([torch.cat(base.documents)])
    resplit = Corpus.from_ids([torch.cat(base.documents[:2]), base.documents[2]])
    changed = [d.clone() for d in base.documents]
    changed[1][2] += 1
    others = [
        base, corpus(TEXTS[::-1], small), corpus(TEXTS[:2], small), corpus(TEXTS, small, bos=True), joined, resplit,
        base.select([1, 0, 2]), Corpus.from_ids(changed),
    ]  # fmt: skip
    assert len({o.digest() for o in others}) == len(others)


def test_long_texts_are_cut_by_the_rule_that_was_asked_for(small):
    body = small.encode(" ".join(TEXTS), bos=False).ids
    data = corpus([TEXTS[1], " ".join(TEXTS)], small, n_ctx=8, bos=True)
    assert data.ids[:2] == ("0", "1#0") and max(data.lengths) == 8 and data.texts[:3] == (0, 1, 1)
    pieces = data.documents[1:]
    assert all(p[0] == small.bos_id for p in pieces)
    assert tuple(torch.cat([p[1:] for p in pieces]).tolist()) == body
    assert any("1 of 2 texts longer than 8 tokens were cut into pieces" in note for note in data.notes)
    short = corpus([" ".join(TEXTS)], small, n_ctx=8, long="truncate")
    assert short.documents[0].tolist() == list(body[:8]) and len(short) == 1 and "cut short" in short.notes[1]
    with pytest.raises(BadInput, match=rf"text '0' of texts is {len(body)} tokens, the context is 8"):
        corpus([" ".join(TEXTS)], small, n_ctx=8, long="refuse")


def test_limit_stops_reading_and_cuts_to_fit(small):
    def endless():
        while True:
            yield TEXTS[0]

    data = corpus(endless(), small, limit_tokens=100)
    assert data.n_tokens == 100 and "limited to 100 tokens" in data.notes
    with_bos = corpus(endless(), small, limit_tokens=100, bos=True)
    assert 99 <= with_bos.n_tokens <= 100 and min(with_bos.lengths) >= 2


def test_blank_texts_are_left_out_and_counted(small):
    assert "1 blank texts were left out" in corpus([TEXTS[0], " \n"], small).notes
    with pytest.raises(BadInput, match="holds no text"):
        corpus(["", " "], small)
    with pytest.raises(BadInput, match="text '1' of texts holds a NUL"):
        corpus(["a", "b\0c"], small)
    with pytest.raises(BadInput, match="must be text; not int"):
        corpus(["a", 3], small)


def test_a_bos_in_the_text_is_not_doubled(small):
    with pytest.raises(BadInput, match="would double it"):
        corpus(["<|endoftext|>Hello"], small, bos=True)


@pytest.mark.parametrize(
    ("split", "texts"),
    [
        ("auto", ["One a.\n\nOne b.", "Two."]),
        ("<|endoftext|>", ["One a.\n\nOne b.", "Two."]),
        ("line", ["One a.", "One b.<|endoftext|>", "Two."]),
        ("blank", ["One a.", "One b.<|endoftext|>\nTwo.\n"]),
        ("whole", ["One a.\n\nOne b.<|endoftext|>\nTwo.\n"]),
    ],
)
def test_split_rules_of_text_files(tmp_path, small, split, texts):
    (tmp_path / "a.txt").write_text("One a.\n\nOne b.<|endoftext|>\nTwo.\n")
    data = corpus(tmp_path / "a.txt", small, split=split)
    assert [small.decode(d.tolist()) for d in data.documents] == texts
    assert data.source == "a.txt" and len(set(data.ids)) == len(texts)


def test_a_mistyped_rule_is_not_taken_for_a_separator(tmp_path, small):
    (tmp_path / "a.txt").write_text("One.\nTwo.")
    with pytest.raises(BadInput, match=r"'lines' does not occur .*Did you mean 'line'"):
        corpus(tmp_path / "a.txt", small, split="lines")
    with pytest.raises(BadInput, match="no such file"):
        corpus(tmp_path / "b.txt", small)


def test_json_sources(tmp_path, small):
    (tmp_path / "a.json").write_text(json.dumps(TEXTS))
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"body": t}) for t in TEXTS))
    one, two = corpus(tmp_path / "a.json", small), corpus(tmp_path / "a.jsonl", small, field="body")
    assert all(torch.equal(a, b) for a, b in zip(one.documents, two.documents, strict=True))
    assert two.ids == ("a:0", "a:1", "a:2")
    with pytest.raises(BadInput, match=r"a.jsonl, line 1: field 'text' is missing; it has 'body'"):
        corpus(tmp_path / "a.jsonl", small)
    (tmp_path / "b.json").write_text("[1, 2]")
    with pytest.raises(BadInput, match=r"b.json, line 1: the text is int"):
        corpus(tmp_path / "b.json", small)


def test_folders_of_text_files(tmp_path, small):
    for name, text in zip("cab", TEXTS, strict=True):
        (tmp_path / f"{name}.txt").write_text(text)
    data = corpus(tmp_path, small)
    assert data.ids == ("a", "b", "c")
    (tmp_path / "bad.txt").write_bytes(b"ab\0")
    with pytest.raises(BadInput, match=r"bad.txt is not text: a NUL byte at byte 2"):
        corpus(tmp_path, small)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.csv").touch()
    with pytest.raises(BadInput, match=r"holds no .txt file .*'x.csv'"):
        corpus(tmp_path / "other", small)


def test_datasets_folders(tmp_path, small):
    datasets = pytest.importorskip("datasets")
    plain = datasets.Dataset.from_dict({"text": TEXTS, "n": [1, 2, 3]})
    plain.save_to_disk(tmp_path / "plain")
    datasets.DatasetDict({"train": plain, "test": plain.select([2])}).save_to_disk(tmp_path / "both")
    data = corpus(tmp_path / "plain", small)
    assert all(torch.equal(a, b) for a, b in zip(data.documents, corpus(TEXTS, small).documents, strict=True))
    assert data.ids[0] == "plain:0" and corpus(tmp_path / "both", small, subset="test").ids == ("test:0",)
    with pytest.raises(BadInput, match=r"`subset` must be one of 'train' or 'test'"):
        corpus(tmp_path / "both", small)
    with pytest.raises(BadInput, match=r"no column 'txt'; it has 'text' or 'n'"):
        corpus(tmp_path / "plain", small, field="txt")
    with pytest.raises(BadInput, match="has no subsets"):
        corpus(tmp_path / "plain", small, subset="train")
    next((tmp_path / "plain").glob("*.arrow")).write_bytes(b"broken")
    with pytest.raises(BadInput, match="cannot be read as a Hugging Face datasets folder"):
        corpus(tmp_path / "plain", small)


@pytest.mark.parametrize("bos", [True, False])
def test_blocks_join_texts_with_one_separator(small, bos):
    data = corpus(TEXTS, small, n_ctx=6, bos=bos)
    stream = [
        i for n, t in enumerate(TEXTS) for i in ([small.bos_id] * (bos or n > 0) + list(small.encode(t, bos=False).ids))
    ]
    blocks = data.blocks(5)
    assert blocks.flatten().tolist() == stream[: len(stream) // 5 * 5] and blocks.shape[1] == 5
    with pytest.raises(BadInput, match="less than one block"):
        data.blocks(10_000)


def test_bad_options_and_ids(small):
    with pytest.raises(BadInput, match="`n_ctx` must be at least 2"):
        corpus(TEXTS, small, n_ctx=1)
    with pytest.raises(BadInput, match="`long` must be one of"):
        corpus(TEXTS, small, long="cut")
    with pytest.raises(BadInput, match="needs as many different ids"):
        Corpus.from_ids([[1], [2]], ids=["a", "a"])
    with pytest.raises(BadInput, match="document '1' must be token ids"):
        Corpus.from_ids([[1], []])
    with pytest.raises(BadInput, match="has no documents"):
        Corpus.from_ids([])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 40), max_size=60), st.integers(1, 50))
def test_packing_places_every_document_once_within_budget(lengths, budget):
    for order in ("kept", "longest first"):
        passes = pack(lengths, budget, order=order)
        assert sorted(i for p in passes for i in p) == list(range(len(lengths))) and all(passes)
        assert all(sum(lengths[i] for i in p) <= budget or len(p) == 1 for p in passes)
        assert passes == pack(lengths, budget, order=order)
    assert [i for p in pack(lengths, budget) for i in p] == list(range(len(lengths)))
    fewest = -(-sum(min(n, budget) for n in lengths) // budget)
    assert fewest <= len(pack(lengths, budget, order="longest first")) <= 2 * fewest + 1


def test_real_texts_load(real_data, tokenizer):
    for name, count in (("tinytalk_chat.txt", 1), ("wikitext2_valid.txt", 0), ("tinystories_1000.json", 1)):
        data = corpus(real_data / "text" / name, tokenizer, n_ctx=256, limit_tokens=20_000)
        assert data.n_tokens > 19_990 and max(data.lengths) <= 256 and len(set(data.texts)) > count


def test_neutral_text_becomes_a_corpus(tokenizer):
    data = corpus(neutral_text(20), tokenizer, n_ctx=256)
    assert len(set(data.texts)) == 20
