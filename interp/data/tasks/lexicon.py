"""The words that tasks are made of, and which of them a tokenizer can use.

Patching compares positions, so a name must be one token wherever it stands: a word is usable if it is exactly one token after a space.
Words that are not are left out, and a task that has too few left refuses, saying which pool, how many are left and how many it needs.
The default words are short and frequent, so that vocabularies learned on children's stories keep many of them too.

    from interp.data.tasks import Lexicon
    Lexicon().usable("names", lm.tokenizer, need=4)
    Lexicon(places=("mill", "garden"), templates={"ioi": ("At the {place}, {a} and {b} met, and {s} gave the {object} to",)})
"""
# ruff: noqa: SIM905  (word lists are read as words)

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from string import Formatter
from typing import Any

from interp.core.errors import BadInput, listing, one_of
from interp.core.lm import Tokenizer

from ..prompts import Chars

NAMES = (
    "Tom Lily Ben Mia Sam Anna Max Emma Jack Lucy Tim Sara Sue Bob Jane Leo Amy Mary John Kate Ella Peter Nina Zoe Joe Emily"
    " Alice David James Paul Mark Sarah Laura Adam Eva Henry Grace Rose Oscar Felix Clara Hugo Oliver Ruth George Simon"
).split()
OBJECTS = (
    "ball book box car hat cup cake toy doll bag key ring kite drum flower shell stone rock pen coin map coat shirt spoon bowl"
    " bottle basket blanket pillow lamp bell rope chair banana cookie pie truck train boat leaf feather stick card candle"
).split()
PLACES = (
    "park store beach school garden forest farm zoo house kitchen market library river lake hill tower bridge".split()
)
LABELS = tuple("ABCDEFGHJKLMNOPQRSTUVWXYZ")
NOUNS = (
    "dog dogs", "cat cats", "bird birds", "girl girls", "boy boys", "bear bears", "duck ducks", "rabbit rabbits", "kid kids",
    "frog frogs", "friend friends", "fish fishes", "bee bees", "king kings", "doctor doctors", "lion lions", "teacher teachers",
    "monkey monkeys", "squirrel squirrels", "pig pigs", "cow cows", "horse horses",
)  # fmt: skip
VERBS = ("was were",)
YEARS = "war trip plan project visit journey story game party storm contract program".split()
TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "ioi": (
        "One day, {a} and {b} were playing at the {place}. {s} found a {object} and showed it to",
        "One day, {a} and {b} played at the {place}. {s} found a {object} and gave it to",
        "Once upon a time, {a} and {b} went to the {place}. {s} brought a {object} and gave it to",
        "The next day, {a} and {b} sat at the {place}. {s} made a {object} and showed it to",
        "One day, {a} and {b} walked to the {place}. {s} saw a {object} and showed it to",
    ),
    "agreement": (
        "She was happy because the {noun}, who",
        "Everyone knew that the {noun}, who",
        "He was sad because the {noun}, who",
        "He was happy because the {noun}, who",
        "Everyone said that the {noun}, who",
    ),
    "attractor": (
        "She was happy because the {noun} near the {other}",
        "Everyone knew that the {noun} with the {other}",
        "They saw that the {noun} by the {other}",
    ),
    "entity_tracking": ("The {object} is in Box {label}",),
    "entity_query": ("Box {label} contains the",),
    "laundry_list": (
        "I have to buy {first}. First, I buy {second}, and then I buy the",
        "Today, we need {first}. We have found {second}, so we still need the",
        "On the table were {first}. She took {second} and left only the",
    ),
    "greater_than": ("The {event} lasted from the year {start} to the year {century}",),
}  # fmt: skip


@dataclass(frozen=True)
class Lexicon:
    """Words and sentence forms; those not given are English defaults."""

    names: tuple[str, ...] = tuple(NAMES)
    """People, for `ioi`."""
    objects: tuple[str, ...] = tuple(OBJECTS)
    """Things, for `ioi`, `entity_tracking` and `laundry_list`."""
    places: tuple[str, ...] = tuple(PLACES)
    """Places, for `ioi`."""
    labels: tuple[str, ...] = LABELS
    """Labels of boxes, for `entity_tracking`."""
    nouns: tuple[str, ...] = NOUNS
    """"singular plural", for `agreement`."""
    verbs: tuple[str, ...] = VERBS
    """"singular plural", for `agreement`."""
    events: tuple[str, ...] = tuple(YEARS)
    """What lasts, for `greater_than`."""
    words: tuple[str, ...] = ()
    """Words to repeat, for `induction`; by default random ones of the vocabulary."""
    templates: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    """Sentence forms by task, with slots in braces; tasks that are not named keep their defaults."""

    def __post_init__(self) -> None:
        for pool in POOLS:
            given = getattr(self, pool)
            if isinstance(given, str):
                raise BadInput(f"`{pool}` must be a tuple of words; not the text {given!r}. Split it.")
            object.__setattr__(self, pool, tuple(dict.fromkeys(given)))
        for task, forms in self.templates.items():
            one_of("templates", task, TEMPLATES)
            if isinstance(forms, str) or not forms:
                raise BadInput(f"the templates of {task!r} must be a tuple of at least one text; not {forms!r}.")
            for form in forms:
                if slots(form) != slots(TEMPLATES[task][0]) and not _optional(task, form):
                    need = listing(slots(TEMPLATES[task][0]))
                    raise BadInput(
                        f"the template {form!r} of {task!r} has slots {listing(slots(form))}; it needs {need}."
                    )

    def forms(self, task: str) -> tuple[str, ...]:
        """Sentence forms of a task."""
        return tuple(self.templates.get(task, TEMPLATES[task]))

    def usable(self, pool: str, tokenizer: Tokenizer, *, need: int) -> tuple[str, ...]:
        """Words of a pool that are one token after a space (of pairs, such as a noun's singular and plural: both words).

        Raises `BadInput` where fewer than `need` are left.
        """
        one_of("pool", pool, POOLS)
        words: tuple[str, ...] = getattr(self, pool)
        kept = tuple(
            word for word in words
            if all(one_token(part, tokenizer) for part in (word.split() if pool in PAIRED else [word]))
        )  # fmt: skip
        if len(kept) < need:
            raise BadInput(
                f"{len(kept)} of the {len(words)} {pool} are one token each in {tokenizer.name}"
                f"{f' ({_some(kept)})' if kept else ''}; {need} are needed. Give others: Lexicon({pool}=(...))."
            )
        return kept


POOLS = tuple(f.name for f in fields(Lexicon) if f.name != "templates")
PAIRED = ("nouns", "verbs")
"""Pools whose entries are two words."""


def one_token(word: str, tokenizer: Tokenizer) -> bool:
    """Whether ` word` is exactly one token after another word."""
    before, both = tokenizer.encode("the", bos=False).ids, tokenizer.encode(f"the {word}", bos=False).ids
    return len(both) == len(before) + 1 and both[:-1] == before


def slots(form: str) -> tuple[str, ...]:
    """Names of a form's slots, sorted."""
    return tuple(sorted({name for _, name, _, _ in Formatter().parse(form) if name}))


def fill(form: str, words: Mapping[str, Any], spans: Iterable[str] = ()) -> tuple[str, dict[str, Chars]]:
    """The form with its slots filled, and the characters of those slots that are named in `spans` (the first where one occurs twice)."""
    text, found, wanted = "", dict[str, Chars](), set(spans)
    for literal, name, _, _ in Formatter().parse(form):
        text += literal
        if name:
            word = str(words[name])
            if name in wanted:
                found.setdefault(name, (len(text), len(text) + len(word)))
            text += word
    return text, found


def _optional(task: str, form: str) -> bool:
    """`place` and `object` of an `ioi` form may be left out."""
    have, full = set(slots(form)), set(slots(TEMPLATES[task][0]))
    return have < full and full - have <= {"place", "object"}


def _some(words: tuple[str, ...]) -> str:
    return listing(words) if len(words) <= 6 else ", ".join(map(repr, words[:6])) + ", ..."
