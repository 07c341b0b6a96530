"""A case on damage: planted vectors hold what they promote, one at a time, and nothing else."""

from interp.models import reference

from . import mechanisms


def planted_damage() -> tuple[bool, str]:
    """Each planted vector removed: prompts with its triggers, prompts without, matched vectors, the model after it; and random weights."""
    from interp.analyses.concepts.validation import ConceptValidation
    from interp.data import concepts

    planted = reference.concepts().answers["concepts"]
    rows = [
        {
            "Concept": one.name, "Layer": one.layer, "Dim": one.neuron, "words": list(one.words),
            "QA": [f"we saw the {word}" for word in one.triggers], "answers": [f" {one.words[0]}"] * len(one.triggers),
            "unrelated_QA": [f"we saw the {word}" for other in planted if other is not one for word in other.triggers],
        }
        for one in planted
    ]  # fmt: skip
    asked, lm = concepts(rows[:3], template="{q}"), mechanisms.planted("concepts")[1]
    method, before = ConceptValidation(how="zero", tokens=0, draws=9, band=0), lm.fingerprint()
    found = method(lm, asked)
    table, same = found.table(), lm.fingerprint() == before
    least, most = float(table["related"].min()), float(table["unrelated"].abs().max())
    off = float(found.data["weight_difference"].max())
    null = method(mechanisms.planted("concepts", null=True)[1], asked).table()
    chance = int((null["gap"].abs() > 0.05).sum())
    ok = least > 0.1 and most == 0 and bool((table["p"] == 1 / 10).all()) and same and off < 1e-4 and chance == 0
    elsewhere = "exactly 0" if most == 0 else f"{most:.0e}"
    said = f"P(answer) falls by {least:.2f} or more, {elsewhere} elsewhere; {'the same' if same else 'another'} fingerprint"
    return ok, f"{said}; {chance} of {len(null)} with random weights"
