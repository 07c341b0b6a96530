"""Cases on planted gaussian data: a direction that is there, none, one that no linear probe can see, and the erasing of one."""

import numpy as np

from interp.core.seed import numpy_generator

from .case import Case

ROWS, WIDTH = 800, 16


def _planted(gap: float, rows: int = ROWS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, labels and the unit direction along which the two classes lie `gap` standard deviations apart."""
    rng = numpy_generator(0, "planted direction", gap)
    unit = rng.standard_normal(WIDTH)
    unit /= np.linalg.norm(unit)
    yes = np.arange(rows) % 2 == 0
    return rng.standard_normal((rows, WIDTH)) + gap * yes[:, None] * unit, yes, unit


def _auc(x: np.ndarray, yes: np.ndarray, methods: tuple[str, ...], *, standardise: bool = True) -> dict[str, float]:
    from interp.analyses.directions.crossval import Plan, held_out

    plan = Plan.of(yes, list(range(len(yes))), 5, 3, 0)
    found = {
        method: held_out(x, yes[None], method, plan, strengths=(0.01, 1.0), standardise=standardise)
        for method in methods
    }
    return {method: float(held.auc[0]) for method, held in found.items()}


def planted_direction() -> tuple[bool, str]:
    """Cosines with the planted direction, and held-out AUC beside that of the direction itself."""
    from scipy.stats import norm

    from interp.analyses.directions import fit_direction

    x, yes, unit = _planted(3.0)
    methods = ("mean", "lda", "ridge", "logistic")
    cosines = [float(fit_direction(x, yes.tolist(), method).unit.numpy() @ unit) for method in methods]  # type: ignore[arg-type]
    auc, best = _auc(x, yes, methods), float(norm.cdf(3.0 / np.sqrt(2)))
    off = max(abs(value - best) for value in auc.values())
    return min(cosines) > 0.99 and off < 0.02, f"cosine at least {min(cosines):.4f}, AUC within {off:.4f} of {best:.4f}"


def no_direction() -> tuple[bool, str]:
    """Held-out AUC where labels mean nothing, with more features than rows too."""
    x, yes, _ = _planted(0.0)
    auc = _auc(x, yes, ("mean", "lda", "ridge", "logistic", "pca"))
    wide = numpy_generator(0, "no direction").standard_normal((800, 1000))
    auc["wide"] = _auc(wide, np.arange(800) % 2 == 0, ("mean",))["mean"]
    low, high = min(auc.values()), max(auc.values())
    return low > 0.45 and high < 0.55, f"AUC {low:.3f} to {high:.3f}"


def erased_direction() -> tuple[bool, str]:
    """Class means and a probe's slope on the fit rows after LEACE; a fresh probe's AUC on rows it has not seen."""
    from interp.analyses.directions import fit_eraser

    x, yes, _ = _planted(3.0, 4 * ROWS)
    fit, new = slice(0, 3 * ROWS), slice(3 * ROWS, 4 * ROWS)
    eraser = fit_eraser(x[fit], yes[fit].tolist(), "leace")
    rows = eraser(x[fit])
    gap = float(np.abs(rows[yes[fit]].mean(axis=0) - rows[~yes[fit]].mean(axis=0)).max())
    slope = float(np.abs((yes[fit] - yes[fit].mean()) @ rows).max()) / len(rows)
    before, after = (_auc(some[new], yes[new], ("ridge",))["ridge"] for some in (x, eraser(x)))
    ok = gap < 1e-6 and slope < 1e-6 and before > 0.95 and abs(after - 0.5) < 0.06
    return ok, f"means {gap:.0e} apart, slope {slope:.0e}; AUC {before:.3f} before, {after:.3f} after"


def hidden_from_lines() -> tuple[bool, str]:
    """An exclusive or of two features: AUC of a linear probe, and of a kernel's, before and after LEACE."""
    from interp.analyses.directions import fit_eraser
    from interp.analyses.directions.words import kernel_features

    rng = numpy_generator(0, "exclusive or")
    corners = rng.choice((-1.0, 1.0), size=(400, 2))
    x = np.concatenate([2 * corners, np.zeros((400, 2))], axis=1) + 0.5 * rng.standard_normal((400, 4))
    yes = corners.prod(axis=1) > 0
    linear = _auc(x, yes, ("ridge",))["ridge"]
    erased = fit_eraser(x, yes.tolist(), "leace")(x)
    curved = [_auc(kernel_features(rows), yes, ("ridge",), standardise=False)["ridge"] for rows in (x, erased)]
    ok = abs(linear - 0.5) < 0.1 and min(curved) > 0.95
    return ok, f"linear {linear:.3f}; kernel {curved[0]:.3f}, after LEACE {curved[1]:.3f}"


CASES = (
    Case(
        "concept direction",
        "Is a planted direction found, and read as well as it can be?",
        "cosine above 0.99, held-out AUC within 0.02 of the best there is",
        planted_direction,
    ),
    Case(
        "concept direction, null",
        "Is anything read where labels mean nothing, also with more features than rows?",
        "held-out AUC between 0.45 and 0.55",
        no_direction,
    ),
    Case(
        "concept erasure",
        "Does LEACE leave a linear probe nothing?",
        "equal class means and no slope on its own rows (1e-6), AUC within 0.06 of 0.5 on new ones",
        erased_direction,
    ),
    Case(
        "concept erasure, exclusive or",
        "Is what only a non-linear probe can see left to it, and to it alone?",
        "linear AUC within 0.1 of 0.5, kernel above 0.95 before and after",
        hidden_from_lines,
    ),
)
