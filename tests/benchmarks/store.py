"""The activation store: reads against a raw memory map, minibatches against SAELens' activation cache, writing against not writing.

Everything is warm (in the page cache), data are Gaussian. Compared: the rows that come back.
"""

import statistics
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.cache import SiteActivations, Store
from interp.core.site import Site
from tests.benchmarks import Row, interleaved, ratio
from tests.cache.fake import FakeLM

SITE = Site("resid_post", 0)
LENGTH = 128


def rows() -> list[Row]:
    """Sequential reads, minibatches, writing."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SAELens says each time that an epoch ends
        return [*_reads(Path(folder)), *_minibatches(Path(folder)), _writing(Path(folder))]


class Stored(FakeLM):
    """A model whose activations are there already."""

    def __init__(self, rows: Tensor, dtype: str) -> None:
        super().__init__(n_ctx=LENGTH)
        self.rows, self.at = rows, 0
        self.spec = FakeLM(d_model=rows.shape[1], n_ctx=LENGTH, dtype=dtype, n_layers=1).spec

    def read(self, documents: Sequence[Tensor], sites: Sequence[Site]) -> dict[Site, Tensor]:
        start, self.at = self.at, self.at + sum(map(len, documents))
        return {site: self.rows[start : self.at] for site in sites}


def _filled(root: Path, rows: Tensor, dtype: str) -> SiteActivations:
    documents = list(torch.zeros(len(rows), dtype=torch.int64).split(LENGTH))
    return Store(root).capture(Stored(rows, dtype), documents, SITE).only


def _reads(folder: Path) -> list[Row]:
    data = torch.randn(131_072, 768, generator=torch.Generator().manual_seed(0)).to(torch.float16)
    raw = folder / "raw.bin"
    raw.write_bytes(data.numpy().tobytes())
    mapped = np.memmap(raw, dtype=np.float16, mode="r", shape=tuple(data.shape))
    ours = _filled(folder / "store", data, "float16")
    starts = [*range(0, len(data), 8192)] * 5

    def memmap_rows() -> None:
        for start in starts:
            np.array(mapped[start : start + 8192])

    def our_rows() -> None:
        for start in starts:
            ours.rows(start, start + 8192)

    number = torch.from_numpy(np.sort(np.random.default_rng(0).choice(len(data), 8192, replace=False)))

    def memmap_random() -> None:
        for _ in range(8):
            mapped[number.numpy()]

    def our_random() -> None:
        for _ in range(8):
            ours.take(number)

    def memmap_shuffled() -> None:
        order = np.random.default_rng(0).permutation(len(data))
        for start in range(0, len(order), 4096):
            mapped[order[start : start + 4096]]

    def our_shuffled() -> None:
        for _ in ours.batches(4096, seed=0):
            pass

    same = float((ours.tensor() - data).abs().max())
    picked = float((ours.take(number) - data[number]).abs().max())
    size = "131,072 × 768 float16, 201 MB in 4 shards"
    pairs = [(memmap_rows, our_rows), (memmap_random, our_random), (memmap_shuffled, our_shuffled)]
    first, second, third = (ratio(*interleaved(pair)) for pair in pairs)
    return [
        Row("rows in order, copied", "np.memmap, copied", *first, same, size),
        Row("8192 random rows, ascending", "np.memmap[rows]", *second, picked, size),
        Row("an epoch of shuffled minibatches of 4096", "np.memmap[permutation]", *third, same, size),
    ]


def _minibatches(folder: Path) -> list[Row]:
    return [_against_saelens(folder, width) for width in (256, 768)]


def _against_saelens(folder: Path, width: int) -> Row:
    context, size, count, epochs = 256, 4096, 32_768, 3
    data = torch.randn(count, width, generator=torch.Generator().manual_seed(1))
    ours = _filled(folder / f"ours-{width}", data, "float32")
    peer = _saelens(folder / f"peer-{width}", data.reshape(-1, context, width), size)

    def saelens() -> None:
        for _ in range(epochs * count // size):
            peer.next_batch()

    def batches() -> None:
        for _ in ours.batches(size, seed=0, epochs=epochs):
            pass

    times = interleaved([saelens, batches], repeats=3)
    whole = torch.cat([*ours.batches(size, seed=0)])
    apart = float((whole.sort(dim=0).values - data.sort(dim=0).values).abs().max())
    rate = epochs * count / statistics.median(times[1])
    note = f"32,768 x {width} float32, {rate / 1e6:.1f}M rows/s; a uniform permutation here, a buffer of 64 x 256 there"
    return Row("shuffled minibatches of 4096", "SAELens ActivationsStore, cached", *ratio(*times), apart, note)


def _saelens(folder: Path, data: Tensor, size: int) -> Any:
    """SAELens' own store over its own format, a Hugging Face dataset with a row a context, buffered as in its tutorials."""
    from datasets import Array2D, Dataset, Features, Value, disable_progress_bars
    from datasets import Sequence as Ids
    from sae_lens.training.activations_store import ActivationsStore

    disable_progress_bars()
    count, context, width = data.shape
    features = Features(
        {"hook": Array2D((context, width), "float32"), "token_ids": Ids(Value("int32"), length=context)}
    )
    columns = {"hook": list(data.numpy()), "token_ids": np.zeros((count, context), np.int32)}
    Dataset.from_dict(columns, features=features).save_to_disk(str(folder))
    return ActivationsStore(
        model=None, dataset=None, streaming=False, hook_name="hook", hook_head_index=None, context_size=context, d_in=width,
        n_batches_in_buffer=64, total_training_tokens=10**9, store_batch_size_prompts=16, train_batch_size_tokens=size,
        prepend_bos=False, normalize_activations="none", device=torch.device("cpu"), dtype="float32",
        cached_activations_path=str(folder),
    )  # fmt: skip


def _writing(folder: Path) -> Row:
    """A GPT-2-small shaped model, two sites: what it costs to keep what was computed."""
    with _gpt2() as lm:
        generator = torch.Generator().manual_seed(2)
        documents = [torch.randint(50257, (128,), generator=generator) for _ in range(16)]
        sites = [Site("resid_post", 3), Site("resid_post", 6)]
        kept: list[Any] = [None, None]
        turn = iter(range(1000))

        def bare() -> None:
            kept[0] = [lm.read(documents[start : start + 8], sites) for start in (0, 8)]

        def stored() -> None:
            store = Store(folder / f"write-{next(turn)}", forward_tokens=1024)
            kept[1] = store.capture(lm, documents, sites)

        times = interleaved([bare, stored], repeats=3)
        apart = max(
            float((torch.cat([part[site] for part in kept[0]]) - kept[1][site].tensor()).abs().max()) for site in sites
        )
    note = "hashing the weights, statistics, checksums and fsync included; 2,048 tokens, 12.6 MB"
    return Row(
        "capture to disk, two sites", "LM.read of the same documents, kept in memory", *ratio(*times), apart, note
    )


@contextmanager
def _gpt2() -> Iterator[Any]:
    from transformers import GPT2Config, GPT2LMHeadModel

    from interp.models.load import wrap
    from tests.models.wrapped import tokenizer

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config()).eval().requires_grad_(False)
    yield wrap(model, tokenizer(), "gpt2-shaped", backend="nnsight")
