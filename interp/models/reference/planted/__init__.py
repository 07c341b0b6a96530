"""Hand-wired models with a known mechanism, and the answers that every method must give.

All are transformers' own GPT-2, or Llama (`rotary_channels`), with real parameters, so both backends, the store and every method run on
them unchanged.

    from interp.models import reference
    planted = reference.fact(n_layers=20, writer=9, mover=14)
    lm = reference.as_lm(planted)
    planted.prompts[0]                                # {'prompt': 'They say that Ana de Arden lives in old', 'subject': …}
    planted.answers["hidden"]["last_subject"]         # [1, …, 1, 0, …, 0]

Passing here is necessary, not sufficient: these mechanisms are clean, alone in their model and aligned with single heads and layers,
which those of trained models are not. Each constructor takes `null=True` for the same shapes with random weights.
"""

from .channels import Channel, channels
from .concepts import PlantedVector, concepts
from .fact import counterfactual, fact, fact_map, window
from .flags import flag_pair, flags
from .gates import gate_pairs, gates
from .induction import expected_patterns, induction, prefix_score, repeated, uniform_score
from .laundry import laundry, laundry_words
from .pointer import pointer, pointer_pairs
from .rotary import rotary_channels
from .tracker import sharpened, tracker, tracker_desiderata, tracker_pairs
from .wiring import Planted

__all__ = [
    "Channel", "Planted", "PlantedVector", "channels", "concepts", "counterfactual", "expected_patterns", "fact", "fact_map", "flag_pair",
    "flags", "gate_pairs", "gates", "induction", "laundry", "laundry_words", "pointer", "pointer_pairs", "prefix_score", "repeated",
    "rotary_channels", "sharpened", "tracker", "tracker_desiderata", "tracker_pairs", "uniform_score", "window",
]  # fmt: skip
