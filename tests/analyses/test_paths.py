"""Path patching: the two passes against plain hooks, the identities of linear networks, and every refusal."""

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import interp
import tests.oracle as oracle
from interp.analyses.pairs import pair_groups
from interp.analyses.paths import PathPatching, PathResult
from interp.analyses.paths.nodes import Receiver, parse, reading, resolve
from interp.analyses.paths.places import where
from interp.analyses.paths.sweep import Sender, Sweep
from interp.analyses.readout import METRICS, read_metrics
from interp.core.batch import Batch
from interp.core.errors import BadInput, SpanError
from interp.core.seed import generator
from interp.data import Prompt, PromptPair, tasks
from interp.models.load import wrap
from interp.models.reference.planted.wiring import Wiring, word_tokenizer

LD = METRICS.index("logit_diff")


@pytest.fixture(scope="module")
def pairs(atlas):
    task = tasks.named("ioi", atlas.tokenizer, n=30)
    return [pair for pair in task if pair.clean.meta["template"] == 1 and pair.clean.meta["order"] == "ABB"][:3] + task[
        1:2
    ]


# -- the two passes, by plain hooks ------------------------------------------------------------------------------------


def put(tensor, mask, head=None):
    """A change of a site: `tensor` where `mask` [row, pos] is True, at one head only if one is named."""

    def change(x):
        select = mask[:, :, *([None] * (x.ndim - 2))].expand_as(x).clone()
        if head is not None:
            keep = torch.zeros(x.shape[2], dtype=torch.bool)
            keep[head] = True
            select &= keep[:, None]
        return torch.where(select, tensor, x)

    return change


def two_passes(module, clean, corrupted, sender, mask, receivers, masks, *, heads=True, mlps=False):
    """Last logits with the path patched: `sender` is (kind, layer, head), receivers are (kind, layer, head) or "logits"."""
    n_layers = len(oracle.body(module)[1])
    kind, layer, head = sender
    site = "z" if kind == "heads" else "mlp_out"
    everywhere = torch.ones_like(mask)
    first = [(site, layer, put(oracle.capture(module, site, layer, corrupted), mask, head))]
    for later in range(n_layers):
        if heads and later > layer:
            first.append(("z", later, put(oracle.capture(module, "z", later, clean), everywhere)))
        if mlps and later >= layer + (kind == "mlps"):
            first.append(("mlp_out", later, put(oracle.capture(module, "mlp_out", later, clean), everywhere)))
    if receivers == ["logits"]:
        return oracle.edited(module, first, clean)[:, -1]
    second = []
    for (what, at, number), place in zip(receivers, masks, strict=True):
        seen = []
        with contextlib.ExitStack() as stack:
            for name, depth, change in first:
                stack.enter_context(oracle.at(module, name, depth, change))
            stack.enter_context(oracle.at(module, what, at, lambda x, seen=seen: seen.append(x.clone())))
            oracle.logits(module, clean)
        second.append((what, at, put(seen[0], place, number)))
    return oracle.edited(module, second, clean)[:, -1]


def compare(lm, module, group, texts, at, sender, role, *, heads, mlps):
    """(largest difference of a metric from the oracle, size of the effect) of one path."""
    receivers = parse(texts, at)
    resolve(receivers, lm.spec)
    sweep = Sweep(
        lm, group.clean, group.corrupted, group.answer, group.foil, [receivers], hold_heads=heads, hold_mlps=mlps
    )
    got = sweep.scores([Sender(*sender)], [role])[:, 0, 0, 0]
    plain = [
        (site.kind, site.layer, None if one.kind == "mlp" else one.head)
        for one in receivers
        for site in one.sites(lm.spec)
    ]
    masks = [where(group.clean, one.at) for one in receivers for _ in one.sites(lm.spec)]
    kind, layer, head = sender
    want = two_passes(
        module, group.clean.tokens, group.corrupted.tokens, (kind, layer, head if head >= 0 else None), where(group.clean, role),
        plain or ["logits"], masks, heads=heads, mlps=mlps,
    )  # fmt: skip
    want = read_metrics(want, group.answer, group.foil).numpy()
    keep = [METRICS.index(name) for name in ("prob", "logprob", "logit_diff")]
    return np.abs(got - want)[:, keep].max(), np.abs(got - sweep.read_base())[:, LD].max()


PATHS = [
    (["logits"], "last", ("heads", 0, 1), "last"),
    (["logits"], "last", ("mlps", 1, -1), "last"),
    (["q:3.0", "2.1"], "last", ("heads", 0, 1), "last"),
    (["k:2.1"], "S1", ("heads", 0, 3), "S1"),
    (["v:3.0", "v:2.2"], "S2", ("heads", 1, 1), "S2"),
    (["v:1.0", "q:3.1@last"], "S2", ("heads", 0, 0), "all"),
    (["mlp:2"], "last", ("heads", 0, 1), "last"),
    (["q:3.1"], "last", ("mlps", 0, -1), "last"),
]


@pytest.mark.parametrize(("texts", "at", "sender", "role"), PATHS)
def test_it_is_the_two_pass_procedure(atlas, pairs, texts, at, sender, role):
    group = max(pair_groups(atlas, pairs), key=len)
    for heads, mlps in ((True, False), (True, True), (False, False)):
        off, size = compare(atlas, atlas.module, group, texts, at, sender, role, heads=heads, mlps=mlps)
        assert off < 2e-4, (heads, mlps)
        if not mlps and role != "S1":
            assert size > 1e-5  # something was compared


@pytest.mark.parametrize("name", ["stories260K-llama", "tinytalk-chat"])
def test_real_checkpoints_too(real_models, name):
    lm = interp.load(str(real_models / name))
    rng = np.random.default_rng(3)
    rows = torch.from_numpy(rng.integers(5, lm.spec.vocab - 1, (3, 9)))
    other = rows.clone()
    other[:, 4] = torch.from_numpy(rng.integers(5, lm.spec.vocab - 1, 3))
    spans = {"S2": torch.tensor([[4, 5]] * 3)}
    clean, corrupted = (Batch(x, torch.ones_like(x, dtype=torch.bool), spans) for x in (rows, other))
    group = SimpleNamespace(clean=clean, corrupted=corrupted, answer=rows[:, 1], foil=other[:, 4])
    last, kv = lm.spec.n_layers - 1, "kv" if lm.spec.n_kv_heads < lm.spec.n_heads else ""
    for texts, at, mlps in (
        (["logits"], "last", True),
        ([f"q:{last}.1", f"v:{last}.{kv}1"], "S2", False),
        (["mlp:1"], "S2", True),
    ):
        sender = ("heads", int(rng.integers(2)), int(rng.integers(lm.spec.n_heads)))
        off, _ = compare(lm, lm.module, group, texts, at, sender, at, heads=True, mlps=mlps)
        assert off < 2e-3, texts


# -- identities --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def linear():
    """Uniform attention, norms that are the identity, MLPs far up the straight branch of GELU: logits are affine in the tokens."""
    words = tuple(["a", "b", "c", "d", "e", "f", "g", "h"])
    wire = Wiring({"x": 10}, len(words) + 2, 3, 2, 16, 12, d_mlp=4)
    draw = generator(0, "linear net")
    random = lambda *shape: torch.randn(*shape, generator=draw) * 0.25  # noqa: E731
    wire.embed(random(len(words) + 2, 10), "x")
    for layer in range(3):
        for head in range(2):
            zero = torch.zeros(32, 4)
            wire.head(layer, head, q=zero, k=zero, v=wire.read("x") @ random(10, 8), o=random(8, 10) @ wire.write("x"))
        w_out = random(4, 10) @ wire.write("x")
        wire.neurons(layer, 0, wire.read("x") @ random(10, 4), torch.full((4,), 90.0), w_out)
        with torch.no_grad():
            wire.module.transformer.h[layer].mlp.c_proj.bias -= 90.0 * w_out.sum(dim=0)
    wire.unembed(wire.read("x") @ random(10, len(words) + 2))
    tokenizer = word_tokenizer(words, 12)
    lm = wrap(wire.module.double(), tokenizer, "linear")
    pair = PromptPair(Prompt.of("a b c d e", answer="f", foil="g"), Prompt.of("a h c b e", answer="g", foil="f"))
    return lm, [pair]


def test_single_receivers_add_up_in_a_linear_network(linear):
    """K9a: what a sender tells each later part alone, edge by edge, sums to its total effect."""
    lm, pairs = linear
    spec = lm.spec
    every = [f"v:{layer}.{head}" for layer in range(spec.n_layers) for head in range(spec.n_heads)]
    every += [f"mlp:{layer}" for layer in range(spec.n_layers)] + ["logits"]
    common = {"at": "all", "positions": ("all",), "senders": ("heads", "mlps")}
    edges = PathPatching(receivers=tuple(every), together=False, freeze_mlps=True, **common)(lm, pairs)
    whole = PathPatching(receivers="logits", freeze="nothing", **common)(lm, pairs)
    for senders in ("heads", "mlps"):
        parts = edges.effects(senders=senders).isel(pair=0, role=0)
        total = whole.effects(senders=senders).isel(pair=0, role=0, receiver=0)
        assert float(np.abs(total).min()) > 1e-3
        off = float(np.abs(parts.sum("receiver") - total).max())
        assert off < 1e-6 * float(np.abs(total).max()), off


def test_it_does_not_add_up_with_mlps_free(linear):
    lm, pairs = linear
    edges = PathPatching(receivers=("logits", "mlp:2"), together=False, senders="heads")(lm, pairs)
    alone = PathPatching(receivers=("logits", "mlp:2"), together=False, senders="heads", freeze_mlps=True)(lm, pairs)
    off = np.abs(edges.effects() - alone.effects()).sel(receiver="logits", layer=0)
    assert float(off.max()) > 1e-3  # the "direct" path held the way through the MLPs


def test_senders_not_below_a_receiver_score_exactly_zero(atlas, pairs):
    found = PathPatching(receivers=("q:2.1", "mlp:1", "k:1.0"), together=False, senders=("heads", "mlps"))(atlas, pairs)
    heads, mlps = (np.abs(found.effects(senders=senders)).max(("pair", "role")) for senders in ("heads", "mlps"))
    assert (
        float(heads.sel(receiver="q:2.1@last", layer=[2, 3]).max())
        == 0
        < float(heads.sel(receiver="q:2.1@last", layer=0).min())
    )
    assert (
        float(heads.sel(receiver="mlp:1@last", layer=[2, 3]).max())
        == 0
        < float(heads.sel(receiver="mlp:1@last", layer=1).min())
    )
    assert (
        float(mlps.sel(receiver="mlp:1@last", layer=[1, 2, 3]).max())
        == 0
        < float(mlps.sel(receiver="mlp:1@last", layer=0))
    )
    assert float(heads.sel(receiver="k:1.0@last", layer=[1, 2, 3]).max()) == 0
    p = found.p_values(known=False)
    assert float(p.sel(receiver="k:1.0@last", layer=[1, 2, 3]).min()) == 1.0


def test_parallel_blocks_hide_a_head_from_its_own_mlp():
    spec = SimpleNamespace(parallel=True)
    assert not Receiver("mlp", 2).above("heads", 2, spec) and Receiver("mlp", 2).above("heads", 1, spec)
    assert Receiver("mlp", 2).above("heads", 2, SimpleNamespace(parallel=False))


def test_everything_held_at_its_own_value_is_a_no_op(atlas, pairs):
    """K9b: the sender's value from the clean run itself, all else held there too."""
    group = pair_groups(atlas, pairs)[0]
    targets = [parse(["logits"], "last"), parse(["q:3.0", "v:2.1"], "S2"), parse(["mlp:2"], "last")]
    sweep = Sweep(atlas, group.clean, group.clean, group.answer, group.foil, targets, hold_heads=True, hold_mlps=True)
    senders = [Sender("heads", layer, head) for layer in range(4) for head in range(4)] + [Sender("mlps", 1)]
    found = sweep.scores(senders, ["all"])
    assert np.abs(found - sweep.read_base()[:, None, None, None]).max() == 0.0


def test_positions_before_the_change_do_nothing(atlas, pairs):
    found = PathPatching(receivers=("v:3.0@S1", "k:2.0@S1"), positions=("S1",), together=False)(atlas, pairs)
    assert float(np.abs(found.effects()).max()) == 0.0  # only S2 differs, and S1 comes before it


def test_relative_is_bounded_below(atlas, pairs):
    found = PathPatching()(atlas, pairs)
    relative = found.relative()
    assert float(relative.min()) >= -1  # K9c
    p, clean = found.data["score"].sel(metric="prob"), found.data["clean"].sel(metric="prob")
    assert np.allclose(relative, (p - clean) / clean)
    assert found.effects("relative").equals(relative)


def test_directions_and_own_positions(atlas, pairs):
    noise = PathPatching(receivers="logits", freeze="nothing", positions=("all",), senders=("mlps",))(atlas, pairs)
    give = PathPatching(
        receivers="logits", freeze="nothing", positions=("all",), senders=("mlps",), direction="denoising"
    )(atlas, pairs)
    for end in ("clean", "corrupted"):
        assert np.array_equal(noise.data[end], give.data[end])
    last = give.effects(senders="mlps").isel(layer=-1, role=0, receiver=0)
    want = give.data["score_mlp"].sel(metric="logit_diff").isel(layer=-1, role=0, receiver=0) - give.data[
        "corrupted"
    ].sel(metric="logit_diff")
    assert np.array_equal(last, want) and float(np.abs(last).max()) > 0
    own = PathPatching(receivers=("v:3.0@S2", "q:3.0"), together=False)(atlas, pairs)
    there = PathPatching(receivers=("v:3.0@S2",), positions=("S2",))(atlas, pairs)
    assert np.array_equal(own.data["score"].isel(receiver=0, role=0), there.data["score"].isel(receiver=0, role=0))
    with pytest.raises(BadInput, match="noising"):
        give.relative(senders="mlps")


def test_pairs_of_any_length_come_back_in_order(atlas, pairs):
    whole = PathPatching(rows=64)(atlas, pairs)
    for index in (0, len(pairs) - 1):
        alone = PathPatching(rows=1)(atlas, [pairs[index]])
        assert np.allclose(alone.data["score"][0], whole.data["score"][index], atol=1e-4, rtol=1e-4)
        assert str(alone.data["pair"].values[0]) == str(whole.data["pair"].values[index])


def test_some_heads_only_and_little_memory(atlas, pairs):
    whole = PathPatching(receivers=("q:3.0", "q:2.0"))(atlas, pairs[:3])
    some = PathPatching(receivers=("q:3.0", "q:2.0"), only=("0.1", "1.2"), memory_mb=1)(atlas, pairs[:3])
    assert np.isnan(some.data["score"].sel(layer=0, head=0)).all()
    for layer, head in ((0, 1), (1, 2)):
        assert np.allclose(
            some.data["score"].sel(layer=layer, head=head), whole.data["score"].sel(layer=layer, head=head), atol=1e-5
        )
    assert some.top(5, known=False).shape[0] == 2


# -- the result --------------------------------------------------------------------------------------------------------


def test_the_result_says_what_was_held_and_comes_back(atlas, pairs, tmp_path):
    found = PathPatching(senders=("heads", "mlps"), freeze_mlps=True)(atlas, pairs)
    assert found.data.attrs["freeze"] == "other heads and MLPs held"
    assert PathPatching().rule == "other heads held, MLPs recomputed"
    assert PathPatching(freeze="nothing").rule == "heads and MLPs recomputed"
    found.save(tmp_path / "r")
    again = interp.open(tmp_path / "r")
    assert isinstance(again, PathResult) and again.data.equals(found.data)
    assert again.headline() == found.headline() and len(again.headline()) == 3
    assert set(found.to_frame()["role"]) == {"own"}


def test_what_is_exactly_nothing_is_not_significant(atlas, pairs):
    found = PathPatching(receivers="v:3.0", at="S1", positions=("S1",))(atlas, pairs)
    assert not found.significant(known=False).any() and float(found.p_values(known=False).min()) == 1.0


def test_heads_and_mlps_are_corrected_together(atlas, pairs):
    from interp.core.stats import holm, sign_flip_test

    both = PathPatching(senders=("heads", "mlps"))(atlas, pairs)
    effects = [both.effects(senders=kind) for kind in both.senders]
    flat = np.concatenate([part.values.reshape(len(part), -1) for part in effects], axis=1)
    idle = (flat == 0).all(axis=0)
    want = np.where(idle, 1.0, holm(np.where(idle, np.nan, sign_flip_test(flat, name="paths"))))
    got = np.concatenate([both.p_values(known=False, senders=kind).values.ravel() for kind in both.senders])
    assert np.array_equal(got, want)
    assert int((~idle).sum()) == both._tests(known=False) > PathPatching()(atlas, pairs)._tests(known=False)


def test_shares_of_nothing_are_refused(atlas, pairs):
    found = PathPatching()(atlas, pairs)
    assert np.isfinite(found.normalised(known=False)).all()
    with pytest.raises(BadInput, match="share of nothing"):
        found.normalised(known=False, tolerance=1e6)


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_grouped_heads_are_named_by_what_is_read(real_models):
    lm = interp.load(str(real_models / "stories260K-llama"))
    assert lm.spec.n_kv_heads < lm.spec.n_heads
    with pytest.raises(BadInput, match=r"k:2\.kv1"):
        resolve(parse(["k:2.2"], "last"), lm.spec)
    resolve(parse(["k:2.kv1", "q:2.7"], "last"), lm.spec)
    with pytest.raises(BadInput, match="head of its own"):
        resolve(parse(["q:2.kv1"], "last"), lm.spec)
    share = lm.spec.n_heads // lm.spec.n_kv_heads
    found = reading("v", [(2, 0), (2, share - 1), (2, share)], "S2", lm.spec)
    assert [one.name for one in found] == ["v:2.kv0", "v:2.kv1"]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"receivers": ("q9.9",)}, "not one"),
        ({"receivers": ("q:9",)}, "names no head"),
        ({"receivers": ()}, "no receiver"),
        ({"receivers": ("9.9",)}, "not one"),
        ({"receivers": ("q:1.1", "1.1")}, "twice"),
        ({"receivers": ("logits@S2",)}, "last token"),
        ({"receivers": ("logits", "q:1.1")}, "together=False"),
        ({"receivers": ("q:1.1@S2", "q:1.2@last")}, "where senders are patched"),
        ({"receivers": ("mlp:1.1",)}, "names no layer"),
        ({"senders": ("neurons",)}, "senders"),
        ({"positions": ()}, "positions"),
        ({"freeze": "mlps"}, "freeze"),
        ({"only": ("kv1.1",)}, "layer.head"),
        ({"rows": 0}, "rows"),
    ],
)
def test_what_cannot_be_meant_is_refused(options, match):
    with pytest.raises(BadInput, match=match):
        PathPatching(**options)


def test_what_this_model_or_these_pairs_lack_is_refused(atlas, pairs):
    for options, match in (
        ({"receivers": "q:9.0"}, "layers 0 to 3"), ({"receivers": "q:1.7"}, "heads 0 to 3"), ({"only": ("4.0",)}, "no head 4.0"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=match):
            PathPatching(**options)(atlas, pairs)
    with pytest.raises(SpanError, match="'S2'"):
        PathPatching(receivers="v:1.0@subject")(atlas, pairs)
    with pytest.raises(BadInput, match="no pairs"):
        PathPatching()(atlas, [])


def test_roles_are_found_row_by_row():
    tokens = torch.arange(12).reshape(2, 6)
    batch = Batch(tokens, torch.ones(2, 6, dtype=torch.bool), {"S": torch.tensor([[1, 3], [2, 4]])}, ("a", "b"))
    assert where(batch, "S").nonzero().tolist() == [[0, 1], [0, 2], [1, 2], [1, 3]]
    assert where(batch, "S.last+1").nonzero().tolist() == [[0, 3], [1, 4]]
    assert where(batch, "S.first-1").nonzero().tolist() == [[0, 0], [1, 1]]
    assert where(batch, "last").nonzero().tolist() == [[0, 5], [1, 5]]
    assert int(where(batch, "all").sum()) == 12
    for role in ("S-2", "last+1", "S.first-2"):
        with pytest.raises(BadInput, match="outside"):
            where(batch, role)
    for role in ("", " S"):
        with pytest.raises(BadInput, match="named"):
            where(batch, role)
    lacking = Batch(tokens, batch.mask, {"S": torch.tensor([[1, 3], [-1, -1]])}, ("a", "b"))
    with pytest.raises(SpanError, match="'b'"):
        where(lacking, "S")


def test_what_it_costs_is_said_first(atlas, pairs):
    assert (
        PathPatching().cost(atlas, pairs).forwards
        < PathPatching(receivers="q:3.0", positions=("last", "S2")).cost(atlas, pairs).forwards
    )
