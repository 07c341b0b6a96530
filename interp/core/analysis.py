"""What a method is and what it gives: a frozen config that is called, and labelled data.

    @dataclass(frozen=True)
    class Norms(Analysis):
        layers: int = 4
        \"""How many layers to look at.\"""

        def run(self, lm, data, store):
            ...
            return NormResult(xr.Dataset({"norm": (("prompt", "layer"), values)}))

    result = Norms(layers=2)(lm, prompts)          # timed; carries its manifest and config
    result, result.to_frame(), result.plot(), result.save("runs/norms")

There is no registry: a method is a class. Its fields are its options everywhere (Python, command line, manifest). Values are kept *per
example*; means and intervals are methods of the result, so nobody has to run it again for another average.
"""

import html
import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import xarray as xr

from .errors import BadInput
from .manifest import Manifest, digest_of, publishable
from .options import Option, options_of

if TYPE_CHECKING:
    import pandas as pd

    from .lm import LM

EXAMPLES = ("prompt", "pair", "document", "sequence", "example", "row")
LARGEST_REPR = 30_000
"""Bytes of a result's HTML in a notebook, at most."""


@dataclass(frozen=True)
class Cost:
    """What a call would take, said before it is paid."""

    forwards: float = 0.0
    """Forward passes of the whole model; a pass that recomputes half of it is 0.5."""
    tokens: int = 0
    """Tokens that go through the model in all of them."""
    bytes: int = 0
    """Largest memory or disk that is needed at once, in bytes."""
    note: str = ""

    def seconds(self, rate: float) -> float:
        """Time at `rate` tokens per second."""
        if rate <= 0:
            raise BadInput(f"`rate` must be positive tokens per second; not {rate}.")
        return self.tokens / rate

    def __add__(self, other: "Cost") -> "Cost":
        note = "; ".join(part for part in (self.note, other.note) if part)
        return Cost(self.forwards + other.forwards, self.tokens + other.tokens, max(self.bytes, other.bytes), note)

    def __str__(self) -> str:
        parts = [f"{self.forwards:,.4g} forward passes", f"{self.tokens:,} tokens", f"{readable(self.bytes)}"]
        return " · ".join([*parts, self.note] if self.note else parts)


def readable(size: float) -> str:
    """Bytes as a person reads them: `1.5 MB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


class Result:
    """Labelled data of one call. Subclasses name their figure, their three numbers, and add their own means and intervals."""

    figure: ClassVar[str] = ""
    """The module of `interp.figures` that draws this result."""
    main: ClassVar[str] = ""
    """The variable that the table, the repr and the thumbnail are about; by default the one with most axes."""
    effect: ClassVar[bool] = False
    """Whether the main variable has a sign that matters (drawn with white at zero)."""

    def __init__(self, data: xr.Dataset, *, config: Mapping[str, Any] | None = None, manifest: Manifest | None = None):
        self.data = data
        self.config = dict(config or {})
        self.manifest = manifest or Manifest.of(None, analysis=type(self).__name__, config=self.config)

    def headline(self) -> dict[str, float]:
        """The three numbers that a reader asks for first."""
        return {}

    def report_lines(self) -> tuple[str, ...]:
        """What the command line prints below the headline: the table that a method is run for. The base has none."""
        return ()

    def thumbnail(self) -> xr.DataArray | None:
        """What to draw small: the main variable, averaged down to its last two axes. None for nothing."""
        values = self._variable()
        if values.dtype.kind not in "fiub" or values.ndim == 0 or values.size == 0:
            return None
        spare: list[Any] = [dim for dim in values.dims if dim in EXAMPLES]
        spare += [dim for dim in values.dims if dim not in spare][: max(0, values.ndim - len(spare) - 2)]
        return values.mean(spare[: values.ndim - 1], keep_attrs=True)

    def to_frame(self, variable: str | None = None) -> "pd.DataFrame":
        """Long and tidy: a row for each cell of `variable` (the main one), with every variable and label that shares its axes.

        Cells that are NaN in all variables with these axes (the padding of ragged examples) are left out.
        """
        from .labelled import to_frame

        return to_frame(self.data, str(self._variable(variable).name))

    def plot(self, **options: Any) -> Any:
        """The figure of this result, a `plotly.graph_objects.Figure`; never shown by itself."""
        if not self.figure:
            raise BadInput(f"a {type(self).__name__} has no figure. Draw `to_frame()` with a library of your choice.")
        return importlib.import_module(f"interp.figures.{self.figure}").plot(self, **options)

    def save(self, directory: "str | Path", *, overwrite: bool = False) -> Path:
        """Write the result as a directory that `interp.open` reads. Raises `ArtifactError` if it exists, unless `overwrite`."""
        from .artifact import save_result

        return save_result(self, directory, overwrite=overwrite)

    def _variable(self, name: str | None = None) -> xr.DataArray:
        name = name or self.main
        if not len(self.data.data_vars):
            raise BadInput(f"this {type(self).__name__} holds no variable.")
        if not name:
            return max(self.data.data_vars.values(), key=lambda values: values.ndim)
        if name not in self.data.data_vars:
            raise BadInput(
                f"{name!r} is not in this {type(self).__name__}; it has {list(map(str, self.data.data_vars))}."
            )
        return self.data[name]

    def _summary(self) -> str:
        sizes = {str(dim): size for dim, size in self._variable().sizes.items()} if len(self.data.data_vars) else {}
        rows = [_count(size, dim) for dim, size in sizes.items() if dim in EXAMPLES]
        cells = " × ".join(_count(size, dim) for dim, size in sizes.items() if dim not in EXAMPLES)
        name = self.manifest.model.get("name")
        return " · ".join(filter(None, [name, *rows, cells]))

    def __repr__(self) -> str:
        summary = self._summary()
        return f"{type(self).__name__}({summary + ' · ' if summary else ''}sha {self.manifest.hash})"

    def _repr_html_(self) -> str:
        numbers = "".join(
            f"<td style='text-align:left;padding:2px 18px 2px 0'><div style='color:#8b929a;font-size:11px'>{html.escape(name)}</div>"
            f"<b>{html.escape(_number(value))}</b></td>"
            for name, value in list(self.headline().items())[:3]
        )
        title = (
            f"<div><b>{type(self).__name__}</b> <span style='color:#8b929a'>{html.escape(self._summary())}</span></div>"
        )
        table = f"<table style='margin:0'><tr>{numbers}</tr></table>" if numbers else ""
        footer = f"<div style='color:#8b929a;font-size:10px'>{html.escape(self.manifest.line)}</div>"
        picture = self._picture()
        if len((title + picture + table + footer).encode()) >= LARGEST_REPR:
            picture = ""
        return f"<div style='font-family:sans-serif;font-size:13px'>{title}{picture}{table}{footer}</div>"

    def _picture(self) -> str:
        values = self.thumbnail() if len(self.data.data_vars) else None
        if values is None or values.ndim > 2:
            return ""
        try:
            return str(importlib.import_module("interp.figures.thumbnail").svg(values, effect=self.effect))
        except ImportError:  # figures are not installed
            return ""


R = TypeVar("R", bound=Result)


@dataclass(frozen=True)
class Analysis(Generic[R]):
    """Base of every method: a frozen dataclass whose fields are its options. Subclasses implement `run`."""

    takes: ClassVar[str] = "facts"
    """What it runs on: `facts` (prompts with a subject), `prompts` (any, with answers), `pairs` (clean and corrupted), `desiderata` (base,
    source, target; pairs will do), `text`, `weights` (nothing but the model), `lexicon` (words for prompts of its own making), `concepts`
    or `labelled` (texts with a yes or a no). A property where options decide."""
    may_take: ClassVar[tuple[str, ...]] = ()
    """Where options decide on it and it can be more than prompts: what it may be."""
    optional: ClassVar[bool] = False
    """Whether it also runs without data."""

    def __call__(self, lm: "LM", data: Any = None, *, store: Any = None) -> R:
        """Run on a model and data; the result carries what produced it. Raises what `check` and `run` raise."""
        self.check(lm, data)
        return self._recorded(lm, {} if data is None else {"data": data}, lambda: self.run(lm, data, store))

    def _recorded(self, lm: "LM", inputs: Mapping[str, Any], compute: Callable[[], R]) -> R:
        """What `compute` gives, with the options, the manifest and the time it took."""
        config = self.to_dict()
        seeds = {
            name: value for name, value in config.items() if name.split("_")[-1] == "seed" and isinstance(value, int)
        }
        hashed = {name: digest_of(value) for name, value in inputs.items()}
        manifest = Manifest.of(lm, analysis=type(self).__name__, config=config, inputs=hashed, seeds=seeds)
        began = perf_counter()
        result = compute()
        result.config, result.manifest = config, replace(manifest, seconds=round(perf_counter() - began, 3))
        return result

    def check(self, lm: "LM", data: Any) -> None:
        """Refuse, before anything is paid, a model or data that this method cannot use. The base refuses nothing."""

    def run(self, lm: "LM", data: Any, store: Any) -> R:
        """Compute the result. Nothing is drawn, printed or saved."""
        raise NotImplementedError(f"{type(self).__name__} does not implement `run`.")

    def cost(self, lm: "LM", data: Any = None) -> Cost:
        """What a call would take, without running the model."""
        return Cost(note="unknown")

    def to_dict(self) -> dict[str, Any]:
        """The options as plain JSON values."""
        return {entry.name: publishable(getattr(self, entry.name)) for entry in fields(self)}

    @classmethod
    def options(cls) -> list[Option]:
        """The options, each with its type, default and help."""
        return options_of(cls)


@dataclass(frozen=True)
class Comparison(Analysis[R]):
    """Base of methods that take two models, `method(lm, other, data)`. Subclasses implement `check_models` and `compare`."""

    def __call__(self, lm: "LM", other: "LM", data: Any = None, *, store: Any = None) -> R:  # type: ignore[override]
        """Run on two models and data; the manifest names the first and holds the second's content hash among the inputs."""
        if not hasattr(other, "spec"):
            raise BadInput(
                f"{type(self).__name__} compares two models and is called as method(lm, other, data); its second argument is "
                f"{type(other).__name__!r}, no model."
            )
        self.check_models(lm, other, data)
        inputs = {"other": other} | ({} if data is None else {"data": data})
        return self._recorded(lm, inputs, lambda: self.compare(lm, other, data, store))

    def check_models(self, lm: "LM", other: "LM", data: Any) -> None:
        """Refuse, before anything is paid, models or data that this method cannot compare. The base refuses nothing."""

    def compare(self, lm: "LM", other: "LM", data: Any, store: Any) -> R:
        """Compute the result. Nothing is drawn, printed or saved."""
        raise NotImplementedError(f"{type(self).__name__} does not implement `compare`.")

    def cost(self, lm: "LM", other: "LM", data: Any = None) -> Cost:  # type: ignore[override]
        """What a call would take, without running the models."""
        return Cost(note="unknown")


IRREGULAR = {"pos": "positions", "matrix": "matrices", "edits": "checkpoints"}


def _count(size: int, dim: str) -> str:
    if size == 1:
        return f"1 {dim}"
    if dim in IRREGULAR:
        return f"{size:,} {IRREGULAR[dim]}"
    plural = (
        dim[:-1] + "ies"
        if dim.endswith("y") and dim[-2:-1] not in "aeiou"
        else dim + ("es" if dim.endswith("s") else "s")
    )
    return f"{size:,} {plural}"


def _number(value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.3g}" if math.isfinite(value) and abs(value) < 1000 else f"{value:,.0f}"
