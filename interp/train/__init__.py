"""Learning dictionaries: SAEs, transcoders and crosscoders from the shared activation cache.

    import interp
    family = interp.train.SAE(site="blocks.2.hook_resid_post", latents=64, k=8)
    short = interp.train.Training(tokens=4000, batch=500)
    trained = interp.train.fit(family, [lm], corpus, short, store=store)
    trained.dictionary, trained.result.headline()

`families` say what is read and written, `data` what is learned from, `training` how, `fitting` does all of it in one call; `formats` reads
and writes what other libraries know, `saelens` leaves an SAE to SAELens' own trainer, `distributed` spreads a training over processes.
"""

import importlib
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "fit": "fitting",
    "plan": "fitting",
    "Training": "training",
    "Trained": "training",
    "TrainingData": "data",
    "SAE": "families",
    "Transcoder": "families",
    "Crosscoder": "families",
    "LayerCrosscoder": "families",
    "TokenCrosscoder": "families",
    "CrossLayerTranscoder": "families",
    "DifferenceSAE": "families",
    "train_with_sae_lens": "saelens",
}
"""Public names and the modules that hold them, loaded when they are asked for."""

if TYPE_CHECKING:
    from .data import TrainingData as TrainingData
    from .families import SAE as SAE
    from .families import Crosscoder as Crosscoder
    from .families import CrossLayerTranscoder as CrossLayerTranscoder
    from .families import DifferenceSAE as DifferenceSAE
    from .families import LayerCrosscoder as LayerCrosscoder
    from .families import TokenCrosscoder as TokenCrosscoder
    from .families import Transcoder as Transcoder
    from .fitting import fit as fit
    from .fitting import plan as plan
    from .saelens import train_with_sae_lens as train_with_sae_lens
    from .training import Trained as Trained
    from .training import Training as Training


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'interp.train' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
