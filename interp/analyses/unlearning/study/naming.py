"""Methods by name, with options: `npo`, or `npo:lr=1e-4:epochs=5`."""

import dataclasses
from typing import Any, get_type_hints

from interp.core.errors import BadInput, hint, listing, one_of

from ..methods import METHODS
from ..revision import Unlearner


def unlearner_of(given: "str | Unlearner") -> Unlearner:
    """The unlearner that a name means, with options of it after a colon. Raises `BadInput` for what there is not."""
    if isinstance(given, Unlearner):
        return given
    name, *options = str(given).split(":")
    one_of("methods", name, METHODS)
    kind = METHODS[name]
    return kind(**dict(_option(name, kind, part) for part in options))


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
