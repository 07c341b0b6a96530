"""Composition by full matrices, from the plain modules' own parameters: slow, obvious, and without a line of the package."""

import torch


def matrices(module, *, folded, offset=None):
    """OV and QK of every layer, each [layer, head, d_model, d_model], float64. GPT-2 and Llama classes."""
    found = [_gpt2(module, block, folded) if hasattr(module, "transformer") else _llama(module, block, folded, offset)
             for block in (module.transformer.h if hasattr(module, "transformer") else module.model.layers)]  # fmt: skip
    return tuple(torch.stack(part) for part in zip(*found, strict=True))


def reads(ov, qk, kind):
    """What a reader multiplies by."""
    return {"Q": qk, "K": qk.mT, "V": ov}[kind]


def writes(ov, rank):
    """Right singular vectors v of every head, [layer, head, component, d_model], from SVDs of the whole matrices."""
    return torch.linalg.svd(ov).Vh[..., :rank, :]


def component_scores(write, reader):
    """|v_i M| / |M|."""
    return (write @ reader).norm(dim=-1) / reader.norm()


def head_score(ov, reader):
    """|OV M| / (|OV| |M|)."""
    return (ov @ reader).norm() / (ov.norm() * reader.norm())


def _gpt2(module, block, folded):
    d, heads = module.config.n_embd, module.config.n_head
    h = d // heads
    q, k, v = block.attn.c_attn.weight.detach().double().split(d, dim=1)
    o = block.attn.c_proj.weight.detach().double()
    if folded:
        centre = torch.eye(d, dtype=torch.float64) - 1 / d
        gain = block.ln_1.weight.detach().double()
        q, k, v = (centre @ (gain[:, None] * one) for one in (q, k, v))
        o = o @ centre
    cut = [slice(n * h, (n + 1) * h) for n in range(heads)]
    return torch.stack([v[:, c] @ o[c] for c in cut]), torch.stack([q[:, c] @ k[:, c].T for c in cut])


def _llama(module, block, folded, offset):
    config, attn = module.config, block.self_attn
    heads, shared = config.num_attention_heads, config.num_key_value_heads
    h = getattr(config, "head_dim", None) or config.hidden_size // heads
    q, k, v, o = (getattr(attn, f"{name}_proj").weight.detach().double().T for name in "qkvo")
    if folded:
        gain = block.input_layernorm.weight.detach().double()
        q, k, v = (gain[:, None] * one for one in (q, k, v))
    turn = torch.eye(h, dtype=torch.float64) if offset is None else _rotation(config, h, offset)
    ov, qk = [], []
    for n in range(heads):
        own = slice(n * h, (n + 1) * h)
        group = n // (heads // shared)
        common = slice(group * h, (group + 1) * h)
        ov.append(v[:, common] @ o[own])
        qk.append(q[:, own] @ turn @ k[:, common].T)
    return torch.stack(ov), torch.stack(qk)


def _rotation(config, h, offset):
    """R with (q rotated by p + offset) · (k rotated by p) = q R kᵀ: pairs are (i, i + h/2), each turned by offset times its frequency."""
    theta = config.rope_parameters["rope_theta"]
    out = torch.zeros(h, h, dtype=torch.float64)
    for i in range(h // 2):
        angle = torch.tensor(offset * theta ** (-2 * i / h), dtype=torch.float64)
        c, s = angle.cos(), angle.sin()
        j = i + h // 2
        out[i, i], out[i, j], out[j, i], out[j, j] = c, s, -s, c
    return out
