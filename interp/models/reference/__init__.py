"""The embedded reference checkpoints and the hand-wired models."""
