"""The options of a config dataclass, read off its fields: name, type, default, and the string literal under each.

An option is written once. The command line, the manifest and the report take it from here, so none can lag behind.
"""

import ast
import inspect
import textwrap
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from itertools import pairwise
from typing import Any, get_type_hints


@dataclass(frozen=True)
class Option:
    """One field of a config dataclass."""

    name: str
    type: Any
    """The resolved annotation."""
    default: Any
    """`inspect.Parameter.empty` where the caller must give it."""
    help: str
    """The string literal under the field, on one line."""

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is inspect.Parameter.empty


def options_of(config: type) -> list[Option]:
    """The fields of a config dataclass, in order, inherited ones first. Raises `TypeError` for any other class."""
    if not is_dataclass(config):
        raise TypeError(f"{config.__name__} is not a dataclass, so it has no options.")
    kinds, docs = get_type_hints(config), field_docs(config)
    return [Option(f.name, kinds[f.name], _default(f), docs.get(f.name, "")) for f in fields(config) if f.init]


@cache
def field_docs(config: type) -> dict[str, str]:
    """The string literal under each field; a field without one, or a class without source, is left out."""
    found: dict[str, str] = {}
    for base in reversed(config.__mro__):
        if not is_dataclass(base):
            continue
        try:
            source = textwrap.dedent(inspect.getsource(base))
        except (OSError, TypeError):  # defined at a prompt
            continue
        body = ast.parse(source).body[0].body  # type: ignore[attr-defined]
        for line, below in pairwise(body):
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and _is_text(below):
                found[line.target.id] = " ".join(below.value.value.split())
    return found


def _is_text(node: Any) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _default(entry: Any) -> Any:
    if entry.default is not MISSING:
        return entry.default
    return entry.default_factory() if entry.default_factory is not MISSING else inspect.Parameter.empty
