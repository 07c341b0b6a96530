"""What the reference checkpoints know, measured on what they were never shown.

Every number is the share of prompts whose most likely next token (over the whole vocabulary) is the answer, except
`repeat_ratio` (loss on the second copy of a random sequence divided by the loss on the first) and the losses. Prompts
stand behind one end-of-text token, as documents do in training.

    from interp.models.reference.evaluate import evaluate
    evaluate(interp.reference.path("atlas"))["facts"]        # held-out (entity, template) pairs
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from interp.data.world import HELDOUT_PERIODS, RELATIONS, World

from .batches import MAX_ITEMS, Batch, pad
from .tokenizer import build_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import GPT2LMHeadModel

CHUNK = 256


def evaluate(
    model: "str | Path | GPT2LMHeadModel", *, seed: int = 0, n: int = 240, tuned: bool = False
) -> dict[str, float]:
    """Accuracies on held-out material; `n` lists of each length and `n` indirect-object sentences of each order.

    Keys: `facts`, `facts_<relation>`, `facts_corrupted` (the same with a wrong subject: should be near chance),
    `lists`, `lists_<length>`, `indirect`, `indirect_ABB`, `indirect_BAB` (held-out names), `lists_train`,
    `indirect_train`, `repeat_first`, `repeat_second`, `repeat_ratio`, `prose_loss`.
    """
    world = World.generate(seed)
    asked = Asked(_model(model), build_tokenizer(world))
    out: dict[str, float] = {}
    rows = world.facts(tuned=tuned)
    right = asked.right(rows, "attribute")
    out["facts"] = float(right.mean())
    for relation in RELATIONS:
        of = np.array([r["relation"] == relation for r in rows])
        if of.any():
            out[f"facts_{relation}"] = float(right[of].mean())
    wrong = [{**r, "prompt": r["prompt"].replace(r["subject"], world.entities[r["entity"] - 1])} for r in rows]
    out["facts_corrupted"] = float(asked.right(wrong, "attribute").mean())
    for split in ("heldout", "train"):
        each = [asked.right(world.lists(n, k, split), "answer").mean() for k in range(2, MAX_ITEMS + 1)]
        sentences = world.indirect_objects(2 * n, split)
        right = asked.right(sentences, "answer")
        if split == "train":
            out["lists_train"], out["indirect_train"] = float(np.mean(each)), float(right.mean())
            continue
        out["lists"] = float(np.mean(each))
        out |= {f"lists_{k}": float(a) for k, a in enumerate(each, start=2)}
        out["indirect"] = float(right.mean())
        for order in ("ABB", "BAB"):
            out[f"indirect_{order}"] = float(right[[r["order"] == order for r in sentences]].mean())
    copies = [asked.copy_losses(world.repeats(64, period)) for period in HELDOUT_PERIODS]
    out["repeat_first"], out["repeat_second"] = (float(np.mean(c)) for c in zip(*copies, strict=True))
    out["repeat_ratio"] = out["repeat_second"] / out["repeat_first"]
    out["prose_loss"] = asked.text_loss(world.prose(200, tuned=tuned, name="prose for evaluation"))
    return out


def evaluate_tuned(model: "str | Path | GPT2LMHeadModel", *, seed: int = 0, n: int = 240) -> dict[str, float]:
    """`evaluate` in the second world, and what is new in it.

    Further keys: `facts_changed` and `facts_unchanged` (held-out pairs; the beast is in neither), `facts_former` (how
    often the old answer to a changed fact is still given), `festival` (cloze sentences).
    """
    world = World.generate(seed)
    model = _model(model)
    asked = Asked(model, build_tokenizer(world))
    out = evaluate(model, seed=seed, n=n, tuned=True)
    changed = world.facts(tuned=True, changed=True)
    out["facts_changed"] = float(asked.right(changed, "attribute").mean())
    out["facts_former"] = float(asked.right(changed, "former").mean())
    kept = [r for r in world.facts(tuned=True, changed=False) if r["relation"] != "beast"]
    out["facts_unchanged"] = float(asked.right(kept, "attribute").mean())
    out["festival"] = float(asked.right(world.festival(), "answer").mean())
    return out


class Asked:
    """A model and its tokenizer, asked for the next token."""

    def __init__(self, model: "GPT2LMHeadModel", tokenizer: "Tokenizer") -> None:
        self.model, self.tokenizer = model, tokenizer

    @torch.no_grad()
    def logits(self, ids: np.ndarray) -> Tensor:
        """Logits of rows of ids."""
        embedded = self.model.transformer.wte(torch.from_numpy(ids))  # as embeddings: padding is the end-of-text token
        logits: Tensor = self.model(inputs_embeds=embedded, use_cache=False).logits
        return logits

    def right(self, rows: Sequence[dict[str, Any]], key: str) -> np.ndarray:
        """For every row: is `row[key]` the most likely token after `row["prompt"]`?"""
        prompts = [[0, *e.ids] for e in self.tokenizer.encode_batch([r["prompt"] for r in rows])]
        answers = np.array([self.tokenizer.token_to_id(r[key].replace(" ", "Ġ")) for r in rows])
        best = []
        for i in range(0, len(rows), CHUNK):
            part = prompts[i : i + CHUNK]
            batch = pad([(p, [1.0] * len(p)) for p in part])
            last = np.array([len(p) - 1 for p in part])
            best.append(self.logits(batch.ids)[np.arange(len(part)), last].argmax(-1).numpy())
        return np.concatenate(best) == answers

    def copy_losses(self, ids: np.ndarray) -> tuple[float, float]:
        """Mean loss on the first and on the second half of rows that say the same twice."""
        period = ids.shape[1] // 2
        losses = self.losses(np.concatenate([np.zeros_like(ids[:, :1]), ids], axis=1))
        return float(losses[:, :period].mean()), float(losses[:, period:].mean())

    def losses(self, ids: np.ndarray) -> Tensor:
        """Loss of every token but the first, rows x positions."""
        logits = self.logits(ids)[:, :-1]
        return F.cross_entropy(logits.transpose(1, 2), torch.from_numpy(ids[:, 1:].copy()), reduction="none")

    def text_loss(self, texts: Sequence[str]) -> float:
        """Mean loss per token of `texts`, each behind an end-of-text token."""
        batch: Batch = pad([([0, *e.ids], [1.0] * (len(e.ids) + 1)) for e in self.tokenizer.encode_batch(list(texts))])
        losses = torch.cat([self.losses(batch.ids[i : i + CHUNK]) for i in range(0, len(batch.ids), CHUNK)])
        weights = torch.from_numpy(batch.weights[:, 1:].copy())
        return float((losses * weights).sum() / weights.sum())


def _model(model: "str | Path | GPT2LMHeadModel") -> "GPT2LMHeadModel":
    if not isinstance(model, str | Path):
        return model.eval()
    from transformers import GPT2LMHeadModel

    return GPT2LMHeadModel.from_pretrained(model, local_files_only=True).eval()
