"""Activation patching: the identities hold, planted components are found in both directions, and plain hooks give the same numbers."""

import numpy as np
import pytest
import torch

import tests.oracle as oracle
from interp.analyses.pairs import token_pairs
from interp.analyses.patching import KINDS, ActivationPatching
from interp.analyses.patching.cells import cells_of, columns, grid_of, part_names
from interp.analyses.patching.sources import partners
from interp.analyses.readout import METRICS, read_metrics
from interp.core.errors import BadInput, InterpError, RaggedPair, SpanError, UnknownSite
from interp.data import Prompt, PromptPair, tokenize
from interp.models import runner
from interp.models.load import wrap
from interp.models.reference import as_lm
from interp.models.reference import planted as wired
from interp.models.reference.planted.gates import gate_pairs, gates
from tests.models.tiny import VOCAB, tiny

from .full import full

LOGIT, PROB = METRICS.index("logit_diff"), METRICS.index("prob")
WORDS = ("amber", "brook", "cedar", "delta", "frost", "grove", "haven", "inlet", "jetty", "knoll", "larch", "marsh")


def fact_pair(row):
    other = wired.counterfactual(row)
    clean, corrupted = (Prompt.of(r["prompt"], answer=r["attribute"], subject=r["subject"]) for r in (row, other))
    return PromptPair(clean, corrupted)


def induction_pair(index, filler=1):
    """`ember` A B C D A -> B; corrupted, C stands where A stood and the other way round, so that A is followed by D."""
    a, b, c, d = (WORDS[(index + step) % len(WORDS)] for step in (0, 1, 2, 5))
    before = "ember " * filler
    clean = Prompt.of(f"{before}{a} {b} {c} {d} {a}", answer=b, foil=d)
    return PromptPair(clean, Prompt.of(f"{before}{c} {b} {a} {d} {a}", answer=d, foil=b))


def tiny_lm(family):
    model = tiny(family)
    return wrap(model, wired.wiring.word_tokenizer([f"w{i}" for i in range(2, VOCAB)], 64), family)


TINY = PromptPair(
    Prompt.of("w5 w9 w23 w41 w7 w88", answer="w17", foil="w30", subject="w23 w41"),
    Prompt.of("w5 w9 w60 w77 w7 w88", answer="w30", foil="w17", subject="w60 w77"),
)


@pytest.fixture(scope="module")
def facts():
    planted = wired.fact(n_layers=6, writer=2, mover=4)
    return planted, as_lm(planted), [fact_pair(row) for row in planted.prompts[::5]]


@pytest.fixture(scope="module")
def patched(facts):
    _, lm, pairs = facts
    config = ActivationPatching(
        kinds=("resid_pre", "resid_post", "attn_out", "mlp_out", "z"), over=(*["layer pos"] * 4, "layer head pos")
    )
    return config(lm, pairs)


@pytest.fixture(scope="module")
def induction():
    lm = as_lm(wired.induction())
    return ActivationPatching(kinds="z", over="layer head")(lm, [induction_pair(i) for i in range(12)])


# -- identities --------------------------------------------------------------------------------------------------------


def test_the_whole_stream_of_any_layer_is_the_other_run(facts):
    _, lm, pairs = facts
    found = ActivationPatching(kinds=("resid_pre", "resid_mid", "resid_post"), over="layer")(lm, pairs[:3])
    for kind in found.kinds:
        assert np.allclose(found.normalised(kind=kind), 1.0, atol=1e-5)  # K4a
    assert found.data.attrs["nothing_difference"] == 0.0 and found.data.attrs["restored_difference"] < 1e-3
    assert found.data.attrs["resume_difference"] < 1e-3


def test_before_the_first_changed_token_and_off_the_last_in_the_last_layer_nothing_happens(patched):
    changed = patched.data["first_changed"]
    for kind in patched.kinds:
        effect = patched.effects(kind)
        before = effect.where(effect["pos"] < changed)
        assert float(np.abs(before).max()) == 0.0, kind  # K4c
        if kind != "resid_pre":
            last = effect.isel(layer=-1)
            assert float(np.abs(last.where(last["pos"] < patched.data["n_pos"] - 1)).max()) == 0.0, kind  # K4d
        assert np.isnan(effect.where(effect["pos"] >= patched.data["n_pos"], drop=True)).all()


def test_the_last_state_and_the_changed_embedding_restore_everything(facts, patched):
    share = patched.normalised(kind="resid_post").isel(layer=-1)
    last = share.isel(pos=patched.data["n_pos"] - 1)
    assert np.allclose(last, 1.0, atol=1e-5)  # K4b
    _, lm, pairs = facts
    found = ActivationPatching(kinds="resid_pre", layers=(0,), positions=("changed", "last"))(lm, pairs)
    assert np.allclose(found.normalised().sel(place="changed"), 1.0, atol=1e-5)  # K4e
    assert float(np.abs(found.normalised().sel(place="last")).max()) == 0.0


@pytest.mark.parametrize(("kind", "denoise", "noise"), [("and", 0.0, 1.0), ("or", 1.0, 0.0)])
def test_an_and_gate_is_found_by_noise_and_an_or_gate_by_denoising(kind, denoise, noise):
    config = ActivationPatching(
        kinds=("z", "attn_out", "mlp_out"), over=("layer head", "layer", "layer"), positions="last"
    )
    found = config(as_lm(gates(kind=kind)), gate_pairs(8))
    heads = found.normalised()  # K4g
    assert np.allclose(heads.sel(direction="denoise", layer=0, head=[0, 1]), denoise, atol=1e-3)
    assert np.allclose(heads.sel(direction="noise", layer=0, head=[0, 1]), noise, atol=1e-3)
    assert float(np.abs(heads.sel(layer=0).isel(head=slice(2, None))).max()) < 1e-6
    assert np.allclose(found.normalised(kind="attn_out").sel(layer=0), 1.0, atol=1e-3)
    assert np.allclose(found.normalised(kind="mlp_out").mean("pair"), [[0, 1], [0, 1]], atol=1e-3)
    significant = found.significant()["significant"]
    assert significant.sel(layer=0, head=[0, 1]).all("head").values.tolist() == [
        denoise == 1,
        noise == 1,
    ]  # not rounding of one sign
    assert int(significant.sum()) == 2


def test_the_two_directions_do_not_mirror_each_other_in_a_random_net():
    found = ActivationPatching(kinds="mlp_out", positions="last")(tiny_lm("gpt2"), TINY)
    share = found.normalised().isel(pair=0, place=0)
    gap = share.sel(direction="denoise") - share.sel(direction="noise")
    assert float(np.abs(gap).max()) > 0.05 and float(np.abs(share.sum("direction") - 1).max()) > 0.05  # K4f


# -- planted mechanisms, and nulls -------------------------------------------------------------------------------------


def test_the_planted_fact_is_found_whole_in_both_directions(facts, patched):
    planted, lm, pairs = facts
    for row, pair in enumerate(pairs):
        tokens = tokenize(pair.clean, lm.tokenizer)
        subject, length = tokens.spans["subject"][1] - 1, len(tokens)
        for kind, name in (("resid_post", "hidden"), ("mlp_out", "mlp"), ("attn_out", "attn")):
            want = wired.fact_map(planted, subject, length, name, width=1)
            got = (
                patched.normalised("prob", kind)
                .isel(pair=row, pos=slice(0, length))
                .transpose("direction", "pos", "layer")
            )
            assert np.abs(got - want).max() < 1e-4, (kind, row)
        heads = patched.normalised("prob", "z").isel(pair=row, pos=length - 1)
        assert np.allclose(heads.sel(layer=4, head=0), 1.0, atol=1e-4)
        assert float(np.abs(heads).sum()) == pytest.approx(2.0, abs=1e-3)  # nothing else


def test_the_planted_induction_heads_are_found_and_are_significant(induction):
    share = induction.normalised().mean("pair")
    want = np.zeros((2, 4))
    want[0, 0] = want[1, 0] = 1.0
    assert np.abs(share.transpose("direction", "layer", "head") - want).max() < 1e-3
    test = induction.significant()
    assert np.array_equal(test["significant"].sel(direction="noise").values, want == 1.0)
    assert test["p"].notnull().sum() == 4 and test.attrs["smallest_p"] == 2.0 / 2**12
    table = induction.top(2)
    assert set(zip(table["layer"], table["head"], strict=True)) == {(0, 0), (1, 0)}
    assert "z 0.0" in list(induction.headline())[2] or "z 1.0" in list(induction.headline())[2]


def test_nothing_is_significant_in_the_null_model():
    lm = as_lm(wired.induction(null=True))
    found = ActivationPatching(kinds=("z", "mlp_out"), over=("layer head", "layer"))(
        lm, [induction_pair(i) for i in range(12)]
    )
    for kind in found.kinds:
        for correction in ("holm", "bh"):
            assert not found.significant(correction, kind=kind, known=False)["significant"].any(), (kind, correction)
    assert found.n_known < 6 and list(found.headline())
    if not found.n_known:
        with pytest.raises(BadInput, match="known=False"):
            found.mean()


def test_few_pairs_cannot_be_significant_and_it_is_said(induction):
    few = type(induction)(induction.data.isel(pair=slice(0, 3)))
    test = few.significant()
    assert not test["significant"].any() and test.attrs["smallest_p"] == 0.25
    clusters = [i // 4 for i in range(12)]
    clustered = induction.significant(clusters=clusters)
    assert clustered.attrs["pairs"] == 3 and not clustered["significant"].any()
    wide = induction.mean(clusters=clusters)
    assert bool((wide["ci_lo"] <= wide["mean"] + 1e-9).all()) and int(wide["n"].min()) == 12
    with pytest.raises(BadInput, match="2 labels for 12 pairs"):
        induction.mean(clusters=[1, 2])


# -- against an independent oracle -------------------------------------------------------------------------------------


def by_hooks(model, kind, layers, base, other, *, place, head):
    """Logits [vocab] of `base` with the values of `other` at a position (and head), by plain hooks."""
    changes = []
    for layer in layers:
        value = oracle.capture(model, kind, layer, other)

        def put(x, value=value):
            x = x.clone()
            if head is None:
                x[:, place] = value[:, place]
            else:
                x[:, place, head] = value[:, place, head]
            return x

        changes.append((kind, layer, put))
    return oracle.edited(model, changes, base)[0, -1]


def agrees(lm, pair, *, per_kind=3, seed=0, **options):
    """Random cells of each kind and direction, in a grid with heads where there are any, against hooks."""
    kinds = [kind for kind in KINDS if not (kind == "resid_mid" and lm.spec.parallel)]
    over = tuple("layer head pos" if kind in "zqkv" else "layer pos" for kind in kinds)
    rng = np.random.default_rng(seed)
    layers = tuple(sorted({0, lm.spec.n_layers - 1, int(rng.integers(lm.spec.n_layers))}))[-2:]
    found = ActivationPatching(kinds=tuple(kinds), over=over, layers=layers, **options)(lm, pair)
    tokens = token_pairs(lm, pair, **options)[0]
    clean, corrupted = (torch.tensor([side.ids]) for side in (tokens.clean, tokens.corrupted))
    answer, foil = tokens.clean.answer_id, tokens.clean.foil_id
    moved = 0
    for kind in kinds:
        values = found.data[kind].isel(pair=0)
        head = next((dim for dim in values.dims if "head" in str(dim)), None)
        assert (head == "kv_head") == (kind in "kv")
        for _ in range(per_kind):
            direction = str(rng.choice(["denoise", "noise"]))
            layer, pos = int(rng.choice(layers)), int(rng.integers(tokens.changed[0], len(tokens.clean)))
            number = None if head is None else int(rng.integers(values.sizes[head]))
            cell = values.sel(direction=direction, layer=layer, pos=pos)
            cell = cell if number is None else cell.sel({head: number})
            base, other = (corrupted, clean) if direction == "denoise" else (clean, corrupted)
            logits = by_hooks(lm.module, kind, [layer], base, other, place=pos, head=number)
            want = read_metrics(logits, answer, foil).numpy()
            end = found.data["low" if direction == "denoise" else "high"].isel(pair=0)
            assert cell.values[LOGIT] == pytest.approx(want[LOGIT], abs=1e-3), (kind, direction, layer, pos, number)
            assert cell.values[PROB] == pytest.approx(want[PROB], rel=1e-3, abs=1e-6), (kind, direction, layer, pos)
            moved += abs(want[LOGIT] - float(end[LOGIT])) > 1e-4
    assert moved > 0.3 * per_kind * len(kinds)  # in the last layer only the last position is read


@pytest.mark.parametrize("family", ["gpt_neox", "qwen3"])
def test_random_cells_equal_plain_hooks(family):
    agrees(tiny_lm(family), TINY)


def test_random_cells_of_atlas_equal_plain_hooks():
    from interp.models.load import load

    clean = Prompt.of("When Hugo and Emma went to the park, Emma gave the map to", answer=" Hugo", foil=" Emma")
    other = Prompt.of("When Hugo and Emma went to the park, Hugo gave the map to", answer=" Emma", foil=" Hugo")
    agrees(load("atlas"), PromptPair(clean, other), per_kind=2)


@pytest.mark.parametrize("name", ["stories260K-llama", "tinytalk-chat"])
def test_random_cells_of_real_checkpoints_equal_plain_hooks(real_models, name):
    """Grouped queries (8 heads over 4) and GPT-Neo's local attention."""
    from interp.models.load import load

    clean = Prompt.of("Lily and Tim went to the park. Tim gave a", answer=" big", foil=" small")
    other = Prompt.of("Lily and Tim went to the park. Lily gave a", answer=" small", foil=" big")
    lm, pair = load(real_models / name), PromptPair(clean, other)
    agrees(lm, pair, per_kind=1, answers="first")
    if name.endswith("llama"):
        with pytest.raises(BadInput, match=r"heads 0 to 3 \(8 query heads share 4 key/value heads"):
            ActivationPatching(kinds=("z", "k"), over="layer head", heads=(5,), answers="first")(lm, pair)
        with pytest.raises(BadInput, match=r"heads 0 to 7\."):
            ActivationPatching(kinds="z", over="layer head", heads=(8,), answers="first")(lm, pair)


def test_windows_equal_plain_hooks_and_equal_windows_are_run_once():
    lm = tiny_lm("llama")
    found = ActivationPatching(kinds="mlp_out", positions="subject.last", window=2, direction="denoise")(lm, TINY)
    tokens = token_pairs(lm, TINY)[0]
    clean, corrupted = (torch.tensor([side.ids]) for side in (tokens.clean, tokens.corrupted))
    for centre, layers in enumerate([[0], [0, 1], [1, 2], [2, 3]]):  # the code's rule: below the centre
        logits = by_hooks(lm.module, "mlp_out", layers, corrupted, clean, place=3, head=None)
        want = float(read_metrics(logits, tokens.clean.answer_id, tokens.clean.foil_id)[LOGIT])
        assert float(found.data["mlp_out"][0, 0, centre, 0, LOGIT]) == pytest.approx(want, abs=1e-4)
    wide = grid_of("mlp_out", "layer pos", lm.spec, window=9)
    assert [cell.spots for cell in cells_of(wide, 1)] == [((0, 0), (1, 0), (2, 0), (3, 0))]


# -- what is put in ----------------------------------------------------------------------------------------------------


def test_zero_and_mean_equal_plain_hooks():
    lm = tiny_lm("llama")
    texts = [("w5 w9 w23 w41 w7 w88", "w5 w9 w60 w77 w7 w88"), ("w50 w23 w41 w7 w8 w9", "w50 w61 w70 w7 w8 w9")]
    marks = [("w23 w41", "w60 w77"), ("w23 w41", "w61 w70")]
    pairs = [
        PromptPair(Prompt.of(a, answer="w17", foil="w30", subject=s), Prompt.of(b, answer="w30", foil="w17", subject=t))
        for (a, b), (s, t) in zip(texts, marks, strict=True)
    ]
    ids = [[torch.tensor([side.ids]) for side in (one.clean, one.corrupted)] for one in token_pairs(lm, pairs)]
    answer, foil = (lm.tokenizer.encode(word, bos=False).ids[0] for word in ("w17", "w30"))
    zs = [oracle.capture(lm.module, "z", 1, corrupted)[0] for _, corrupted in ids]  # [pos, head, d_head]
    spans = [(2, 4), (1, 3)]
    mean = torch.stack([z[a:b].mean(dim=0) for z, (a, b) in zip(zs, spans, strict=True)]).mean(dim=0)
    by_place = torch.stack(zs).mean(dim=0)
    how = {"kinds": "z", "over": "layer head pos", "direction": "noise", "layers": (1,)}
    for options, put in (
        ({"source": "zero"}, lambda row, pos: torch.zeros_like(mean)),
        ({"source": "mean"}, lambda row, pos: by_place[pos]),
        ({"source": "mean", "positions": "subject"}, lambda row, pos: mean),
    ):
        found = ActivationPatching(**how, **options)(lm, pairs)
        for row in range(2):
            places = range(*spans[row]) if "positions" in options else [3]

            def change(x, row=row, places=places, put=put):
                x = x.clone()
                for pos in places:
                    x[:, pos, 2] = put(row, pos)[2]
                return x

            logits = oracle.edited(lm.module, [("z", 1, change)], ids[row][0])[0, -1]
            want = float(read_metrics(logits, answer, foil)[LOGIT])
            index = 0 if "positions" in options else 3
            assert float(found.data["z"][row, 0, 0, 2, index, LOGIT]) == pytest.approx(want, abs=1e-4), options
    together = ActivationPatching(**(how | {"over": "layer head"}), source="mean", positions=("subject", "last"))(
        lm, pairs
    )
    assert together.data["z"].dims == ("pair", "direction", "layer", "head", "metric")
    with pytest.raises(BadInput, match=r"'subject' and 'subject.last' overlap"):
        ActivationPatching(**(how | {"over": "layer head"}), source="mean", positions=("subject", "subject.last"))(
            lm, pairs
        )


def test_resampling_takes_another_pairs_corrupted_prompt(facts):
    planted, lm, _ = facts
    same = [fact_pair(row) for row in planted.prompts[:13:6]]  # of one length
    tokens = token_pairs(lm, same)
    partner = partners(tokens, (), 0)
    assert all(index != other for index, other in enumerate(partner)) and partner == partners(tokens, (), 0)
    config = ActivationPatching(kinds="resid_post", source="resample")
    found = config(lm, same)
    run = lm.run([list(tokens[other].corrupted.ids) for other in partner])
    gap = [
        float(run.last_logits[row, one.clean.answer_id] - run.last_logits[row, one.corrupted.answer_id])
        for row, one in enumerate(tokens)
    ]
    assert np.allclose(found.data["low"].sel(metric="logit_diff"), gap, atol=1e-4)
    assert [str(name) for name in found.data["token_corrupted"][0].values if name] == list(
        tokens[partner[0]].corrupted.labels
    )
    with pytest.raises(BadInput, match="finds no other pair"):
        config(lm, same[0])


# -- what the result says ----------------------------------------------------------------------------------------------


def test_pairs_of_different_length_mix_and_batches_do_not_matter(facts, patched):
    _, lm, pairs = facts
    assert len(set(patched.data["n_pos"].values.tolist())) > 1
    config = ActivationPatching(kinds=("mlp_out", "z"), over=("layer pos", "layer head"))
    mixed = config(lm, pairs[:2])
    for row, pair in enumerate(pairs[:2]):
        alone = config(lm, pair)
        for kind in mixed.kinds:
            one = mixed.data[kind].isel(pair=[row])
            one = one.isel(pos=slice(0, alone.data.sizes["pos"])) if "pos" in one.dims else one
            numbers = ["prob", "logprob", "logit_diff"]  # among tied words the rank is a matter of rounding
            assert np.allclose(
                one.sel(metric=numbers), alone.data[kind].sel(metric=numbers), atol=1e-4, equal_nan=True
            ), (kind, row)
    small = ActivationPatching(kinds="mlp_out", max_rows=1)(lm, pairs[:2])
    assert np.allclose(
        small.data["mlp_out"].sel(metric=numbers), mixed.data["mlp_out"].sel(metric=numbers), atol=1e-4, equal_nan=True
    )
    with pytest.raises(BadInput, match="`by_role`"):
        patched.mean(kind="mlp_out")


def test_whole_forward_passes_give_the_same_numbers(facts):
    planted, lm, pairs = facts
    config = ActivationPatching(kinds=("k", "attn_out"), over=("layer head", "layer pos"), window=2, layers=(2, 5))
    fast, slow = config(lm, pairs[:1]), config(full(planted), pairs[:1])
    for kind in fast.kinds:
        numbers = ["prob", "logprob", "logit_diff"]
        assert np.allclose(
            fast.data[kind].sel(metric=numbers), slow.data[kind].sel(metric=numbers), atol=1e-3, equal_nan=True
        )


def test_roles_are_averaged_within_pairs_and_counted(patched):
    table = patched.by_role("prob", "resid_post", normalise=True)
    assert [str(name) for name in table["role"].values] == [
        "before", "first subject", "middle subject", "last subject", "first after", "further", "last"
    ]  # fmt: skip
    best = table["mean"].sel(role="last subject", direction="noise")
    assert np.allclose(best, [1, 1, 1, 1, 0, 0], atol=1e-4)
    assert int(table["n"].sel(role="middle subject").max()) < patched.data.sizes["pair"]
    by_role = patched.significant(kind="resid_post", by="role")
    assert by_role["p"].sel(role="before").isnull().all()  # exactly 0 by construction: not a question
    names = list(patched.headline())
    assert "5 known" in names[0] and "last subject" in names[2]


def test_named_places_compare_pairs_of_different_length(facts):
    _, lm, pairs = facts
    places = ("subject.first", "subject.middle", "subject.last", "subject", "last")
    found = ActivationPatching(kinds="resid_post", positions=places)(lm, pairs)
    share = found.mean(normalise=True)["mean"].sel(direction="denoise")
    assert np.allclose(share.sel(place="subject.last"), [1, 1, 1, 1, 0, 0], atol=1e-4)
    assert np.allclose(share.sel(place="subject"), share.sel(place="subject.last"), atol=1e-4)
    assert np.allclose(share.sel(place="last"), [0, 0, 0, 0, 1, 1], atol=1e-4)
    assert float(np.abs(share.sel(place="subject.first")).max()) == 0.0
    middle = found.data["resid_post"].sel(place="subject.middle").isnull().any(("direction", "layer", "metric"))
    assert middle.values.tolist() == [len(pair.clean.span("subject").split()) == 2 for pair in pairs]


def test_parts_of_a_prompt_with_several_spans():
    lm = tiny_lm("gpt2")
    tokens = tokenize(Prompt.of("w2 w3 w4 w5 w6 w7", S1="w3", S2="w5 w6"), lm.tokenizer)
    assert part_names(tokens) == ("start", "S1", "after S1", "S2", "S2", "last")
    pair = token_pairs(lm, PromptPair(Prompt.of("w2 w3", changed="w2"), Prompt.of("w2 w4", changed="w2")))[0]
    assert columns("changed", pair) == (0,) and columns("last", pair) == (1,)  # a span of that name is what it says


def test_controls_are_weaker_than_the_planted_heads_and_repeat(facts):
    _, lm, pairs = facts
    config = ActivationPatching(kinds=("z", "mlp_out"), over=("layer head", "layer"), controls=4, strongest=1)
    found = config(lm, pairs[:3])
    table = found.controls()
    heads, mlps = table[table["kind"] == "z"], table[table["kind"] == "mlp_out"]
    assert (heads["layer"] == 4).all() and (heads["head"] == 0).all() and (mlps["layer"] == 2).all()
    assert (table["percentile"] == 100).all() and (heads["among_heads"] == 100).all()
    assert (np.abs(table["control_mean"]) < 0.8 * table["effect"]).all() and (table["draws"] == 4).all()
    assert np.isnan(mlps["among_heads"]).all()
    batched = ActivationPatching(
        kinds=("z", "mlp_out"), over=("layer head", "layer"), controls=4, strongest=1, max_rows=2
    )(lm, pairs[:3])
    assert np.allclose(batched.data["control"], found.data["control"], atol=1e-3)
    with pytest.raises(BadInput, match="controls=20"):
        ActivationPatching(kinds="mlp_out", positions="last")(lm, pairs[0]).controls()


def test_a_head_among_one_is_its_own_control():
    """A random subspace of full rank is everything: the control is then the whole of z."""
    lm = tiny_lm("gpt2")
    found = ActivationPatching(kinds="z", over="layer pos", positions="last", controls=2, strongest=1)(lm, TINY)
    assert found.data["control"].notnull().all()
    sizes = found.data["control"].std("draw").sel(metric="logit_diff")
    assert float(sizes.min()) > 0  # different draws


def test_total_effects_too_small_to_share_are_refused_with_the_numbers(facts):
    _, lm, pairs = facts
    clean = pairs[0].clean
    text = clean.text.replace("They say", "We heard")
    idle = PromptPair(clean, Prompt.of(text, answer="Oslo", subject=clean.span("subject")))
    found = ActivationPatching(kinds="mlp_out", over="layer")(lm, [pairs[1], idle])
    with pytest.raises(BadInput, match=r"at most 0.001 in logit_diff in 1 of 2 pairs \(.* [+-]\d"):
        found.normalised()
    assert found.normalised(drop=True).sizes["pair"] == 1
    assert found.total_effect()["n"] == 2


def test_unknown_pairs_are_kept_and_flagged(facts):
    _, lm, pairs = facts
    wrong = PromptPair(
        Prompt(pairs[0].clean.text, pairs[1].clean.answer, None, pairs[0].clean.spans), pairs[0].corrupted
    )
    found = ActivationPatching(kinds="mlp_out", over="layer")(lm, [pairs[0], wrong])
    assert found.data["known"].values.tolist() == [True, False]
    assert int(found.mean()["n"].max()) == 1 and int(found.mean(known=False)["n"].max()) == 2


def test_a_saved_result_comes_back(patched, tmp_path):
    from interp.core.artifact import open_result

    back = open_result(patched.save(tmp_path / "patched"))
    assert type(back) is type(patched) and back.data.identical(patched.data)
    assert back.headline() == patched.headline()
    frame = patched.to_frame("z")
    assert {"pair", "direction", "layer", "head", "pos", "metric", "z"} <= set(frame.columns)
    assert len(patched._repr_html_()) < 30_000


def test_cost_counts_what_goes_through_the_model(facts, monkeypatch):
    """Tokens through the MLPs of all layers, counted by hooks, divided by the number of layers; small calls are not joined here."""
    monkeypatch.setitem(runner.CALL_FLOPS, "cpu", 0.0)
    _, _, pairs = facts
    lm = as_lm(wired.fact(n_layers=6, writer=2, mover=4, null=True))
    config, seen = ActivationPatching(kinds=("resid_pre", "attn_out", "z"), over=(*["layer pos"] * 2, "layer head")), []
    config(lm, pairs[:1])  # the engine's own check, once a session
    modules = {id(m): m for owner in (lm.module, lm.plain.module, lm.bridge) for m in owner.modules()}
    mlps = [m for m in modules.values() if type(m).__name__ == "GPT2MLP"]
    handles = [m.register_forward_hook(lambda _m, _a, out: seen.append(out.shape[:2].numel())) for m in mlps]
    try:
        config(lm, pairs[:3])
    finally:
        for handle in handles:
            handle.remove()
    cost = config.cost(lm, pairs[:3])
    assert cost.tokens == pytest.approx(sum(seen) / 6, rel=0.1)
    naive = sum(2 * (12 * len(pair.clean.text.split()) + 24) for pair in pairs[:3])
    assert cost.forwards < naive / 2 and "3 pairs" in cost.note


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"kinds": "resid"}, "resid_pre"), ({"kinds": ()}, "once"), ({"kinds": ("z", "z")}, "once"),
        ({"over": "layer heads"}, "layer head pos"), ({"over": "layer head"}, "no head axis"),
        ({"over": ("layer", "layer pos")}, "2 sets of axes for 3 kinds"), ({"direction": "up"}, "denoise"),
        ({"source": "noise"}, "resample"), ({"source": "zero"}, "direction='noise'"), ({"source": "mean"}, "direction='noise'"),
        ({"window": 0}, "window"), ({"window_rule": "txt"}, "text"), ({"controls": -1}, "controls"), ({"max_rows": 0}, "max_rows"),
        ({"controls": 3, "window": 2}, "window=1"), ({"answers": "whole"}, "single"), ({"heads": (1,)}, "layer head"),
        ({"positions": ("last", "last")}, "once"),
    ],
)  # fmt: skip
def test_options_are_checked(options, match):
    with pytest.raises(BadInput, match=match):
        ActivationPatching(**options)


def test_what_cannot_be_patched_is_refused(facts):
    _, lm, pairs = facts
    clean = pairs[0].clean
    longer = Prompt.of(clean.text.replace(clean.span("subject"), "Ana de van Arden"), subject="Ana de van Arden")
    with pytest.raises(RaggedPair, match="does not line up"):
        ActivationPatching()(lm, [pairs[1], PromptPair(clean, longer)])
    for data, match in (([], "no pairs"), (clean, "pairs"), ([clean], "a single prompt")):
        with pytest.raises(BadInput, match=match):
            ActivationPatching()(lm, data)
    for name in ("object", "subject.end", "S2"):
        with pytest.raises(SpanError, match="'last', 'changed', 'subject'"):
            ActivationPatching(positions=name)(lm, pairs)
    with pytest.raises(BadInput, match="one length; these have 6, 7, 8, 9"):
        ActivationPatching(source="mean", direction="noise")(lm, pairs)
    with pytest.raises(BadInput, match="at least two pairs"):
        ActivationPatching(source="mean", direction="noise", positions="last")(lm, pairs[0])
    with pytest.raises(BadInput, match="layers 0 to 5"):
        ActivationPatching(layers=(6,))(lm, pairs)
    with pytest.raises(UnknownSite, match="parallel"):
        ActivationPatching(kinds="resid_mid")(tiny_lm("gpt_neox"), TINY)
    with pytest.raises(BadInput, match="must be one of 'z'; not 'mlp_out'"):
        ActivationPatching(kinds="z")(lm, pairs[0]).effects("mlp_out")


def test_a_wrong_engine_is_found_out(facts):
    planted, _, pairs = facts

    class Broken(type(full(planted))):
        def resume(self, base, cells, *, positions=(-1,), readout=None):
            return super().resume(
                base,
                cells,
                positions=positions,
                readout=lambda x, rows: readout(x + 0.5 * torch.arange(x.shape[-1]), rows),
            )

    with pytest.raises(InterpError, match="must not move it"):
        ActivationPatching(kinds="mlp_out")(Broken(planted.module, planted.tokenizer, "broken"), pairs[:1])
