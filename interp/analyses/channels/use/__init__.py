"""Which channels are used on given prompts: what is written along them, and what their readers make of it."""

from .result import ChannelUseResult
from .use import ChannelUse

__all__ = ["ChannelUse", "ChannelUseResult"]
