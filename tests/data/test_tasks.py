import pytest

from interp.core.errors import BadInput
from interp.data import Desideratum, Lexicon, Prompt, PromptPair, Task, tasks, tokenize_pair
from interp.data.tasks.lexicon import fill, one_token, slots

NAMES = ("Ada", "Bob", "Cid", "Dan", "Eva", "Fay", "Gil", "Hal", "Ida", "Joe", "Kim", "Lea")


def pair(one="Ada ran and Ada", two="Ada ran and Bob", **spans):
    def side(text, a, b):
        return Prompt.of(text, answer=a, foil=b, **(spans or {"S": (0, 3)}))

    return PromptPair(side(one, "x", "y"), side(two, "y", "x"))


def task(pairs, **options):
    return Task(pairs, **{"name": "t", "chance": 0.5, "describe": "a test", "vital": ("S", "last")} | options)


def test_a_task_is_a_list_that_knows_its_chance_and_slices_into_tasks():
    made = task([pair(), pair("Bob sat and Bob", "Bob sat and Ada")])
    assert len(made) == 2 and isinstance(made, list) and isinstance(made[0], PromptPair)
    part = made[1:]
    assert isinstance(part, Task) and len(part) == 1 and part.chance == 0.5 and part.vital == ("S", "last")
    assert made.clean[1].text == "Bob sat and Bob" and made.corrupted[1].answer == " y"
    assert part.digest() != made.digest() == task(list(made)).digest() and len(made.digest()) == 32


@pytest.mark.parametrize(
    ("pairs", "options", "message"),
    [
        ([], {}, "'t' has no pairs"),
        ([pair()], {"chance": 1.5}, "between 0 and 1; not 1.5"),
        ([pair()], {"vital": ("T",)}, "no span 'T', which `vital` names; it has 'S'"),
        (
            [PromptPair(Prompt.of("a b", answer="x"), Prompt.of("a c", answer="y", foil="x"))],
            {"vital": ()},
            "foil=None",
        ),
        (
            [PromptPair(Prompt.of("a b", answer="x", foil="x"), Prompt.of("a c", answer="y", foil="x"))],
            {"vital": ()},
            "both ' x'",
        ),
    ],
)
def test_a_task_refuses_pairs_that_cannot_be_scored(pairs, options, message):
    with pytest.raises(BadInput, match=message):
        task(pairs, **options)


def test_a_desideratum_wants_something_else_than_the_base_says():
    base, source = pair().clean, pair().corrupted
    wanted = Desideratum(base, source, " y")
    assert wanted.pair.clean.answer == " y" and wanted.pair.clean.foil == " x" and wanted.pair.corrupted == source
    with pytest.raises(BadInput, match="answers unpatched"):
        Desideratum(base, source, " x")
    with pytest.raises(BadInput, match="empty"):
        Desideratum(base, source, " ")
    with pytest.raises(BadInput, match="need an answer"):
        Desideratum(Prompt.of("a b"), Prompt.of("a c", answer="x"), " y")


def test_words_are_those_that_are_one_token(gpt, llama):
    assert one_token("Tom", gpt) and not one_token("Deuteronomy", gpt)
    assert Lexicon(names=("Tom", "Deuteronomy", "Lily")).usable("names", gpt, need=2) == ("Tom", "Lily")
    assert Lexicon(objects=("toy car", "ball")).usable("objects", gpt, need=1) == ("ball",)
    assert Lexicon(nouns=("dog dogs", "dog Deuteronomy")).usable("nouns", gpt, need=1) == ("dog dogs",)
    with pytest.raises(BadInput, match=r"1 of the 2 names are one token each in .* \('Tom'\); 2 are needed"):
        Lexicon(names=("Tom", "Deuteronomy")).usable("names", gpt, need=2)
    with pytest.raises(BadInput, match=r"0 of the 17 places .*1 are needed\. Give others: Lexicon"):
        tasks.named("ioi", llama, n=2)


def test_a_lexicon_refuses_what_is_no_pool_and_templates_without_their_slots():
    with pytest.raises(BadInput, match="not the text 'Tom Lily'"):
        Lexicon(names="Tom Lily")
    with pytest.raises(BadInput, match=r"has slots 'a' or 's'; it needs"):
        Lexicon(templates={"ioi": ("{a} and {s}",)})
    with pytest.raises(BadInput, match="`templates` must be one of"):
        Lexicon(templates={"oi": ("{a}",)})
    assert Lexicon(templates={"ioi": ("So {a} met {b} and {s} saw",)}).forms("ioi") == ("So {a} met {b} and {s} saw",)


def test_fill_marks_the_slots_it_is_asked_for():
    text, spans = fill("{a} saw {b} and {a}", {"a": "Tom", "b": "Al"}, "ab")
    assert text == "Tom saw Al and Tom" and spans == {"a": (0, 3), "b": (8, 10)} and slots("{b}{a}") == ("a", "b")


def test_names_are_checked():
    with pytest.raises(BadInput, match="'ioi'"):
        tasks.named("io", None)


def test_ioi_lines_up_and_flips(gpt):
    made = tasks.named("ioi", gpt, n=30)
    assert len({p.clean.text for p in made}) == 30 and made.chance == 0.5
    for number, p in enumerate(made):
        tokens = tokenize_pair(p, gpt)
        assert p.clean.foil == p.corrupted.answer and p.corrupted.foil == p.clean.answer
        io, s1, s2 = (p.clean.span(name) for name in ("IO", "S1", "S2"))
        assert s1 == s2 != io and p.clean.answer == f" {io}" and p.corrupted.span("S2") == io
        assert p.corrupted.answer == f" {s1}"
        assert (p.clean.spans["IO"] < p.clean.spans["S1"]) == (p.clean.meta["order"] == "ABB") == (number % 2 == 0)
        assert tokens.changed == tuple(range(*tokens.clean.spans["S2"]))


def test_ioi_against_other_names(gpt):
    for p in tasks.named("ioi", gpt, n=20, corruption="names", order="BAB"):
        there = [p.corrupted.span(name) for name in ("IO", "S1", "S2")]
        assert len({*there, p.clean.span("IO"), p.clean.span("S1")}) == 5
        assert len(tokenize_pair(p, gpt).changed) == 3 and p.clean.meta["order"] == "BAB"


def test_seeds_names_and_sizes(gpt):
    one = tasks.named("ioi", gpt, n=10)
    assert one.digest() == tasks.named("ioi", gpt, n=10).digest() != tasks.named("ioi", gpt, n=10, seed=1).digest()
    assert tasks.named("ioi", gpt, n=20)[:10].digest() == one.digest()
    with pytest.raises(BadInput, match="at least 1; not 0"):
        tasks.named("ioi", gpt, n=0)
    few = Lexicon(names=("Tom", "Lily"), objects=("ball",), places=("park",))
    with pytest.raises(BadInput, match="Ask for fewer, or give a larger Lexicon"):
        tasks.named("ioi", gpt, n=50, lexicon=few)
