"""From models and text to trained dictionaries in one call: capture what the family needs, split the rows, train.

    from interp.train import SAE, fit, plan
    trained = fit(SAE(site="blocks.2.hook_resid_post", latents=512, k=16), [lm], corpus, folder="runs/sae")
    plan(SAE(latents=512), [lm], corpus).describe()               # what it would read, write and hold, before anything is paid

The activations come from the shared store, so a second dictionary at the same site, an evaluation or a report computes nothing anew.
Several models must read the text as the same tokens. The next steps are `interp dictionary-eval` and, for two models, `interp diff`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from ..cache import Store, human
from ..cache.gather import gather, view_of
from ..core.dictionary import Dictionary, DictionaryConfig, View
from ..core.dictionary.seen import sketch
from ..core.errors import BadInput, one_of
from ..core.lm import LM
from .data import MASSIVE, TrainingData
from .families import Family
from .training import Trained, Training

if TYPE_CHECKING:
    from .distributed import Parallel

TRAINERS = ("interp", "sae_lens")


@dataclass(frozen=True)
class Plan:
    """What a training would need."""

    family: Family
    views: dict[str, View]
    config: DictionaryConfig
    rows: int
    """Tokens of the corpus."""
    disk: int
    """Bytes of all activations in the store."""
    fresh: int
    """Bytes of them that are not there yet."""
    parameters: int
    """Numbers in the dictionary."""

    def describe(self) -> str:
        """Three short lines."""
        sites = ", ".join(f"{view.name}: {view.model} {view.site}" for view in self.views.values())
        memory = self.parameters * 16  # weight, gradient and two of Adam's, float32
        return "\n".join(
            [
                f"{self.config.family} · {self.config.latents:,} latents, {self.config.activation} · {sites}",
                f"{self.rows:,} tokens · {human(self.disk)} of activations, {human(self.fresh)} of them to compute",
                f"{self.parameters:,} parameters · about {human(memory)} with gradients and optimizer",
            ]
        )


def views_of(family: Family, models: Sequence[LM]) -> dict[str, View]:
    """The views of a family in these models. Raises `BadInput` for another number of models than it needs."""
    if len(models) != family.models:
        raise BadInput(
            f"a {family.family} is of {family.models} model{'s' if family.models > 1 else ''}; given are {len(models)}: "
            f"{', '.join(lm.spec.name for lm in models)}."
        )
    difference = family.family == "difference sae"
    sites = family.sites(*(lm.spec for lm in models))
    return {
        name: view_of(
            models[family.model_of(name)],
            site,
            name,
            minus=models[0] if difference else None,
            offset=family.offset_of(name),
        )
        for name, site in sites
    }


def plan(family: Family, models: Sequence[LM], corpus: Any, store: "Store | None" = None) -> Plan:
    """What `fit` with the same arguments would compute. Touches nothing."""
    store = store or Store()
    views = views_of(family, models)
    config = family.config(views)
    disk, fresh, rows = 0, 0, 0
    for lm in dict.fromkeys(models):
        sites = sorted({view.site for view in views.values() if _uses(view, lm)})
        preview = store.preview(lm, corpus, sites)
        disk, fresh, rows = disk + preview.total_bytes, fresh + preview.bytes, preview.tokens
    with torch.device("meta"):
        parameters = sum(weight.numel() for weight in Dictionary(config).parameters())
    return Plan(family, views, config, rows, disk, fresh, parameters)


def fit(
    family: "Family | Sequence[Family]",
    models: Sequence[LM],
    corpus: Any,
    training: "Training | None" = None,
    *,
    store: "Store | None" = None,
    folder: "str | Path | None" = None,
    heldout: float = 0.05,
    skip_first: int = 0,
    massive: Literal["keep", "skip"] = "keep",
    dtype: "str | None" = None,
    trainer: str = "interp",
    architecture: str = "",
    parallel: "Parallel | None" = None,
    say: "Callable[[str], None] | None" = None,
) -> Trained:
    """Train a dictionary of a family (or several that use the same views) on a corpus.

    `heldout`, `skip_first` and `massive` as in `TrainingData`; `dtype` is that of the stored activations; `trainer="sae_lens"` leaves
    SAEs of one site to SAELens' own trainer. Raises `BadInput` for models that do not fit the family, and what capturing and training
    raise.
    """
    one_of("trainer", trainer, TRAINERS)
    if architecture and trainer != "sae_lens":
        raise BadInput(
            f"`architecture` {architecture!r} is one of SAELens' own. Say trainer='sae_lens', or leave it out."
        )
    if trainer == "sae_lens" and parallel is not None and parallel.size > 1:
        raise BadInput(f"SAELens' trainer is one process, and these are {parallel.size}. Start it without torchrun.")
    families = [family] if isinstance(family, Family) else list(family)
    if not families:
        raise BadInput("there is no family to train. Give at least one.")
    views = views_of(families[0], models)
    if any(views_of(other, models) != views for other in families[1:]):
        raise BadInput("dictionaries that are trained on one pass need the same sites. Train them one after the other.")
    training = training or Training()
    weights = {one.group_weights for one in families}
    if len(weights) > 1 and not training.group_weights:
        raise BadInput(
            "dictionaries that are trained on one pass need the same weights of their groups (`designated_shared`); these have "
            f"{sorted(weights)}. Train them one after the other, or say `group_weights` of the training."
        )
    configs = [one.config(views) for one in families]
    rows = gather(list(views.values()), models, corpus, store or Store(say=say), dtype=dtype)
    data = TrainingData(
        rows, heldout=heldout, skip_first=skip_first, massive=massive, metadata=metadata_of(models[-1], corpus)
    )
    for name, count in data.massive.items():
        if count and say is not None:
            cure = (
                "--massive skip leaves them out" if skip_first else "--skip-first 1 or --massive skip leaves them out"
            )
            say(
                f"view {name!r}: {count:,} of {data.looked[name]:,} rows looked at have norms above {MASSIVE:g} times the median: "
                f"attention sinks? Such rows are {'left out' if massive == 'skip' else f'trained on; {cure}'}."
            )
    training = replace(training, group_weights=training.group_weights or families[0].group_weights)
    if trainer == "sae_lens":
        from .saelens import train_with_sae_lens

        return train_with_sae_lens(data, configs, training, architecture=architecture, folder=folder, say=say)
    return training(data, configs, folder=folder, parallel=parallel, say=say)


def metadata_of(lm: LM, corpus: Any) -> dict[str, Any]:
    """What a dictionary keeps of its text: name, digest, how documents were cut."""
    lengths = getattr(corpus, "lengths", None)
    digest = getattr(corpus, "digest", None)
    return {
        "corpus": str(getattr(corpus, "source", "documents")),
        "corpus_digest": digest() if callable(digest) else "",
        "corpus_sketch": sketch(corpus.documents) if hasattr(corpus, "documents") else [],
        "context_size": int(max(lengths)) if lengths else int(lm.spec.n_ctx),
        "bos": bool(getattr(corpus, "bos", False)),
        "model_dtype": lm.spec.dtype,
    }


def _uses(view: View, lm: LM) -> bool:
    from ..cache.gather import identity

    return identity(lm) in (view.fingerprint, view.minus_fingerprint)
