"""How well each component of each head can be heard by each later head, from the weights alone."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
import xarray as xr

from interp.core.analysis import Analysis, Cost
from interp.core.errors import BadInput, one_of
from interp.core.progress import Progress

from ..component import Component, many_components
from ..factors import Setting, free, ov
from ..nulls import log10_positive
from .cosines import correspondence
from .engine import PRECISIONS, TILE, Readers, Writers, moved, read_layer
from .inputs import Plan, check_inputs, plans
from .result import REPORTED, ChannelResult
from .tally import BIN, PAIR, Tally

if TYPE_CHECKING:
    from interp.core.lm import LM

HELD = 1 << 31
"""Bytes of write directions that are held at once; of larger models, a block of layers at a time."""


@dataclass(frozen=True)
class Channels(Analysis[ChannelResult]):
    """Composition scores of every component of every head with every later head. Needs weights only, no data."""

    takes: ClassVar[str] = "weights"

    kinds: tuple[Literal["Q", "K", "V"], ...] | None = None
    """Inputs of the readers: query, key, value. By default all three; in rotary models without `offsets`, V only."""
    offsets: tuple[int, ...] = ()
    """Distances in tokens, query to key, at which Q and K of rotary models are scored; QK is another matrix at each of them."""
    folded: bool = True
    """Norm gains in the weights that read through them, and what norms take out of the stream taken out; else the raw parameters."""
    biases: bool = False
    """Let components read a constant 1 too, through the biases of values, and readers weigh it through those of queries and keys."""
    precision: Literal["float32", "float64"] = "float32"
    """Of the products. Singular values and statistics are float64 always; float32 scores agree with it to about 1e-7."""
    top: int = 200
    """How many of the strongest channels are kept by name."""
    rank_by: Literal["score", "z"] = "score"
    """What makes a channel strong: its score, or its z among the other components of its head."""
    most: int = 2**25
    """Largest number of scores that are kept one by one; of more, only what each pair of heads, the histogram and `top` say."""

    def __post_init__(self) -> None:
        check_inputs(self.kinds, self.offsets)
        one_of("precision", self.precision, PRECISIONS)
        one_of("rank_by", self.rank_by, ("score", "z"))
        if self.top < 1 or self.most < 0:
            raise BadInput(f"`top` must be at least 1 and `most` at least 0; not {self.top} and {self.most}.")

    @property
    def setting(self) -> Setting:
        """In which coordinates the weights are read."""
        return Setting(self.folded, self.biases)

    def plan(self, lm: "LM") -> list[Plan]:
        """The inputs of the readers that are scored, in order. Raises `BadInput` as `inputs.plans` does."""
        return plans(lm, self.kinds, self.offsets)

    def check(self, lm: "LM", data: Any) -> None:
        """Refuse data, and what `plan` refuses."""
        if data is not None:
            raise BadInput(
                f"channels are read from weights; they take no data, and were given a {type(data).__name__}."
            )
        self.plan(lm)
        if self.rank_by == "z":
            many_components(lm)

    def cost(self, lm: "LM", data: Any = None) -> Cost:
        """No forward pass: products of thin factors, timed by a small one on this machine."""
        self.check(lm, None)
        spec, inputs = lm.spec, self.plan(lm)
        rows, size = spec.n_heads * spec.d_head, PRECISIONS[self.precision].itemsize
        shared = spec.n_kv_heads < spec.n_heads
        flops = 0
        for one in inputs:
            alone = one.kind == "Q" or not shared
            width = rows if alone else spec.n_kv_heads * spec.d_head
            flops += rows * spec.d_model * width + (0 if alone else rows * rows * spec.d_head)
        flops *= spec.n_layers * (spec.n_layers - 1)  # two operations, half of the pairs
        pairs = len(inputs) * (spec.n_layers * spec.n_heads) ** 2
        kept = pairs * spec.d_head if pairs * spec.d_head <= self.most else 0
        held = min(HELD, spec.n_layers * rows * spec.d_model * size)
        layer = 8 * rows * spec.d_model * 6  # float64 factors of one layer and what is made of them
        bytes_ = held + layer + TILE + size * kept + pairs * (len(PAIR) * size + 2)
        rate = _rate(PRECISIONS[self.precision], _device(lm))
        return Cost(
            bytes=int(bytes_),
            note=f"{flops:.2g} floating-point operations in products, {flops / rate:,.2g} s at {rate / 1e9:.0f} GFLOP/s, and as much again "
            "at most for decomposing heads",
        )

    def run(self, lm: "LM", data: Any, store: Any) -> ChannelResult:
        """Score layer pair by layer pair; what is too much to keep is summed up as it comes."""
        spec, plan, dtype, device = lm.spec, self.plan(lm), PRECISIONS[self.precision], _device(lm)
        sizes = len(plan), spec.n_layers, spec.n_heads, spec.d_head
        count = sizes[0] * (sizes[1] * sizes[2]) ** 2 * sizes[3]
        tally = Tally(
            kinds=sizes[0], layers=sizes[1], heads=sizes[2], components=sizes[3], free=free(lm, self.setting), top=self.top,
            rank_by=self.rank_by, held=count <= self.most, dtype=dtype,
        )  # fmt: skip
        values = torch.zeros(sizes[1:], dtype=torch.float64)
        spectrum = np.full(sizes, np.nan)
        layers = _layers_at_once(lm, dtype)
        held = torch.empty(layers, *sizes[2:], spec.d_model, dtype=dtype, device=device)
        with Progress("channels", len(plan) * spec.n_layers * (spec.n_layers - 1) / 2) as progress:
            for first in range(0, spec.n_layers, layers):
                for layer in range(first, spec.n_layers):
                    said, inputs = self._layer(lm, layer, plan)
                    early = slice(first, min(layer, first + layers))
                    for index, readers in inputs.items():
                        spectrum[index, layer] = readers.spectrum.cpu().numpy()
                        there = held[: early.stop - first]
                        tally.take(index, there, values[early], first, layer, readers.to(dtype, device))
                        progress.update(len(there))
                    if layer < first + layers:
                        held[layer - first], values[layer] = said.directions, said.values
        result = ChannelResult(self._dataset(lm, plan, tally, values.numpy(), spectrum))
        result.data["top_p"] = ("channel", _p_values(result))
        return result

    def _layer(self, lm: "LM", layer: int, plan: list[Plan]) -> tuple[Writers, dict[int, Readers]]:
        """What the heads of a layer write, and how they read through each input of the plan, by its place there."""
        said, heard = moved(ov(lm, layer, self.setting), d_model=lm.spec.d_model, groups=lm.spec.n_kv_heads)
        found = {place: heard for place, one in enumerate(plan) if one.kind == "V"}
        rest = {place: one for place, one in enumerate(plan) if one.kind != "V"}
        for offset in dict.fromkeys(one.offset for one in rest.values()):
            both = read_layer(lm, layer, ("Q", "K"), self.setting, offset=offset)
            found |= {place: both[one.kind] for place, one in rest.items() if one.offset == offset}
        return said, found

    def _dataset(
        self, lm: "LM", plan: list[Plan], tally: Tally, values: np.ndarray, spectrum: np.ndarray
    ) -> xr.Dataset:
        spec = lm.spec
        pair = ("kind", "layer", "head", "reader_layer", "reader_head")
        writer = ("layer", "head", "component")
        rank = (values > 0).sum(-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            gap = np.concatenate([values[..., :-1] / values[..., 1:], np.full_like(values[..., :1], np.nan)], axis=-1)
        columns: dict[str, Any] = {name: (pair, array) for name, array in tally.pair.items()}
        columns |= {
            "best_component": (pair, tally.best_component), "value": (writer, values), "gap": (writer, gap),
            "rank": (writer[:2], rank), "spectrum": (("kind", "reader_layer", "reader_head", "component"), spectrum),
            "histogram": (("kind", "bin"), tally.histogram),
        }  # fmt: skip
        if tally.scores is not None:
            columns["score"] = ((*pair[:3], "component", *pair[3:]), tally.scores)
        labels = np.array([one.label for one in plan])
        columns |= self._strongest(lm, tally, labels)
        bins = np.arange(tally.histogram.shape[1])
        coords: dict[str, Any] = {
            "kind": labels, "layer": np.arange(spec.n_layers), "head": np.arange(spec.n_heads),
            "component": np.arange(spec.d_head), "reader_layer": np.arange(spec.n_layers), "reader_head": np.arange(spec.n_heads),
            "bin": bins, "bin_low": ("bin", bins * BIN), "bin_high": ("bin", (bins + 1) * BIN), "channel": np.arange(len(tally.top.ids)),
        }  # fmt: skip
        size = int(np.prod(tally.shape))
        attrs = {
            "free": free(lm, self.setting), "folded": self.folded, "biases": self.biases, "offsets": list(self.offsets),
            "precision": self.precision, "rank_by": self.rank_by, "rotary": spec.positions == "rotary", "family": spec.family,
            "n_layers": spec.n_layers, "n_heads": spec.n_heads, "n_kv_heads": spec.n_kv_heads, "d_model": spec.d_model,
            "d_head": spec.d_head, "scored": tally.scored, "alike": tally.alike,
            "scores": "kept" if tally.scores is not None else f"not kept: {size:,} scores are more than {self.most:,}",
        }  # fmt: skip
        return xr.Dataset(columns, coords, attrs)

    def _strongest(self, lm: "LM", tally: Tally, labels: np.ndarray) -> dict[str, Any]:
        """The columns of the list of channels, the first of them with their component under the other processing."""
        kind, layer, head, component, reader_layer, reader_head = tally.top.places()
        score, z = tally.top.values or (np.zeros(0), np.zeros(0))
        names = [Component(*map(int, place)) for place in zip(layer, head, component, strict=True)][:REPORTED]
        other = np.full(len(score), -1, np.int16), np.full(len(score), np.nan)
        for row, (match, cosine) in enumerate(
            correspondence(lm, names, self.setting, other=Setting(not self.folded, self.biases))
        ):
            other[0][row], other[1][row] = match.index, cosine
        columns = {
            "top_score": score, "top_z": z, "top_kind": labels[kind], "top_layer": layer, "top_head": head,
            "top_component": component, "top_reader_layer": reader_layer, "top_reader_head": reader_head,
            "top_other": other[0], "top_other_cosine": other[1],
        }  # fmt: skip
        return {name: ("channel", array) for name, array in columns.items()}


def _p_values(result: ChannelResult) -> np.ndarray:
    """Of the listed channels, all at once: the tail that `ChannelResult.p_value` gives for one reader."""
    data, n = result.data, int(result.data.attrs["free"])
    kinds = {str(kind): place for place, kind in enumerate(data["kind"].values)}
    at = (
        [kinds[str(kind)] for kind in data["top_kind"].values],
        data["top_reader_layer"].values,
        data["top_reader_head"].values,
    )
    weights = data["spectrum"].values[at][:, :n] ** 2  # [channel, component]
    weights /= weights.sum(axis=1, keepdims=True)
    counts = np.ones(weights.shape[1])
    if len(counts) < n:
        weights, counts = np.pad(weights, ((0, 0), (0, 1))), np.append(counts, n - len(counts))
    return 10 ** log10_positive(weights - data["top_score"].values[:, None] ** 2, counts)


def _layers_at_once(lm: "LM", dtype: torch.dtype) -> int:
    """How many layers' write directions fit into `HELD`."""
    return max(1, min(lm.spec.n_layers, HELD // (lm.spec.n_heads * lm.spec.d_head * lm.spec.d_model * dtype.itemsize)))


def _device(lm: "LM") -> str:
    """Where products are computed: on the model's device, if that is a CUDA device."""
    return lm.spec.device if lm.spec.device.startswith("cuda") else "cpu"


def _rate(dtype: torch.dtype, device: str) -> float:
    """Floating-point operations a second of a product of this size, the best of three."""
    side = 512
    ones, spent = torch.ones(side, side, dtype=dtype, device=device), []
    for _ in range(3):
        began = time.perf_counter()
        float((ones @ ones)[0, 0])  # waits for the device
        spent.append(time.perf_counter() - began)
    return 2 * side**3 / min(spent)
