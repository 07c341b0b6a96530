"""Greedy generation against transformers' own `generate` on the same module, and against the loop of full passes that it replaces.

Compared: the ids (the number of new tokens that differ).
"""

import itertools
from typing import Any

import torch

from interp.core.batch import Batch
from interp.models import reference
from interp.models.load import load
from tests.benchmarks import Row, interleaved, ratio
from tests.models.tiny import tiny

NEW = 24


def rows(quick: bool = False) -> list[Row]:
    """A small model, where Python is what costs, and one of 7M parameters, where arithmetic is."""
    atlas = load("atlas", check=False)
    short = [list(atlas.tokenizer.encode(fact.text).ids) for fact in reference.facts("atlas", 32)]
    made = [_row("atlas, 32 facts", atlas, short, 3 if quick else 9)]
    if not quick:
        made += [_row("Llama of 7M, 8 prompts", _wider(), _ragged(8), 3)]
    return [row for pair in made for row in pair]


def _wider() -> Any:
    from interp.models.load import wrap

    module = tiny(
        "llama", vocab_size=4096, hidden_size=256, intermediate_size=704, num_hidden_layers=6, num_attention_heads=8,
        num_key_value_heads=8, max_position_embeddings=256, eos_token_id=None, bos_token_id=None, pad_token_id=None,
    ).requires_grad_(False)  # fmt: skip
    return wrap(module, load("atlas", check=False).tokenizer, "wide", backend="nnsight")


def _ragged(n: int) -> list[list[int]]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randint(1, 1000, (6 + row,), generator=draw).tolist() for row in range(n)]


def _row(name: str, lm: Any, prompts: list[list[int]], repeats: int) -> list[Row]:
    module = lm.module
    batch = Batch.padded(prompts, side="left")
    width = batch.tokens.shape[1]

    def theirs() -> list[tuple[int, ...]]:
        options: dict[str, Any] = {"do_sample": False, "max_new_tokens": NEW, "pad_token_id": 0}
        with torch.no_grad():
            out = module.generate(batch.tokens, attention_mask=batch.mask.long(), **options)
        return [tuple(row[width:].tolist()) for row in out]

    def loop() -> list[tuple[int, ...]]:
        return [tuple(_full(module, prompt, lm.tokenizer.eos_id)) for prompt in prompts[:4]]

    def ours() -> list[tuple[int, ...]]:
        return lm.generate(prompts, NEW).ids

    def few() -> list[tuple[int, ...]]:
        return lm.generate(prompts[:4], NEW).ids

    pairs = [("transformers generate", theirs, ours), ("loop of full passes, 4 prompts", loop, few)]
    found = []
    for baseline, slow, fast in pairs:
        apart = sum(_differ(a, b) for a, b in zip(slow(), fast(), strict=True))
        new = sum(map(len, fast()))
        lengths = sorted(map(len, prompts))
        note = f"{new} new tokens, at most {NEW} a row, after {lengths[0]} to {lengths[-1]}; {apart} of them differ"
        found.append(Row(name, baseline, *ratio(*interleaved([slow, fast], repeats)), float(apart), note))
    return found


def _full(module: Any, prompt: list[int], end: int | None) -> list[int]:
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(NEW):
            ids.append(int(module(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
            if ids[-1] == end:
                break
    return ids[len(prompt) :]


def _differ(theirs: tuple[int, ...], ours: tuple[int, ...]) -> int:
    """New tokens that differ; theirs go on with padding where a row has ended."""
    return sum(a != b for a, b in itertools.zip_longest(theirs[: len(ours)], ours)) + any(theirs[len(ours) :])
