"""Scores from the weights alone: every component of every head against every later head."""

from .channels import Channels
from .cosines import Match, correspondence, cosines, cosines_top
from .engine import Readers, Writers, read_layer, scores_into, scores_of, write_layer
from .result import ChannelResult

__all__ = [
    "ChannelResult",
    "Channels",
    "Match",
    "Readers",
    "Writers",
    "correspondence",
    "cosines",
    "cosines_top",
    "read_layer",
    "scores_into",
    "scores_of",
    "write_layer",
]
