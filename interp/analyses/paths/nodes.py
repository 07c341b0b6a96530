"""Receivers as they are written: the logits, a head's queries, keys or values, an MLP's input; each at a position.

    logits    q:9.9    q:9.9,9.6    k:3.1@S1+1    v:3.1@S2    mlp:5@last    k:9.kv1

A head without a letter takes the letter and position of the one before it. Grouped-query models have fewer key/value heads than query
heads, and several heads read the same keys: there `k` and `v` receivers are named by the key/value head, `k:9.kv1`, and a query head's
number is refused rather than quietly taken for its group's.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from interp.core.errors import BadInput, listing
from interp.core.site import Site
from interp.core.spec import ModelSpec

from .places import read

KINDS = ("logits", "q", "k", "v", "mlp")
_HEAD = re.compile(r"(\d+)\.(kv)?(\d+)")
_FORM = "Write logits, q:9.9, k:9.9, v:9.9 or mlp:9, with @position where it is not the common one"


@dataclass(frozen=True)
class Receiver:
    """One input of one part, at one position."""

    kind: str
    """One of `KINDS`."""
    layer: int = -1
    """-1 for the logits."""
    head: int = -1
    """Query head of `q`, key/value head of `k` and `v`; -1 for others."""
    at: str = "last"
    kv: bool = False
    """Whether the head was named as a key/value head."""

    @property
    def name(self) -> str:
        """As it is written, without its position."""
        if self.kind == "logits":
            return "logits"
        return f"mlp:{self.layer}" if self.kind == "mlp" else f"{self.kind}:{self.layer}.{'kv' * self.kv}{self.head}"

    @property
    def label(self) -> str:
        """As it is written, with its position unless that is fixed."""
        return self.name if self.kind == "logits" else f"{self.name}@{self.at}"

    def sites(self, spec: ModelSpec) -> list[Site]:
        """The sites that hold this input: a projection, or what the MLP's first matrices make of it."""
        if self.kind == "logits":
            return []
        if self.kind == "mlp":
            return [Site("mlp_pre", self.layer)] + ([Site("mlp_pre_linear", self.layer)] if spec.gated else [])
        return [Site(self.kind, self.layer)]

    def above(self, kind: str, layer: int, spec: ModelSpec) -> bool:
        """Whether a sender, the heads or the MLP of `layer`, comes before this input in the forward pass."""
        if self.kind == "logits" or layer < self.layer:
            return True
        return layer == self.layer and kind == "heads" and self.kind == "mlp" and not spec.parallel


def parse(texts: Sequence[str], at: str) -> tuple[Receiver, ...]:
    """Receivers from their texts; `at` is the position of those that name none. Raises `BadInput`."""
    if not texts:
        raise BadInput(f"there is no receiver. {_FORM}.")
    found: list[Receiver] = []
    kind = place = ""
    for text in texts:
        body, _, own = text.strip().partition("@")
        letter, colon, node = body.partition(":")
        if colon:
            kind, place = letter, own
        elif _HEAD.fullmatch(body) and kind in ("q", "k", "v"):
            node, place = body, own or place
        else:
            kind, node, place = body, "", own
        if kind not in KINDS:
            raise BadInput(f"the receiver {text!r} is not one. {_FORM}.")
        if place:
            read(place)
        found.append(_one(text, kind, node, place, at))
    if len(set(found)) < len(found):
        raise BadInput(f"a receiver is named twice in {', '.join(texts)}. Name each once.")
    return tuple(found)


def resolve(receivers: Sequence[Receiver], spec: ModelSpec) -> None:
    """Refuse receivers that this model does not have."""
    for one in receivers:
        if one.kind == "logits":
            continue
        if one.layer >= spec.n_layers:
            raise BadInput(f"the receiver {one.name!r}: {spec.name} has layers 0 to {spec.n_layers - 1}.")
        if one.kind == "mlp":
            if spec.experts:
                raise BadInput(
                    f"the receiver {one.name!r}: an MLP of {spec.experts} experts has no single input matrix whose result could be "
                    "held. Use heads or the logits as receivers."
                )
            continue
        grouped = spec.n_kv_heads < spec.n_heads and one.kind != "q"
        count = spec.n_kv_heads if grouped else spec.n_heads
        if grouped and not one.kv:
            share = spec.n_heads // spec.n_kv_heads
            mine = one.head // share
            told = ""
            if one.head < spec.n_heads:
                told = f" Query head {one.head} reads key/value head {mine}, with heads {listing(range(mine * share, (mine + 1) * share))}."
            raise BadInput(
                f"the receiver {one.name!r}: {spec.name} has {spec.n_kv_heads} key/value heads for {spec.n_heads} heads.{told} "
                f"Name the key/value head: {one.kind}:{one.layer}.kv{min(mine, spec.n_kv_heads - 1)}."
            )
        if one.kv and (one.kind == "q" or not grouped):
            raise BadInput(f"the receiver {one.name!r}: write {one.kind}:{one.layer}.{one.head}, a head of its own.")
        if one.head >= count:
            raise BadInput(
                f"the receiver {one.name!r}: {spec.name} has {'key/value ' * grouped}heads 0 to {count - 1}."
            )


def reading(kind: str, heads: Sequence[tuple[int, int]], at: str, spec: ModelSpec) -> tuple[Receiver, ...]:
    """The `q`, `k` or `v` of heads as receivers, query heads mapped to the key/value heads that they read."""
    share = spec.n_heads // spec.n_kv_heads if kind != "q" else 1
    found = [Receiver(kind, layer, head // share, at, share > 1) for layer, head in heads]
    return tuple(dict.fromkeys(found))


def heads_of(texts: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Heads written as 9.9. Raises `BadInput`."""
    found = []
    for text in texts:
        match = _HEAD.fullmatch(text.strip())
        if not match or match[2]:
            raise BadInput(f"a head is written layer.head, such as 9.6; not {text!r}.")
        found.append((int(match[1]), int(match[3])))
    return tuple(found)


def _one(text: str, kind: str, node: str, own: str, common: str) -> Receiver:
    at = own or common
    if kind == "logits":
        if node or own not in ("", "last"):
            raise BadInput(f"the receiver {text!r}: logits are read at the last token. Write logits alone.")
        return Receiver("logits")
    if kind == "mlp":
        if not node.isdigit():
            raise BadInput(f"the receiver {text!r} names no layer. {_FORM}.")
        return Receiver("mlp", int(node), at=at)
    match = _HEAD.fullmatch(node)
    if not match:
        raise BadInput(f"the receiver {text!r} names no head. {_FORM}.")
    return replace(Receiver(kind, int(match[1]), int(match[3]), at), kv=bool(match[2]))
