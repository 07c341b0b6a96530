import json

import pytest

from interp.core.errors import BadInput, SpanError
from interp.data import Pairs, Task, lined_up, pairs, tokenize_pair

ROW = {
    "clean": "Tom met Mia. Tom smiled at", "corrupted": "Tom met Mia. Mia smiled at", "answer": "Mia", "corrupted_answer": "Tom",
    "spans": {"S2": "Tom smiled"}, "corrupted_spans": {"S2": "Mia smiled"}, "source": "me",
}  # fmt: skip


def write(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_our_own_layout(tmp_path):
    task = pairs(write(tmp_path / "mine.jsonl", [ROW, ROW | {"clean": "Tom met Mia. So Tom smiled at", "id": "b"}]))
    assert isinstance(task, Task) and isinstance(task, Pairs) and task.name == "mine" and task.chance == 0.5
    one, two = task
    assert (one.clean.answer, one.clean.foil, one.corrupted.answer, one.corrupted.foil) == (
        " Mia",
        " Tom",
        " Tom",
        " Mia",
    )
    assert one.clean.span("S2") == "Tom smiled" and one.corrupted.span("S2") == "Mia smiled"
    assert one.clean.meta == {"source": "me"} and (one.id, two.id) == ("pair-0", "b") and task.vital == ("S2", "last")


def test_prompt_foil_and_subject_do_too():
    row = {
        "prompt": "The king of Norvik is", "corrupted": "The king of Tarsis is", "answer": "Ada", "foil": "Bob",
        "corrupted_answer": "Cid", "corrupted_foil": "Dan", "subject": "Norvik", "corrupted_subject": "Tarsis",
    }  # fmt: skip
    (pair,) = pairs([row])
    assert (pair.clean.foil, pair.corrupted.answer, pair.corrupted.foil) == (" Bob", " Cid", " Dan")
    assert pair.clean.span("subject") == "Norvik" and pair.corrupted.span("subject") == "Tarsis"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": None}, r"field 'answer' must be text; not None"),
        ({"corrupted": " "}, "field 'corrupted' must be text"),
        ({"clean": ROW["corrupted"], "spans": {}, "corrupted_spans": {}}, "both prompts of the pair read"),
        ({"corrupted_spans": {}}, "'Tom smiled' is not in the prompt"),
        ({"corrupted_spans": {"S1": "Mia"}}, r"`corrupted_spans` has 'S1', which the clean prompt does not mark"),
        ({"spans": [1]}, r"`spans` must be \{span: words or \[start, end\]\}"),
        ({"spans": {"S2": 3}}, "must be its words or"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path, change, message):
    path = write(tmp_path / "bad.jsonl", [ROW, ROW | change])
    with pytest.raises(BadInput, match=rf"bad\.jsonl, line 2: .*{message}"):
        pairs(path)
    kept = pairs(path, skip_bad=True)
    assert len(kept) == 1 and len(kept.skipped) == 1 and "line 2" in kept.skipped[0]


def test_missing_fields_ids_and_limits(tmp_path):
    for name, message in (
        ("answer", "field 'answer' is missing"),
        ("corrupted_answer", r"field 'corrupted_answer' \(or 'foil'\)"),
    ):
        with pytest.raises(BadInput, match=message):
            pairs([{key: value for key, value in ROW.items() if key != name}])
    with pytest.raises(BadInput, match="id 'a' is taken by row 0"):
        pairs([ROW | {"id": "a"}, ROW | {"id": "a"}])
    with pytest.raises(BadInput, match="at least 1; not 0"):
        pairs([ROW], limit=0)
    with pytest.raises(BadInput, match="All 1 rows were bad"):
        pairs([3], skip_bad=True)
    with pytest.raises(BadInput, match="no such file"):
        pairs(tmp_path / "nothing.jsonl")
    with pytest.raises(BadInput, match="no pairs in the rows"):
        pairs([])
    assert len(pairs([ROW, ROW | {"id": "b"}], limit=1)) == 1
    with pytest.raises(SpanError):
        pairs([ROW | {"spans": {"S2": "Tim"}}])


def test_greater_than_table(tmp_path):
    path = tmp_path / "years.csv"
    head = "clean,corrupted,label\n"
    line = "The war lasted from the year {} to the year 13,The war lasted from the year 1301 to the year 13,{}\n"
    path.write_text(head + line.format(1352, 52) + line.format(1304, 4))
    one, two = pairs(path)
    assert int(one.clean.answer) > 52 and 1 < int(one.clean.foil) <= 52 and one.corrupted.answer == one.clean.foil
    assert not one.clean.answer.startswith(" ") and one.corrupted.foil == "01"
    assert len(one.clean.meta["legal"]) == 47 and one.clean.foil in one.clean.meta["illegal"]
    assert one.clean.foil in one.corrupted.meta["legal"] and one.clean.span("start_year") == "52"
    assert int(two.clean.foil) in (2, 3, 4) and pairs(path).chance == pytest.approx((0.47 + 0.95) / 2)
    assert pairs(path).digest() == pairs(path).digest()
    for wrong, message in (
        (line.format(1352, 53), "label is '53' but"),
        (line.format(1399, 99), "before 99"),
        ("a,b,3\n", "end in a century"),
    ):
        path.write_text(head + line.format(1352, 52) + wrong)
        with pytest.raises(BadInput, match=rf"years\.csv, line 3: .*{message}"):
            pairs(path)


def test_names_are_exchanged():
    (pair,) = pairs([{"prompt": "When Ada and Bob met, Bob gave a key to", "answer": "Ada", "case_id": 0}])
    assert pair.corrupted.text == "When Bob and Ada met, Ada gave a key to" and pair.corrupted.answer == " Bob"
    assert [pair.corrupted.span(name) for name in ("IO", "S1", "S2")] == ["Bob", "Ada", "Ada"]
    assert pair.clean.spans == pair.corrupted.spans and pair.clean.meta["case_id"] == 0
    with pytest.raises(BadInput, match="row 0: to make a corrupted prompt"):
        pairs([{"prompt": "When Ada and Bob met, Cid gave a key to", "answer": "Ada"}])


def test_boxes_ask_for_another_box():
    text = "Box 0 contains the cup, Box 1 contains the hat. Box {} contains <extra_id_0> ."
    rows = [
        {"sentence_masked": text.format(number), "masked_content": f"<extra_id_0> the {word}", "sample_id": 5}
        for number, word in enumerate(("cup", "hat"))
    ]
    one, two = pairs(rows)
    assert (
        one.clean.text.endswith("hat. Box 0 contains the") and one.clean.answer == " cup" and one.clean.foil == " hat"
    )
    assert one.corrupted.text == two.clean.text and one.corrupted.answer == " hat" and pairs(rows).chance == 0.5
    assert one.clean.spans == {"first_label": (4, 5), "query_label": (52, 53)}
    with pytest.raises(BadInput, match="no other row of the file asks about the same context"):
        pairs(rows[:1])
    with pytest.raises(BadInput, match="must have one <extra_id_0>"):
        pairs([rows[0] | {"sentence_masked": "Box 0"}])


@pytest.mark.parametrize(
    ("name", "size"),
    [("prompts/ioi.json", 841), ("prompts/greater_than.csv", 1000), ("entity_tracking/boxes_3.jsonl", 300)],
)
def test_real_files(real_data, name, size):
    task = pairs(real_data / name, limit=size)
    assert len(task) == size and 0 < task.chance < 1 and not task.skipped
    assert task.name == name.rpartition("/")[2].partition(".")[0]


def test_those_that_line_up(real_data, gpt):
    task = pairs(real_data / "prompts/ioi.json", limit=150)
    kept = lined_up(task, gpt)
    assert 0 < len(kept) < 150 and f"{150 - len(kept)} of 150 do not line up" in kept.describe
    assert all(tokenize_pair(pair, gpt) for pair in kept) and kept.chance == 0.5
    boxes = lined_up(pairs(real_data / "entity_tracking/boxes_3.jsonl", limit=60), gpt)
    assert boxes.chance == pytest.approx(1 / 3) and set(boxes.vital) == {"first_label", "query_label", "last"}
    with pytest.raises(BadInput, match="none of the 20 pairs of 'greater_than' lines up"):
        lined_up(pairs(real_data / "prompts/greater_than.csv", limit=20), gpt)
