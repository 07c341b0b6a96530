import pytest

from interp.core.errors import SpanError
from interp.core.lm import Encoding
from interp.data import ROLES, Prompt, roles, tokenize


class Words:
    """One token a word."""

    name, bos_id, default_bos, vocab, digest = "words", 0, False, 1000, ""

    def encode(self, text, *, bos=None):
        import re

        found = [m.span() for m in re.finditer(r" ?\S+", text)]
        ids = tuple(1 + sum(map(ord, text[a:b])) % 900 for a, b in found)
        return Encoding((0, *ids) if bos else ids, ((0, 0), *found) if bos else tuple(found), bool(bos))

    def decode(self, ids):
        return " ".join(f"w{i}" for i in ids)

    def label(self, token_id):
        return f"w{token_id}"


def of(text, subject, bos=True):
    return roles(tokenize(Prompt.of(text, subject=subject), Words(), bos=bos))


def test_every_role_in_reading_order():
    got = of("in the old Vinson Massif Range there is a big", "old Vinson Massif Range")
    first, middle = "first subject", ["middle subject"] * 2
    assert list(got) == [
        "bos",
        "before",
        "before",
        first,
        *middle,
        "last subject",
        "first after",
        "further",
        "further",
        "last",
    ]
    assert tuple(dict.fromkeys(got)) == ROLES


def test_a_one_token_subject_is_counted_once():  # K7e
    assert of("in Paris they speak", "Paris", bos=False) == ("before", "last subject", "first after", "last")


def test_a_two_token_subject_has_no_middle():
    assert of("New York is in", "New York") == ("bos", "first subject", "last subject", "first after", "last")


def test_last_wins_over_first_after():
    assert of("they like Paris very", "Paris", bos=False) == ("before", "before", "last subject", "last")


def test_a_subject_that_ends_the_prompt():  # raises an index error in the original protocol
    assert of("they like New York", "New York", bos=False) == ("before", "before", "first subject", "last subject")


def test_without_a_subject_there_are_no_roles():
    with pytest.raises(SpanError, match="has no span 'subject'"):
        roles(tokenize(Prompt("they like it"), Words()))


def test_bos_never_counts_as_before(tokenizer):
    prompt = Prompt.of("One day Lily was in the", subject="Lily")
    with_bos = roles(tokenize(prompt, tokenizer, bos=True))
    assert with_bos == ("bos", *roles(tokenize(prompt, tokenizer, bos=False)))
