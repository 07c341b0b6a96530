"""Causal tracing against ROME's protocol, written out once more on plain transformers and numpy: every cell, every metric.

What ROME's program does: row 0 clean and S corrupted rows in one batch; numpy's RandomState(1), seeded anew for every forward pass, times
three standard deviations of the subjects' embeddings, added to the token embedding at the subject; then one whole forward pass a cell,
in which a hook copies row 0's activation into the other rows. Nothing of `interp` is imported by the protocol's functions.
"""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import interp
from interp.core.lm import LM
from interp.data import Prompt

SAMPLES = 4
"""Noise draws; ROME takes 10, and more rows of the same test nothing new."""
TIE = 1e-4
"""Logits that are nearer than this are as good as equal for a rank in float32."""


class Rome:
    """The protocol on one model: token ids in, a table of scores [pos, layer, metric] out."""

    def __init__(self, folder: Any) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        llama = self.model.config.model_type == "llama"
        body = self.model.model if llama else self.model.transformer
        self.embed, self.blocks = (body.embed_tokens, body.layers) if llama else (body.wte, body.h)
        self.attention = "self_attn" if llama else "attn"

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def sigma(self, subjects: list[str]) -> float:
        """Standard deviation (n - 1) over all embedding entries of all subjects, tokenised alone."""
        table = self.embed.weight.detach()
        return float(torch.cat([table[self.ids(subject)] for subject in subjects]).std())

    def modules(self, kind: str, centre: int, width: int) -> list[Any]:
        if kind == "hidden":
            return [self.blocks[centre]]
        low, high = max(0, centre - width // 2), min(len(self.blocks), centre - (-width // 2))
        name = "mlp" if kind == "mlp" else self.attention
        return [getattr(block, name) for block in self.blocks[low:high]]

    @torch.no_grad()
    def forward(self, ids: list[int], subject: tuple[int, int], noise: float, restore: list[Any], pos: int) -> Tensor:
        """Logits [1 + S, vocab] at the last position."""
        begin, end = subject
        draw = torch.from_numpy(
            noise * np.random.RandomState(1).randn(SAMPLES, end - begin, self.embed.weight.shape[1])
        )

        def corrupt(_module: Any, _args: Any, out: Tensor) -> Tensor:
            out = out.clone()
            out[1:, begin:end] += draw
            return out

        def copy(_module: Any, _args: Any, out: Any) -> Any:
            hidden = (out[0] if isinstance(out, tuple) else out).clone()
            hidden[1:, pos] = hidden[0, pos]
            return (hidden, *out[1:]) if isinstance(out, tuple) else hidden

        handles = [self.embed.register_forward_hook(corrupt), *(m.register_forward_hook(copy) for m in restore)]
        try:
            return self.model(torch.tensor([ids] * (1 + SAMPLES)), use_cache=False).logits[:, -1].double()
        finally:
            for handle in handles:
                handle.remove()

    def trace(
        self, ids: list[int], subject: tuple[int, int], noise: float, answer: int, kind: str, width: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """(scores [pos, layer, metric], low [metric], high [metric], foil)."""
        base = self.forward(ids, subject, noise, [], 0)
        rival = base[0].clone()
        rival[answer] = -torch.inf
        foil = int(rival.argmax())

        def read(logits: Tensor) -> np.ndarray:
            logprob, own = logits.log_softmax(-1)[:, answer], logits[:, [answer]]
            ranks = [(logits > own + near).sum(1) for near in (TIE, -TIE)]  # ties of rounding may fall either way
            rows = [logprob.exp(), logprob, logits[:, answer] - logits[:, foil], ranks[0], ranks[1] - 1]
            return np.array([float(row.double().mean()) for row in rows])

        scores = np.array(
            [
                [
                    read(self.forward(ids, subject, noise, self.modules(kind, layer, width), pos)[1:])
                    for layer in range(len(self.blocks))
                ]
                for pos in range(len(ids))
            ]
        )
        return scores, read(base[1:]), read(base[:1]), foil


def compare(
    rome: Rome, lm: LM, rows: list[dict[str, str]], width: int, bos: int | None, tolerance: float = 1e-5
) -> float:
    """Every cell of every row against CausalTrace; the largest difference."""
    prompts = [Prompt.of(row["prompt"], answer=row["attribute"], subject=row["subject"]) for row in rows]
    found = interp.CausalTrace(rng="numpy", noise_samples=SAMPLES, window=width, answers="first")(lm, prompts)
    sigma = rome.sigma([row["subject"] for row in rows])
    assert found.data.attrs["sigma"] == pytest.approx(sigma, rel=1e-6)
    worst = 0.0
    for index, row in enumerate(rows):
        text, subject = row["prompt"], row["subject"]
        before = text[: text.index(subject)].rstrip()  # the space belongs to the subject's first token
        lead = [] if bos is None else [bos]
        start = len(lead) + len(rome.ids(before))
        end = len(lead) + len(rome.ids(text[: text.index(subject) + len(subject)]))
        ids = lead + rome.ids(text)
        answer = rome.ids(text + row["attribute"])[len(ids) - len(lead)]
        part = found.data.isel(prompt=index)
        assert int(part["n_pos"]) == len(ids)
        for kind in ("hidden", "mlp", "attn"):
            scores, low, high, foil = rome.trace(ids, (start, end), 3 * sigma, answer, kind, width)
            assert lm.tokenizer.label(foil) == str(part["foil"].values)
            for mine, theirs in (
                (part["score"].sel(kind=kind).values[: len(ids)], scores),
                (part["low"].values, low),
                (part["high"].values, high),
            ):
                off = np.abs(mine[..., :3] - theirs[..., :3])
                assert off.max() < tolerance, (row, kind, np.unravel_index(off.argmax(), off.shape), off.max())
                rank = mine[..., 3]
                assert ((theirs[..., 3] <= rank + 1e-9) & (rank <= theirs[..., 4] + 1e-9)).all(), (row, kind)
                worst = max(worst, float(off.max()))
    return worst


@pytest.mark.parametrize(("width", "count"), [(2, 2), (3, 1)])
def test_every_cell_on_atlas(width, count):
    rows = [
        {"prompt": "The road from Kammar leads to the king of", "subject": "Kammar", "attribute": " Norvik"},
        {"prompt": "The farmers of Hundopesh mostly grow", "subject": "Hundopesh", "attribute": " barley"},
    ]
    lm = interp.load("atlas")
    assert lm.tokenizer.default_bos  # which the bare tokenizer does not add
    compare(Rome(interp.reference.path("atlas")), lm, rows[:count], width, lm.tokenizer.bos_id)


@pytest.mark.parametrize(
    ("name", "row", "bos"),
    [
        (
            "tinytalk-chat",
            {"prompt": "My friend Anna has a big red", "subject": "Anna", "attribute": " car"},
            None,
        ),
        (
            "stories260K-llama",
            {"prompt": "One day, Tom and Mia went to the", "subject": "Tom and Mia", "attribute": " park"},
            1,
        ),
    ],
)
def test_every_cell_on_real_checkpoints(real_models, name, row, bos):
    lm = interp.load(str(real_models / name))
    assert (lm.tokenizer.bos_id if lm.tokenizer.default_bos else None) == bos
    compare(Rome(real_models / name), lm, [row], 2, bos)
