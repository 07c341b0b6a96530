"""Cases of weight edits: the closed forms hold, a fact is edited, the model comes back, and nothing is edited where nobody reads."""

import torch

from interp.core.seed import generator
from interp.models import reference


def closed_forms() -> tuple[bool, str]:
    """A rank-one edit gives its key its value and disturbs ordinary keys least; a ridge edit has no gradient."""
    from interp.analyses.editing.algebra import gradient, rank_one, spread

    rng = generator(0, "verify editing")
    keys, key, missing, away = (
        torch.randn(*shape, generator=rng, dtype=torch.float64) for shape in ((60, 16), (16,), (6,), (16, 6))
    )
    moment = keys.T @ keys / len(keys)
    change = rank_one(key, missing, torch.linalg.solve(moment, key))
    off = float((key @ change - missing).abs().max())
    root = torch.linalg.cholesky(moment)
    other = change + 0.1 * (away - torch.outer(key, key @ away) / (key @ key))  # it, too, gives the key its value
    least = (
        bool((root.T @ change).norm() < (root.T @ other).norm()) and float((key @ other - missing).abs().max()) < 1e-10
    )
    weights = {"mom2_weight": 2.0, "norm_weight": 3.0}
    ridge = spread(keys[:4], away[:4], moment, **weights)
    slope = float(gradient(ridge, keys[:4], away[:4], moment, **weights).abs().max())
    return (
        off < 1e-10 and least and slope < 1e-10,
        f"value off by {off:.0e}, least disturbance {least}, gradient {slope:.0e}",
    )


def an_edited_fact() -> tuple[bool, str]:
    """ROME makes atlas say something else of a province in layer 0, elsewhere it says what it said, and it comes back whole."""
    from interp.analyses import editing

    lm = reference.load("atlas")
    before = lm.fingerprint()
    request = editing.requests_for(lm, reference.facts("atlas", 4), "error_injection", n_neighbours=4)[0]
    moments = editing.second_moments(lm, reference.text("atlas", 20), [0, 3], damping=1e-3)
    judge = editing.probe(lm, request, essence=None)
    clean = editing.measure(lm, judge)
    found = {}
    for layer in (0, 3):
        change = editing.ROME(prefixes=(), essence="In {},").edit(lm, [request], layers=layer, moments=moments)
        with change.apply(lm):
            found[layer] = editing.edit_scores(clean, editing.measure(lm, judge))
    same = lm.fingerprint() == before
    ok = found[0].rewrite > 0.8 and found[0].kept > 0.8 and found[3].rewrite < 1e-6 and same
    said = f"rewrite {found[0].rewrite:.2f} in layer 0, {found[3].rewrite:.0e} in the last; neighbours keep {found[0].kept:.2f}"
    return ok, f"{said}; {'the same' if same else 'another'} fingerprint"


def a_value_norm_behind_the_weights() -> tuple[bool, str]:
    """A model whose W_out is followed by a norm is refused by its family's name."""
    import dataclasses
    from types import SimpleNamespace
    from typing import Any

    from interp.analyses.editing import check_editable
    from interp.core.errors import UnsupportedArchitecture

    lm = reference.load("atlas")
    said = []
    for fields in ({"family": "gemma2", "post_norm": True}, {"family": "qwen3_moe", "experts": 8}):
        odd: Any = SimpleNamespace(spec=dataclasses.replace(lm.spec, **fields), sites=lm.sites)  # type: ignore[arg-type]
        try:
            check_editable(odd)
        except UnsupportedArchitecture as error:
            said.append(str(fields["family"]) in str(error))
    return said == [True, True], f"{sum(said)} of 2 refused"
