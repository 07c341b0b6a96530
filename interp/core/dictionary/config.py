"""What a dictionary is, before it has weights: which views it reads and writes, how many latents, and which of them may be on.

    stream = View("in", site="blocks.2.hook_resid_post", width=128)
    DictionaryConfig(latents=1024, reads=(stream,), writes=(stream,), activation="topk", k=32)          # an SAE
    base, tuned = View("base", width=128), View("tuned", width=128)
    DictionaryConfig(1024, (base, tuned), (base, tuned), activation="batchtopk", k=64, centred=False)     # a crosscoder

A view covers one contiguous range of the latents; all, unless it says which. So what other libraries express by masks (a latent of layer
3 may not write to layer 2, a latent of its own for one of two models) is a range here, and masked blocks do not exist at all: they are
neither stored nor multiplied nor trained. Latents that are not neighbours cannot share a view of their own; such a layout is refused.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from ..errors import BadInput, one_of

ACTIVATIONS = ("relu", "topk", "batchtopk", "jumprelu")
CODE_SCALES = ("none", "sum", "concat", "mixed", "decoupled")


@dataclass(frozen=True)
class View:
    """A place that a dictionary reads or writes: vectors [row, width] of one site of one model."""

    name: str
    """What it is called here: `in`, `out`, `base`, `tuned`, `layer 2`."""
    site: str = ""
    """TransformerLens name of the site; empty for rows that come from no model."""
    width: int = 0
    """Components of a row (flattened, where a site has heads)."""
    model: str = ""
    """Name of the model."""
    fingerprint: str = ""
    """Content hash of that model's weights; empty where it is not known."""
    minus: str = ""
    """Name of a second model whose activations are subtracted: a difference view."""
    minus_fingerprint: str = ""
    """Content hash of the second model's weights."""
    offset: int = 0
    """Tokens by which it is shifted: -1 is the token before."""
    latents: tuple[int, int] | None = None
    """Latents [first, last + 1) that it has to do with; None for all."""

    def __post_init__(self) -> None:
        if not self.name or self.width < 1:
            raise BadInput(f"a view needs a name and a width of at least 1; not {self.name!r} and {self.width}.")
        if self.latents is not None:
            object.__setattr__(self, "latents", tuple(int(bound) for bound in self.latents))

    @property
    def place(self) -> tuple[Any, ...]:
        """What it is a view of, whatever its name and latents."""
        return self.site, self.width, self.model, self.fingerprint, self.minus, self.minus_fingerprint, self.offset


@dataclass(frozen=True)
class DictionaryConfig:
    """The shape of a dictionary and the rule by which its latents are on."""

    latents: int
    """Latents in all (d_sae, m)."""
    reads: tuple[View, ...]
    """Views that are encoded; each adds to the pre-activations of its latents."""
    writes: tuple[View, ...]
    """Views that are reconstructed."""
    activation: str = "topk"
    """Which latents are on: `relu`, `topk` (k of each row), `batchtopk` (k a row on average, at inference one threshold) or `jumprelu`."""
    k: float = 32.0
    """Latents that are on in a row, for `topk` and, on average, `batchtopk`."""
    code_scale: str = "sum"
    """What a code is multiplied by when latents compete: nothing (`none`), the sum of its decoder norms over the views (`sum`), the norm
    of all together (`concat`), `mixed` (concat + 0.1 sum), or `decoupled` (a competition a view). The code itself is never scaled."""
    groups: tuple[tuple[str, int], ...] = ()
    """Names and sizes of groups of latents, in order, where they differ in what they may do."""
    nested: tuple[int, ...] = ()
    """Widths of the nested dictionaries of a Matryoshka SAE, rising, the last being all latents."""
    centred: bool = True
    """Whether the decoder bias of a view is subtracted before it is encoded (SAEs), or not (crosscoders, transcoders)."""
    skip: bool = False
    """Whether a transcoder has a linear path from what it reads to what it writes."""
    family: str = "sae"
    """What this is: sae, transcoder, crosscoder, ..."""
    dtype: str = "float32"
    """Of the weights."""

    def __post_init__(self) -> None:
        one_of("activation", self.activation, ACTIVATIONS)
        one_of("code_scale", self.code_scale, CODE_SCALES)
        one_of("dtype", self.dtype, ("float32", "float64", "bfloat16", "float16"))
        for name in ("reads", "writes"):
            object.__setattr__(self, name, tuple(_view(view) for view in getattr(self, name)))
        object.__setattr__(self, "groups", tuple((str(name), int(size)) for name, size in self.groups))
        object.__setattr__(self, "nested", tuple(int(width) for width in self.nested))
        self._check_views()
        self._check_numbers()

    def _check_views(self) -> None:
        if self.latents < 1 or not self.reads or not self.writes:
            raise BadInput(
                f"a dictionary needs a latent, a view to read and one to write; not {self.latents}, {self.reads}, {self.writes}."
            )
        named: dict[str, View] = {}
        for side in (self.reads, self.writes):
            names = [view.name for view in side]
            if len(set(names)) < len(names):
                raise BadInput(f"views need different names; these are {names}.")
            for view in side:
                low, high = self.range_of(view)
                if not 0 <= low < high <= self.latents:
                    raise BadInput(
                        f"the view {view.name!r} covers latents {low} to {high} of {self.latents}. Give 0 <= first < last <= "
                        f"{self.latents}."
                    )
                if named.setdefault(view.name, view).place != view.place:
                    raise BadInput(
                        f"the view {view.name!r} is one place where it is read and another where it is written."
                    )
            covered = [False] * self.latents
            for view in side:
                low, high = self.range_of(view)
                covered[low:high] = [True] * (high - low)
            if not all(covered):
                what = "read nothing" if side is self.reads else "write nothing"
                raise BadInput(
                    f"latent {covered.index(False)} and {covered.count(False) - 1} others {what}. Widen a view's latents."
                )
        names = [name for name, _ in self.groups]
        if any(size < 1 for _, size in self.groups) or len(set(names)) < len(names):
            raise BadInput(f"groups need different names and at least one latent each; not {list(self.groups)}.")
        if self.groups and sum(size for _, size in self.groups) != self.latents:
            raise BadInput(
                f"the groups {dict(self.groups)} hold {sum(s for _, s in self.groups)} latents, not {self.latents}."
            )

    def _check_numbers(self) -> None:
        if self.activation in ("topk", "batchtopk"):
            whole = self.activation == "batchtopk" or float(self.k).is_integer()
            if not (math.isfinite(self.k) and 0 < self.k <= self.latents and whole):
                kind = "a number" if self.activation == "batchtopk" else "a whole number"
                raise BadInput(f"`k` must be {kind} above 0 and at most the {self.latents} latents; not {self.k}.")
        if self.nested and (
            list(self.nested) != sorted(set(self.nested)) or self.nested[0] < 1 or self.nested[-1] != self.latents
        ):
            raise BadInput(f"`nested` must rise to the {self.latents} latents; not {list(self.nested)}.")
        if self.centred and any(view.name not in {w.name for w in self.writes} for view in self.reads):
            raise BadInput(
                "`centred` subtracts the decoder bias of what is read, which must then be written too. Say centred=False."
            )
        if self.skip and (len(self.reads) > 1 or len(self.writes) > 1):
            raise BadInput("`skip` is a path from one view to one view; this dictionary has several.")
        if self.code_scale == "decoupled" and self.activation not in ("topk", "batchtopk"):
            raise BadInput(f"code_scale='decoupled' is a competition a view; {self.activation!r} has none.")

    def range_of(self, view: View) -> tuple[int, int]:
        """The latents [first, last + 1) of a view."""
        return (0, self.latents) if view.latents is None else view.latents

    def group(self, name: str) -> tuple[int, int]:
        """The latents [first, last + 1) of a named group."""
        one_of("group", name, [named for named, _ in self.groups])
        start = 0
        for named, size in self.groups:
            if named == name:
                break
            start += size
        return start, start + size

    @property
    def views(self) -> tuple[View, ...]:
        """Every view once: what is read, then what is only written."""
        names = {view.name for view in self.reads}
        return (*self.reads, *(view for view in self.writes if view.name not in names))

    def with_k(self, k: float) -> "DictionaryConfig":
        """The same with another k."""
        return replace(self, k=k)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "DictionaryConfig":
        """Read back what `to_dict` gave. Raises `BadInput` for fields that it does not have."""
        known = {entry.name for entry in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise BadInput(
                f"a dictionary has no fields {unknown}; it has {sorted(known)}. Upgrade interp, or remove them."
            )
        return cls(**values)


def _view(given: Any) -> View:
    if isinstance(given, View):
        return given
    if isinstance(given, Mapping):
        return View(**given)
    raise BadInput(f"a view is a View; not {type(given).__name__} {given!r}.")
