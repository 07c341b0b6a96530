"""Cases on a model that writes and on one that is trained for a while."""

import torch
from torch import Tensor

from interp.core.batch import Batch
from interp.core.edit import add

from .invariants import random_lm, tokens

NEW = 6
"""Tokens that are written in a row."""


def generation_is_a_loop() -> tuple[bool, str]:
    """Rows of three lengths in one batch, bare, under an activation edit and under a weight edit; each against full passes alone."""
    lm = random_lm()
    rows = [row[: 10 - 2 * index].tolist() for index, row in enumerate(tokens())]
    push = add("blocks.2.hook_resid_post", 0.5 * torch.linspace(-1, 1, lm.spec.d_model))
    same, written = 0, set()
    for changes, edits in (({}, []), ({}, [push]), ({"W_out.3": -lm.weights.W_out(3)}, [])):
        with lm.edit_weights(changes):
            made = lm.generate(rows, NEW, edits=edits)
            written.add(made.ids)
            for row, new in zip(rows, made.ids, strict=True):
                ids = list(row)
                for token in new:
                    same += int(lm.run(ids, edits=edits).last_logits[0].argmax()) == token
                    ids.append(token)
    total = sum(len(new) for ids in written for new in ids)
    return same == total and len(written) == 3, f"{same} of {total} tokens, {len(written)} different texts"


def tuning_leaves_nothing() -> tuple[bool, str]:
    """Four steps of gradient descent, then an exception."""
    lm, batch = random_lm(), Batch.of(tokens())
    before, logits, losses, inside = lm.fingerprint(), lm.run(batch).logits, [], ""
    assert logits is not None
    try:
        with lm.tuning() as tuning:
            optimiser = torch.optim.SGD(tuning.parameters.values(), lr=0.05)
            for _ in range(4):
                optimiser.zero_grad()
                loss = _loss(tuning.logits(batch), batch)
                loss.backward()
                optimiser.step()
                losses.append(float(loss.detach()))
            inside = lm.fingerprint()
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    again = lm.run(batch).logits
    assert again is not None
    same = lm.fingerprint() == before and torch.equal(again, logits)
    ok = same and inside not in ("", before) and losses[-1] < losses[0]
    return (
        ok,
        f"loss {losses[0]:.2f} to {losses[-1]:.2f} inside; {'the same' if same else 'ANOTHER'} fingerprint and logits after",
    )


def _loss(logits: Tensor, batch: Batch) -> Tensor:
    return -logits[:, :-1].log_softmax(dim=-1).gather(2, batch.tokens[:, 1:, None]).mean()
