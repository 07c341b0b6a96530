"""Induction by hand: a head that remembers the previous token and one that looks for where the present token came before.

    layer 0, head 0   scores = 300 · [key is at the position before the query's]      copies token codes into the block `previous`
    layer 1, head 0   scores = 200 · [key's `previous` is the query's token]          copies token codes into the block `next`
    unembedding       logits = 12 · `next`

On a row of `n` distinct tokens said twice, the query at column `n + i` attends to column `i + 1`, which is exact but for one case:
without a BOS, column 0 has nobody before it and stores itself as its own predecessor, so the first repeated token splits its
attention in halves over columns 0 and 1. The mean over the `n - 1` repeated tokens that have a successor is `(n - 1.5) / (n - 1)`;
with a BOS it is 1. All other heads attend uniformly: their score is the mean of `1 / (columns up to the query)`. Where nothing
matches (the first copy) head 1.0 attends uniformly too.
"""

import torch
from torch import Tensor

from interp.core.errors import BadInput
from interp.core.seed import generator

from .wiring import Planted, Wiring, one_hot, scramble, word_tokenizer

GAIN = 12.0
_WORDS = (
    "amber", "brook", "cedar", "delta", "ember", "frost", "grove", "haven", "inlet", "jetty",
    "knoll", "larch", "marsh", "north", "ocean", "pearl", "quill", "ridge", "stone", "thorn",
    "umber", "vale", "willow", "xenon", "yarrow", "zephyr", "acorn", "birch", "cliff", "dune",
)  # fmt: skip


def induction(*, null: bool = False, seed: int = 0) -> Planted:
    """A two-layer, attention-only induction model. See the module for what it does and `answers` for what must be found.

    `answers`: `previous_token` and `induction` = (layer, head); `inert` = the heads that attend uniformly;
    `previous_token_score` 1.0; `copy_ratio` = an upper bound of second-copy over first-copy loss.
    """
    words, n_ctx = len(_WORDS) + 2, 48
    wire = Wiring({"token": words, "previous": words, "next": words, "position": n_ctx}, words, 2, 4, 74, n_ctx)
    token = one_hot([*range(words)], words)
    wire.embed(token, "token")
    wire.position(one_hot([*range(n_ctx)], n_ctx), "position")
    back = one_hot([max(position - 1, 0) for position in range(n_ctx)], n_ctx)  # [position, the one before]
    wire.head(
        0,
        0,
        q=300 * wire.read("position") @ back,
        k=wire.read("position"),
        v=wire.read("token"),
        o=wire.write("previous"),
    )
    wire.head(1, 0, q=200 * wire.read("token"), k=wire.read("previous"), v=wire.read("token"), o=wire.write("next"))
    wire.unembed(GAIN * wire.read("next"))
    heads = [(layer, head) for layer in range(2) for head in range(4)]
    answers = {
        "previous_token": (0, 0),
        "induction": (1, 0),
        "inert": [pair for pair in heads if pair not in ((0, 0), (1, 0))],
        "previous_token_score": 1.0,
        "copy_ratio": 0.05,
    }
    module = scramble(wire.module, seed) if null else wire.module
    text = "induction: head 0.0 attends to the previous token, head 1.0 to the token after the present token's last occurrence"
    return Planted("planted-induction", module, word_tokenizer(_WORDS, n_ctx), {} if null else answers, text, null=null)


def repeated(rows: int = 4, n: int = 20, *, bos: bool = False, seed: int = 0) -> Tensor:
    """Rows of `n` distinct random tokens said twice, int64 [rows, 2n], with the BOS (id 0) in front if asked for."""
    if not 2 <= n <= 23:
        raise BadInput(f"`n` must be 2 to 23, so that both copies fit into 48 positions; not {n}.")
    keys = torch.rand(rows, len(_WORDS), generator=generator(seed, "repeated tokens", n))
    once = keys.argsort(dim=1)[:, :n] + 2
    twice = torch.cat([once, once], dim=1)
    return torch.cat([torch.zeros(rows, 1, dtype=torch.int64), twice], dim=1) if bos else twice


def prefix_score(n: int, *, bos: bool = False) -> float:
    """Mean attention of head 1.0 to the token after the earlier occurrence, over the n - 1 repeated tokens that have one."""
    return 1.0 if bos else (n - 1.5) / (n - 1)


def uniform_score(n: int, *, bos: bool = False) -> float:
    """The same mean for a head that attends uniformly."""
    columns = [n + i + bos + 1 for i in range(n - 1)]
    return sum(1 / count for count in columns) / len(columns)


def expected_patterns(tokens: Tensor) -> dict[tuple[int, int], Tensor]:
    """What each head's attention must be on rows of tokens: {(layer, head): [batch, query, key]}, worked out without any model."""
    batch, length = tokens.shape
    causal = torch.tril(torch.ones(length, length))
    uniform = causal / causal.sum(dim=-1, keepdim=True)
    before = torch.clamp(torch.arange(length) - 1, min=0)
    match = (tokens[:, before][:, None, :] == tokens[:, :, None]).float() * causal  # [batch, query, key]
    count = match.sum(dim=-1, keepdim=True)
    found = torch.where(count > 0, match / count.clamp(min=1), uniform)
    patterns = {(layer, head): uniform.expand(batch, -1, -1) for layer in range(2) for head in range(4)}
    patterns[0, 0] = torch.eye(length)[before].expand(batch, -1, -1)
    patterns[1, 0] = found
    return patterns
