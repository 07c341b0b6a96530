"""Composition beside path patching: whether a head that is able to talk to a reader says what the answer depends on.

`along_paths` patches every head of an earlier layer along its path into one reader's queries, keys and values, and puts the composition
scores of the same pairs beside that; `agreement_table` compares them. Used by `ChannelCircuit(agree=True)`.

    from interp.analyses.channels.component import Head
    from interp.analyses.channels.discovery.walk import Bench, Rule
    data, step = along_paths(lm, Bench(lm), [Head(1, 1)], Rule(), pairs)
    agreement_table(data)
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr

from interp.core.errors import BadInput, one_of
from interp.core.stats import permutation_test, spearman_permutation

from ...pairs import pair_groups
from ...paths import PathPatching
from ...paths.nodes import reading
from ..component import Head
from .walk import Bench, Node, Rule, Step, Target, examine

if TYPE_CHECKING:
    import pandas as pd

    from interp.core.lm import LM

    from ...paths import PathResult

MEASURES = ("best", "total", "loud")


def along_paths(
    lm: "LM", bench: Bench, heads: Sequence[Head], rule: Rule, data: Any, *, at: str = "last", bos: bool | None = None, rows: int = 64
) -> tuple[xr.Dataset, Step]:  # fmt: skip
    """Path effects and composition scores of every pair of a reader among `heads` and a head before it; and the tests of these pairs.

    Variables as in `ChannelCircuitResult`; `at` is where the readers read. Raises `BadInput` for a head that reads nothing.
    """
    targets = [(head, target) for head in heads for target in bench.targets(Node(head))]
    silent = sorted({str(head) for head in heads} - {str(head) for head, _ in targets})
    if silent:
        raise BadInput(
            f"head {', '.join(silent)} reads nothing: its matrices are zero, or its window ends before the distance. "
            "Leave it out, or leave out agree."
        )
    step = examine(bench, [(None, target) for _, target in targets], rule)
    linked = np.zeros((len(targets), lm.spec.n_layers, lm.spec.n_heads), dtype=bool)
    place = {target.name: row for row, (_, target) in enumerate(targets)}
    for edge in (*step.kept, *step.cut):
        linked[place[edge.target.name], edge.source.head.layer, edge.source.head.head] = True
    groups = pair_groups(lm, data, bos=bos, max_rows=rows)
    patched: dict[str, PathResult] = {}
    effects = []
    for head, target in targets:
        kind = bench.kinds[target.kind][0].lower()
        receiver = reading(kind, [(head.layer, head.head)], at, lm.spec)[0].name
        if receiver not in patched:  # a rotary model's query at several distances is one, and so are shared keys
            patched[receiver] = PathPatching(receivers=(receiver,), at=at, bos=bos, rows=rows).on(lm, groups)
        effect = patched[receiver].effects("logit_diff").isel(receiver=0, role=0).transpose("pair", "layer", "head")
        effects.append(np.where(np.arange(lm.spec.n_layers)[:, None] < head.layer, effect.values, np.nan))
    measures = [_measures(bench, target) for _, target in targets]
    lead = ("receiver", "layer", "head")
    columns: dict[str, Any] = {name: (lead, np.stack([one[name] for one in measures])) for name in MEASURES}
    columns |= {"linked": (lead, linked), "path_effect": (("receiver", "pair", "layer", "head"), np.stack(effects))}
    one = next(iter(patched.values())).data
    coords = {"receiver": list(place), "pair": one["pair"].values, "known": ("pair", one["known"].values)}
    return xr.Dataset(columns, coords, {"freeze": one.attrs["freeze"], "at": at}), step


def agreement_table(
    data: xr.Dataset, top: int = 5, *, measure: str = "best", known: bool = True, n: int = 9999, seed: int = 0
) -> "pd.DataFrame":
    """A row for each receiver, and one for all together where there are several; columns as `ChannelCircuitResult.agreement` says."""
    import pandas as pd

    one_of("measure", measure, MEASURES)
    if top < 1:
        raise BadInput(f"`top` must be at least 1; not {top}.")
    keep = data["known"].values if known else np.ones(data.sizes["pair"], dtype=bool)
    if not keep.any():
        raise BadInput("the model gives the answer to none of the pairs. Use known=False.")
    score = data[measure].values  # [receiver, layer, head]
    effect = np.abs(data["path_effect"].values[:, keep].mean(axis=1))
    able = np.isfinite(score) & np.isfinite(effect)
    receiver, layer = np.indices(score.shape)[:2]
    names = data["receiver"].values.tolist()
    groups: list[tuple[str, Any]] = [(name, receiver == row) for row, name in enumerate(names)]
    groups += [("all", receiver >= 0)] if len(names) > 1 else []
    rows = []
    for name, mine in groups:
        here = mine & able
        x, y, linked = score[here], effect[here], data["linked"].values[here]
        label = receiver[here].tolist()
        both = list(zip(receiver[here].tolist(), layer[here].tolist(), strict=True))
        rho, p, count = spearman_permutation(x, y, within=label, n=n, seed=seed, name=f"agreement {name}")
        p_layer = spearman_permutation(x, y, within=both, n=n, seed=seed, name=f"within layers {name}").p
        k = min(top, count)
        overlap = len(set(np.argsort(-x, kind="stable")[:k]) & set(np.argsort(-y, kind="stable")[:k]))
        told, rest = y[linked], y[~linked]
        split = bool(len(told) and len(rest))
        p_linked = permutation_test(told, rest, alternative="greater", n=n, seed=seed) if split else np.nan
        rows.append({
            "receiver": name, "rho": rho, "p": p, "p_layer": p_layer, "heads": count, "top": k, "overlap": overlap,
            "chance": k * k / count if count else np.nan, "p_overlap": at_least(overlap, k, k, count), "linked": len(told),
            "effect_linked": told.mean() if len(told) else np.nan, "effect_rest": rest.mean() if len(rest) else np.nan,
            "p_linked": float(p_linked),
        })  # fmt: skip
    return pd.DataFrame(rows)


def at_least(hits: int, drawn: int, marked: int, total: int) -> float:
    """Chance of at least so many marked ones among those drawn, without replacement."""
    from scipy.stats import hypergeom

    return float(hypergeom.sf(hits - 1, total, marked, drawn)) if total else float("nan")


def _measures(bench: Bench, target: Target) -> dict[str, np.ndarray]:
    """How well every head of an earlier layer could be heard by the target: `MEASURES`, each [layer, head], NaN where nothing can."""
    found = {name: np.full((bench.lm.spec.n_layers, bench.lm.spec.n_heads), np.nan) for name in MEASURES}
    for layer in range(target.layer):
        parts, score = bench.parts(layer), bench.scores(layer, target.side)[0].nan_to_num(0.0)
        loud, some = (parts.values * score).norm(dim=-1), parts.rank > 0
        every = {"best": score.amax(dim=-1), "total": loud / parts.values.norm(dim=-1), "loud": loud}
        for name, values in every.items():
            found[name][layer] = torch.where(some, values, torch.nan).cpu().numpy()
    return found
