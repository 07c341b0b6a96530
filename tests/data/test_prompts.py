import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.core.errors import BadInput, SpanError
from interp.data import Prompt, PromptPair
from interp.data.prompts import continuation, find_span

TOWER = "The Eiffel Tower is in the city of"


def test_of_marks_spans_by_their_words():
    prompt = Prompt.of(TOWER, answer="Paris", foil=" Rome", subject="Eiffel Tower", place="city")
    assert prompt.span("subject") == "Eiffel Tower" and prompt.spans == {"subject": (4, 16), "place": (27, 31)}
    assert (prompt.answer, prompt.foil) == (" Paris", " Rome")


def test_id_follows_the_content():
    one, two = Prompt.of(TOWER, subject="Eiffel Tower"), Prompt.of(TOWER, subject="Eiffel")
    assert one.id == Prompt.of(TOWER, subject="Eiffel Tower").id != two.id
    assert Prompt.of(TOWER, id="mine").id == "mine"
    assert len({one, two}) == 2  # hashable


def test_subject_not_in_the_prompt_repeats_both():
    with pytest.raises(SpanError, match=r"'Big Ben' is not in the prompt 'The Eiffel Tower is in the city of'"):
        Prompt.of(TOWER, subject="Big Ben")


@pytest.mark.parametrize(
    ("words", "hint"), [("eiffel tower", "other capitals: 'Eiffel Tower'"), ("cafe\u0301", "Unicode")]
)
def test_near_misses_are_named(words, hint):
    with pytest.raises(SpanError, match=hint):
        Prompt.of("The Eiffel Tower has a café", subject=words)


def test_several_matches_are_refused_not_guessed():
    text = "Paris Hilton stayed in Paris last"
    with pytest.raises(SpanError, match=r"occurs 2 times .* give characters .*occurrence=0 to 1"):
        Prompt.of(text, subject="Paris")
    assert Prompt.of(text, subject="Paris", occurrence=1).spans["subject"] == (23, 28)
    assert Prompt.of(text, subject="Paris", occurrence={"subject": -1}).spans["subject"] == (23, 28)
    assert Prompt.of(text, subject=(23, 28)).span("subject") == "Paris"
    with pytest.raises(SpanError, match="no occurrence=2"):
        Prompt.of(text, subject="Paris", occurrence=2)


def test_whole_words_win_over_parts_of_words():
    # K7g: ROME's finder takes the first occurrence, here inside "Romeo"
    assert find_span("Romeo lived near Rome for", "Rome") == (17, 21)
    assert find_span("Romeo lived near Verona", "Rome") == (0, 4)
    assert find_span("YouTube's owner,", "YouTube") == (0, 7)
    assert find_span("東京は日本の首都", "日本") == (3, 5)


@pytest.mark.parametrize(
    ("text", "answer", "joined"),
    [
        ("It is in", "Paris", " Paris"),
        ("It is in", " Paris", " Paris"),
        ("It is in ", "Paris", "Paris"),
        ("from 1352 to 13", "52", "52"),
        ('the title of "', "King", "King"),
        ('that of a "superior"', "priest", " priest"),
        ("my ex-", "wife", "wife"),
        ("It cost $", "5", "5"),
        ("Hello", ", you", ", you"),
        ("首都は", "東京", "東京"),
        ("one, two,", "three", " three"),
    ],
)
def test_the_missing_space_is_put_in(text, answer, joined):
    assert continuation(text, answer) == joined
    assert continuation(text, answer, "") == answer


def test_bad_texts_and_spans_are_refused():
    with pytest.raises(BadInput, match="empty"):
        Prompt("  ")
    with pytest.raises(BadInput, match="NUL character at character 3"):
        Prompt("abc\0d")
    with pytest.raises(BadInput, match="must be text; not int"):
        Prompt(7)
    with pytest.raises(SpanError, match=r"characters \(3, 9\) of a prompt of 3"):
        Prompt("abc", spans={"x": (3, 9)})
    with pytest.raises(SpanError, match="only blanks"):
        Prompt("a b", spans={"x": (1, 2)})
    with pytest.raises(SpanError, match="may not be called 'last'"):
        Prompt("a b", spans={"last": (0, 1)})
    with pytest.raises(SpanError, match="has no span 'subject'; it has 'x'"):
        Prompt("a b", spans={"x": (0, 1)}).span("subject")


def test_swap_moves_the_other_spans():
    prompt = Prompt.of(TOWER, answer="Paris", subject="Eiffel Tower", place="city")
    other = prompt.swap(subject="Colosseum", answer="Rome")
    assert other.text == "The Colosseum is in the city of" and other.answer == " Rome"
    assert (other.span("subject"), other.span("place")) == ("Colosseum", "city")
    both = prompt.swap(place="town", subject="Kolosseum")
    assert (both.text, both.span("place")) == ("The Kolosseum is in the town of", "town")
    with pytest.raises(SpanError, match="overlaps"):
        Prompt.of(TOWER, subject="Eiffel Tower", part="Tower").swap(subject="Louvre")


def test_pairs_must_differ_and_mark_the_same_spans():
    prompt = Prompt.of(TOWER, subject="Eiffel Tower")
    with pytest.raises(BadInput, match="both prompts"):
        PromptPair(prompt, prompt)
    with pytest.raises(SpanError, match="spans differ"):
        PromptPair(prompt, Prompt("The Louvre is in"))
    assert PromptPair(prompt, prompt.swap(subject="Big Ben")).id == prompt.id


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=30), st.data())
def test_found_spans_are_the_words(text, data):
    start = data.draw(st.integers(0, len(text) - 1))
    words = text[start : data.draw(st.integers(start + 1, len(text)))]
    if not words.strip():
        return
    low, high = find_span(text, words, occurrence=0)
    assert text[low:high] == words.strip()
