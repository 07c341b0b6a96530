"""The families of dictionaries by name. Each says which sites it needs and gives the configuration of one sparse coder over views.

    family              reads                     writes                     of
    SAE                 a site                    the same                   Bricken et al. 2023
    Transcoder          the stream before an MLP  what the MLP adds          Dunefsky et al. 2024; with `skip`: Paulo et al. 2025
    Crosscoder          a site of each model      the same                   Lindsey et al. 2024; Minder et al. 2025
      dedicated         groups base only | shared | tuned only               Jiralerspong and Bricken 2026
      designated_shared a first group with a lower penalty                   Anthropic, February 2025
    LayerCrosscoder     layers                    the same, or later ones    Lindsey et al. 2024
    TokenCrosscoder     a site at several tokens  the same
    CrossLayerTranscoder  the stream before each MLP  what this and later MLPs add    Ameisen et al. 2025
    DifferenceSAE       tuned - base at a site    the same                   Aranguri et al. 2025

A latent that may not read or write a view has no weights there: the groups of a family are ranges of latents, nothing is masked.

    from interp.core.dictionary import View
    from interp.train.families import SAE, Crosscoder
    SAE(latents=512, k=16).config({"in": View("in", width=128)})
    both = {name: View(name, width=128) for name in ("base", "tuned")}
    Crosscoder(dedicated=0.1).config(both).groups
"""

from .family import Family
from .layers import CrossLayerTranscoder, LayerCrosscoder
from .models import Crosscoder
from .sites import SAE, DifferenceSAE, TokenCrosscoder, Transcoder

FAMILIES: dict[str, type[Family]] = {
    "sae": SAE,
    "transcoder": Transcoder,
    "crosscoder": Crosscoder,
    "layer-crosscoder": LayerCrosscoder,
    "token-crosscoder": TokenCrosscoder,
    "clt": CrossLayerTranscoder,
    "difference-sae": DifferenceSAE,
}
"""Every family by its name on the command line."""

__all__ = [
    "FAMILIES", "SAE", "CrossLayerTranscoder", "Crosscoder", "DifferenceSAE", "Family", "LayerCrosscoder", "TokenCrosscoder", "Transcoder",
]  # fmt: skip
