"""The algebra of channels on real weights: what factors and components say is what the models compute.

Every family (tiny models with random weights, norms and biases), `atlas` and the real checkpoints, raw and folded.
"""

import functools

import pytest
import torch
from torch import Tensor

import interp
from interp.analyses.channels import Component, Setting, decompose, edit_components, free, ov, qk, reader
from interp.core.batch import Batch
from interp.models import reference
from interp.models.load import wrap
from tests import oracle
from tests.models.test_rotary import attend
from tests.models.tiny import FAMILIES, tiny

REAL = ("stories260K-llama", "tinytalk-chat", "tinytalk-slang")
MODELS = (*FAMILIES, "atlas", *REAL)
KINDS = ("gpt2", "gpt_neox", "gemma2", "olmo2", "stories260K-llama")
"""Of LayerNorm, rotation, shared heads, norms before, after and on queries: what algebra on factors can depend on. That the factors are
those of every model's own attention, runs say."""
OFFSET = 3
FOLDED = pytest.mark.parametrize("folded", [True, False], ids=["folded", "raw"])
EVERY = pytest.mark.parametrize("name", MODELS)
SOME = pytest.mark.parametrize("name", KINDS)


@functools.cache
def load(name: str, folder=None):
    if name in FAMILIES:
        return wrap(tiny(name), reference.channels().tokenizer, name)
    return reference.load(name) if folder is None else interp.load(folder / name, check=False)


@pytest.fixture
def lm(name, request):
    return load(name, request.getfixturevalue("real_models")) if name in REAL else load(name)


def distance(lm):
    return OFFSET if lm.spec.positions == "rotary" else None


def tokens(lm, width: int = 9) -> Batch:
    draw = torch.Generator().manual_seed(3)
    return Batch.of(torch.randint(2, min(lm.spec.vocab, 150), (2, width), generator=draw))


def matrix_of(lm, layer, kind, setting):
    """M of every head, whole: [head, d_model, d_model]."""
    factors = ov(lm, layer, setting) if kind == "V" else qk(lm, layer, setting, offset=distance(lm))
    whole = torch.stack([factors.matrix(head) for head in range(lm.spec.n_heads)])
    return whole.mT if kind == "K" else whole


# -- what the matrices are, against runs ---------------------------------------------------------------------------------


def entering(lm, layer: int, resid: Tensor, folded: bool) -> Tensor:
    """What W_Q, W_K and W_V read, with a constant 1: through the norm, or (folded) the stream over what the norm divides by."""
    block = oracle.body(lm.module)[1][layer]
    norm = getattr(block, "ln_1", None) or getattr(block, "input_layernorm", None)
    x = resid.double()
    if norm is not None and not folded:
        x = norm(resid).double()
    elif norm is not None:
        spread = x - x.mean(-1, keepdim=True) if lm.spec.norm == "layer" else x
        x = (
            x / (spread.square().mean(-1, keepdim=True) + eps(norm)).sqrt()
        )  # the mean is left in: the factors take it out
    return torch.cat([x, torch.ones_like(x[..., :1])], dim=-1)


def eps(norm) -> float:
    return getattr(norm, "variance_epsilon", None) or norm.eps


def shrunk(lm, layer: int, which: str, x: Tensor) -> Tensor:
    """What the norm on queries or keys multiplies by besides its gain, [row, pos, head]; 1 where there is none."""
    norm = getattr(oracle.attention_of(lm.module, layer), f"{which}_norm", None)
    if norm is None:
        factor = torch.ones(x.shape[:3])
    else:
        whole = len(norm.weight) != lm.spec.d_head  # over all heads at once
        mean = x.double().square().mean((-2, -1) if whole else -1, keepdim=True)[..., 0]
        factor = (mean + eps(norm)).rsqrt().expand(x.shape[:3])
    return factor.double().repeat_interleave(lm.spec.n_heads // x.shape[2], dim=2)


@FOLDED
@EVERY
@torch.no_grad()
def test_attention_follows_from_the_query_key_matrix(lm, folded):
    normed = "q" in lm.weights.norms
    for layer in {1, lm.spec.n_layers - 1}:
        sites = [
            f"blocks.{layer}.{end}" for end in ("hook_resid_pre", "attn.hook_q", "attn.hook_k", "attn.hook_pattern")
        ]
        run = lm.run(tokens(lm), capture=sites)
        x = entering(lm, layer, run[sites[0]], folded)
        n = x.shape[1]
        products = torch.full((len(x), lm.spec.n_heads, n, n), -torch.inf, dtype=torch.float64)
        for offset in range(min(n, lm.spec.windows[layer] or n)):
            factors = qk(lm, layer, Setting(folded, True), offset=offset if distance(lm) else None)
            at = torch.arange(offset, n)
            query = torch.einsum("bpd,hde->bphe", x[:, at], factors.left)
            key = torch.einsum("bpd,hed->bphe", x[:, at - offset], factors.right)
            products[:, :, at, at - offset] = torch.einsum("bphe,bphe->bhp", query, key)
        q, k = shrunk(lm, layer, "q", run[sites[1]]), shrunk(lm, layer, "k", run[sites[2]])
        products = products * torch.einsum("bih,bjh->bhij", q, k)
        got, want = attend(lm, layer, products), run[sites[3]].double()
        if normed and not folded:  # raw queries are read before their norm, whose gain is then missing
            assert float((got - want).abs().max()) > 1e-3 or not gained(lm, layer)
            continue
        torch.testing.assert_close(got, want, rtol=0, atol=2e-5)


def gained(lm, layer: int) -> bool:
    return any(float((lm.weights.norm(which, layer)[0] - 1).abs().max()) > 0.01 for which in "qk")


@FOLDED
@EVERY
@torch.no_grad()
def test_what_attention_adds_follows_from_the_value_output_matrix(lm, folded):
    for layer in {1, lm.spec.n_layers - 1}:
        sites = [
            f"blocks.{layer}.{end}" for end in ("hook_resid_pre", "attn.hook_z", "attn.hook_pattern", "hook_attn_out")
        ]
        run = lm.run(tokens(lm), capture=sites)
        x, factors = entering(lm, layer, run[sites[0]], folded), ov(lm, layer, Setting(folded, True))
        moved = torch.einsum("bpd,hde,hef->bphf", x, factors.left, factors.right)
        added = torch.einsum("bhij,bjhf->bif", run[sites[2]].double(), moved)
        attention = oracle.attention_of(lm.module, layer)
        project = next(
            getattr(attention, name) for name in ("c_proj", "out_proj", "dense", "o_proj") if hasattr(attention, name)
        )
        plain = project(run[sites[1]].flatten(2)).double()
        if project.bias is not None:
            plain = plain - project.bias.double()
        if folded and lm.spec.norm == "layer":
            plain = plain - plain.mean(-1, keepdim=True)
        if folded and lm.spec.post_norm:
            norm = oracle.body(lm.module)[1][layer].post_attention_layernorm
            plain = run[sites[3]].double() * (plain.square().mean(-1, keepdim=True) + eps(norm)).sqrt()
        scale = float(plain.abs().max())
        torch.testing.assert_close(added / scale, plain / scale, rtol=0, atol=2e-5)


# -- components and scores ------------------------------------------------------------------------------------------------


@FOLDED
@SOME
def test_components_add_up_to_the_matrices(lm, folded):
    setting, last = Setting(folded), lm.spec.n_layers - 1
    for which in ("ov", "qk"):
        parts = decompose(lm, last, setting, which=which, offset=distance(lm) if which == "qk" else None)
        whole = matrix_of(lm, last, "V" if which == "ov" else "Q", setting)
        read, write = parts.read.nan_to_num(), parts.write.nan_to_num()
        rebuilt = torch.einsum("hcd,hc,hce->hde", read, parts.values, write)
        scale = parts.values[:, :1, None]
        limit = 1e-6 if bool((parts.rank < lm.spec.d_head).any()) else 1e-12  # what rounding explains is taken as zero
        torch.testing.assert_close(rebuilt / scale, whole / scale, rtol=0, atol=limit)
        for head, rank in enumerate(parts.rank.tolist()):
            for rows in (parts.read[head, :rank], parts.write[head, :rank]):
                torch.testing.assert_close(rows @ rows.T, torch.eye(rank).double(), rtol=0, atol=1e-9)
    if folded and lm.spec.norm == "layer":
        assert float((decompose(lm, last, setting).write.sum(-1)).abs().max()) < 1e-6


@FOLDED
@EVERY
def test_shared_keys_and_values_are_those_of_their_group(lm, folded):
    """Heads of one group read the same values: their read directions span the same space, no more than d_head wide."""
    group = lm.spec.n_heads // lm.spec.n_kv_heads
    left = ov(lm, 1, Setting(folded)).left
    keys = qk(lm, 1, Setting(folded), offset=distance(lm)).right
    for head in range(lm.spec.n_heads):
        first = head - head % group
        assert torch.equal(left[head], left[first]) and torch.equal(keys[head], keys[first])
        if head >= group:
            assert not torch.equal(left[head], left[head - group])


@FOLDED
@SOME
def test_scores_are_those_of_whole_matrices(lm, folded):
    """Low-rank norms (K1a), components without their strength (K1c), the total as their weighted mean (K1d), the ceiling (K1i)."""
    setting, last = Setting(folded), lm.spec.n_layers - 1
    parts, factors = decompose(lm, 0, setting), ov(lm, 0, setting)
    writes = matrix_of(lm, 0, "V", setting)
    torch.testing.assert_close(factors.norm(), writes.norm(dim=(1, 2)), rtol=1e-9, atol=0)
    seen = {}
    for kind in "QKV":
        at = None if kind == "V" else distance(lm)
        side, spectrum = (read := reader(lm, last, kind, setting, offset=at)).side, read.spectrum
        whole = matrix_of(lm, last, kind, setting)
        torch.testing.assert_close(read.norm, whole.norm(dim=(1, 2)), rtol=1e-9, atol=0)
        for writer in (0, lm.spec.n_heads - 1):
            for head in (0, lm.spec.n_heads - 1):
                rank = int(parts.rank[writer])
                score = (parts.write[writer, :rank] @ side[head]).norm(dim=-1)
                u, s, v = parts.read[writer, :rank], parts.values[writer, :rank], parts.write[writer, :rank]
                for index in (0, rank // 2, rank - 1):
                    one = s[index] * torch.outer(u[index], v[index])
                    slow = (one @ whole[head]).norm() / (one.norm() * whole[head].norm())
                    assert float(score[index]) == pytest.approx(float(slow), abs=1e-9)
                total = (writes[writer] @ whole[head]).norm() / (writes[writer].norm() * whole[head].norm())
                mean = ((s * score).square().sum() / s.square().sum()).sqrt()
                assert float(total) == pytest.approx(float(mean), abs=1e-8)
                assert float(score.max()) <= float(spectrum[head, 0] / read.norm[head]) + 1e-12
                seen[kind, writer, head] = score
    assert all(not torch.allclose(seen["Q", w, h], seen["K", w, h], atol=1e-3) for _, w, h in seen)  # K1e


@FOLDED
@SOME
def test_the_null_is_one_over_the_free_dimensions(lm, folded):
    """K1h: over any orthonormal basis of what may be written, squared scores average to exactly 1 / n."""
    setting, last = Setting(folded), lm.spec.n_layers - 1
    d, n = lm.spec.d_model, free(lm, setting)
    basis = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(0)).double()).Q
    if n == d - 1:
        first = torch.cat([torch.ones(d, 1).double(), basis[:, 1:]], dim=1)
        basis = torch.linalg.qr(first).Q[:, 1:]
    for kind in "QKV":
        side = reader(lm, last, kind, setting, offset=None if kind == "V" else distance(lm)).side
        square = torch.einsum("dn,hde->hne", basis, side).square().sum(-1)
        torch.testing.assert_close(square.mean(1), torch.full((lm.spec.n_heads,), 1 / n).double(), rtol=1e-6, atol=0)


@SOME
def test_directions_that_are_planted_score_as_they_must(lm):
    """K1f, K1g, K2c: the reader's own m-th direction s_m / |s|, one that it does not read 0, its components the cosine."""
    last = lm.spec.n_layers - 1
    for kind in "QKV":
        at = None if kind == "V" else distance(lm)
        seen = reader(lm, last, kind, offset=at)
        parts = decompose(lm, last, which="ov" if kind == "V" else "qk", offset=at)
        reads, rank = (parts.write if kind == "K" else parts.read)[1], int(parts.rank[1])
        score = (reads[:rank] @ seen.side[1]).norm(dim=-1)
        torch.testing.assert_close(score, seen.spectrum[1, :rank] / seen.norm[1], rtol=1e-6, atol=1e-9)
        blind = torch.linalg.svd(reads[:rank]).Vh[-1]
        assert rank < lm.spec.d_model and float((blind @ seen.side[1]).norm()) < 1e-7
        write, other = decompose(lm, 0).write[0, 0], parts.write[1] if kind != "K" else parts.read[1]
        one = parts.values[1, 0] * torch.outer(reads[0], other[0])
        assert float((write @ one).norm() / one.norm()) == pytest.approx(float((write @ reads[0]).abs()), abs=1e-12)


# -- taking a component out -----------------------------------------------------------------------------------------------


@FOLDED
@EVERY
@torch.no_grad()
def test_an_edit_takes_out_exactly_what_the_component_wrote(lm, folded):
    """K2: Σ_j A_j (x̂_j · u) s v less, for every query, in raw and folded coordinates; the weights come back to the bit."""
    layer, head, index = 1, lm.spec.n_heads - 1, 1
    setting, name = Setting(folded), Component(1, lm.spec.n_heads - 1, 1)
    parts = decompose(lm, layer, setting)
    u, s, v = parts.read[head, index], parts.values[head, index], parts.write[head, index]
    sites = [f"blocks.{layer}.{end}" for end in ("hook_resid_pre", "attn.hook_z", "attn.hook_pattern")]
    before = lm.run(tokens(lm), capture=sites)
    saved = {key: value.clone() for key, value in lm.weights.parameters().items()}
    x = entering(lm, layer, before[sites[0]], folded)[..., :-1]
    gone = torch.einsum("bij,bj->bi", before[sites[2]][:, head].double(), x @ u)[..., None] * s * v

    def written() -> Tensor:
        """What the head adds, in the component's coordinates, from the parameters as they are."""
        factors, z = ov(lm, layer, setting), before[sites[1]][:, :, head].double()
        return z @ factors.right[head]

    was = written()
    with edit_components(lm, name, setting=setting, biases="edit"):
        change = was - written()
        again = lm.run(tokens(lm), capture=[sites[1]])
    constant = torch.zeros_like(change)
    if (bias := lm.weights.b_V(layer, expand=True, folded=folded and lm.weights.pre_norm)) is not None:
        share = before[sites[2]][:, head].double().sum(-1, keepdim=True)  # 1, less a sink's part
        constant = share * ((bias[head].double() @ ov(lm, layer, setting).right[head]) @ v * v)
    scale = float(was.abs().max())
    torch.testing.assert_close(change / scale, (gone + constant) / scale, rtol=0, atol=2e-5)
    assert float(gone.abs().max()) > 1e-4 * scale
    torch.testing.assert_close(again[sites[1]], before[sites[1]])  # values and attention are what they were
    assert all(torch.equal(saved[key], value) for key, value in lm.weights.parameters().items())
