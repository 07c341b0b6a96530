"""Causal tracing: the planted map is found whole, the null has none, and the identities of patching hold."""

import numpy as np
import pytest
import torch

import tests.oracle as oracle
from interp.analyses.readout import METRICS, best_wrong, read_metrics
from interp.analyses.tracing import CausalTrace, window_layers
from interp.analyses.tracing.cells import plan
from interp.analyses.tracing.corrupt import noise_value, sigma_of
from interp.core.errors import BadInput, InterpError, RaggedPair, SpanError
from interp.data import Prompt, PromptPair, tokenize
from interp.models.load import wrap
from interp.models.reference import as_lm as wired_lm
from interp.models.reference import planted as wired
from tests.models.tiny import FAMILIES, VOCAB, tiny

from .full import FullLM, full

METRIC = {name: index for index, name in enumerate(METRICS)}


def prompts_of(planted, count=24):
    rows = planted.prompts[:: max(1, 24 // count)][:count]
    return [Prompt.of(row["prompt"], answer=row["attribute"], subject=row["subject"]) for row in rows]


def pair_of(row):
    other = wired.counterfactual(row)
    clean, corrupted = (Prompt.of(r["prompt"], answer=r["attribute"], subject=r["subject"]) for r in (row, other))
    return PromptPair(clean, corrupted)


@pytest.fixture(scope="module")
def small():
    return wired.fact(n_layers=6, writer=2, mover=4)


@pytest.fixture(scope="module")
def lm(small):
    return wired_lm(small)


@pytest.fixture(scope="module")
def traced(small, lm):
    config = CausalTrace(
        window=3, noise_samples=4, kinds=("hidden", "mlp", "attn", "hidden_without_mlp"), keep_noise_rows=True
    )
    return config(lm, prompts_of(small, 8))


# -- the planted map (K7) ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["code", "text"])
def test_the_planted_map_is_found_whole(rule):
    planted = wired.fact()  # 20 layers, written at 9, moved at 14
    kinds = ("hidden", "mlp", "attn") if rule == "code" else ("mlp",)
    found = CausalTrace(window=10, window_rule=rule, noise_samples=1, kinds=kinds)(
        wired_lm(planted), prompts_of(planted, 1)
    )
    share = found.normalised("prob")
    for row, prompt in enumerate(prompts_of(planted, 1)):
        tokens = tokenize(prompt, wired_lm(planted).tokenizer)
        for kind in kinds:
            last = tokens.spans["subject"][1] - 1
            expected = wired.fact_map(planted, last, len(tokens), kind, width=10, rule=rule)
            got = share.isel(prompt=row).sel(kind=kind).values[: len(tokens)]
            assert np.abs(got - expected).max() < 1e-5, (rule, kind)
    by_role = found.by_role()["mean"]
    best = by_role.sel(role="last subject", kind="mlp").values
    plateau = range(5, 15) if rule == "code" else range(4, 14)
    assert np.flatnonzero(best > 0.5 * best.max()).tolist() == [*plateau]


def test_severing_the_mlps_shows_where_the_fact_is_written(traced):
    share = traced.by_role("prob", normalise=True)["mean"].sel(role="last subject")
    assert np.allclose(share.sel(kind="hidden"), [1, 1, 1, 1, 0, 0], atol=1e-5)
    assert np.allclose(share.sel(kind="hidden_without_mlp")[2:], [1, 1, 0, 0], atol=1e-5)
    assert np.abs(share.sel(kind="hidden_without_mlp")[:2]).max() < 0.1


def test_nothing_is_found_in_the_null_model():
    planted = wired.fact(n_layers=6, writer=2, mover=4, null=True)
    found = CausalTrace(window=3, noise_samples=3)(wired_lm(planted), prompts_of(planted, 8))
    assert found.n_known <= 2
    best = found.by_role("prob", known=False)["mean"]
    assert float(np.abs(best).max()) < 0.2
    assert list(found.headline())  # it says so instead of failing
    if not found.n_known:
        with pytest.raises(BadInput, match="known=False"):
            found.by_role()


def test_window_rules():
    assert window_layers(10, 10, 48) == tuple(range(5, 15))
    assert window_layers(10, 10, 48, "text") == tuple(range(6, 16))
    assert window_layers(10, 3, 48) == window_layers(10, 3, 48, "text") == (9, 10, 11)
    assert window_layers(10, 1, 48) == window_layers(10, 1, 48, "text") == (10,)
    assert len(window_layers(0, 10, 48)) == 5 and len(window_layers(47, 10, 48)) == 6  # K7d: clipped
    for width in (1, 2, 3, 10):
        for rule in ("code", "text"):
            for centre in range(20):
                assert window_layers(centre, width, 20, rule) == tuple(wired.window(centre, width, 20, rule))


# -- the identities (K4, B.3) ------------------------------------------------------------------------------------------


def test_an_empty_restoration_is_the_corrupted_score_to_the_bit(traced):
    before = traced.data["role"] == "before"
    assert bool(before.any())
    effects = traced.effects().where(before)
    assert float(np.abs(effects).max()) == 0.0  # K4c
    assert traced.data.attrs["resume_difference"] < 1e-4 and traced.data.attrs["restored_difference"] < 1e-4


def test_the_last_layer_restores_all_at_the_last_token_and_nothing_elsewhere(traced):
    score = traced.data["score"].sel(kind="hidden").isel(layer=-1)
    for row in range(traced.data.sizes["prompt"]):
        length = int(traced.data["n_pos"][row])
        high, low = traced.data["high"][row].values, traced.data["low"][row].values
        assert np.allclose(
            score[row, length - 1].values, high, rtol=3e-7, atol=1e-6
        )  # K4b; the logit difference to an ulp
        assert (score[row, : length - 1].values == low).all()  # K4d
        assert np.isnan(score[row, length:].values).all()


def test_restoring_the_embedding_restores_everything(small, lm):
    row = small.prompts[4]
    prompt = Prompt.of(row["prompt"], answer=row["attribute"], subject=row["subject"].split()[-1])  # one token
    found = CausalTrace(kinds=("hidden",), noise_samples=3)(lm, prompt)
    place = int(np.flatnonzero(found.data["role"].values[0] == "last subject")[0])
    one = found.data["score"].isel(prompt=0, kind=0, pos=place, layer=0).values
    assert np.allclose(
        one, found.data["high"].values[0], atol=1e-5
    )  # K4e: the only changed token, before anything reads it


def test_free_cells_are_not_computed_and_equal_what_computing_them_gives():
    n_layers, length, start = 6, 9, 3
    cells = list(plan(("hidden", "mlp"), length=length, start=start, n_layers=n_layers, width=3, rule="code"))
    covered = {(cell.kind, cell.pos, centre) for cell in cells for centre in cell.centres}
    missing = {(k, p, c) for k in ("hidden", "mlp") for p in range(length) for c in range(n_layers)} - covered
    assert all(pos < start or (kind == "hidden" and layer == 5 and pos < length - 1) for kind, pos, layer in missing)
    wide = list(plan(("mlp",), length=2, start=0, n_layers=4, width=9, rule="code"))
    assert [cell.layers for cell in wide] == [(0, 1, 2, 3)] * 2 and wide[0].centres == (0, 1, 2, 3)


# -- against an independent oracle -------------------------------------------------------------------------------------


def words():
    """A tokenizer for the tiny models: `w17` is token 17."""
    return wired.wiring.word_tokenizer([f"w{i}" for i in range(2, VOCAB)], 64)


def test_partial_recomputation_and_both_backends_give_the_numbers_of_whole_passes(small):
    config = CausalTrace(
        window=3, noise_samples=1, kinds=("hidden", "mlp", "attn", "hidden_without_mlp", "hidden_without_attn")
    )
    prompts = prompts_of(small, 1)
    want = config(full(small), prompts).data["score"].values
    for backend in ("transformer_lens", "nnsight"):
        got = config(wired_lm(small, backend=backend), prompts).data["score"].values
        assert np.abs(got[..., METRIC["prob"]] - want[..., METRIC["prob"]]).max() < 1e-6, backend
        assert np.abs(got[..., METRIC["logit_diff"]] - want[..., METRIC["logit_diff"]]).max() < 1e-4, backend


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_equal_plain_hooks(family):
    model = tiny(family)
    lm = wrap(model, words(), family)
    prompt = Prompt.of("w5 w9 w23 w41 w7 w88", answer="w17", foil="w30", subject="w23 w41")
    config = CausalTrace(window=2, window_rule="text", noise_samples=2, rng="numpy", noise=1.0)
    found = config(lm, [prompt])
    ids = torch.tensor([lm.tokenizer.encode(prompt.text, bos=False).ids])
    answer, foil = (lm.tokenizer.encode(word, bos=False).ids[0] for word in ("w17", "w30"))
    embed = oracle.capture(model, "embed", None, ids)[0, 2:4]
    sigma = float(embed.double().std())
    assert found.data.attrs["sigma"] == pytest.approx(sigma, rel=1e-6)
    noise = torch.from_numpy(sigma * np.random.RandomState(1).randn(2, 2, embed.shape[1]))

    def corrupt(x):
        x = x.clone()
        x[:, 2:4] = (x[:, 2:4].double() + noise).to(x.dtype)
        return x

    def cell(kind, layers, pos):
        changes = [("embed", None, corrupt)]
        for layer in layers:
            clean = oracle.capture(model, kind, layer, ids)

            def restore(x, clean=clean):
                x = x.clone()
                x[:, pos] = clean[:, pos]
                return x

            changes.append((kind, layer, restore))
        return oracle.edited(model, changes, ids.repeat(2, 1))[:, -1]

    for kind, site in (("hidden", "resid_post"), ("mlp", "mlp_out"), ("attn", "attn_out")):
        for pos in range(2, 6):
            for centre in range(0, 4, 2 if pos < 5 else 1):
                layers = [centre] if kind == "hidden" else [layer for layer in (centre, centre + 1) if layer < 4]
                logits = cell(site, layers, pos).double()
                prob = logits.softmax(-1)[:, answer].mean()
                gap = (logits[:, answer] - logits[:, foil]).mean()
                got = found.data["score"].isel(prompt=0, pos=pos, layer=centre).sel(kind=kind)
                assert float(got.sel(metric="prob")) == pytest.approx(float(prob), rel=2e-4, abs=1e-7), (
                    kind,
                    pos,
                    centre,
                )
                assert float(got.sel(metric="logit_diff")) == pytest.approx(float(gap), abs=2e-4), (kind, pos, centre)


# -- corruption --------------------------------------------------------------------------------------------------------


def test_noise_has_the_energy_it_says(small, lm):
    tokens = tokenize(prompts_of(small, 1)[0], lm.tokenizer)
    sigma = sigma_of(lm, "subjects", [tokens])
    value = noise_value(tokens, samples=2000, d_model=lm.spec.d_model, scale=3 * sigma, seed=0, rng="named")
    start, end = tokens.spans["subject"]
    energy = value[:, start:end].square().sum(-1).mean()  # K7f
    assert float(energy) == pytest.approx(9 * lm.spec.d_model * sigma**2, rel=0.02)
    assert not value[:, :start].any() and not value[:, end:].any()


def test_sigma_is_that_of_the_subjects_alone(small, lm):
    tokens = [tokenize(prompt, lm.tokenizer) for prompt in prompts_of(small, 8)]
    table = small.module.transformer.wte.weight.detach()
    rows = torch.cat([table[list(one.ids[slice(*one.spans["subject"])])] for one in tokens])
    assert sigma_of(lm, "subjects", tokens) == pytest.approx(float(rows.std()), rel=1e-5)
    assert sigma_of(lm, "vocabulary", tokens) == pytest.approx(float(table.std()), rel=1e-5)
    assert sigma_of(lm, "unit", tokens) == 1.0


def test_same_seed_same_numbers_and_batching_changes_nothing(small, lm):
    prompts = prompts_of(small, 3)
    options = {"window": 3, "noise_samples": 2, "sigma": "unit", "kinds": ("hidden", "attn")}
    runs = (4096, prompts), (4096, prompts), (1, prompts), (1, prompts[:1])
    first, again, split, alone = (CausalTrace(**options, batch_tokens=size)(lm, some) for size, some in runs)
    assert np.array_equal(first.data["score"].values, again.data["score"].values, equal_nan=True)
    off = np.nanmax(np.abs(first.data["score"].values - split.data["score"].values), axis=(0, 1, 2, 3))
    assert off[METRIC["prob"]] < 1e-6 and off.max() < 1e-4  # logits of 40 in float32
    assert np.array_equal(split.data["score"].values[0, :, : alone.data.sizes["pos"]], alone.data["score"].values[0])
    other = CausalTrace(**options, seed=1)(lm, prompts[:1])
    assert not np.array_equal(other.data["low"].values, alone.data["low"].values)


def test_counterfactual_tokens_in_place_of_noise(small, lm):
    pairs = [pair_of(row) for row in small.prompts[::8]]
    found = CausalTrace(corruption="counterfactual", window=3)(lm, pairs)
    assert found.data["foil_given"].values.all()
    assert [foil.strip("␣") for foil in found.data["foil"].values] == [pair.corrupted.answer.strip() for pair in pairs]
    share = found.by_role("logit_diff", normalise=True)["mean"]
    assert np.allclose(share.sel(role="last subject", kind="hidden"), [1, 1, 1, 1, 0, 0], atol=1e-4)
    assert np.allclose(share.sel(role="last", kind="attn"), [0, 0, 0, 1, 1, 1], atol=1e-4)
    assert float(np.abs(share.sel(role="first subject")).max()) == 0.0  # only the last subject token was changed
    assert float(found.total_effect("logit_diff")["corrupted"]) < 0


# -- what the result says ----------------------------------------------------------------------------------------------


def test_each_position_has_one_role_and_all_are_counted(traced):
    table = traced.by_role()
    assert int(table["n_tokens"].sum()) == int(traced.data["n_pos"].sum())
    assert int(table["n"].sel(role="last subject")) == traced.n_known == 8
    assert int(table["n"].sel(role="middle subject")) < 8  # subjects of two tokens have no middle
    assert set(table["role"].values) == {
        "before", "first subject", "middle subject", "last subject", "first after", "further", "last"
    }  # fmt: skip


def test_a_subject_of_one_token_counts_once(small, lm):
    row = small.prompts[4]
    prompt = Prompt.of(row["prompt"], answer=row["attribute"], subject=row["subject"].split()[-1])
    table = CausalTrace(kinds=("hidden",), noise_samples=2)(lm, prompt).by_role()
    assert "first subject" not in table["role"].values  # K7e
    assert np.isnan(table["ci_lo"].values).all()  # one prompt has no interval


def test_intervals_hold_the_mean_and_effects_are_not_clipped(traced):
    table = traced.by_role("logit_diff")
    assert bool(((table["ci_lo"] <= table["mean"] + 1e-9) & (table["mean"] <= table["ci_hi"] + 1e-9)).all())
    assert float(traced.effects().sel(metric="logit_diff").min()) < 0
    peak = traced.peak()
    assert str(peak["role"].sel(kind="attn").item()) == "last" and int(peak["layer"].sel(kind="mlp")) in (1, 2, 3)
    assert float(peak["mean_best"].sel(kind="hidden")) >= float(peak["effect"].sel(kind="hidden")) - 1e-12


def test_the_peak_of_states_is_not_the_last_token_which_is_the_answer_by_construction(traced, small, lm):
    total = traced.total_effect()["effect"]
    by_role = traced.by_role()["mean"]
    assert float(by_role.sel(role="last", kind="hidden", layer=5)) == pytest.approx(total, rel=1e-5)  # says nothing
    for metric in ("prob", "logit_diff", "rank"):
        peak = traced.peak(metric)
        for kind in ("hidden", "hidden_without_mlp"):
            assert str(peak["role"].sel(kind=kind).item()) == "last subject", metric
    assert any("best effect: hidden, last subject" in name for name in traced.headline())
    row = small.prompts[4]  # a subject that ends the prompt: its last token is the one that is read
    short = row["prompt"][: row["prompt"].index(row["subject"]) + len(row["subject"])]
    found = CausalTrace(kinds=("hidden",), noise_samples=2)(lm, Prompt.of(short, subject=row["subject"]))
    assert str(found.peak()["role"].item()) != "last subject"
    alone = CausalTrace(kinds=("hidden",), noise_samples=2)(lm, Prompt.of("Ana", subject="Ana"))
    assert int(alone.peak()["layer"].item()) == -1 and alone.headline()


def test_noise_rows_average_to_the_score(traced):
    assert np.allclose(traced.data["score_noise"].mean("noise"), traced.data["score"], equal_nan=True)
    assert np.allclose(traced.data["low_noise"].mean("noise"), traced.data["low"])
    assert traced.data["score_noise"].dims[-1] == "noise"


def test_unknown_prompts_are_kept_and_flagged(small, lm):
    good, bad = prompts_of(small, 2)
    bad = Prompt(bad.text, good.answer, None, bad.spans)
    found = CausalTrace(kinds=("hidden",), noise_samples=2)(lm, [good, bad])
    assert found.data["known"].values.tolist() == [True, False]
    assert found.by_role().attrs["prompts"] == 1 and found.by_role(known=False).attrs["prompts"] == 2
    assert "1 known" in next(iter(found.headline()))


def test_without_an_answer_the_models_own_is_traced(small, lm):
    row = small.prompts[0]
    found = CausalTrace(kinds=("hidden",), noise_samples=2)(lm, Prompt.of(row["prompt"], subject=row["subject"]))
    assert found.data["answer"].values[0].strip("␣") == row["attribute"] and found.data["known"].values.all()


def test_normalising_by_nothing_is_refused(small, lm):
    found = CausalTrace(kinds=("hidden",), noise_samples=2, sigma="unit", noise=1e-9)(lm, prompts_of(small, 2))
    with pytest.raises(BadInput, match="share of nothing"):
        found.normalised()


def test_a_saved_trace_comes_back(traced, tmp_path):
    from interp.core.artifact import open_result

    back = open_result(traced.save(tmp_path / "trace"))
    assert type(back) is type(traced) and back.data.identical(traced.data)
    assert back.headline() == traced.headline()
    frame = traced.to_frame()
    assert {"prompt", "kind", "pos", "layer", "metric", "score", "low", "high", "role", "token"} <= set(frame.columns)
    assert len(frame) == int(traced.data["n_pos"].sum()) * 4 * 6 * 4
    assert len(traced._repr_html_()) < 30_000


def test_cost_says_what_is_saved(small, lm):
    config = CausalTrace(window=3, noise_samples=4)
    cost = config.cost(lm, prompts_of(small, 4))
    naive = sum(3 * len(p.text.split()) * 6 * 5 for p in prompts_of(small, 4))
    assert 0 < cost.forwards < naive / 2 and f"{naive:,}" in cost.note


@pytest.mark.parametrize(
    "options",
    [
        {"window": 2}, {"window": 10}, {"kinds": ("hidden",)}, {"kinds": ("attn",), "window": 1},
        {"kinds": ("hidden", "hidden_without_mlp", "hidden_without_attn")},
    ],
)  # fmt: skip
def test_cost_is_what_goes_through_the_model(small, options, monkeypatch):
    """Tokens through the MLPs of all layers, counted by hooks, divided by the number of layers; in a model where everything differs.

    The engine is kept from running more tokens in fewer calls, which pays in small models only.
    """
    monkeypatch.setattr("interp.models.runner.CALL_FLOPS", {"cpu": 0.0, "cuda": 0.0})
    lm = wired_lm(wired.fact(n_layers=6, writer=2, mover=4, null=True))
    config, prompts, seen = CausalTrace(noise_samples=4, **options), prompts_of(small, 2), []
    config(lm, prompts[:1])  # the engine's own check, once a session
    modules = {id(m): m for owner in (lm.module, lm.plain.module, lm.bridge) for m in owner.modules()}
    mlps = [m for m in modules.values() if type(m).__name__ == "GPT2MLP"]
    handles = [m.register_forward_hook(lambda _m, _a, out: seen.append(out.shape[:2].numel())) for m in mlps]
    try:
        config(lm, prompts)
    finally:
        for handle in handles:
            handle.remove()
    assert config.cost(lm, prompts).tokens == pytest.approx(sum(seen) / 6, rel=0.1)


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"kinds": ("hiden",)}, "hidden"), ({"kinds": ()}, "kinds"), ({"kinds": ("mlp", "mlp")}, "once"),
        ({"window": 0}, "window"), ({"noise": 0.0}, "noise"), ({"noise_samples": 0}, "noise_samples"),
        ({"window_rule": "txt"}, "text"), ({"corruption": "gauss"}, "noise"), ({"sigma": "subject"}, "subjects"),
        ({"answers": "all"}, "single"), ({"rng": "np"}, "numpy"),
    ],
)  # fmt: skip
def test_options_are_checked(options, match):
    with pytest.raises(BadInput, match=match):
        CausalTrace(**options)


def test_what_cannot_be_traced_is_refused(small, lm):
    row = small.prompts[0]
    with pytest.raises(SpanError, match="subject"):
        CausalTrace()(lm, Prompt.of(row["prompt"], answer=row["attribute"]))
    with pytest.raises(BadInput, match="PromptPair"):
        CausalTrace(corruption="counterfactual")(lm, prompts_of(small, 1))
    with pytest.raises(BadInput, match="no prompts"):
        CausalTrace()(lm, [])
    with pytest.raises(BadInput, match="no prompts"):
        CausalTrace()(lm)
    with pytest.raises(BadInput, match="Prompt"):
        CausalTrace()(lm, [row])
    with pytest.raises(BadInput, match="context"):
        CausalTrace()(lm, Prompt.of("Ana " * 30 + "Bela", answer="Oslo", subject="Bela"))
    with pytest.raises(BadInput, match="one token"):
        CausalTrace()(lm, Prompt.of(row["prompt"], answer="Oslo Lima", subject=row["subject"]))
    longer = Prompt.of(
        row["prompt"].replace(row["subject"], "Ana de van Arden"), answer="Oslo", subject="Ana de van Arden"
    )
    with pytest.raises(RaggedPair):
        CausalTrace(corruption="counterfactual")(lm, PromptPair(prompts_of(small, 1)[0], longer))


def test_the_first_token_of_a_longer_answer_can_be_scored(small, lm):
    row = small.prompts[0]
    prompt = Prompt.of(row["prompt"], answer=row["attribute"] + " Lima", subject=row["subject"])
    found = CausalTrace(kinds=("hidden",), noise_samples=2, answers="first")(lm, prompt)
    assert found.data["known"].values.all()


def test_a_wrong_engine_is_found_out(small):
    class Broken(FullLM):
        def resume(self, base, cells, **options):
            return super().resume(base, cells, **options) + 0.5 * torch.arange(self.spec.vocab)

    with pytest.raises(InterpError, match="partial recomputation"):
        CausalTrace(kinds=("hidden",))(Broken(small.module, small.tokenizer, "broken"), prompts_of(small, 1))


def test_metrics():
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    prob, logprob, gap, rank = read_metrics(logits, 0, 1).unbind(-1)
    assert torch.allclose(prob, logits.double().softmax(-1)[:, 0]) and torch.allclose(logprob.exp(), prob)
    assert gap.tolist() == [1.0, -1.0] and rank.tolist() == [0.0, 2.0]
    assert best_wrong(logits[0], 0) == 1 and best_wrong(logits[0], 1) == 0


@pytest.mark.parametrize(
    ("dtype", "family"), [(torch.bfloat16, "llama"), (torch.float64, "llama"), (torch.float64, "gpt2")]
)
def test_other_precisions(dtype, family):
    lm = wrap(tiny(family, dtype=dtype), words(), family)
    prompt = Prompt.of("w5 w9 w23 w41 w7 w88", answer="w17", foil="w30", subject="w23 w41")
    for rng in ("named", "numpy"):
        found = CausalTrace(window=2, noise_samples=2, rng=rng)(lm, prompt)
        assert float(np.abs(found.effects().isel(pos=slice(0, 2))).max()) == 0.0
        restored, resumed = (found.data.attrs[f"{name}_difference"] for name in ("restored", "resume"))
        if (
            dtype == torch.bfloat16
        ):  # a logit of 16 has a last digit of 0.06, and a resumed pass adds up in another order
            assert restored <= 0.1 and resumed <= 0.25
        else:  # transformers' RMS norm is float32 in any precision
            assert max(restored, resumed) <= (1e-12 if family == "gpt2" else 1e-5)


def test_a_real_model_with_a_bos(real_models):
    from interp.models.load import load

    lm = load(real_models / "stories260K-llama")
    prompts = [
        Prompt.of("Lily went to the park with her", answer=" mom", subject="Lily"),
        Prompt.of("One day, Tom and Mia went to the", answer=" park", subject="Tom and Mia"),
    ]
    found = CausalTrace(window=2, noise_samples=4, answers="first")(lm, prompts)
    assert found.data["role"].values[0, 0] == "bos" and "subject" in found.data["role"].values[0, 1]
    table = found.by_role("logit_diff", known=False)["mean"]
    assert float(np.abs(table.sel(role="bos")).max()) == 0.0
    assert float(table.sel(role="last subject", kind="hidden").max()) > float(
        table.sel(role="before", kind="hidden").max()
    )
    assert found.data.attrs["resume_difference"] < 1e-3
