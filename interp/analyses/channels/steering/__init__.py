"""Writing along channels by hand, and exchanging what two prompts say along them."""

from .patch import ChannelPatching
from .patch_result import ChannelPatchingResult
from .steer import ChannelSteering
from .steer_result import SteeringResult

__all__ = ["ChannelPatching", "ChannelPatchingResult", "ChannelSteering", "SteeringResult"]
