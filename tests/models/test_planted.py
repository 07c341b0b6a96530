"""The hand-wired models do what they say, by plain hooks on plain transformers; their null variants do not."""

import einops
import numpy as np
import pytest
import torch
from torch import Tensor

from interp.core.errors import BadInput
from interp.models.reference import planted as wired

SAMPLES = 16


def logits_of(module, tokens: Tensor, changes=None) -> Tensor:
    """Logits, with `changes`: {module path: function of its output (a tensor)}."""
    handles = []
    for path, change in (changes or {}).items():

        def hook(_, __, out, change=change):
            return (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)

        handles.append(module.get_submodule(path).register_forward_hook(hook))
    try:
        with torch.no_grad():
            return module(tokens, attention_mask=torch.ones_like(tokens)).logits
    finally:
        for handle in handles:
            handle.remove()


def outputs_of(module, tokens: Tensor, paths) -> dict[str, Tensor]:
    kept = {}
    logits_of(module, tokens, {path: lambda x, path=path: kept.setdefault(path, x) for path in paths})
    return kept


def attention(module, tokens: Tensor):
    module.set_attn_implementation("eager")
    with torch.no_grad():
        return module(tokens, attention_mask=torch.ones_like(tokens), output_attentions=True)


# -- induction ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bos", [False, True])
def test_induction_attends_as_derived(bos):
    planted = wired.induction()
    tokens = wired.repeated(6, 20, bos=bos)
    out = attention(planted.module, tokens)
    for (layer, head), pattern in wired.expected_patterns(tokens).items():
        assert (out.attentions[layer][:, head] - pattern).abs().max() < 1e-5, (layer, head)
    columns = torch.arange(19)
    for head, expected in ((0, wired.prefix_score(20, bos=bos)), (1, wired.uniform_score(20, bos=bos))):
        score = out.attentions[1][:, head][:, columns + 20 + bos, columns + 1 + bos].mean()
        assert score == pytest.approx(expected, abs=1e-5)
    assert wired.prefix_score(20) == pytest.approx(0.97368, abs=1e-5)
    assert wired.uniform_score(20) == pytest.approx(0.0345, abs=1e-4)
    losses = torch.nn.functional.cross_entropy(out.logits[:, :-1].mT, tokens[:, 1:], reduction="none")
    first, second = losses[:, bos : 19 + bos].mean(), losses[:, 20 + bos :].mean()
    assert second / first < planted.answers["copy_ratio"]


def test_null_induction_does_not_copy():
    planted = wired.induction(null=True)
    tokens = wired.repeated(6, 20)
    out = attention(planted.module, tokens)
    losses = torch.nn.functional.cross_entropy(out.logits[:, :-1].mT, tokens[:, 1:], reduction="none")
    assert losses[:, 20:].mean() / losses[:, :19].mean() > 0.7
    columns = torch.arange(19)
    assert out.attentions[1][:, :, columns + 20, columns + 1].mean(dim=(0, 2)).max() < 0.2
    assert not planted.answers


# -- fact --------------------------------------------------------------------------------------------------------------


class Trace:
    """ROME's protocol on one prompt, one cell at a time, written as plainly as possible."""

    def __init__(self, planted, row):
        self.module, self.layers = planted.module, planted.module.config.n_layer
        encode = planted.tokenizer
        self.tokens = torch.tensor([encode(row["prompt"]).input_ids])
        words, subject = row["prompt"].split(), row["subject"].split()
        start = next(i for i in range(len(words)) if words[i : i + len(subject)] == subject)
        self.first, self.end = start, start + len(subject)
        self.answer = encode.convert_tokens_to_ids(row["attribute"])
        embeddings = self.module.transformer.wte.weight[self.tokens[0, self.first : self.end]].detach()
        self.sigma = 3 * float(embeddings.std())
        generator = torch.Generator().manual_seed(1)
        self.noise = self.sigma * torch.randn(SAMPLES, self.end - self.first, embeddings.shape[1], generator=generator)
        kinds = ("", ".mlp", ".attn")
        paths = [f"transformer.h.{layer}{kind}" for layer in range(self.layers) for kind in kinds]
        self.clean = outputs_of(self.module, self.tokens, paths)
        kept = {}
        changes = {path: lambda x, path=path: kept.setdefault(path, x) for path in paths}
        self.low = self.probability({**changes, "transformer.wte": self.corrupt})
        self.corrupted = kept
        self.high = float(logits_of(self.module, self.tokens)[0, -1].softmax(-1)[self.answer])

    def corrupt(self, x):
        x = x.clone()
        x[:, self.first : self.end] += self.noise
        return x

    def probability(self, changes) -> Tensor:
        logits = logits_of(self.module, self.tokens.repeat(SAMPLES, 1), changes)
        return logits[:, -1].softmax(-1)[:, self.answer].detach()

    def restore(self, path, position):
        def change(x):
            x = x.clone()
            x[:, position] = self.clean[path][0, position]
            return x

        return change

    def cell(self, kind, position, centre, rule="code", width=10) -> Tensor:
        changes = {"transformer.wte": self.corrupt}
        if kind in ("hidden", "severed_mlp"):
            if kind == "severed_mlp":
                for layer in range(self.layers):
                    path = f"transformer.h.{layer}.mlp"

                    def hold(x, path=path):
                        x = x.clone()
                        x[:, position] = self.corrupted[path][:, position]
                        return x

                    changes[path] = hold
            path = f"transformer.h.{centre}"
            changes[path] = self.restore(path, position)
        else:
            for layer in wired.window(centre, width, self.layers, rule):
                path = f"transformer.h.{layer}.{kind}"
                changes[path] = self.restore(path, position)
        return self.probability(changes)


def test_every_fact_is_known_and_every_counterfactual_too():
    planted = wired.fact()
    assert len({row["subject"] for row in planted.prompts}) == 8 and len(planted.prompts) == 24
    for row in planted.prompts:
        for prompt in (row, wired.counterfactual(row)):
            tokens = torch.tensor([planted.tokenizer(prompt["prompt"]).input_ids])
            answer = planted.tokenizer.convert_tokens_to_ids(prompt["attribute"])
            assert logits_of(planted.module, tokens)[0, -1].softmax(-1)[answer] > 1 - 1e-6
        assert wired.counterfactual(row)["attribute"] != row["attribute"]
        assert len(row["prompt"].split()) == len(wired.counterfactual(row)["prompt"].split())


def test_noise_destroys_every_fact():
    planted = wired.fact()
    lows = np.array([float(Trace(planted, row).low.mean()) for row in planted.prompts[::3]])
    assert lows.mean() < 0.15 and lows.max() < 0.4


@pytest.mark.parametrize("shape", [(20, 9, 14), (6, 1, 4)])
def test_the_map_of_the_fact_model_is_exact(shape):
    layers, writer, mover = shape
    planted = wired.fact(n_layers=layers, writer=writer, mover=mover)
    trace = Trace(planted, planted.prompts[4])  # 'We heard that Bela Brisk comes from sunny'
    length = trace.tokens.shape[1]
    width = 10 if layers == 20 else 3
    assert trace.high > 1 - 1e-6
    windows = [(kind, rule) for kind in ("mlp", "attn") for rule in ("code", "text")]
    for kind, rule in [("hidden", "code"), *windows, ("severed_mlp", "code")]:
        expected = wired.fact_map(planted, trace.end - 1, length, kind, width=width, rule=rule)
        step = 1 if kind == "hidden" or layers < 10 else 2
        for centre in range(0, layers, step):
            for position in range(length) if layers < 10 else (trace.first, trace.end - 1, length - 1):
                got = trace.cell(kind, position, centre, rule, width)
                if expected[position, centre]:
                    assert (got - trace.high).abs().max() < 1e-6, (kind, rule, position, centre)
                elif kind == "severed_mlp" and position == trace.end - 1 and centre < writer:
                    # the clean state has no noise in the attribute block: near the corrupted probability, not equal to it
                    assert (got - trace.low).abs().max() < 0.06, (kind, centre)
                else:
                    assert torch.equal(got, trace.low), (kind, rule, position, centre)


def test_answers_name_the_layers_of_the_spec():
    answers = wired.fact().answers
    assert np.flatnonzero(answers["hidden"]["last_subject"]).tolist() == [*range(14)]
    assert np.flatnonzero(answers["hidden"]["last"]).tolist() == [*range(14, 20)]
    assert np.flatnonzero(answers["mlp", "code"]["last_subject"]).tolist() == [*range(5, 15)]
    assert np.flatnonzero(answers["mlp", "text"]["last_subject"]).tolist() == [*range(4, 14)]
    assert np.flatnonzero(answers["attn", "code"]["last"]).tolist() == [*range(10, 20)]
    assert np.flatnonzero(answers["attn", "text"]["last"]).tolist() == [*range(9, 19)]
    assert np.flatnonzero(answers["severed_mlp"]["last_subject"]).tolist() == [*range(9, 14)]
    assert not answers["hidden"]["other"].any()
    assert list(wired.window(0, 10, 20)) == [*range(5)] and list(wired.window(19, 10, 20)) == [*range(14, 20)]


def test_null_fact_model_knows_nothing():
    planted = wired.fact(null=True)
    known = 0
    for row in planted.prompts:
        tokens = torch.tensor([planted.tokenizer(row["prompt"]).input_ids])
        known += planted.tokenizer.decode(logits_of(planted.module, tokens)[0, -1].argmax()) == row["attribute"]
    assert known <= 3


def test_fact_refuses_a_mover_before_its_writer():
    with pytest.raises(BadInput, match="writer"):
        wired.fact(writer=5, mover=5)


# -- concepts ----------------------------------------------------------------------------------------------------------


def test_planted_value_vectors_top_the_scan_and_fire_on_their_triggers_only():
    planted = wired.concepts()
    module, answers = planted.module, planted.answers
    values = torch.stack(
        [block.mlp.c_proj.weight.detach() for block in module.transformer.h]
    )  # [layer, neuron, d_model]
    unembed = module.lm_head.weight.detach()  # [vocab, d_model]
    logits, gram = values @ unembed.T, unembed @ unembed.T
    assert torch.allclose(gram, torch.eye(len(gram)), atol=1e-6)
    tokens = torch.arange(2, module.config.vocab_size)[None].repeat(2, 1).view(-1, 1)  # every word alone, twice
    posts = outputs_of(module, tokens, [f"transformer.h.{layer}.mlp.act" for layer in range(3)])
    for concept in answers["concepts"]:
        k = len(concept.tokens)
        mean = logits.topk(k, dim=-1).values.mean(dim=-1)
        assert logits[concept.layer, concept.neuron].topk(k).indices.sort().values.tolist() == sorted(concept.tokens)
        assert float(mean[concept.layer, concept.neuron]) == pytest.approx(1.5, abs=1e-6)
        others = [c for c in answers["concepts"] if c != concept]
        mean[[c.layer for c in answers["concepts"]], [c.neuron for c in answers["concepts"]]] = -1
        assert float(mean.max()) < 1.1 and len(others) == 3
        fired = posts[f"transformer.h.{concept.layer}.mlp.act"][:, 0, concept.neuron]
        at = torch.isin(tokens[:, 0], torch.tensor(concept.trigger_tokens))
        assert torch.allclose(fired[at], torch.tensor(answers["activation"]), rtol=1e-4)
        assert torch.equal(fired[~at], torch.zeros_like(fired[~at]))


def test_zeroing_a_planted_vector_changes_its_triggers_only():
    planted = wired.concepts()
    concept = planted.answers["concepts"][1]
    encode = lambda text: torch.tensor([planted.tokenizer(text).input_ids])  # noqa: E731
    hit, miss = encode("we saw the forge"), encode("we saw the old forest near")
    before = logits_of(planted.module, hit), logits_of(planted.module, miss)
    assert int(before[0][0, -1].argmax()) in concept.tokens
    row = planted.module.transformer.h[concept.layer].mlp.c_proj.weight
    saved = row[concept.neuron].clone()
    with torch.no_grad():
        row[concept.neuron] = 0
    after = logits_of(planted.module, hit), logits_of(planted.module, miss)
    assert torch.equal(before[1], after[1]) and torch.equal(before[0][:, :-1], after[0][:, :-1])
    drop = (before[0] - after[0])[0, -1]
    expected = torch.zeros_like(drop)
    expected[list(concept.tokens)] = 20 * 1.5  # nothing that comes later reads this block, and the norm is the identity
    assert (drop - expected).abs().max() < 0.01 and saved.norm() > 3


# -- channels ----------------------------------------------------------------------------------------------------------


def factors(module, layer: int, head: int):
    attn, heads = module.transformer.h[layer].attn, module.config.n_head
    shape = {"s": 3, "h": heads}
    q, k, v = einops.rearrange(attn.c_attn.weight.detach().double(), "d (s h k) -> s h d k", **shape)[:, head]
    o = einops.rearrange(attn.c_proj.weight.detach().double(), "(h k) d -> h k d", h=heads)[head]
    return q @ k.T, v @ o


def component_scores(module, writer, reader, kind):
    _, writes = factors(module, *writer)
    qk, ov = factors(module, *reader)
    matrix = {"Q": qk, "K": qk.T, "V": ov}[kind]
    vh = torch.linalg.svd(writes).Vh[:16]
    return (vh @ matrix).norm(dim=1) / matrix.norm(), writes, matrix


def test_planted_channels_stand_out_and_nothing_else_does():
    planted = wired.channels()
    answers, found, rest = planted.answers, [], []
    wanted = {(c.kind, c.writer, c.reader): c.component for c in answers["channels"]}
    for kind in "QKV":
        for writer in range(8):
            for reader in range(8):
                scores, *_ = component_scores(planted.module, (0, writer), (1, reader), kind)
                component = wanted.get((kind, (0, writer), (1, reader)))
                if component is not None:
                    found.append(float(scores[component]))
                    scores = torch.cat([scores[:component], scores[component + 1 :]])
                rest.append(scores)
    assert found == pytest.approx([answers["score"]] * 3, abs=1e-5)
    others = torch.cat(rest)
    assert float(others.square().mean().sqrt()) == pytest.approx(answers["null"], rel=0.05)
    assert float(others.max()) < 0.75 * answers["score"]


def test_the_q_channel_moves_the_readers_attention_by_the_formula():
    planted = wired.channels()
    module, channel = planted.module, planted.answers["channels"][0]
    tokens = torch.tensor([planted.tokenizer(planted.answers["prompt"]).input_ids])
    goal = planted.answers["goal"]

    def score():
        x = outputs_of(module, tokens, ["transformer.h.0", "transformer.h.1.attn.c_attn"])
        q, k, _ = einops.rearrange(x["transformer.h.1.attn.c_attn"][0], "p (s h k) -> s h p k", s=3, h=8).double()
        head = channel.reader[1]
        return float(q[head, -1] @ k[head, goal]) / 4.0, x["transformer.h.0"][0].double()

    before, stream = score()
    attn = module.transformer.h[0].attn
    _, ov = factors(module, *channel.writer)
    u, s, vh = torch.linalg.svd(ov)
    i = channel.component
    rows = slice(channel.writer[1] * 16, channel.writer[1] * 16 + 16)
    with torch.no_grad():
        w_o = attn.c_proj.weight[rows].double()
        attn.c_proj.weight[rows] = (w_o - (w_o @ vh[i])[:, None] * vh[i]).float()
    after, _ = score()
    qk, _ = factors(module, *channel.reader)
    a, sigma, b = torch.linalg.svd(qk)
    embedded = module.transformer.wte.weight[tokens[0]].detach().double()
    read = (embedded @ u[:, i]).mean() * s[i] * (vh[i] @ a[:, 0]) * sigma[0] / 4.0
    assert before - after == pytest.approx(float(read * (stream[goal] @ b[0])), rel=2e-4)
    assert abs(before - after) > 0.15


# -- all ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make", [wired.induction, wired.fact, wired.concepts, wired.channels, wired.pointer, wired.rotary_channels]
)
def test_planted_models_are_ordinary_checkpoints(make, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    planted = make()
    planted.module.save_pretrained(tmp_path)
    planted.tokenizer.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)("<bos>").input_ids == [0]
    tokens = torch.randint(2, planted.module.config.vocab_size, (2, 12), generator=torch.Generator().manual_seed(0))
    assert torch.equal(logits_of(again, tokens), logits_of(planted.module, tokens))
    twin = make()
    assert all(torch.equal(a, b) for a, b in zip(twin.module.parameters(), planted.module.parameters(), strict=True))
    assert planted.describe.startswith(planted.name.removeprefix("planted-")) and planted.name in repr(planted)


def test_building_one_leaves_the_global_generator_alone():
    state = torch.random.get_rng_state()
    wired.concepts(), wired.fact(null=True)
    assert torch.equal(state, torch.random.get_rng_state())
