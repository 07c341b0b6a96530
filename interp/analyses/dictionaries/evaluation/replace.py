"""Put reconstructions, zeros or means where a model has its activations, and see what it predicts then."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from interp.analyses.streams import POSITIONS
from interp.core.batch import At
from interp.core.edit import Edit, call, replace
from interp.core.site import Site

from .places import Place, Places, Read

if TYPE_CHECKING:
    from interp.core.lm import LM, Recording

CONDITIONS = ("clean", "dictionary", "zero", "mean")
TOGETHER = "all together"


@dataclass(frozen=True)
class Group:
    """Documents of one length, run through every model, with the codes' reconstructions."""

    bases: tuple["Recording", ...]
    read: tuple[Read, ...]
    """Activations of each model, [row, pos, ...] by site."""
    hats: Mapping[str, Tensor]
    """Reconstructions of the written views [row, pos, d]."""
    means: Mapping[str, Tensor]
    """What mean-ablation puts there, [d]."""
    keep: Tensor
    """Tokens that are replaced, bool [row, pos]."""


def targets(places: Places) -> list[tuple[int, str, tuple[Place, ...]]]:
    """What is replaced: (model, name, views); each written view alone, and all of a model together where it has several."""
    found: list[tuple[int, str, tuple[Place, ...]]] = []
    for model in range(places.models):
        written = places.written_in(model)
        found += [(model, place.name, (place,)) for place in written]
        if len(written) > 1:
            name = TOGETHER if places.models == 1 else f"{TOGETHER} ({written[0].view.model or f'model {model + 1}'})"
            found.append((model, name, tuple(written)))
    return found


def cells(group: Group, written: Sequence[Place]) -> dict[str, list[Edit]]:
    """The edits of each condition but `clean`, each view at the tokens that are replaced."""
    made: dict[str, list[Edit]] = {name: [] for name in CONDITIONS[1:]}
    for place in written:
        hat = group.hats[place.name]
        value = {
            "dictionary": hat,
            "zero": torch.zeros_like(hat),
            "mean": group.means[place.name].to(hat).expand_as(hat),
        }
        for name, rows in value.items():
            made[name].append(replace(place.site, _at_site(group, place, rows), at=At.mask(_where(group, place))))
    return made


def live(places: Places, group: Group, written: Sequence[Place]) -> list[Edit]:
    """Edits under which later codes are computed from the stream that earlier reconstructions have made, layer by layer."""
    state: dict[str, Tensor] = {}
    sites = sorted({place.site for place in (*places.reads, *written)}, key=lambda site: site.order)

    def step(site: Site) -> Edit:
        def act(x: Tensor) -> Tensor:
            flat = x.reshape(*x.shape[:2], -1)
            state.update({place.name: flat.float() for place in places.reads if place.site == site})
            for place in written:
                if place.site == site:
                    hat = _reconstructed(places, state, place, flat)
                    flat = torch.where(group.keep.to(flat.device)[..., None], hat.to(flat), flat)
            return flat.reshape(x.shape)

        return call(site, act)

    return [step(site) for site in sites]


def is_causal(places: Places, written: Sequence[Place]) -> bool:
    """Whether what each of these views is made of comes before it, in one model and at the same token, and latents do not compete."""
    config = places.dictionary.config
    if (
        config.activation == "topk"
        or config.code_scale == "decoupled"
        or any(place.view.offset for place in places.every)
    ):
        return False
    if any(place.minus is not None or place.model != written[0].model for place in places.every):
        return False
    for place in written:
        low, high = config.range_of(place.view)
        for read in places.reads:
            first, last = config.range_of(read.view)
            if first < high and low < last and read.site.order > place.site.order:
                return False
    return True


def last_streams(lm: "LM", base: "Recording", made: Mapping[str, list[Edit]]) -> dict[str, Tensor]:
    """The stream leaving the last layer, [row, pos, d_model], of the recorded run (`clean`) and under each condition's edits."""
    site = Site("resid_post", lm.spec.n_layers - 1)
    found = lm.resume_sites(base, [[], *made.values()], [site])[site]
    return dict(zip(["clean", *made], found, strict=True))


def scores(lm: "LM", streams: Mapping[str, Tensor], tokens: Tensor, first: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Of each condition: (sum of losses, sum of KL(clean || condition)), [row] each, nats, over predictions from position `first` on."""
    rows, length = tokens.shape
    where = torch.arange(first, length - 1)
    row = torch.arange(rows).repeat_interleave(len(where))
    position = where.repeat(rows)
    loss = {name: torch.zeros(rows, dtype=torch.float64) for name in streams}
    kl = {name: torch.zeros(rows, dtype=torch.float64) for name in streams}
    for start in range(0, len(row), POSITIONS):
        r, p = row[start : start + POSITIONS], position[start : start + POSITIONS]
        target = tokens[r, p + 1]
        clean: Tensor | None = None
        for name, stream in streams.items():
            logp = lm.unembed(stream[r, p]).float().log_softmax(dim=-1)  # [prediction, vocab]
            clean = logp if clean is None else clean
            picked = -logp.gather(-1, target.to(logp.device)[:, None])[:, 0]
            loss[name].index_add_(0, r, picked.double().cpu())
            if name != "clean":
                apart = (clean.exp() * torch.where(clean == -torch.inf, 0.0, clean - logp)).sum(dim=-1)
                kl[name].index_add_(0, r, apart.double().cpu())
    return {name: (loss[name], kl[name]) for name in streams}


def _where(group: Group, place: Place) -> Tensor:
    """The positions of the site that are replaced: the tokens kept, moved by the view's offset."""
    return group.keep.roll(place.view.offset, dims=1)


def _at_site(group: Group, place: Place, rows: Tensor) -> Tensor:
    """A view's rows [row, pos, d] as values of its site; of a difference view, on top of the other model's activations."""
    value = rows.roll(place.view.offset, dims=1)
    if place.minus is not None:
        value = value + place.flat(group.read, place.minus).to(value)
    return value.reshape(group.read[place.model][place.site].shape)


def _reconstructed(places: Places, state: Mapping[str, Tensor], place: Place, flat: Tensor) -> Tensor:
    """The view's reconstruction from what has been read so far; latents that read something later do not write it."""
    dictionary = places.dictionary
    blank = {
        read.name: flat.new_zeros(*flat.shape[:2], read.view.width, dtype=torch.float32) for read in places.reads if read.name not in state
    }  # fmt: skip
    named = {name: x.reshape(-1, x.shape[-1]).to(dictionary.device) for name, x in {**state, **blank}.items()}
    hats = dictionary.decode(dictionary.codes(named), named)
    hat = hats if isinstance(hats, Tensor) else hats[place.name]
    return hat.reshape(*flat.shape[:2], -1)
