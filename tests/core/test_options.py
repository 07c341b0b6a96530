import inspect
from dataclasses import dataclass, field

import pytest

from interp.core.analysis import Analysis
from interp.core.options import field_docs, options_of

from .toy import Length


@dataclass(frozen=True)
class Config:
    given: int
    """Must be given."""
    ratio: float = 0.5
    """A share,
    of one."""
    names: list[str] = field(default_factory=lambda: ["a"])
    bare: bool = False
    hidden: int = field(default=0, init=False)
    """Not an option."""


@dataclass(frozen=True)
class More(Config):
    ratio: float = 0.7
    """Told anew."""
    extra: int | None = None
    """One more."""


def test_options_are_the_fields_with_their_text() -> None:
    given, ratio, names, bare = options_of(Config)
    assert (given.name, given.type, given.help, given.required) == ("given", int, "Must be given.", True)
    assert given.default is inspect.Parameter.empty
    assert (ratio.default, ratio.help, ratio.required) == (0.5, "A share, of one.", False)
    assert (names.default, names.type, names.help) == (["a"], list[str], "") and bare.help == ""


def test_subclasses_inherit_and_override() -> None:
    found = {option.name: option for option in options_of(More)}
    assert list(found) == ["given", "ratio", "names", "bare", "extra"]
    assert (found["ratio"].default, found["ratio"].help, found["given"].help) == (0.7, "Told anew.", "Must be given.")
    assert found["extra"].type == int | None


def test_an_analysis_has_its_fields_as_options() -> None:
    assert [option.name for option in Length.options()] == ["factor", "layers", "noise_seed", "undocumented"]
    assert Length.options()[0].help == "Multiplies each length." and Analysis.options() == []


def test_a_class_without_source_still_has_options() -> None:
    space: dict = {"__name__": "nowhere"}
    exec("from dataclasses import dataclass\n@dataclass\nclass Typed:\n    a: int = 1\n    'text'\n", space)
    assert field_docs(space["Typed"]) == {} and options_of(space["Typed"])[0].default == 1


def test_anything_but_a_dataclass_is_refused() -> None:
    with pytest.raises(TypeError, match="not a dataclass"):
        options_of(int)
