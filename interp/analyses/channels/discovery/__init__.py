"""Circuits from weights: walk from a component to those that write into it, and to those that read it."""

from .discover import ChannelCircuit
from .result import IOI_HEADS, ChannelCircuitResult, recovered

__all__ = ["IOI_HEADS", "ChannelCircuit", "ChannelCircuitResult", "recovered"]
