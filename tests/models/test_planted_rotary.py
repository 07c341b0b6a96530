"""The planted channels of a grouped-query model with rotary positions, by plain hooks and whole matrices."""

import pytest
import torch
from torch import Tensor

from interp.models import reference

H = 16


@pytest.fixture(scope="module")
def planted():
    return reference.rotary_channels()


def turned(module, x: Tensor, positions: list[int]) -> Tensor:
    """Rows [n, d_head] turned as queries at `positions` [n], by transformers' own functions."""
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    cos, sin = module.model.rotary_emb(x, torch.tensor([positions]))
    return apply_rotary_pos_emb(x[None, None], x[None, None], cos, sin)[0][0, 0]


def matrices(module, layer: int, head: int, distance: int) -> tuple[Tensor, Tensor]:
    """W_Q R W_Kᵀ and W_V W_O of one query head, whole."""
    attn, kv = module.model.layers[layer].self_attn, head // 2
    q, k, v = (
        getattr(attn, f"{name}_proj").weight.detach()[H * at : H * at + H].double()
        for name, at in (("q", head), ("k", kv), ("v", kv))
    )
    o = attn.o_proj.weight.detach()[:, H * head : H * head + H].double()
    eye = torch.eye(H, dtype=torch.float64)
    turn = turned(module, eye, [distance] * H)  # a key at 0 is not turned
    return q.T @ turn @ k, v.T @ o.T


def scores(planted, writer: tuple[int, int], reader: tuple[int, int], kind: str, distance: int) -> Tensor:
    ov = matrices(planted.module, *writer, 0)[1]
    qk, values = matrices(planted.module, *reader, distance)
    matrix = qk if kind == "Q" else values
    return (torch.linalg.svd(ov).Vh[:H] @ matrix).norm(dim=1) / matrix.norm()


def test_the_channels_stand_out_and_nothing_else_does(planted):
    answers = planted.answers
    q, v = answers["channels"]
    wanted = {
        ("Q", q.writer, q.reader): q.component,
        **{("V", v.writer, head): v.component for head in answers["group"]},
    }
    found, rest = [], []
    for kind in "QV":
        for writer in range(8):
            for reader in range(8):
                each = scores(planted, (0, writer), (1, reader), kind, answers["offset"])
                index = wanted.get((kind, (0, writer), (1, reader)))
                if index is not None:
                    found.append(float(each[index]))
                    each = torch.cat([each[:index], each[index + 1 :]])
                rest.append(each)
    assert found == pytest.approx([answers["score"]] * 3, abs=1e-5)
    others = torch.cat(rest)
    assert float(others.square().mean().sqrt()) == pytest.approx(answers["null"], rel=0.05)
    assert float(others.max()) < 0.6 * answers["score"]


def test_the_q_channel_holds_at_its_distance_only(planted):
    channel, answers = planted.answers["channels"][0], planted.answers
    got = [float(scores(planted, channel.writer, channel.reader, "Q", d)[channel.component]) for d in range(0, 12)]
    assert got == pytest.approx(answers["score_at"][:12].tolist(), abs=1e-5)
    assert max(range(32), key=lambda d: float(answers["score_at"][d])) == answers["offset"]
    assert float(answers["falls"].abs().topk(2).values[1]) < 0.84 < float(answers["falls"][answers["offset"]])


def scored(module, tokens: Tensor, head: int, goal: int) -> tuple[float, Tensor]:
    """Score of a head of layer 1 from the last token to `goal`, and the stream that it reads."""
    kept = {}
    layer = module.model.layers[1]
    parts = {"q": layer.self_attn.q_proj, "k": layer.self_attn.k_proj}
    handles = [
        part.register_forward_hook(lambda _, __, out, name=name: kept.update({name: out[0]}))
        for name, part in parts.items()
    ]
    handles.append(layer.register_forward_pre_hook(lambda _, args: kept.update(x=args[0][0])))
    with torch.no_grad():
        module(tokens)
    for handle in handles:
        handle.remove()
    n = tokens.shape[1]
    q = turned(module, kept["q"][-1:, H * head : H * head + H], [n - 1])
    k = turned(module, kept["k"][goal : goal + 1, H * (head // 2) : H * (head // 2) + H], [goal])
    return float(q.double() @ k.double().T) / H**0.5, kept["x"].double()


@pytest.mark.parametrize("distance", [2, 3, 4, 5, 7])
def test_the_q_channel_moves_the_attention_by_the_formula(planted, distance):
    module, answers = planted.module, planted.answers
    channel = answers["channels"][0]
    words = "one two three four five six".split()  # noqa: SIM905
    text = f"red cue goal {' '.join(words[: distance - 1])} stop"
    if distance == answers["offset"]:
        text = answers["prompt"]
    tokens = torch.tensor([planted.tokenizer(text).input_ids])
    goal = 2
    assert len(tokens[0]) - 1 - goal == distance and 1 not in tokens[0]
    before, _ = scored(module, tokens, channel.reader[1], goal)
    ov = matrices(module, *channel.writer, 0)[1]
    u, s, vh = torch.linalg.svd(ov)
    i, head = channel.component, channel.writer[1]
    weight = module.model.layers[0].self_attn.o_proj.weight
    saved = weight.clone()
    with torch.no_grad():
        part = weight[:, H * head : H * head + H].double()
        weight[:, H * head : H * head + H] = (part - vh[i][:, None] * (vh[i] @ part)).float()
        after, stream = scored(module, tokens, channel.reader[1], goal)
        weight.copy_(saved)
    embedded = module.model.embed_tokens.weight[tokens[0]].detach().double()
    qk = matrices(module, *channel.reader, answers["offset"])[0]
    a, sigma, b = torch.linalg.svd(qk)
    read = (embedded @ u[:, i]).mean() * s[i] * (vh[i] @ a[:, 0]) * sigma[0] / H**0.5
    spoken = float(read * answers["falls"][distance] * (stream[goal] @ b[0]))
    heard = (
        vh[i] @ matrices(module, *channel.reader, distance)[0] @ stream[goal]
    )  # what it says to all that `goal` holds
    assert before - after == pytest.approx(float((embedded @ u[:, i]).mean() * s[i] * heard) / H**0.5, rel=1e-4)
    assert abs(before - after - spoken) < 0.2 * abs(float(read * (stream[goal] @ b[0])))
    if distance == answers["offset"]:
        assert before - after == pytest.approx(spoken, rel=2e-4) and abs(spoken) > 0.15


def test_the_null_holds_nothing():
    null = reference.rotary_channels(null=True)
    assert null.null and null.answers == {}
    every = [scores(null, (0, w), (1, r), kind, 4) for kind in "QV" for w in range(8) for r in range(8)]
    assert float(torch.cat(every).max()) < 0.3
