"""What a model wrote: the tokens that it chose after each prompt, one by one, the likeliest each time."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Generation:
    """Greedy continuations of some prompts, in the order of the prompts."""

    prompts: tuple[tuple[int, ...], ...]
    """Token ids of each prompt, as the model read them (a BOS included)."""
    ids: tuple[tuple[int, ...], ...]
    """New token ids of each row; the one that ended it is the last of them, nothing comes after it."""
    texts: tuple[str, ...]
    """What the new tokens add to the prompt's text, without the token that ended the row."""
    logprobs: tuple[tuple[float, ...], ...]
    """Log-probability of each new token when it was chosen, in nats."""
    ended: tuple[bool, ...]
    """Whether the row stopped by itself; False where it ran out of tokens."""

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        total = sum(len(row) for row in self.ids)
        return f"Generation({len(self)} rows, {total} new tokens, {sum(self.ended)} rows ended by themselves)"
