"""Capture: raw hooks against the bare truncated forward, against TransformerLens, and packed against padded documents.

GPT-2-small shape, random weights, 8 rows of 128 tokens, the residual stream after layers 3 and 6. Compared: the captured tensors.
"""

import copy
from typing import Any

import torch
from torch import Tensor

from interp.core.batch import Batch
from interp.core.site import Site
from interp.models.plain import PlainModel
from tests.benchmarks import Row, interleaved, ratio

LAYERS = (3, 6)


def rows() -> list[Row]:
    """Three comparisons."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config()).eval()
    plain = PlainModel(model)
    ids = torch.randint(50257, (8, 128))
    sites = [Site("resid_post", layer) for layer in LAYERS]
    return [*_against_forward(model, plain, ids, sites), _packing(plain)]


@torch.no_grad()
def _against_forward(model: Any, plain: PlainModel, ids: Tensor, sites: list[Site]) -> list[Row]:
    short = copy.deepcopy(model.transformer, memo={id(p): p for p in model.parameters()})
    short.h = short.h[: LAYERS[-1] + 1]
    documents = list(ids)
    kept: list[Any] = [None, None, None]

    def bare() -> None:
        kept[0] = short(input_ids=ids, use_cache=False).last_hidden_state

    def hooked() -> None:
        kept[1] = plain.run(ids, capture=sites, stop_after=sites[-1])

    def packed() -> None:
        kept[2] = plain.read(documents, sites)

    lens = _bridge(model)
    names = [site.name for site in sites]
    cached: list[Any] = []

    def transformer_lens() -> None:
        cached[:] = [lens.run_with_cache(ids, names_filter=names, return_type=None)[1]]

    times = interleaved([bare, hooked, packed, transformer_lens])
    run, acts = kept[1], kept[2]
    norm = torch.nn.functional.layer_norm(run[sites[-1]], (768,), short.ln_f.weight, short.ln_f.bias)
    to_lens = max(float((cached[0][site.name] - run[site]).abs().max()) for site in sites)
    to_rows = max(float((acts[site].reshape(8, 128, -1) - run[site]).abs().max()) for site in sites)
    return [
        Row("run, two sites, stopped early", "forward of the first 7 layers, no hooks", *ratio(times[0], times[1]),
            float((norm - kept[0]).abs().max())),
        Row("read, two sites, 8 documents packed", "forward of the first 7 layers, no hooks", *ratio(times[0], times[2]), to_rows),
        Row("run, two sites, stopped early", "TransformerBridge.run_with_cache(names_filter)", *ratio(times[3], times[1]), to_lens),
    ]  # fmt: skip


def _bridge(model: Any) -> Any:
    from interp.models.bridge import _build

    inner = copy.deepcopy(model, memo={id(p): p for p in model.parameters()})
    inner.set_attn_implementation("eager")
    return _build(inner)


def _packing(plain: PlainModel) -> Row:
    draw = torch.Generator().manual_seed(1)
    lengths = (torch.randn(48, generator=draw) * 0.8 + 4.2).exp().long().clamp(8, 400).tolist()
    documents = [torch.randint(50257, (n,), generator=draw) for n in lengths]
    site = Site("resid_post", LAYERS[-1])
    order = sorted(range(48), key=lambda index: lengths[index])
    kept: list[Any] = [None, None]

    def padded() -> None:
        out: dict[int, Tensor] = {}
        for start in range(0, 48, 16):
            part = order[start : start + 16]
            batch = Batch.padded([documents[index].tolist() for index in part])
            run = plain.run(batch, capture=[site], stop_after=site)
            out |= {index: run[site][row, : lengths[index]] for row, index in enumerate(part)}
        kept[0] = torch.cat([out[index] for index in range(48)])

    def packed() -> None:
        kept[1] = plain.read(documents, [site])[site]

    times = interleaved([padded, packed], repeats=3)
    mean, longest = sum(lengths) / 48, max(lengths)
    return Row(
        "read, 48 documents packed",
        "sorted by length, padded in batches of 16",
        *ratio(*times),
        float((kept[0] - kept[1]).abs().max()),
        f"log-normal lengths, mean {mean:.0f}, longest {longest}",
    )
