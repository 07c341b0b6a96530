"""The same command in several processes, as `torchrun` starts it: who speaks, and which GPU is whose.

    torchrun --nproc-per-node 4 -m interp capture MODEL --text corpus.txt --sites 'blocks.*.hook_resid_post'
    torchrun --nproc-per-node 4 -m interp train sae MODEL --text corpus.txt -o runs/sae

Process 0 speaks for all. The others are silent, unless something goes wrong that is theirs alone.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

TOGETHER = ("capture", "train")
"""Verbs that several processes do together."""


def rank() -> int:
    """Number of this process, from 0."""
    return int(os.environ.get("RANK", "0")) if size() > 1 else 0


def size() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def check(words: Sequence[str]) -> None:
    """Refuse verbs that each process would do for itself, and write over what the others write."""
    from interp.core.errors import BadInput, listing

    verb = next((word for word in words if not word.startswith("-")), None)
    if size() > 1 and verb is not None and verb not in TOGETHER:
        raise BadInput(
            f"`interp {verb}` is not for several processes (WORLD_SIZE is {size()}): {listing(TOGETHER)} are. Start it alone."
        )


@contextmanager
def one_voice() -> Iterator[None]:
    """What processes other than the first would print goes nowhere."""
    with ExitStack() as stack:
        if rank():
            nowhere = stack.enter_context(Path(os.devnull).open("w"))
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(redirect_stderr(nowhere))
        yield


def told_by_the_first(error: BaseException) -> bool:
    """Whether this process may keep silent about an error, because process 0 has the same: it comes from the command itself."""
    from interp.core.errors import BadInput, CheckpointError, UnknownSite, UnsupportedArchitecture, WrongModel

    return bool(rank()) and isinstance(
        error, BadInput | CheckpointError | UnknownSite | UnsupportedArchitecture | WrongModel | KeyboardInterrupt
    )


def own_device(device: str) -> str:
    """The GPU of this process among those of its machine, where the command leaves the choice; else what it says."""
    if size() == 1 or device not in ("auto", "cuda"):
        return device
    import torch

    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else device
