"""A circuit as a thing that can be written down: groups of heads, each at a position, each saying what it is read by.

    movers@last>logits=3.1+3.2, inhibition@last>q:movers=2.0

reads: heads 3.1 and 3.2, at the last token, write what the logits read; head 2.0, at the last token, is read by the queries of the group
`movers`. The part after `>` is optional; it is what the group was found by, not part of what is evaluated. Groups of the same position
may share heads. A plan is the same text without heads.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

from interp.core.errors import BadInput, listing

from ..paths.nodes import heads_of
from ..paths.places import read

Head = tuple[int, int]
Node = tuple[str, int, int]
"""Group, layer, head."""
_GROUP = re.compile(r"([\w-]+)@([^>=]+?)(?:>([^=]+))?(?:=(.*))?")
_FORM = "Write name@position>what:group=layer.head+layer.head, such as movers@last>logits=3.1+3.2, inhibition@last>q:movers=2.0"


@dataclass(frozen=True)
class Group:
    """Heads that do one thing at one position."""

    name: str
    at: str
    """Position: last, a span, a token beside one (S1+1)."""
    heads: tuple[Head, ...] = ()
    """(layer, head), sorted."""
    reads: str = ""
    """How its readers take it in: logits, q, k or v; empty where that is not known."""
    into: str = ""
    """The group that reads it; empty for the logits."""

    def __post_init__(self) -> None:
        read(self.at)
        heads = tuple((layer, head) for layer, head in self.heads)
        for number in (number for head in heads for number in head):
            if isinstance(number, bool) or not isinstance(number, Integral) or number < 0:
                raise BadInput(
                    f"a head of the group {self.name!r} has the number {number!r}. Give layer and head as 0, 1, ..."
                )
        heads = tuple((int(layer), int(head)) for layer, head in heads)
        if len(set(heads)) < len(heads):
            raise BadInput(f"the group {self.name!r} names a head twice: {_written(heads)}.")
        object.__setattr__(self, "heads", tuple(sorted(heads)))

    def __str__(self) -> str:
        reader = f">{self.reads}{':' + self.into if self.into else ''}" if self.reads else ""
        return f"{self.name}@{self.at}{reader}" + (f"={_written(self.heads)}" if self.heads else "")


@dataclass(frozen=True)
class Circuit:
    """Groups of heads. Immutable; `without` and `keep` give another one with the same groups and fewer heads."""

    groups: tuple[Group, ...]

    def __post_init__(self) -> None:
        names = [group.name for group in self.groups]
        if not names:
            raise BadInput(f"a circuit needs at least one group. {_FORM}.")
        if len(set(names)) < len(names):
            raise BadInput(f"two groups of the circuit are called the same: {', '.join(names)}. Name each once.")

    @classmethod
    def of(cls, groups: Mapping[str, Iterable[Head]], at: "Mapping[str, str] | str" = "last") -> "Circuit":
        """From {name: [(layer, head), ...]} and the position of each group (or one for all)."""
        where = {name: at for name in groups} if isinstance(at, str) else dict(at)
        if missing := [name for name in groups if name not in where]:
            raise BadInput(f"`at` names no position for {listing(missing)}. Give one a group.")
        return cls(tuple(Group(name, where[name], tuple(heads)) for name, heads in groups.items()))

    @classmethod
    def parse(cls, text: "str | Sequence[str]") -> "Circuit":
        """From its text, its groups' texts, or its JSON. Raises `BadInput`."""
        if isinstance(text, str) and text.lstrip().startswith("{"):
            return cls.from_json(text)
        parts = text.split(",") if isinstance(text, str) else list(text)
        groups = []
        for part in parts:
            match = _GROUP.fullmatch(part.strip())
            if not match:
                raise BadInput(f"{part.strip()!r} is no group of a circuit. {_FORM}.")
            name, at, reader, heads = match.groups()
            reads, _, into = (reader or "").partition(":")
            if reads not in ("", "logits", "q", "k", "v") or (reads in ("q", "k", "v")) != bool(into):
                raise BadInput(
                    f"the group {part.strip()!r} is read by {reader!r}; that must be logits, or q, k or v of a group. {_FORM}."
                )
            groups.append(Group(name, at, heads_of([one for one in (heads or "").split("+") if one]), reads, into))
        return cls(tuple(groups))

    @classmethod
    def from_json(cls, text: str) -> "Circuit":
        """From `to_json`. Raises `BadInput` for anything else."""
        try:
            rows = json.loads(text)["groups"]
            return cls(
                tuple(
                    Group(r["name"], r["at"], tuple((a, b) for a, b in r["heads"]), r["reads"], r["into"]) for r in rows
                )
            )
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(
                f"this is no circuit's JSON ({error}): {text[:80]!r}. Write one with `Circuit.to_json`."
            ) from None

    def to_json(self) -> str:
        """Its groups as JSON text."""
        rows: list[dict[str, Any]] = [
            {"name": g.name, "at": g.at, "heads": [list(head) for head in g.heads], "reads": g.reads, "into": g.into}
            for g in self.groups
        ]
        return json.dumps({"groups": rows})

    def __str__(self) -> str:
        return ", ".join(str(group) for group in self.groups)

    def __len__(self) -> int:
        return sum(len(group.heads) for group in self.groups)

    def __getitem__(self, name: str) -> Group:
        for group in self.groups:
            if group.name == name:
                return group
        raise BadInput(f"the circuit has no group {name!r}; it has {listing(group.name for group in self.groups)}.")

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Every (group, layer, head), group by group."""
        return tuple((group.name, layer, head) for group in self.groups for layer, head in group.heads)

    @property
    def roles(self) -> tuple[str, ...]:
        """Positions of its groups, each once."""
        return tuple(dict.fromkeys(group.at for group in self.groups))

    @property
    def size(self) -> int:
        """Heads at their positions; one that two groups of a position share counts once, while `len` counts it in each."""
        return sum(len(self.at(role)) for role in self.roles)

    def at(self, role: str) -> frozenset[Head]:
        """Heads that it has at a position, over all groups there."""
        return frozenset(head for group in self.groups if group.at == role for head in group.heads)

    def without(self, nodes: Iterable[Node]) -> "Circuit":
        """The circuit without some of its nodes. A head stays where another group of the same position has it."""
        gone = set(nodes)
        if strange := gone - set(self.nodes):
            raise BadInput(f"{sorted(strange)} are no nodes of the circuit {self}.")
        return self.keep(node for node in self.nodes if node not in gone)

    def keep(self, nodes: Iterable[Node]) -> "Circuit":
        """The circuit with only some of its nodes; groups without any stay, empty."""
        kept = set(nodes)
        if strange := kept - set(self.nodes):
            raise BadInput(f"{sorted(strange)} are no nodes of the circuit {self}.")
        return Circuit(
            tuple(replace(g, heads=tuple(head for head in g.heads if (g.name, *head) in kept)) for g in self.groups)
        )


def written(node: Node) -> str:
    """`movers 3.1`."""
    return f"{node[0]} {node[1]}.{node[2]}"


def _written(heads: Iterable[Head]) -> str:
    return "+".join(f"{layer}.{head}" for layer, head in heads)
