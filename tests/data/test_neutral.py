import re

import pytest

from interp.core.errors import BadInput
from interp.data import neutral_digest, neutral_text
from interp.data.neutral import SCENES


def test_the_text_is_fixed():
    assert neutral_text() == neutral_text() and len(set(neutral_text())) == 200
    assert neutral_text(5) == neutral_text()[:5] != neutral_text(5, seed=1)
    assert neutral_digest() == "d5d4482653903d47"  # a changed text must not be compared with old cards


def test_it_is_plain_prose():
    for text in neutral_text():
        assert text.isascii() and 80 < len(text.split()) < 260
        sentences = re.split(r"(?<=[.?!])\s+", text)
        assert all(s[0].isupper() and s[-1] == "." for s in sentences)
    assert sum(len(part) for scene in SCENES.values() for part in scene) >= 60


def test_at_least_one_document():
    with pytest.raises(BadInput, match="`n` must be at least 1"):
        neutral_text(0)
