"""Cases on use: what a component is said to contribute is what its reader loses without it, and its words are the planted ones."""

from typing import Literal

import torch

from . import mechanisms

SILENT = "one red two blue three stop"
"""A prompt without the token that the planted component reads."""


def used_channel() -> tuple[bool, str]:
    """The planted channel's contribution, and the reader's log-attention before less after its write is taken out of the query."""
    from interp.analyses.channels import single
    from interp.analyses.channels.use.use import ChannelUse
    from interp.core.batch import At
    from interp.core.edit import add, replace
    from interp.data.prompts import Prompt

    made, lm = mechanisms.planted("channels")
    channel = made.answers["channels"][0]
    head, reader = ("{}.{}".format(*pair) for pair in (channel.writer, channel.reader))
    writer, place = f"{head}.{channel.component}", made.answers["goal"]
    prompts = [Prompt.of(text, it=text.split()[place]) for text in (made.answers["prompt"], SILENT)]
    use = ChannelUse(writers=(writer,), readers=(reader,), kinds=("Q",), beside=False)(lm, prompts).data.isel(channel=0)
    part = single(lm, writer)
    q, pattern, stream = "blocks.1.attn.hook_q", "blocks.1.attn.hook_pattern", "blocks.1.hook_resid_pre"
    text, amount = made.answers["prompt"], float(use["write"].sel(span="last")[0])
    before = lm.run(text, capture=[q, pattern])
    without = lm.run(text, capture=[q], edits=[add(stream, (-amount * part.write).float(), at=At.last())])
    after = lm.run(text, capture=[pattern], edits=[replace(q, without[q], at=At.last(), heads=[channel.reader[1]])])
    logs = [run[pattern][0, channel.reader[1], -1].double().log() for run in (before, after)]
    change = logs[0] - logs[1]
    change = change - change.mean()
    said = use["read"].isel(prompt=0)
    off = max(abs(float(said.sel(span=span)) - float(change[at])) for span, at in (("it", place), ("first", 0)))
    size, quiet = (float(use["size"][row]) for row in (0, 1))
    sums = float(use["remainder"].max())
    ok = off < 1e-3 * size and quiet < 1e-5 * size and sums < 1e-5 and float(said.sel(span="it")) > size
    return ok, f"{float(said.sel(span='it')):.4f}, off {off:.0e}; unwritten {quiet:.0e}; parts off their sum {sums:.0e}"


def planted_words() -> tuple[bool, str]:
    """The words of the planted component and of its reader, beside those of components that have none."""
    from interp.analyses.channels.words import ComponentWords

    made, lm = mechanisms.planted("channels")
    channel = made.answers["channels"][0]
    head, reader = ("{}.{}".format(*pair) for pair in (channel.writer, channel.reader))
    words = torch.tensor(lm.tokenizer.encode(made.answers["prompt"]).ids)
    cue, goal = (lm.tokenizer.label(int(words[made.answers[name]])) for name in ("cue", "goal"))
    sides: tuple[tuple[Literal["ov", "qk"], tuple[str, str], str, str], ...] = (
        ("ov", (f"{head}.{channel.component}", f"{head}.0"), "reads", cue),
        ("qk", (f"{reader}.0", f"{reader}.1"), "keys", goal),
    )
    found = []
    for which, names, end, want in sides:
        result = ComponentWords(components=names, which=which, k=1, null="head")(lm)
        real = [(one, side.split()[0], result.words(one)[side][0]) for one, side in result.beyond()]
        found.append(real == [(names[0], end, want)])
    return all(found), f"{sum(found)} of 2: {cue}, {goal}"
