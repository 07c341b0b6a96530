"""Channels: which component of which head's write is read by which later head?

The question. A head moves `x OV` from one token to another, and nothing says that all of it is meant for everybody. Decomposed,
OV = Σ s_i u_i v_iᵀ, it reads along u_i and writes along v_i, one dimension a component. A later head listens through three inputs, each
with its own matrix M: QK for what enters its query, QKᵀ for its key, OV for its value. Do v_i and M meet?

    score of a component       c_i = |v_i M| / |M|_F                 its strength s_i cancels
    score of the whole head    |OV M| / (|OV| |M|) = (Σ s_i² c_i² / Σ s_i²)^½
    both sides decomposed      |v_i · u'_j|, a cosine;  Σ_j s'_j² cos² / |M|_F² = c_i²
    ceiling                    c_i <= s'_1 / |M|_F, reached by a component that writes what the reader reads best
    by chance                  E[c²] = 1/n for a random direction among the n dimensions that the stream has free

The second line is why heads are decomposed: a channel through a component with a small s_i is all but invisible in the score of two heads.

Source. Merullo, Eickhoff & Pavlick 2024, "Talking Heads" (arXiv 2406.09519): components, their scores, channels that are used. Elhage et
al. 2021, "A Mathematical Framework for Transformer Circuits": composition of whole heads. That a score needs no more than d_head columns
for each side is algebra (`factors`, `engine`). Deviations: the weights are folded by default, which the paper leaves open (`Setting`);
n is d_model - 1 behind a LayerNorm; z leaves the component itself out.

How. `Channels` scores all components of all heads against all later heads, from the weights alone: one product for each pair of layers,
thin factors only, streamed (`scoring`). What is built on it reads text or edits: nulls (`nulls`), circuits from weights (`discovery`),
use on prompts (`use`), what components say in words (`words`), closing channels (`ablation`), writing along them and exchanging them
(`steering`), lists of things (`laundry`).

When it misleads
- A high score says "able to talk", never "does talk on this text". Scores of trained heads lie above the random null anyway, because heads
  share directions (position, BOS, large dimensions): look at z, which a writer that everybody hears does not have, and at data.
- Names of components are not invariant. Folding a norm's gain rescales what is read, and 8.10.1 may be 8.10.2 in other coordinates;
  `correspondence` finds it, and tables print both numbers. Where singular values agree, a single component means nothing (`alone`).
- In rotary models QK is another matrix at every distance. Without `offsets` only V is scored.
- What a norm divides by, and biases unless asked for, are in no score. A MLP between two heads may carry what no score shows.
- Many are compared: in GPT-2 1.8 million components with heads. `significant` corrects for all of them, not for those that are listed.

    import interp
    lm = interp.load("atlas")
    found = interp.Channels()(lm)
    found.channels(5)                               # writer, reader, kind, score, over_null, z, p, ...
    found.into("3.1", kind="K").max("component")    # which earlier heads a key listens to
    found.significant(0.01), found.null()
    interp.Channels(rank_by="z", kinds=("V",))(lm).headline()
"""

from .ablation import (
    ComponentAblation,
    ComponentAblationResult,
    Removal,
    component_edit,
    edit_components,
    removals,
    removing,
)
from .attention import Observed, Observer, PromptGroup, Readout, metrics_of, prompt_groups
from .component import Component, Head
from .decompose import Components, One, decompose, single, subspace
from .discovery import IOI_HEADS, ChannelCircuit, ChannelCircuitResult, recovered
from .factors import Factors, Reader, Setting, free, ov, qk, reader
from .laundry import LaundryList, LaundryResult
from .nulls import log10_tail, null_of, rotation_null, shuffle_null
from .readers import head_attention, rank_readers
from .scoring import (
    ChannelResult,
    Channels,
    Match,
    Readers,
    Writers,
    correspondence,
    cosines,
    cosines_top,
    read_layer,
    scores_into,
    scores_of,
    write_layer,
)
from .space import Space
from .steering import ChannelPatching, ChannelPatchingResult, ChannelSteering, SteeringResult
from .use import ChannelUse, ChannelUseResult
from .words import ComponentWords, ComponentWordsResult

__all__ = [
    "IOI_HEADS",
    "ChannelCircuit",
    "ChannelCircuitResult",
    "ChannelPatching",
    "ChannelPatchingResult",
    "ChannelResult",
    "ChannelSteering",
    "ChannelUse",
    "ChannelUseResult",
    "Channels",
    "Component",
    "ComponentAblation",
    "ComponentAblationResult",
    "ComponentWords",
    "ComponentWordsResult",
    "Components",
    "Factors",
    "Head",
    "LaundryList",
    "LaundryResult",
    "Match",
    "Observed",
    "Observer",
    "One",
    "PromptGroup",
    "Reader",
    "Readers",
    "Readout",
    "Removal",
    "Setting",
    "Space",
    "SteeringResult",
    "Writers",
    "component_edit",
    "correspondence",
    "cosines",
    "cosines_top",
    "decompose",
    "edit_components",
    "free",
    "head_attention",
    "log10_tail",
    "metrics_of",
    "null_of",
    "ov",
    "prompt_groups",
    "qk",
    "rank_readers",
    "read_layer",
    "reader",
    "recovered",
    "removals",
    "removing",
    "rotation_null",
    "scores_into",
    "scores_of",
    "shuffle_null",
    "single",
    "subspace",
    "write_layer",
]
