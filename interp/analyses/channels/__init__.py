"""Channels: which component of which head's write is read by which later head."""

from .ablate import ComponentAblation
from .ablate_result import ComponentAblationResult
from .attention import Observed, Observer, PromptGroup, Readout, head_attention, metrics_of, prompt_groups, rank_readers
from .component import Component, Head
from .cosines import Match, correspondence, cosines
from .decompose import Components, One, decompose, single, subspace
from .editing import Removal, Space, component_edit, edit_components, removals, removing
from .engine import Readers, Writers, read_layer, scores_into, scores_of, write_layer
from .factors import Factors, Reader, Setting, free, ov, qk, reader
from .result import ChannelResult
from .scores import Channels

__all__ = [
    "ChannelResult",
    "Channels",
    "Component",
    "ComponentAblation",
    "ComponentAblationResult",
    "Components",
    "Factors",
    "Head",
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
    "Writers",
    "component_edit",
    "correspondence",
    "cosines",
    "decompose",
    "edit_components",
    "free",
    "head_attention",
    "metrics_of",
    "ov",
    "prompt_groups",
    "qk",
    "rank_readers",
    "read_layer",
    "reader",
    "removals",
    "removing",
    "scores_into",
    "scores_of",
    "single",
    "subspace",
    "write_layer",
]
