"""Command-line options from an analysis' own fields.

An option is written once, as a field of the config dataclass with the string under it. Here it becomes `--window 10`, its help and its
default, so that the command line can neither lag behind Python nor disagree with it.
"""

import inspect
from collections.abc import Callable
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer

from interp.core.analysis import Analysis


def options_of(analysis: type[Analysis]) -> list[inspect.Parameter]:
    """One keyword parameter a field, annotated for typer."""
    return [_parameter(option.name, option.type, option.default, option.help) for option in analysis.options()]


def with_options(command: Callable[..., None], *analyses: type[Analysis]) -> Callable[..., None]:
    """`command`, whose `**options` are spelled out as the fields of the analyses."""
    signature = inspect.signature(command)
    own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    taken = {parameter.name for parameter in own}
    derived = [p for analysis in analyses for p in options_of(analysis) if p.name not in taken]

    def run(**arguments: Any) -> None:
        command(**arguments)

    run.__signature__ = signature.replace(parameters=[*own, *derived])  # type: ignore[attr-defined]
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *derived]}
    return run


def build(analysis: type[Analysis], options: dict[str, Any]) -> Analysis:
    """The analysis with the options that the caller gave, converted back to the fields' types."""
    values = {}
    for option in analysis.options():
        if option.name in options:
            value = options[option.name]
            values[option.name] = _split(value, option.type) if _is_sequence(option.type) else value
    return analysis(**values)


def _parameter(name: str, kind: Any, default: Any, help_text: str) -> inspect.Parameter:
    note = ""
    if _is_sequence(kind):
        note = " Separate several by commas."
        default = ",".join(map(str, default)) if default is not None else None
        shown: Any = str
    else:
        shown = _plain(kind)
    if (choices := _choices(kind)) and "|" not in help_text:
        note = f" One of: {', '.join(map(str, choices))}." + note
    annotation = Annotated[shown, typer.Option(f"--{name.replace('_', '-')}", help=help_text + note)]
    if shown is bool:
        flag = name.replace("_", "-")
        annotation = Annotated[bool, typer.Option(f"--{flag}/--no-{flag}", help=help_text + note)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _plain(kind: Any) -> Any:
    """The type typer parses: a literal is a string, `X | None` is optional X."""
    if get_origin(kind) is Literal:
        return type(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        inner = [part for part in get_args(kind) if part is not type(None)]
        return _plain(inner[0]) | None if len(inner) < len(get_args(kind)) else _plain(inner[0])
    return kind if kind in (int, float, str, bool) else str


def _is_sequence(kind: Any) -> bool:
    if get_origin(kind) in (Union, UnionType):
        return any(_is_sequence(part) for part in get_args(kind))
    return get_origin(kind) in (tuple, list) or kind in (tuple, list)


def _element(kind: Any) -> Any:
    if get_origin(kind) in (Union, UnionType):
        return _element(next(part for part in get_args(kind) if _is_sequence(part)))
    inner = [part for part in get_args(kind) if part is not Ellipsis]
    return _plain(inner[0]) if inner else str


def _choices(kind: Any) -> tuple[Any, ...]:
    if get_origin(kind) is Literal:
        return get_args(kind)
    for part in get_args(kind):
        if choices := _choices(part):
            return choices
    return ()


def _split(value: Any, kind: Any) -> Any:
    if value is None or not isinstance(value, str):
        return value
    convert = _element(kind)
    from interp.core.errors import BadInput

    try:
        return tuple(convert(part.strip()) for part in value.split(",") if part.strip())
    except ValueError:
        raise BadInput(
            f"{value!r} is not a comma-separated list of {convert.__name__}. Write for example 1,2,3."
        ) from None
