"""Methods by name, with options: `npo`, or `npo:lr=1e-4:epochs=5`; several values of one option stand between plus signs."""

import dataclasses
from collections.abc import Sequence
from typing import Any, get_args, get_origin, get_type_hints

from interp.core.errors import BadInput, hint, listing, one_of

from ..methods import METHODS
from ..revision import Unlearner


def unlearner_of(given: "str | Unlearner") -> Unlearner:
    """The unlearner that a name means, with options of it after a colon. Raises `BadInput` for what there is not."""
    if isinstance(given, Unlearner):
        return given
    name, *options = str(given).split(":")
    one_of("methods", name, METHODS)
    return with_named_options(name, METHODS[name], options)


def with_named_options(name: str, kind: type[Unlearner], options: Sequence[str], **fixed: Any) -> Unlearner:
    """An unlearner of this kind with options such as `lr=1e-4`, and `fixed` ones. Raises `BadInput` for unknown ones and repeats."""
    found = dict(fixed)
    for part in options:
        key, value = _option(name, kind, part)
        if key in found:
            raise BadInput(
                f"{':'.join((name, *options))!r} sets {key!r} twice, and one of the two would be lost. Give it once."
            )
        found[key] = value
    return kind(**found)


def label_of(given: "str | Unlearner") -> str:
    """What tables call it: the name as it was given."""
    return given.name if isinstance(given, Unlearner) else str(given)


def _option(name: str, kind: type[Unlearner], part: str) -> tuple[str, Any]:
    key, equals, value = (piece.strip() for piece in part.partition("="))
    known = [entry.name for entry in dataclasses.fields(kind)]
    if key not in known or not equals:
        raise BadInput(
            f"{part!r} is no option of {name!r}: write NAME:OPTION=VALUE, with one of {listing(known)}.{hint(key, known)}"
        )
    return key, _value(name, key, value, get_type_hints(kind)[key])


def _value(name: str, key: str, value: str, wanted: Any) -> Any:
    """The text as the first of int, float, bool, None and str that the option takes."""
    if (several := _several(wanted)) is not None and ("+" in value or get_origin(wanted) is tuple):
        return tuple(_value(name, key, part.strip(), several) for part in value.split("+"))
    kinds = set(getattr(wanted, "__args__", ())) | {wanted}
    if value.lower() in ("none", "null") and type(None) in kinds:
        return None
    if bool in kinds and value.lower() in ("true", "false", "yes", "no"):
        return value.lower() in ("true", "yes")
    for kind in (int, float):
        if kind in kinds:
            try:
                return kind(value)
            except ValueError:
                continue
    if str in kinds or not kinds & {int, float, bool}:
        return value
    raise BadInput(f"{name}:{key}={value!r} is not {getattr(wanted, '__name__', wanted)}.")


def _several(wanted: Any) -> Any:
    """The type of the items where the option may be a tuple; None where not."""
    for one in (wanted, *get_args(wanted)):
        if get_origin(one) is tuple:
            return get_args(one)[0]
    return None
