"""Cases on direct attribution, subspaces, component masks and patching between models."""

import numpy as np

from interp.models import reference


def direct_logits() -> tuple[bool, str]:
    """The planted induction head writes the whole difference, all other components nothing; in random weights it does not."""
    from interp.analyses.direct import DirectLogit
    from interp.data import Prompt

    prompt = Prompt.of("amber brook cedar delta ember amber brook cedar", answer="delta", foil="brook")
    made = reference.induction()
    layer, head = made.answers["induction"]
    found, null = (
        DirectLogit()(reference.as_lm(one), [prompt]).data.isel(prompt=0)
        for one in (made, reference.induction(null=True))
    )
    name = f"{layer}.{head}"
    mine, others = (float(found["contribution"].sel(component=name)), found["contribution"].drop_sel(component=name))
    rest, left = float(np.abs(others).max()), max(float(abs(one["remainder"])) for one in (found, null))
    other = float(null["contribution"].sel(component=name))
    ok = abs(mine - 12) < 0.25 and rest < 0.05 and left < 1e-4 and abs(other) < 6
    return (
        ok,
        f"{mine:.2f} by head {name}, others up to {rest:.3f}, remainder {left:.0e}; {other:.2f} in random weights",
    )


def subspaces() -> tuple[bool, str]:
    """A subspace that moves one of two variables is found; an illusory one is told, an honest one that looks like it is not."""
    from interp.analyses.das import DAS
    from interp.models.reference.planted import subspaces as planted

    moved = DAS(k=planted.VALUES, steps=30, lr=0.1, batch=16, layers=(1,), draws=1)
    table = moved(reference.as_lm(planted.two_variables()), planted.move_a(24)).table().iloc[0]
    lines = DAS(kind="mlp_post", k=1, steps=30, lr=0.2, batch=16, draws=1)
    told, honest = (
        lines(reference.as_lm(made), planted.change_sign()) for made in (planted.illusory(), planted.outshone())
    )
    works = [float(one.table()["trained"].iloc[0]) for one in (told, honest)]
    illusions = [bool(one.illusion()[0]) for one in (told, honest)]
    ok = (
        table["trained"] == 1.0
        and table["full"] == 0.0 == table["none"]
        and works == [1.0, 1.0]
        and illusions == [True, False]
    )
    text = f"{table['trained']:.2f} (whole vector {table['full']:.2f}); illusion {illusions[0]} and {illusions[1]}"
    return bool(ok), f"{text}, where both directions score {works[0]:.2f}, {works[1]:.2f}"


def component_masks() -> tuple[bool, str]:
    """Each of the planted tracker's heads is the one that its variable selects at its position."""
    from interp.analyses.masking import ComponentMask

    made = reference.tracker()
    lm = reference.as_lm(made)
    asked = {
        "A": ("pointer", "first_label"),
        "B": ("pointer", "query_label"),
        "C": ("pointer", "last"),
        "D": ("object", "last"),
    }
    right, accuracy = 0, 1.0
    for head, (variable, position) in asked.items():
        config = ComponentMask(epochs=3, batch=6, lr=0.2, seeds=1, draws=1, position=position, start=0.5)
        found = config(lm, made.answers["desiderata"][variable][:24])
        layer, number = made.answers["heads"][head]
        right += found.selected() == [f"{layer}.{number}"]
        accuracy = min(accuracy, found.headline()["accuracy"])
    return right == 4 and accuracy == 1.0, f"{right} of 4, each alone, accuracy {accuracy:.2f}"


def models_apart() -> tuple[bool, str]:
    """What two trackers differ in carries all of their difference, everything else none."""
    from interp.analyses.crossmodel import CrossModelPatching

    base, tuned = reference.sharpened()
    first, second = (reference.as_lm(made) for made in (base, tuned))
    data = [pair.clean for pair in base.answers["pairs"]][:8]
    named = {head: name for name, head in base.answers["heads"].items()}
    read_at = {"A": "first_label", "B": "query_label", "C": "last", "D": "last"}
    off, count = 0.0, 0
    for position in ("query_label", "last"):
        config = CrossModelPatching(
            kinds=("q", "k", "v", "z"), position=position, on_foreign="warn", min_alignment=-1.0
        )
        table = config(first, second, data).recovered("accuracy").sel(direction="into first")["mean"]
        mine = {
            f"{kind} {layer}.{head}" for kind, layer, head in base.answers["recovered"]
            if read_at[named[layer, head]] == position and kind in config.kinds
        }  # fmt: skip
        wanted = [float(name in mine) for name in table["component"].values.tolist()]
        off, count = max(off, float(np.abs(table.values - wanted).max())), count + int(sum(wanted))
    return off < 1e-9 and count > 0, f"{count} components at 1, all others at 0, {off:.0e} off"
