"""Labelled texts: their layouts, groups that are not torn apart, and what is refused."""

import pytest

from interp.core.errors import BadInput
from interp.data import Labelled, labelled

YES, NO = [f"good {n}" for n in range(8)], [f"bad {n}" for n in range(8)]


def test_pairs_stay_together():
    data = labelled(positive=YES, negative=NO, paired=True)
    assert data.paired and len(data) == 16
    for seed in range(5):
        first, second = data.split(0.25, seed)
        assert first.paired and second.paired and len(first) == 4 and not set(first.groups) & set(second.groups)


def test_equal_texts_stay_together():
    data = labelled(positive=[*YES, YES[0]], negative=NO)
    groups = [group for text, group in zip(data.texts, data.groups, strict=True) if text == YES[0]]
    assert len(groups) == 2 and len(set(groups)) == 1 and not data.paired


def test_splits_are_balanced_and_seeded():
    data = labelled(positive=YES, negative=NO[:4])
    first, second = data.split(0.5, seed=3)
    assert sum(first.labels) == sum(second.labels) == 4 and data.split(0.5, seed=3)[0] == first
    assert sorted([*first.texts, *second.texts]) == sorted(data.texts)


def test_tables_and_jsonl(tmp_path):
    (tmp_path / "a.tsv").write_text('sentence\tlabel\nso "good"\t1\nso bad\t0\n')
    table = labelled(tmp_path / "a.tsv")
    assert table.texts == ('so "good"', "so bad") and table.labels == (True, False)
    (tmp_path / "a.jsonl").write_text('{"positive": "a", "negative": "b"}\n{"positive": "c", "negative": "d"}\n')
    assert labelled(tmp_path / "a.jsonl").paired
    (tmp_path / "p.txt").write_text("one\n\ntwo\n")
    (tmp_path / "n.txt").write_text("three\n")
    assert len(labelled(positive=tmp_path / "p.txt", negative=tmp_path / "n.txt")) == 3


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: labelled(positive=YES), "both `positive` and `negative`"),
        (lambda: labelled(positive=YES, negative=NO[:3], paired=True), "8 positive and 3 negative"),
        (lambda: labelled(positive=YES, negative=[]), "no negative texts"),
        (lambda: labelled([{"text": "a", "label": 1}]), "1 positive and 0 negative"),
        (lambda: labelled([{"text": "a", "label": "maybe"}]), "'maybe'"),
        (lambda: labelled([{"text": "a"}]), "row 0"),
        (lambda: labelled([{"positive": "a", "negative": 3}]), "must be text"),
        (lambda: labelled([], paired=True), "`paired` is for"),
        (lambda: labelled(positive=YES, negative=[*NO, YES[2]]), "'good 2' is both positive and negative"),
        (lambda: Labelled(("a",), (True, False), ("g",)), "1 texts, 2 labels"),
        (lambda: labelled(positive=YES[:1], negative=NO[:1]).split(), "too few"),
        (lambda: labelled(positive=YES, negative=NO).split(1.0), "between 0 and 1"),
    ],
)
def test_refusals(call, said):
    with pytest.raises(BadInput, match=said.replace("(", r"\(").replace("`", ".")):
        call()


def test_lines_of_pairs_do_not_slip(tmp_path):
    (tmp_path / "p.txt").write_text("one\n\ntwo\n\n")
    (tmp_path / "n.txt").write_text("eins\nzwei\n\n")
    with pytest.raises(BadInput, match=r"p.txt, line 2: a blank line"):
        labelled(positive=tmp_path / "p.txt", negative=tmp_path / "n.txt", paired=True)
    (tmp_path / "p.txt").write_text("one\u2028more \r\ntwo\r\n", newline="")
    pairs = labelled(positive=tmp_path / "p.txt", negative=tmp_path / "n.txt", paired=True)
    assert pairs.texts == ("one\u2028more ", "eins", "two", "zwei") and pairs.paired
