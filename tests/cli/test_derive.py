"""Options from the fields of a config: every kind of field, its help, its default, and back to its type."""

from dataclasses import dataclass
from typing import Any, Literal

import pytest
import typer
from typer.testing import CliRunner

from interp.analyses.heads import HeadScores
from interp.analyses.tracing import CausalTrace
from interp.cli.derive import build, options_of, with_options
from interp.core.analysis import Analysis
from interp.core.errors import BadInput


@dataclass(frozen=True)
class Everything(Analysis):
    """All kinds of fields."""

    size: int
    """How large, in units."""
    rate: float = 0.5
    """How fast."""
    name: str = "it"
    """What it is called."""
    careful: bool = True
    """Look twice."""
    mode: Literal["near", "far"] = "near"
    """Where to look."""
    layers: tuple[int, ...] = (1, 2)
    """Which layers."""
    kinds: tuple[Literal["a", "b"], ...] = ("a",)
    """Which kinds."""
    limit: int | None = None
    """At most so many."""
    both: bool | None = None
    """Neither, if not said."""
    periods: tuple[int, ...] | None = None
    """Which periods."""
    words: list[str] = None  # type: ignore[assignment]
    """Which words."""

    def __post_init__(self) -> None:
        if self.size < 0:
            raise BadInput("`size` must not be negative.")


def called(*words: str) -> Any:
    seen: dict[str, Any] = {}

    def command(place: str, **options: Any) -> None:
        seen["analysis"] = build(Everything, options)
        seen["place"] = place

    app = typer.Typer(rich_markup_mode=None)
    app.command()(with_options(command, Everything))
    result = CliRunner().invoke(app, list(words))
    return seen.get("analysis") or result


def test_defaults_are_the_fields_own():
    assert called("here", "--size", "3") == Everything(3)


def test_every_kind_of_field_is_converted_back():
    words = "here --size 3 --rate 2 --name x --no-careful --mode far --layers 4,5,6 --kinds a,b --limit 7 --no-both"
    words += " --periods 8, --words u,v"
    found = called(*words.split())
    assert found == Everything(3, 2.0, "x", False, "far", (4, 5, 6), ("a", "b"), 7, False, (8,), ("u", "v"))  # type: ignore[arg-type]
    assert isinstance(found.rate, float) and isinstance(found.layers[0], int)


@pytest.mark.parametrize("words", ["here", "here --size x", "here --size 1 --mode mid", "here --size 1 --bogus"])
def test_what_cannot_be_meant_is_a_usage_error(words):
    assert called(*words.split()).exit_code == 2


def test_a_list_that_is_none_is_refused_by_name():
    with pytest.raises(BadInput, match="--layers 'one,two' is not a comma-separated list of int"):
        build(Everything, {"size": 1, "layers": "one,two"})
    with pytest.raises(BadInput, match="negative"):
        build(Everything, {"size": -1})


def test_help_is_what_stands_under_the_field():
    text = " ".join(called("--help").output.split())
    for part in (
        "How large, in units.",
        "--no-careful",
        "near|far",
        "Which layers. Separate several by commas.",
        "Of: a, b.",
    ):
        assert part in text


def test_a_name_that_is_taken_is_a_bug():
    with pytest.raises(TypeError, match="size"):
        with_options(lambda size, **options: None, Everything)


def test_a_field_that_cannot_be_read_is_a_bug():
    @dataclass(frozen=True)
    class Odd(Analysis):
        where: dict[str, int] | None = None
        """A mapping."""

    with pytest.raises(TypeError, match="where"):
        options_of(Odd)


@pytest.mark.parametrize("analysis", [CausalTrace, HeadScores])
def test_the_methods_can_be_called_with_their_own_defaults(analysis):
    given = {parameter.name: parameter.default for parameter in options_of(analysis)}
    assert build(analysis, given) == analysis()
    assert set(given) == {option.name for option in analysis.options()}


def test_a_list_given_twice_is_joined_and_nothing_is_lost():
    words = "here --size 1 --layers 4,5 --layers 6 --kinds a --kinds b --periods 8 --periods 9"
    found = called(*words.split())
    assert found == Everything(1, layers=(4, 5, 6), kinds=("a", "b"), periods=(8, 9))
    assert called("here", "--size", "1").periods is None
