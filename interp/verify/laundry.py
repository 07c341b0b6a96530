"""Cases on a planted laundry list: who knows the answer gains everything from its pointer, and who does not gains nothing."""

from . import mechanisms


def a_laundry_list() -> tuple[bool, str]:
    """Accuracy on held-out prompts, untouched and steered, along the pointer and along other components of its head."""
    from interp.analyses.channels.laundry.laundry import LaundryList
    from interp.models import reference

    made, lm = mechanisms.planted("laundry")
    reader = "{}.{}".format(*made.answers["reader"])
    config = LaundryList(
        lengths=(7,), prompts=14, reader=reader, points=5, reach=2.0, controls=("same_head",), gammas=(), orders=0
    )
    found = config(lm, reference.laundry_words())
    table = found.steering()["mean"].isel(length=0)
    channel, control = table.sel(arm="channel"), table.sel(arm="same_head")
    untouched, knowing = float(channel.sel(rule="unsteered")), float(channel.sel(rule="oracle region"))
    model = float(channel.sel(rule=["own attention", "own answer", "self-consistent", "single point"]).max())
    same = float(control.sel(rule="oracle region"))
    named = {str(name) for name in found.data["axis"].values} == set(made.answers["components"])
    ok = named and knowing == 1.0 and untouched < 0.5 and model <= untouched + 0.15 and same == untouched
    names = " ".join(str(name) for name in found.data["axis"].values)
    return (
        ok,
        f"{names}: {knowing:.2f} with the answer known, {model:.2f} at most without, {untouched:.2f} untouched, {same:.2f} beside",
    )
