"""Rows, dictionaries of ours with odd scales, and the comparison of codes at the edge of a threshold."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from interp.core.dictionary import Dictionary, DictionaryConfig, Scaling, View
from interp.core.seed import generator

WIDTH, LATENTS = 12, 40


def drawn(*shape: int, name: str = "rows", scale: float = 1.0) -> Tensor:
    """Normal numbers that are the same in every run."""
    return torch.randn(*shape, generator=generator(3, "formats", name, *shape)) * scale


@pytest.fixture(scope="session")
def rows() -> Tensor:
    """Raw activations [row, d], off centre and not of unit size."""
    return drawn(256, WIDTH, scale=2.5) + 0.7


def fill(dictionary: Dictionary) -> Dictionary:
    """Weights by name, with decoder rows of very different norms."""
    for name, parameter in dictionary.named_parameters():
        parameter.data.copy_(drawn(*parameter.shape, name=name, scale=0.4))
    for place, rows in enumerate(dictionary.decoders):
        rows.data.mul_(torch.linspace(0.2, 3.0, len(rows))[:, None] * (1 + place))
    if dictionary.config.activation == "jumprelu":
        dictionary.thresholds.data.abs_()
    if dictionary.config.activation == "batchtopk":
        dictionary.threshold.fill_(0.8)
    return dictionary


@pytest.fixture(scope="session")
def make() -> Callable[..., Dictionary]:
    """A filled dictionary over one view (`family="transcoder"`: from one to another), with a scaling that is not trivial."""

    def made(activation: str, *, scaled: bool = True, family: str = "sae", **fields: object) -> Dictionary:
        view = View("in", site="blocks.2.hook_resid_post", width=WIDTH, model="toy")
        out = View("out", site="blocks.2.hook_mlp_out", width=7, model="toy") if family == "transcoder" else view
        fields.setdefault("centred", family == "sae")
        config = DictionaryConfig(LATENTS, (view,), (out,), activation=activation, k=5, family=family, **fields)  # type: ignore[arg-type]
        new = fill(Dictionary(config, metadata={"context_size": 64, "bos": True}))
        if scaled:
            new.scale_views({"in": Scaling(drawn(WIDTH, name="mean"), 0.37)})
            if family == "transcoder":
                new.scale_views({"out": Scaling(drawn(7, name="mean out"), 2.1)})
        return new

    return made


def same_codes(ours: Tensor, theirs: Tensor, margin: Tensor | None = None, *, atol: float = 1e-5) -> None:
    """Codes are equal to `atol`, and on in the same places, but for those within `atol` of a threshold (`margin` is the distance to it)."""
    assert ours.shape == theirs.shape
    near = torch.zeros_like(ours, dtype=torch.bool) if margin is None else margin.abs() < atol
    assert bool((((ours != 0) == (theirs != 0)) | near).all())
    assert torch.allclose(ours[~near], theirs[~near], atol=atol, rtol=1e-5)
    assert int((ours != 0).sum()) > 0 and int((ours == 0).sum()) > 0, "a comparison of all or nothing"
