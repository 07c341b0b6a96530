"""One row a text out of one row a token: of sparse codes, and of activations.

    sum, mean, max   over the text's tokens, latent by latent (a token where a latent is off counts as 0)
    last             the last token's codes
    topn:5           in each token the 5 largest codes become 1, all else 0; then the sum: a count of tokens

A rule turns pooled codes into 0 and 1: `>1` is 1 where they are above 1. Nothing is ever dense.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp

from interp.core.errors import BadInput

POOLS = ("sum", "mean", "max", "last")
Matrix = Any
"""scipy CSR [row, feature], or a numpy array of the same shape."""


def check_pool(pool: str, *, counts: bool = True) -> None:
    """Refuse what is no pooling; `counts` says whether topn:N is one."""
    if pool in POOLS or (counts and re.fullmatch(r"topn:[1-9][0-9]*", pool)):
        return
    legal = [*POOLS, "topn:N (such as topn:5)"] if counts else POOLS
    raise BadInput(f"{pool!r} is no pooling. Take {', '.join(legal)}.")


def check_rule(rule: str) -> None:
    """Refuse what is neither `none` nor a threshold such as `>0` or `>1.5`."""
    if rule != "none" and not re.fullmatch(r">([0-9]+\.?[0-9]*|\.[0-9]+)", rule):
        raise BadInput(f"{rule!r} is no rule. Take 'none', or a threshold such as '>0' or '>1'.")


def pooled(codes: sp.csr_matrix, starts: np.ndarray, pool: str) -> sp.csr_matrix:
    """Codes [token, latent] as features [text, latent]; `starts` int64 [text + 1] says where each text begins."""
    check_pool(pool)
    if pool.startswith("topn:"):
        codes, pool = _largest(codes, int(pool[5:])), "sum"
    if pool == "last":
        return codes[starts[1:] - 1]
    if pool == "max":
        return _maxima(codes, starts)
    lengths = np.diff(starts)
    ones = np.ones(int(starts[-1])) if pool == "sum" else np.repeat(1.0 / lengths, lengths)
    return sp.csr_matrix((ones, np.arange(len(ones)), starts), shape=(len(lengths), codes.shape[0])) @ codes


def pooled_rows(rows: np.ndarray, starts: np.ndarray, pool: str) -> np.ndarray:
    """Activations [token, d] as features float64 [text, d]."""
    check_pool(pool, counts=False)
    if pool == "last":
        return np.asarray(rows[starts[1:] - 1], dtype=np.float64)
    if pool == "max":
        return np.asarray(np.maximum.reduceat(rows, starts[:-1], axis=0), dtype=np.float64)
    total = np.add.reduceat(np.asarray(rows, dtype=np.float64), starts[:-1], axis=0)
    return total if pool == "sum" else total / np.diff(starts)[:, None]


def ruled(x: sp.csr_matrix, rule: str) -> sp.csr_matrix:
    """Pooled codes under a rule: as they are, or 1 where they are above the threshold."""
    check_rule(rule)
    if rule == "none":
        return x
    out = (x > float(rule[1:])).astype(np.float64)
    out.eliminate_zeros()
    return sp.csr_matrix(out)


def feature_names(pools: Sequence[str], rules: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Name -> (pool, rule) of all combinations. `sum >0`, `mean >0` and `max >0` are one thing, `any >0`."""
    out: dict[str, tuple[str, str]] = {}
    for rule in rules:
        for pool in pools:
            same = rule.startswith(">") and float(rule[1:]) == 0 and pool in ("sum", "mean", "max")
            name = "any >0" if same else pool if rule == "none" else f"{pool} {rule}"
            out.setdefault(name, (pool, rule))
    return out


def _largest(codes: sp.csr_matrix, n: int) -> sp.csr_matrix:
    """1 at the n largest codes of each row, of equal ones those with the lowest numbers; fewer where fewer are on."""
    row = np.repeat(np.arange(codes.shape[0]), np.diff(codes.indptr))
    order = np.lexsort((codes.indices, -codes.data, row))
    rank = np.arange(len(order)) - codes.indptr[row[order]]
    kept = order[rank < n]
    return sp.csr_matrix((np.ones(len(kept)), (row[kept], codes.indices[kept])), shape=codes.shape)


def _maxima(codes: sp.csr_matrix, starts: np.ndarray) -> sp.csr_matrix:
    texts, latents = len(starts) - 1, codes.shape[1]
    text = np.repeat(np.repeat(np.arange(texts), np.diff(starts)), np.diff(codes.indptr))
    key = text * latents + codes.indices  # int64: text and latent in one number
    order = np.argsort(key, kind="stable")
    cells, first = np.unique(key[order], return_index=True)
    if not len(cells):
        return sp.csr_matrix((texts, latents))
    most = np.maximum.reduceat(codes.data[order], first)
    return sp.csr_matrix((most, (cells // latents, cells % latents)), shape=(texts, latents))
