"""Concepts as files: the published layout, our superset, and what is refused."""

import json
import os
from pathlib import Path

import pytest

from interp.core.errors import BadInput
from interp.data import Concept, Concepts, concept_tokens, concepts
from interp.data.concepts import chunks
from interp.models import reference

PUBLISHED = {
    "ID": "7", "Concept": "Poland", "Layer": 23, "Dim": 743, "QA": [" What is the capital city of Poland?\n"],
    "unrelated_QA": [" Who wrote it?\n"], "text_completion": [{"First_half": "In 1926,", "Second_half": "the May Coup"}],
    "wikipedia_content": "Poland is a country.\n" * 40,
}  # fmt: skip


def test_the_published_layout():
    poland = concepts([PUBLISHED])[0]
    assert poland.name == "Poland" and poland.vectors == ("23.743",) and poland.id == "7" and poland.words == ()
    assert poland.related[0].text == "Question: What is the capital city of Poland?\n Answer:"
    assert poland.related[0].answer is None
    assert poland.completions[0].answer == " the May Coup"
    assert (
        all(len(text) > 400 for text in poland.texts[:-1])
        and poland.article.replace("\n", "") == "Poland is a country." * 40
    )


def test_our_superset_from_a_file(tmp_path):
    row = {
        "Concept": "metals",
        "words": ["iron"],
        "vectors": ["1.2", "0.3"],
        "QA": ["Rust is"],
        "answers": [" iron"],
        "texts": ["Iron rusts."],
    }
    (tmp_path / "c.jsonl").write_text(json.dumps(row) + "\n")
    metals = concepts(tmp_path / "c.jsonl", template="{q}").get("metals")
    assert (
        metals.vectors == ("1.2", "0.3") and metals.related[0].text == "Rust is" and metals.related[0].answer == " iron"
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"Layer": "23"}, "whole number"),
        ({"Layer": True}, "whole number"),
        ({"QA": "What?"}, "`QA` must be a list"),
        ({"answers": ["a", "b"]}, "2 entries and `QA` 1"),
        ({"text_completion": [{"First": "a"}]}, "First_half"),
        ({"wordz": []}, "Did you mean 'words'"),
        ({"words": ["a", "a"]}, "more than once"),
        ({"Concept": " "}, "needs a name"),
        ({"texts": [""]}, "texts of the concept 'Poland'"),
    ],
)
def test_refusals_name_row_and_field(change, said):
    with pytest.raises(BadInput, match="row 1") as error:
        concepts([PUBLISHED | {"Concept": "other"}, PUBLISHED | change])
    assert said in str(error.value)


def test_other_refusals():
    for call in (
        lambda: concepts([{"name": "x"}]),
        lambda: concepts([]),
        lambda: concepts([PUBLISHED], template="no place"),
        lambda: concepts([{k: v for k, v in PUBLISHED.items() if k != "Dim"}]),
        lambda: concepts([PUBLISHED, PUBLISHED]),
        lambda: concepts([PUBLISHED]).get("Polnd"),
        lambda: concepts([PUBLISHED]).others("Poland"),
    ):
        with pytest.raises(BadInput):
            call()


def test_digest_is_of_the_content():
    one = Concepts([Concept("a", ("x", "y"))])
    assert one.digest() == Concepts([Concept("a", ("x", "y"))]).digest()
    assert one.digest() != Concepts([Concept("a", ("y", "x"))]).digest()


def test_chunks_lose_nothing():
    text = "\n".join(f"Line {n}" + "x" * (37 * n % 500) for n in range(30))
    parts = chunks(text, 300)
    assert "\n".join(parts) == text.strip() and all(len(part) > 300 for part in parts[:-1])


def test_words_that_split_are_named(atlas):
    found = concept_tokens(atlas.tokenizer, ["crimson", "teal", "antidisestablishment"])
    assert found.words == ("crimson", "teal") and found.split == ("antidisestablishment",)
    assert {atlas.tokenizer.decode([one]).strip() for one in found.ids} == {"crimson", "teal"}
    with pytest.raises(BadInput, match="1 of 2 words"):
        concept_tokens(atlas.tokenizer, ["crimson", "zzqx zzqx"])


def test_the_published_files_are_read():
    root = os.environ.get("INTERP_DATA")
    if not root:
        pytest.skip("INTERP_DATA is unset: the published development sets are not here")
    llama = concepts(Path(root) / "concepts" / "llama2-7b_concepts_dev.json")
    olmo = concepts(Path(root) / "concepts" / "olmo-7b_concepts_dev.json")
    assert len(llama) == 10 and len(olmo) == 18 and llama.get("Poland").vectors == ("23.743",)
    assert all(len(one.related) == 10 and len(one.unrelated) == 50 for one in [*llama, *olmo])


def test_some_by_name():
    both = concepts([PUBLISHED, PUBLISHED | {"Concept": "Italy"}])
    assert (
        both.named(("Italy",)).names == ["Italy"]
        and both.named(()) is both
        and both.named("Poland").names == ["Poland"]
    )
    with pytest.raises(BadInput, match="Did you mean 'Italy'"):
        both.named(("Itly",))


def test_a_word_that_the_tokenizer_does_not_know_is_no_token():
    lm = reference.as_lm(reference.concepts())
    known = lm.tokenizer.decode([2])
    assert len(lm.tokenizer.encode("zebra", bos=False).ids) == 1  # its <unk>
    assert concept_tokens(lm.tokenizer, [known, "zebra"], at_least=1).split == ("zebra",)
    with pytest.raises(BadInput, match=r"0 of 2 words .*'zebra' or 'gnu'.* unknown"):
        concept_tokens(lm.tokenizer, ["zebra", "gnu"])


@pytest.mark.parametrize("group", ["words", "texts", "vectors", "related"])
def test_one_text_is_no_list(group):
    with pytest.raises(BadInput, match=rf"`{group}` of the concept 'x' must be a list; not the text 'red'"):
        Concept("x", **{group: "red"})
    with pytest.raises(BadInput, match=r"`unrelated` of the concept 'x' are prompts; not 'Where\?'"):
        Concept("x", unrelated=["Where?"])
    assert Concept("x", words=["a", "b"]).words == ("a", "b")


def test_a_name_is_a_text_and_a_vector_is_said_once():
    with pytest.raises(BadInput, match="a concept needs a name; not None"):
        concepts([{"Concept": None}])
    assert concepts([PUBLISHED | {"vectors": ["1.2", "23.743"]}])[0].vectors == ("1.2", "23.743")
    with pytest.raises(BadInput, match=r"`Layer` and `Dim` of 23.743, and `vectors` '1.2' without it"):
        concepts([PUBLISHED | {"vectors": ["1.2"]}])
