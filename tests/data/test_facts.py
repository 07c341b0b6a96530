import json

import pytest

from interp.core.errors import BadInput, SpanError
from interp.data import facts, tokenize

ROME = {
    "known_id": 3,
    "subject": "Beats Music",
    "attribute": "Apple",
    "prompt": "Beats Music is owned by",
    "relation_id": "P127",
}
PLAIN = {"text": "The capital of France is", "subject": "France", "answer": "Paris", "foil": "Rome", "source": "me"}


def write(path, rows):
    dump = "\n".join(map(json.dumps, rows)) if path.suffix == ".jsonl" else json.dumps(rows, indent=1)
    path.write_text(dump)
    return path


@pytest.mark.parametrize("name", ["facts.json", "facts.jsonl"])
def test_both_layouts_in_both_files(tmp_path, name):
    one, two = facts(write(tmp_path / name, [ROME, PLAIN]))
    assert (one.text, one.answer, one.span("subject"), one.id) == (ROME["prompt"], " Apple", "Beats Music", "known-3")
    assert one.meta == {"known_id": 3, "relation_id": "P127"}
    assert (two.answer, two.foil, two.id, two.meta) == (" Paris", " Rome", "fact-1", {"source": "me"})


def test_rows_templates_and_extra_spans():
    row = {
        "template": "{} is owned by",
        "subject": "Beats Music",
        "answer": "Apple",
        "spans": {"verb": "owned", "be": [12, 14]},
    }
    (prompt,) = facts([row])
    assert prompt.text == "Beats Music is owned by" and prompt.span("verb") == "owned" and prompt.span("be") == "is"


def test_the_template_settles_which_match_is_the_subject():
    row = {"prompt": "Rome and Rome: the second is in", "subject": "Rome", "answer": "Italy"}
    with pytest.raises(SpanError, match=r"row 0: .*occurs 2 times"):
        facts([row])
    assert facts([row | {"template": "Rome and {}: the second"}])[0].spans["subject"] == (9, 13)
    assert facts([row | {"occurrence": 0}])[0].spans["subject"] == (0, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"subject": "Apple Music"}, r"facts.jsonl, line 3: subject 'Apple Music' is not in the prompt"),
        ({"subject": None}, r"line 3: field 'subject' must be text; not None"),
        ({"attribute": " "}, r"line 3: field 'attribute' must be text"),
        ({"prompt": 4}, r"line 3: field 'prompt' must be text; not 4"),
        ({"known_id": 3}, r"line 3: id 'known-3' is taken by .*line 1"),
        ({"occurrence": "x"}, r"line 3: `occurrence` must be a whole number"),
        ({"spans": {"verb": 3}}, r"line 3: span 'verb' must be its words"),
        ({"spans": {"verb": "sold"}}, r"line 3: verb 'sold' is not in"),
    ],
)
def test_bad_rows_name_file_line_and_field(tmp_path, change, message):
    rows = [ROME, ROME | {"known_id": 4}, ROME | {"known_id": 5} | change]
    path = write(tmp_path / "facts.jsonl", rows)
    with pytest.raises(BadInput, match=message):
        facts(path)
    kept = facts(path, skip_bad=True)
    assert len(kept) == 2 and len(kept.skipped) == 1 and "line 3" in kept.skipped[0]


def test_missing_fields_are_listed():
    for name in ("subject", "attribute"):
        with pytest.raises(BadInput, match=r"row 0: field '(subject|answer)' is missing; the row has"):
            facts([{k: v for k, v in ROME.items() if k != name}])
    with pytest.raises(BadInput, match=r"field 'prompt' \(or 'text'\) is missing"):
        facts([{k: v for k, v in ROME.items() if k != "prompt"}])
    with pytest.raises(BadInput, match="a fact must be a record"):
        facts(["text"])
    with pytest.raises(BadInput, match="no facts in the rows"):
        facts([])
    with pytest.raises(BadInput, match="All 1 rows were bad"):
        facts([{}], skip_bad=True)
    with pytest.raises(BadInput, match="`layout` must be one of"):
        facts([ROME], layout="Rome")


def test_generated_facts_are_the_default():
    prompts = facts()
    assert len(prompts) == 1200 and len({p.id for p in prompts}) == 1200
    assert all(
        p.text.count(p.span("subject")) == 1 and p.answer.startswith(" ") and p.answer[1] != " " for p in prompts
    )
    assert len(facts(limit=7)) == 7


def test_all_known_facts_load(real_data, tokenizer):
    prompts = facts(real_data / "facts" / "known_1000.json")
    assert len(prompts) == 1209 and prompts.skipped == ()
    rows = json.loads((real_data / "facts" / "known_1000.json").read_text())
    for prompt, row in zip(prompts, rows, strict=True):
        assert prompt.span("subject") == row["subject"] and prompt.answer.strip() == row["attribute"].strip()
        tokens = tokenize(prompt, tokenizer, answers="first")
        assert tokenizer.decode(tokens.ids[slice(*tokens.spans["subject"])]).strip() == row["subject"]
        assert tokens.notes == ()
