"""Latents as edits: take them out, set them, or add to them, and leave everything else of the activation as it is.

    from interp.analyses.dictionaries.effects import ablate, clamp, steer
    lm.run("The king", edits=[ablate(sae, [12, 60])])                # x - f_12 d_12 - f_60 d_60 at every token
    lm.run("The king", edits=[clamp(sae, {12: 5.0})])                # x + (5 - f_12) d_12
    lm.generate("The king", 8, edits=[steer(sae, {12: 8.0})])        # x + 8 d_12

What comes out is x + (f' - f) W_dec, in raw activations: the dictionary's reconstruction error stays where it is. (Replacing x by a
reconstruction would mix the effect of the latents with that of everything that the dictionary misses.) So a token at which no code changes
is the same bit for bit. Codes are those of the activation that comes in, after earlier edits.

It misleads where latents share a direction: taking one out leaves its near-duplicates, which still say the same thing.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from interp.core.batch import At
from interp.core.dictionary import Dictionary, View
from interp.core.edit import Edit, add, call
from interp.core.errors import BadInput
from interp.core.site import Site

from ..latents.logits import raw_rows
from ..latents.reading import columns

HOW = ("ablate", "steer", "clamp")


def ablate(dictionary: Dictionary, latents: Sequence[int], *, view: str = "", at: At = At("all")) -> Edit:
    """Take latents out: x - sum of their codes times their decoder rows. Raises `BadInput` for latents that are not there.

    For a dictionary that reads and writes one and the same view; others need codes of other sites (`LatentEffect` computes them).
    """
    return _coded(dictionary, {int(latent): 0.0 for latent in latents}, view, at)


def clamp(dictionary: Dictionary, values: Mapping[int, float], *, view: str = "", at: At = At("all")) -> Edit:
    """Set the codes of latents, {latent: code}, at every token, also where they are off. Raises `BadInput` as `ablate` does."""
    return _coded(dictionary, dict(values), view, at)


def steer(dictionary: Dictionary, values: Mapping[int, float], *, view: str = "", at: At = At("all")) -> Edit:
    """Add to the codes of latents, {latent: code}, at every token: a constant vector, whatever the dictionary reads.

    Of a dictionary that writes several views, `view` says where.
    """
    target = written(dictionary, view)
    rows = raw_rows(dictionary, target.name, checked(dictionary, list(values)))
    amounts = torch.tensor(list(values.values()), dtype=torch.float32)
    if not bool(amounts.isfinite().all()):
        raise BadInput(f"codes to add must be finite numbers; not {list(values.values())}.")
    return add(Site.parse(target.site), _shaped(amounts @ rows, target), at=at)


def written(dictionary: Dictionary, view: str = "") -> View:
    """The view that is edited. Raises `BadInput` where several are written and none is named, and for one that is no model's site."""
    views = {one.name: one for one in dictionary.config.writes}
    if not view and len(views) > 1:
        raise BadInput(f"this dictionary writes the views {list(views)}. Say which one to edit: `view`.")
    if view and view not in views:
        raise BadInput(f"there is no written view {view!r}; there are {list(views)}.")
    found = views[view] if view else next(iter(views.values()))
    if not found.site or found.minus or found.offset:
        kind = (
            "names no site"
            if not found.site
            else f"is a difference with {found.minus}"
            if found.minus
            else "is shifted"
        )
        raise BadInput(
            f"view {found.name!r} {kind}, so there is no activation of one model to add its decoder rows to."
        )
    return found


def checked(dictionary: Dictionary, latents: Sequence[int]) -> list[int]:
    """Numbers of latents. Raises `BadInput` for none, for one twice and for those that are not there."""
    numbers = [int(latent) for latent in latents]
    if not numbers or len(set(numbers)) < len(numbers):
        raise BadInput(f"name one latent or more, each once; not {numbers}.")
    if bad := [latent for latent in numbers if not 0 <= latent < dictionary.latents]:
        raise BadInput(f"latents {bad} are not there: the dictionary has {dictionary.latents:,}, numbered from 0.")
    return numbers


def moved(x: Tensor, change: Tensor, rows: Tensor) -> Tensor:
    """x [row, d] with the codes of some latents changed by `change` [row, latent] along `rows` [latent, d]; other rows stay as they are."""
    at = (change != 0).any(dim=1)
    out, wide = x.clone(), torch.promote_types(x.dtype, torch.float32)
    out[at] = (x[at].to(wide) + change[at].to(wide) @ rows.to(wide)).to(x.dtype)
    return out


def _coded(dictionary: Dictionary, values: dict[int, float], view: str, at: At) -> Edit:
    latents = checked(dictionary, list(values))
    target = written(dictionary, view)
    reads = dictionary.config.reads
    if len(reads) > 1 or reads[0].place != target.place:
        raise BadInput(
            f"the codes of this {dictionary.config.family} are read at {[one.site for one in reads]}, not (only) at {target.site}, which "
            "is edited: one edit cannot know them. Use `LatentEffect`, or `steer`, which needs no codes."
        )
    rows = raw_rows(dictionary, target.name, latents)
    wanted = torch.tensor([values[latent] for latent in latents], dtype=torch.float32)
    if not bool(wanted.isfinite().all()):
        raise BadInput(f"codes must be finite numbers; not {list(values.values())}.")

    def change(x: Tensor) -> Tensor:
        flat = x.reshape(-1, target.width)
        now = chosen_codes(dictionary, flat, latents).to(flat.device)
        return moved(flat, wanted.to(flat.device) - now, rows.to(flat.device)).reshape(x.shape)

    return call(Site.parse(target.site), change, at=at)


def chosen_codes(dictionary: Dictionary, x: Tensor, latents: Sequence[int]) -> Tensor:
    """Codes of some latents [row, latent] of raw activations [row, d], float32."""
    codes = dictionary.codes(x.detach().to(dictionary.device))
    place, row, value = columns(
        type(codes)(codes.ids.cpu(), codes.values.float().cpu(), codes.offsets.cpu(), codes.latents), latents
    )
    out = torch.zeros(len(x), len(latents))
    out[torch.from_numpy(row), torch.from_numpy(place)] = torch.from_numpy(value).float()
    return out


def _shaped(vector: Tensor, view: View) -> Tensor:
    """A vector of a view as its site has it. Raises `BadInput` for sites with heads, whose shape is not known without the model."""
    if "d_head" in Site.parse(view.site).dims:
        raise BadInput(
            f"{view.site} has heads, so a constant cannot be added without the model's shape. Use `LatentEffect`."
        )
    return vector
