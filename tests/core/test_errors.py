import copy

import pytest

from interp.core import errors
from interp.core.errors import ArtifactError, BadInput, InterpError, UnknownSite, hint, listing, one_of


def test_every_refusal_is_an_interp_error_and_a_python_one() -> None:
    named = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(named) > 10 and all(issubclass(kind, InterpError) for kind in named)
    for kind in named:
        error = kind("say this")
        assert str(error) == "say this" and str(copy.copy(error)) == "say this"  # crosses a process pool
    assert issubclass(BadInput, ValueError) and issubclass(UnknownSite, KeyError) and issubclass(ArtifactError, OSError)


def test_a_choice_is_repeated_listed_and_guessed() -> None:
    one_of("op", "add", ["add", "scale"])
    with pytest.raises(BadInput) as caught:
        one_of("op", "scal", ["add", "scale"])
    assert str(caught.value) == "`op` must be one of 'add' or 'scale'; not 'scal'. Did you mean 'scale'?"


def test_listing_and_hint() -> None:
    assert listing([]) == "nothing" and listing(["a"]) == "'a'" and listing(["a", "b", 3]) == "'a', 'b' or 3"
    assert hint("xyz", ["abc"]) == "" and hint("x", []) == ""
