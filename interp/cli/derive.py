"""Command-line options from an analysis' own fields.

An option is written once, as a field of the config dataclass with the string under it. Here it becomes `--window 10`, its help and its
default, so that the command line can neither lag behind Python nor disagree with it.

    int, float, str    --noise 3.0              bool           --keep-noise-rows / --no-keep-noise-rows
    Literal            one of the words         tuple, list    --kinds hidden,mlp, or --kinds hidden --kinds mlp
    X | None           as X; not giving it is None
"""

import inspect
from collections.abc import Callable, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import typer

from interp.core.analysis import Analysis
from interp.core.options import Option
from interp.core.options import options_of as options_of_config

C = TypeVar("C")


def options_of(analysis: type[Analysis]) -> list[inspect.Parameter]:
    """One keyword parameter a field, annotated for typer."""
    return [parameter(option) for option in analysis.options()]


def with_options(
    command: Callable[..., None], *analyses: type[Analysis], without: Sequence[str] = ()
) -> Callable[..., None]:
    """`command`, whose `**options` are spelled out as the fields of the analyses, and which is not asked for parameters in `without`.

    Raises `TypeError` where a name is taken.
    """
    signature = inspect.signature(command)
    given = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    own = [p for p in given if p.name not in without]
    derived = [p for analysis in analyses for p in options_of(analysis)]
    names = [p.name for p in [*own, *derived]]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise TypeError(f"the options {twice} are there twice.")

    def run(**arguments: Any) -> None:
        command(**arguments)

    run.__signature__ = signature.replace(parameters=[*own, *derived])  # type: ignore[attr-defined]
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__annotations__ = {p.name: p.annotation for p in [*own, *derived]}
    return run


def build(config: type[C], options: dict[str, Any]) -> C:
    """The config with the options that the caller gave, converted back to the fields' types."""
    given = {option.name: option for option in options_of_config(config) if option.name in options}
    return config(**{name: _back(options[name], option) for name, option in given.items()})


def parameter(option: Option) -> inspect.Parameter:
    """A field as a typer option."""
    kind, optional = _unwrap(option.type)
    flag = f"--{option.name.replace('_', '-')}"
    default: Any = ... if option.required else option.default
    text = option.help
    if sequence := _element(kind):
        shown: Any = list[str]
        text += " Separate several by commas."
        if isinstance(default, tuple | list):
            default = [",".join(map(str, default))] if default else []
        if choices := get_args(sequence) if get_origin(sequence) is Literal else ():
            text += f" Of: {', '.join(map(str, choices))}."
    elif get_origin(kind) is Literal or kind in (int, float, str, bool):
        shown = kind
    else:
        raise TypeError(f"the field {option.name!r} has a type that the command line cannot read: {option.type}.")
    names = [f"{flag}/--no-{flag[2:]}"] if shown is bool else [flag]
    metavar = "<a,b,...>" if sequence else None
    option_ = typer.Option(*names, help=text, metavar=metavar)
    annotation = Annotated[shown | None if optional else shown, option_]  # type: ignore[valid-type]
    return inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _unwrap(kind: Any) -> tuple[Any, bool]:
    """(the type without None, whether None was allowed)."""
    if get_origin(kind) not in (Union, UnionType):
        return kind, False
    inner = [part for part in get_args(kind) if part is not NoneType]
    if len(inner) != 1:
        raise TypeError(f"the command line cannot read {kind}: it is of several types.")
    return inner[0], len(inner) < len(get_args(kind))


def _element(kind: Any) -> Any:
    """The type of a sequence's items; None for anything else."""
    if kind in (tuple, list):
        return str
    if get_origin(kind) not in (tuple, list):
        return None
    return get_args(kind)[0]


def _back(value: Any, option: Option) -> Any:
    from interp.core.errors import BadInput

    element = _element(_unwrap(option.type)[0])
    if element is not None and isinstance(value, list):  # the option as often as it was given
        value = ",".join(map(str, value)) if value else option.default
    if element is None or not isinstance(value, str):
        return value
    convert = type(get_args(element)[0]) if get_origin(element) is Literal else element
    try:
        return tuple(convert(part.strip()) for part in value.split(",") if part.strip())
    except ValueError:
        flag = f"--{option.name.replace('_', '-')}"
        raise BadInput(
            f"{flag} {value!r} is not a comma-separated list of {convert.__name__}. Write for example 1,2,3."
        ) from None
