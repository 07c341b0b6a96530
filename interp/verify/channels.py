"""Cases on planted channels: they head the list, act as the formula says, reach what they can reach, and are not seen in random weights."""

import torch

from interp.core.errors import BadInput

from . import mechanisms

DISTANCE = 7
"""A distance at which the planted query channel of the rotary model does not hold."""


def listed_channels() -> tuple[bool, str]:
    """The strongest channels by name and score, in the list that the method gives."""
    from interp.analyses.channels import Channels

    made, lm = mechanisms.planted("channels")
    want = {_name(one) for one in made.answers["channels"]}
    found = Channels()(lm)
    table = found.channels(len(want) + 1)
    names = {(row.writer, row.reader, row.kind) for row in table.head(len(want)).itertuples()}
    scores, nextbest = table["score"].head(len(want)), float(table["score"].iloc[-1])
    real = {(row.writer, row.reader, row.kind) for row in found.significant().itertuples()}
    ok = names == want and float((scores - made.answers["score"]).abs().max()) < 1e-5 and want <= real
    ok &= nextbest < 0.75 * made.answers["score"]
    return ok, f"{', '.join(f'{x:.4f}' for x in scores)}; next {nextbest:.2f}"


def no_listed_channels() -> tuple[bool, str]:
    """The same list of random weights."""
    from interp.analyses.channels import Channels

    made, _ = mechanisms.planted("channels")
    found = Channels()(mechanisms.planted("channels", null=True)[1])
    best, real = float(found.channels(1)["score"].iloc[0]), len(found.significant())
    return best < 0.75 * made.answers["score"] and not real, f"highest score {best:.2f}, {real} significant"


def a_closed_channel() -> tuple[bool, str]:
    """The reader's score falls by the closed form when the component is removed, by next to nothing with another, and comes back."""
    from interp.analyses.channels import decompose, edit_components

    made, lm = mechanisms.planted("channels")
    channel, goal, s = made.answers["channels"][0], made.answers["goal"], made.answers["singular_values"]
    (_, writer), (_, reader), index = channel.writer, channel.reader, channel.component
    before, bits = _score(lm, made.answers["prompt"], reader, goal), lm.fingerprint()
    u = decompose(lm, 0).read[writer, index]
    caps = decompose(lm, 1, which="qk")
    turn = decompose(lm, 0).write[writer, index] @ caps.read[reader, 0]
    run = lm.run(made.answers["prompt"], capture=["hook_embed", "blocks.1.hook_resid_pre"])
    x, key = run["hook_embed"][0].double(), run["blocks.1.hook_resid_pre"][0, goal].double()
    want = float((x @ u).mean() * s[index] * turn * s[0] * (key @ caps.write[reader, 0])) / lm.spec.d_head**0.5
    falls = {}
    for component in (index, index + 1):
        with edit_components(lm, f"0.{writer}.{component}"):
            falls[component] = before - _score(lm, made.answers["prompt"], reader, goal)
    back = lm.fingerprint() == bits and _score(lm, made.answers["prompt"], reader, goal) == before
    ok = back and abs(falls[index] - want) < 1e-3 * abs(want) and abs(falls[index + 1]) < 0.1 * abs(want)
    other = f"its neighbour {falls[index + 1]:.0e}"
    return ok, f"{falls[index]:.4f} of {want:.4f}, {other}; {'' if back else 'NOT '}as before"


def a_pointer() -> tuple[bool, str]:
    """What one and two components of the planted pointer can make its reader look at, and what patching them between prompts does."""
    from interp.analyses.channels.steering.patch import ChannelPatching
    from interp.analyses.channels.steering.steer import ChannelSteering
    from interp.models import reference

    made, lm = mechanisms.planted("pointer")
    pairs, answers = reference.pointer_pairs(7), made.answers
    head, readers = "{}.{}".format(*answers["writer"]), ("{}.{}".format(*answers["reader"]),)
    names = [f"{head}.{index}" for index in answers["components"]]
    reached = []
    for chosen in (names[:1], names[1:], names):
        steer = ChannelSteering(components=tuple(chosen), readers=readers, reach=(3.0,), steps=(7,), controls=())
        reached.append({int(item.removeprefix("item_")) for item in steer(lm, pairs).reachable()})
    patch = ChannelPatching(components=tuple(names), readers=readers, draws=3)
    lost = patch(lm, pairs).table().set_index("what")["fldd"]
    right = reached == [set(answers["reachable"][which]) for which in ("A", "B", "both")]
    ok = right and abs(lost["channel"] - answers["fldd"]) < 1e-4 and abs(lost["same_head"]) < 1e-4
    said = ", ".join(str(len(items)) for items in reached) + f" items{'' if right else ' (others than planted)'}"
    return ok, f"{said}; FLDD {lost['channel']:.4f}, others {lost['same_head']:.0e}"


def turned_channels() -> tuple[bool, str]:
    """In a grouped-query model with rotary positions: V for a whole group of heads, Q at its distance and weaker at another."""
    from interp.analyses.channels import Channels

    made, lm = mechanisms.planted("rotary_channels")
    answers = made.answers
    (q, v), at = answers["channels"], answers["offset"]
    data = Channels(offsets=(at, DISTANCE))(lm).data["score"].sel(layer=0, reader_layer=1)
    mine = data.sel(head=q.writer[1], component=q.component, reader_head=q.reader[1])
    here, there = (float(mine.sel(kind=f"Q@{one}")) for one in (at, DISTANCE))
    group = data.sel(kind="V", head=v.writer[1], component=v.component)
    heard = [float(group.sel(reader_head=head)) for _, head in answers["group"]]
    rest = float(group.drop_sel(reader_head=[head for _, head in answers["group"]]).max())
    found = torch.tensor([here, there, *heard], dtype=torch.float64)
    want = torch.tensor([answers["score"], float(answers["score_at"][DISTANCE]), *[answers["score"]] * len(heard)])
    ok = float((found - want).abs().max()) < 1e-5 and rest < 0.75 * answers["score"]
    said = f"Q {here:.4f}, {there:.4f} at {DISTANCE} tokens; V {', '.join(f'{x:.4f}' for x in heard)}"
    return ok, f"{said}, other heads at most {rest:.2f}"


def refused_channels() -> tuple[bool, str]:
    """Names, distances and directions that mean nothing."""
    from interp.analyses.channels import Channels, decompose, reader, single

    _, lm = mechanisms.planted("channels")
    _, turned = mechanisms.planted("rotary_channels")
    zero = {"W_O.0.1": torch.zeros(lm.spec.d_head, lm.spec.d_model)}
    asked = (
        lambda: single(lm, "0.1"),
        lambda: single(lm, "0.1.99"),
        lambda: reader(turned, 1, "Q"),
        lambda: Channels(kinds=("Q",))(turned),
        lambda: decompose(lm, 0, offset=1),
    )
    refused = sum(_refused(one) for one in asked)
    with lm.edit_weights(zero):
        refused += _refused(lambda: single(lm, "0.1.0"))
    return refused == len(asked) + 1, f"{refused} of {len(asked) + 1} refused"


def _refused(ask) -> bool:  # type: ignore[no-untyped-def]
    try:
        ask()
    except BadInput:
        return True
    return False


def _name(channel) -> tuple[str, str, str]:  # type: ignore[no-untyped-def]
    """Writer's component, reader and kind, as the list has them."""
    return "{}.{}.{}".format(*channel.writer, channel.component), "{}.{}".format(*channel.reader), channel.kind


def _score(lm, prompt: str, head: int, goal: int) -> float:  # type: ignore[no-untyped-def]
    """Attention score of a head of layer 1 from the last token to column `goal`."""
    run = lm.run(prompt, capture=["blocks.1.attn.hook_q", "blocks.1.attn.hook_k"])
    q, k = (run[f"blocks.1.attn.hook_{which}"][0, :, head].double() for which in "qk")
    return float(q[-1] @ k[goal]) / lm.spec.d_head**0.5
