"""Who this checkpoint is: its shape, its size, its hashes; and whether it answers as plain transformers does.

Nothing is measured on data here; it is the part of the card that says whether two cards are about the same thing.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .rows import Row
from .sections import Section, Table

if TYPE_CHECKING:
    import pandas as pd

    from interp.core.lm import LM

TABLES = ("embed", "wte", "wpe", "lm_head", "embed_out")
"""What names of embeddings contain, in every family."""


def identity(lm: "LM", fidelity: Any) -> Section:
    """The section, its table and its rows."""
    spec, tensors = lm.spec, lm.tensors()
    total = sum(tensor.size for tensor in tensors)
    embedding = sum(tensor.size for tensor in tensors if any(part in tensor.name for part in TABLES))
    rows = [
        Row("parameters", total, tier=0),
        Row("parameters in embeddings", embedding, tier=0),
        Row("tensors", len(tensors), tier=0),
        Row("fidelity: largest difference of a logit", fidelity.logits, "logits", tier=0),
        Row("fidelity: largest difference of a log-probability", fidelity.log_probs, "nats", tier=0),
        Row("fidelity: lowest cosine of the stream", min(fidelity.cosine), tier=0),
        Row("fidelity: in a batch", fidelity.batch, "logits", tier=0),
        Row("fidelity: padded on the left", fidelity.left, "logits", tier=0),
        Row("fidelity: padded on the right", fidelity.right, "logits", tier=0),
        Row("fidelity: sites that act", len(fidelity.acting), "sites", n=_probed(fidelity), tier=0),
    ]
    what = [
        ("architecture", _architecture(spec)),
        ("parameters", f"{total:,}, of which {embedding:,} in embeddings" + (" (tied)" if spec.tied else "")),
        ("context", f"{spec.n_ctx:,} tokens, {_positions(spec)}"),
        ("numbers", f"{spec.dtype} on {spec.device}, {spec.attention} attention, {spec.backend}, weights {spec.processing}"),
        ("tokenizer", f"{lm.tokenizer.vocab:,} ids, {_bos(lm)}, {lm.tokenizer.digest[:8]}"),
        ("weights", f"{lm.fingerprint()[:8]}" + (f", revision {spec.revision}" if spec.revision else "")),
        ("agrees with transformers", _agreement(fidelity)),
    ]  # fmt: skip
    mark = lm.fingerprint()[:8]
    section = Section("identity", "Identity", "Which checkpoint this is, and whether it is read as it was written.")
    section.table = Table(("", ""), tuple(what))
    section.rows = [replace(row, analysis="identity", result=mark) for row in rows]
    section.left_out = [f"Fidelity: {problem}." for problem in fidelity.problems]
    return section


def tensor_table(lm: "LM") -> "pd.DataFrame":
    """Every tensor: name, shape, dtype, size, content hash."""
    import pandas as pd

    columns = ("tensor", "shape", "dtype", "size", "digest")
    rows = [(t.name, "x".join(map(str, t.shape)), t.dtype, t.size, t.digest) for t in lm.tensors()]
    return pd.DataFrame(rows, columns=list(columns))


def _architecture(spec: Any) -> str:
    if not spec.proven:
        return f"{spec.family}, an unproven family: {spec.n_layers} layers × {spec.d_model}, only the residual stream is named"
    kv = f" over {spec.n_kv_heads} for keys and values" if spec.n_kv_heads != spec.n_heads else ""
    norm = "RMSNorm" if spec.norm == "rms" else "LayerNorm"
    extra = [
        "gated MLP" if spec.gated else "MLP",
        norm + (" before and after" if spec.post_norm else ""),
        "attention and MLP in parallel" if spec.parallel else "",
        f"logits capped at {spec.logit_softcap:g}" if spec.logit_softcap else "",
    ]
    shape = f"{spec.family}: {spec.n_layers} layers × {spec.d_model}, {spec.n_heads} heads{kv} of {spec.d_head}"
    mlp = f"{spec.experts} experts, each a {extra[0]} of" if spec.experts else f"{extra[0]} of"
    return f"{shape}, {mlp} {spec.d_mlp:,}, " + ", ".join(part for part in extra[1:] if part)


def _positions(spec: Any) -> str:
    if not spec.proven:
        return "positions and windows of its own"
    local = [layer for layer, window in enumerate(spec.windows) if window]
    if not local:
        return f"{spec.positions} positions, full attention"
    sizes = sorted({window for window in spec.windows if window})
    return f"{spec.positions} positions, {len(local)} of {spec.n_layers} layers attend to the last {', '.join(map(str, sizes))}"


def _bos(lm: "LM") -> str:
    tokenizer = lm.tokenizer
    if not tokenizer.default_bos or tokenizer.bos_id is None:
        return "no BOS is added"
    return f"BOS {tokenizer.label(tokenizer.bos_id)} comes first"


def _agreement(fidelity: Any) -> str:
    verdict = "yes" if fidelity.ok else "NO"
    sites = f"{len(fidelity.acting)} of {_probed(fidelity)} sites act"
    worst = max(fidelity.batch, fidelity.left, fidelity.right)
    return f"{verdict}: logits within {fidelity.logits:.1e}, batches and padding within {worst:.1e}, {sites}"


def _probed(fidelity: Any) -> int:
    return len(fidelity.acting) + len(fidelity.silent) + len(fidelity.failing)
