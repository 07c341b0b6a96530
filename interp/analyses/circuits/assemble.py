"""Numbers of discovery and evaluation, put under their names."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from ..paths.result import labels
from ..readout import METRICS
from .bench import MEASURES
from .circuit import Circuit, written
from .measures import Draw, Minimality
from .result import CircuitResult, DiscoveryResult

if TYPE_CHECKING:
    from interp.core.lm import LM

    from ..pairs import PairGroup
    from ..paths import PathResult
    from .discover import CircuitDiscovery
    from .evaluate import CircuitEvaluation


@dataclass(frozen=True)
class Edge:
    """One chosen head's path through one reader."""

    source: str
    """As `movers 3.1`."""
    target: str
    """logits, or the reader with its group, as `movers q:3.1`."""
    listeners: str
    """Heads of the target's group that read there, as `movers:3.1`, separated by blanks; several share a key/value head."""
    effect: np.ndarray
    """[pair]."""


@dataclass(frozen=True)
class Evaluated:
    """The numbers of an evaluation before they are labelled."""

    names: list[str]
    sizes: list[int]
    scores: list[np.ndarray]
    """[variant, prompt, measure], in parts."""
    draws: list[Draw]
    circuit_without: np.ndarray
    model_without: np.ndarray
    minimality: Minimality | None
    drawn: list[Circuit]


def assemble_discovery(
    config: "CircuitDiscovery",
    lm: "LM",
    circuit: Circuit,
    steps: "Sequence[tuple[PathResult | None, np.ndarray]]",
    edges: Sequence[Edge],
    *,
    given: int,
    why: str = "",
) -> DiscoveryResult:
    """Steps side by side; the first one always ran. `given` pairs were brought; `why` says why there was nothing to explain."""
    first = steps[0][0]
    assert first is not None
    shape = (first.data.sizes["pair"], lm.spec.n_layers, lm.spec.n_heads, len(METRICS))
    effect: list[np.ndarray] = []
    notes = [why] if why else []
    for group, (paths, p) in zip(circuit.groups, steps, strict=True):
        if paths is None:
            effect.append(np.full(shape, np.nan))
            notes.append(f"{group.name}: no {group.into} were found to read it")
            continue
        effect.append(np.stack([paths.effects(metric).isel(receiver=0, role=0).values for metric in METRICS], axis=-1))
        if not np.abs(effect[-1]).max() > 0:
            notes.append(
                f"{group.name}: nothing that reaches {group.at} differs between the prompts, so nothing can be found there"
            )
        elif not group.heads and not why:
            notes.append(_nearly(group.name, paths, p, config))
    chosen = np.zeros((len(steps), *shape[1:3]), dtype=bool)
    for number, group in enumerate(circuit.groups):
        for head in group.heads:
            chosen[number][head] = True
    dims = ("step", "layer", "head")
    data: dict[str, Any] = {
        "effect": (("pair", *dims, "metric"), np.stack(effect, axis=1)), "p": (dims, np.stack([p for _, p in steps])),
        "chosen": (dims, chosen), "clean": first.data["clean"].variable,
        "corrupted": first.data["corrupted"].variable, **_edge_data(edges, "pair", shape[0]),
    }  # fmt: skip
    coords = {
        name: first.data[name].variable
        for name in ("pair", "known", "answer", "foil", "predicted", "layer", "head", "metric")
    }
    coords |= _steps(circuit) | _edge_coords(edges)
    attrs = {
        "circuit": circuit.to_json(), "metric": config.metric, "freeze": first.data.attrs["freeze"], "given": given, "notes": notes,
    }  # fmt: skip
    return DiscoveryResult(xr.Dataset(data, coords, attrs))


def _nearly(name: str, paths: "PathResult", p: np.ndarray, config: "CircuitDiscovery") -> str:
    """How close a step came that kept no head."""
    mean = paths.effects(config.metric).isel(receiver=0, role=0).mean("pair").values  # [layer, head]
    best = np.unravel_index(int(mean.argmax()), mean.shape)
    share = float(mean[best]) / abs(paths.total_effect(config.metric, known=False)["effect"])
    return (
        f"{name}: the strongest, {best[0]}.{best[1]}, has {share:.2%} of the whole effect (p = {p[best]:.2g}); "
        f"kept from {config.least:.2%} and p <= {config.alpha:g} on"
    )


def assemble_evaluation(
    config: "CircuitEvaluation",
    lm: "LM",
    circuit: Circuit,
    groups: "Sequence[PairGroup]",
    found: Evaluated,
    *,
    chance: float,
    discovery: DiscoveryResult | None,
) -> CircuitResult:
    """Everything under its name."""
    dims = ("prompt", "measure")
    data: dict[str, Any] = {
        "score": (("variant", *dims), np.concatenate(found.scores)), "heads": ("variant", found.sizes),
        "circuit_without": (("draw", *dims), found.circuit_without), "model_without": (("draw", *dims), found.model_without),
    }  # fmt: skip
    coords: dict[str, Any] = {
        "variant": found.names, "measure": list(MEASURES), "draw": _text(draw.name for draw in found.draws),
        "draw_kind": ("draw", _text(draw.kind for draw in found.draws)),
        "draw_size": ("draw", np.array([len(draw.nodes) for draw in found.draws], dtype=np.int64)),
    }  # fmt: skip
    coords |= {
        "prompt" if name == "pair" else name: value if name == "pair" else ("prompt", value[1])
        for name, value in labels(lm, groups).items()
    }
    if (small := found.minimality) is not None:
        for name in ("worth", "before", "after"):
            data[name] = ("node", np.array(getattr(small, name), dtype=np.float64))
        data["keep"] = ("node", np.array(small.keep, dtype=bool))
        data["hidden"] = ("node", _text(" ".join(written(node) for node in sorted(one)) for one in small.hidden))
        coords |= {
            "node": _text(map(written, circuit.nodes)),
            "group": ("node", _text(node[0] for node in circuit.nodes)),
        }
    attrs: dict[str, Any] = {
        "circuit": circuit.to_json(), "accuracy": config.accuracy, "chance": chance, "elsewhere": config.elsewhere, "means": config.means,
        "overlap": _overlap(circuit, found.drawn), "discovered": discovery is not None,
    }  # fmt: skip
    if discovery is not None:
        data["edge_effect"] = (("edge", "found"), discovery.data["edge_effect"].values)
        coords |= {name: ("edge", discovery.data[name].values) for name in ("source", "target", "listeners")}
        attrs |= {
            "freeze": discovery.data.attrs["freeze"],
            "metric": config.metric,
            "notes": discovery.data.attrs["notes"],
        }
    return CircuitResult(xr.Dataset(data, coords, attrs))


def _steps(circuit: Circuit) -> dict[str, Any]:
    out: dict[str, Any] = {"step": [group.name for group in circuit.groups]}
    for name in ("at", "reads", "into"):
        out["role" if name == "at" else name] = ("step", _text(getattr(group, name) for group in circuit.groups))
    return out


def _edge_data(edges: Sequence[Edge], dim: str, n: int) -> dict[str, Any]:
    values = np.stack([edge.effect for edge in edges]) if edges else np.zeros((0, n))
    return {"edge_effect": (("edge", dim), values)}


def _edge_coords(edges: Sequence[Edge]) -> dict[str, Any]:
    names = ("source", "target", "listeners")
    return {name: ("edge", _text(getattr(edge, name) for edge in edges)) for name in names}


def _text(words: Any) -> np.ndarray:
    listed = list(words)
    return np.array(listed, dtype=f"<U{max([1, *map(len, listed)])}")


def _overlap(circuit: Circuit, drawn: Sequence[Circuit]) -> float:
    shares = [
        len(one.at(role) & circuit.at(role)) / len(circuit.at(role))
        for one in drawn
        for role in circuit.roles
        if circuit.at(role)
    ]
    return float(np.mean(shares)) if shares else float("nan")
