"""Causal tracing in both directions, under every corruption, of whole answers, in batches, with controls: each against plain hooks."""

import numpy as np
import pytest
import torch

import tests.oracle as oracle
from interp.analyses.readout import METRICS
from interp.analyses.tracing import CausalTrace
from interp.analyses.tracing.control import CONTROLLED, bank_of
from interp.analyses.tracing.corrupt import corruption_of, mean_embedding
from interp.analyses.tracing.jobs import batches, jobs_of
from interp.analyses.tracing.sweep import Sweep
from interp.core.errors import ArtifactError, BadInput, SpanError
from interp.data import Prompt, PromptPair, Task
from interp.models.load import wrap
from interp.models.reference import as_lm, flag_pair, flags
from interp.models.reference import planted as wired
from tests.models.tiny import VOCAB, tiny

PROB, LOGPROB, GAP, RANK = range(len(METRICS))
SITES = {"hidden": "resid_post", "mlp": "mlp_out", "attn": "attn_out"}


def words():
    return wired.wiring.word_tokenizer([f"w{i}" for i in range(2, VOCAB)], 64)


def prompt(text="w5 w9 w23 w41 w7 w88", subject="w23 w41", answer="w17", **more):
    return Prompt.of(text, answer=answer, foil=more.pop("foil", "w30"), subject=subject, **more)


MIXED = [
    prompt(), prompt("w8 w23 w41 w7 w88 w3"), prompt("w4 w9 w60", "w9"), prompt("w61 w62 w9 w7", "w61", "w18"),
    prompt("w2 w9 w71 w72 w7 w88", "w71 w72", "w19"),
]  # fmt: skip
"""Subjects at the start, of one token, in the middle; two lengths shared."""


@pytest.fixture(scope="module")
def model():
    return tiny("gpt2")


@pytest.fixture(scope="module")
def lm(model):
    return wrap(model, words(), "gpt2")


def putting(pos, value):
    """A hook that puts a value [row, d] or [d] in at a position."""

    def change(x):
        x = x.clone()
        x[:, pos] = value
        return x

    return change


# -- both directions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["and", "or"])
def test_denoising_and_noising_tell_an_and_from_an_or(kind):
    made = flags(kind)
    config = CausalTrace(corruption="counterfactual", window=1, kinds=("hidden", "mlp"), direction=("denoise", "noise"))
    found = config(as_lm(made), flag_pair())
    assert found.directions == ("denoise", "noise") and found.data["score"].dims[0] == "direction"
    for direction in found.directions:
        share = found.normalised("logit_diff", direction=direction).isel(prompt=0, pos=-1)
        assert np.allclose(share.sel(kind="mlp"), made.answers[direction], atol=1e-6), direction
        assert np.allclose(share.sel(kind="hidden"), 1, atol=1e-6), direction
        assert float(np.abs(found.effects(direction).isel(pos=slice(0, 2))).max()) == 0.0
    assert found.peak(direction="noise")["effect"].shape == (2,) and found.headline()
    alone = CausalTrace(corruption="counterfactual", window=1, kinds=("mlp",), direction="noise")(
        as_lm(made), flag_pair()
    )
    assert np.allclose(alone.effects().values, found.effects("noise").sel(kind=["mlp"]).values, atol=1e-5)
    with pytest.raises(BadInput, match="holds 'noise' only"):
        alone.effects("denoise")
    with pytest.raises(BadInput, match="noise"):
        found.effects("noising")


def test_flags_of_random_weights_say_nothing():
    found = CausalTrace(corruption="counterfactual", window=1, kinds=("mlp",))(as_lm(flags(null=True)), flag_pair())
    assert float(np.abs(found.effects().sel(metric="prob")).max()) < 0.3 and not flags(null=True).answers


def test_noising_equals_plain_hooks(model, lm):
    config = CausalTrace(
        kinds=("hidden", "mlp", "hidden_without_attn"), window=2, noise_samples=2, rng="numpy", noise=0.5, direction=("denoise", "noise"),
    )  # fmt: skip
    found = config(lm, [prompt()])
    ids = torch.tensor([lm.tokenizer.encode(prompt().text, bos=False).ids])
    embed = oracle.capture(model, "embed", None, ids)[0, 2:4]
    noise = torch.from_numpy(
        0.5 * float(embed.double().std()) * np.random.RandomState(1).randn(2, 2, embed.shape[1])
    ).float()
    corrupt = ("embed", None, lambda x: torch.cat([x[:, :2], x[:, 2:4] + noise, x[:, 4:]], dim=1))

    def corrupted(kind, layer):
        box = []
        oracle.edited(model, [corrupt, (kind, layer, lambda x: box.append(x.clone()) or x)], ids.repeat(2, 1))
        return box[0]

    answer, foil = (lm.tokenizer.encode(word, bos=False).ids[0] for word in ("w17", "w30"))
    for kind, layer, pos in (
        ("hidden", 0, 3),
        ("hidden", 2, 5),
        ("mlp", 1, 2),
        ("mlp", 3, 5),
        ("hidden_without_attn", 0, 3),
    ):
        layers = range(max(0, layer - 1), layer + 1) if kind == "mlp" else [layer]
        site = SITES.get(kind, "resid_post")
        changes = [(site, one, putting(pos, corrupted(site, one)[:, pos])) for one in layers]
        if kind == "hidden_without_attn":
            changes += [
                ("attn_out", one, putting(pos, oracle.capture(model, "attn_out", one, ids)[:, pos]))
                for one in (1, 2, 3)
            ]
        logits = oracle.edited(model, changes, ids.repeat(2, 1))[:, -1].double()
        got = found.data["score"].isel(prompt=0, pos=pos, layer=layer).sel(kind=kind, direction="noise")
        assert float(got[PROB]) == pytest.approx(float(logits.softmax(-1)[:, answer].mean()), rel=2e-4)
        assert float(got[GAP]) == pytest.approx(float((logits[:, answer] - logits[:, foil]).mean()), abs=1e-4)


# -- corruptions -------------------------------------------------------------------------------------------------------


def test_corrupted_runs_are_what_plain_hooks_give(model, lm):
    facts = [prompt(), prompt("w8 w11 w51 w52 w7 w88", "w51 w52"), prompt("w8 w11 w53 w54 w7 w88", "w53 w54")]
    ids = torch.tensor([lm.tokenizer.encode(facts[0].text, bos=False).ids])
    answer = lm.tokenizer.encode("w17", bos=False).ids[0]
    table = model.transformer.wte.weight.detach()
    subjects = torch.tensor([lm.tokenizer.encode(one.span("subject"), bos=False).ids for one in facts])
    mean = table[subjects.flatten()].double().mean(0).float()

    def low(value):
        logits = oracle.edited(
            model, [("embed", None, lambda x: torch.cat([x[:, :2], value.expand(1, 2, -1), x[:, 4:]], 1))], ids
        )
        return float(logits[0, -1].double().softmax(-1)[answer])

    wanted = {
        "zero": low(torch.zeros(table.shape[1])), "mean": low(mean), "resample": (low(table[subjects[1]]) + low(table[subjects[2]])) / 2,
    }  # fmt: skip
    for corruption, value in wanted.items():
        found = CausalTrace(corruption=corruption, kinds=("hidden",), noise_samples=2)(lm, facts)
        assert float(found.data["low"][0, PROB]) == pytest.approx(value, rel=1e-4), corruption
        assert np.isnan(found.data.attrs["sigma"]) and found.data.attrs["corruption"] == corruption
        assert found.data.attrs.get("mean_of") == ("subjects" if corruption == "mean" else None)
    whole = CausalTrace(corruption="mean", mean_of="vocabulary")
    assert torch.allclose(
        mean_embedding(lm, "vocabulary", jobs_of(whole, lm, facts)).float(), table.double().mean(0).float()
    )


def test_uniform_noise_is_uniform(lm):
    config = CausalTrace(corruption="uniform", noise_samples=400, sigma="unit", noise=2.0)
    jobs = jobs_of(config, lm, MIXED[:1])
    batch, edits = corruption_of(config, lm, jobs).rows(jobs)
    value = edits[0].value[:, 2:4]
    assert (
        len(batch) == 400
        and 1.99 < float(value.max()) <= 2
        and float(value.std()) == pytest.approx(2 / 3**0.5, rel=0.02)
    )
    assert not edits[0].value[:, :2].any() and not edits[0].value[:, 4:].any()


def test_resampled_subjects_do_not_depend_on_the_order_of_the_prompts(lm):
    facts = [prompt(f"w8 w11 w{i} w7", f"w{i}") for i in (50, 51, 52, 53)]
    config = CausalTrace(corruption="resample", kinds=("hidden",), noise_samples=3)
    one, other = config(lm, facts), config(lm, facts[::-1])
    assert np.allclose(one.data["low"], other.data["low"][::-1], atol=1e-6)
    with pytest.raises(BadInput, match=r"1 of 5 prompts.*no such partner.*'w60 w61' \(2 tokens\)"):
        config(lm, [*facts, prompt("w8 w60 w61", "w60 w61")])


def test_what_a_config_takes_follows_its_corruption(lm):
    assert CausalTrace().takes == "facts" and CausalTrace(corruption="counterfactual").takes == "pairs"
    with pytest.raises(BadInput, match="mean_of"):
        CausalTrace(corruption="mean", mean_of="subject")
    with pytest.raises(BadInput, match="denoise"):
        CausalTrace(direction="noising")
    with pytest.raises(BadInput, match="once"):
        CausalTrace(direction=())


# -- whole answers -----------------------------------------------------------------------------------------------------


def test_whole_answers_equal_the_product_of_their_tokens(model, lm):
    one = prompt(answer="w17 w44 w3", foil="w30 w31 w32")
    config = CausalTrace(
        answers="whole", kinds=("hidden", "mlp"), window=1, noise_samples=2, rng="numpy", direction=("denoise", "noise")
    )
    found = config(lm, [one, prompt(answer="w17"), prompt(answer="w17 w18", foil=None)])
    ids = torch.tensor([lm.tokenizer.encode(one.text + " w17 w44", bos=False).ids])
    answer = [lm.tokenizer.encode(word, bos=False).ids[0] for word in ("w17", "w44", "w3")]
    noise = found.data.attrs["sigma"] * 3 * torch.from_numpy(np.random.RandomState(1).randn(2, 2, 32)).float()
    corrupt = ("embed", None, lambda x: torch.cat([x[:, :2], x[:, 2:4] + noise, x[:, 4:]], dim=1))

    def whole(changes, rows=2):
        logits = oracle.edited(model, changes, ids.repeat(rows, 1))[:, 5:].double().log_softmax(-1)
        return logits[:, range(3), answer].sum(1)

    part = found.data.isel(prompt=0)
    assert int(part["answer_tokens"]) == 3 and str(part["answer"].values) == "w17w44w3"
    assert float(part["high"][LOGPROB]) == pytest.approx(float(whole([], 1)[0]), abs=1e-5)
    assert float(part["high"][PROB]) == pytest.approx(float(whole([], 1).exp()[0]), rel=1e-4)
    assert float(part["low"][PROB]) == pytest.approx(float(whole([corrupt]).exp().mean()), rel=1e-4)
    assert (
        int(part["n_pos"]) == 6 and np.isnan(part["score"].values[..., 6:, :, :]).all()
    )  # the answer's tokens are not traced
    for kind, layer, pos in (("hidden", 0, 3), ("hidden", 3, 5), ("mlp", 2, 5)):
        clean = oracle.capture(model, SITES[kind], layer, ids)[:, pos]
        want = whole([corrupt, (SITES[kind], layer, putting(pos, clean))])
        got = part["score"].sel(kind=kind, direction="denoise").isel(pos=pos, layer=layer)
        assert float(got[LOGPROB]) == pytest.approx(float(want.mean()), abs=2e-5), (kind, pos)
    assert np.isnan(found.data["high"].values[[0, 2], GAP]).all() and np.isfinite(found.data["high"].values[1, GAP])
    clean_rank = [
        int((row > row[token]).sum()) for row, token in zip(oracle.logits(model, ids)[0, 5:], answer, strict=True)
    ]
    assert float(part["high"][RANK]) == max(clean_rank)


def test_what_is_not_defined_is_never_averaged(lm):
    found = CausalTrace(answers="whole", kinds=("hidden",), noise_samples=2)(
        lm, [prompt(answer="w17 w44", foil=None), prompt()]
    )
    for method in (found.by_role, found.total_effect, found.normalised, found.significant, found.peak):
        with pytest.raises(BadInput, match=r"logit_diff is not defined for 1 of 2 prompts.*logprob"):
            method("logit_diff", known=False)
    assert np.isfinite(found.by_role("logprob", known=False)["mean"].values).all()


# -- batches -----------------------------------------------------------------------------------------------------------


def test_batches_give_the_numbers_of_one_by_one(lm):
    options = {
        "window": 2,
        "noise_samples": 2,
        "direction": ("denoise", "noise"),
        "kinds": ("attn", "hidden_without_mlp"),
    }
    together, alone = (CausalTrace(batch_tokens=size, **options)(lm, MIXED) for size in (10_000, 1))
    for name in ("score", "low", "high"):
        a, b = together.data[name].values, alone.data[name].values
        assert np.array_equal(np.isnan(a), np.isnan(b))
        assert np.nanmax(np.abs(a - b)[..., :GAP]) < 1e-6 and np.nanmax(np.abs(a - b)[..., GAP]) < 1e-5
    one = CausalTrace(sigma="unit", noise=0.1, **options)(lm, MIXED[:1])  # the noise of a prompt is its own
    many = CausalTrace(sigma="unit", noise=0.1, **options)(lm, MIXED[::-1])
    a, b = one.data["low"].values[0], many.data["low"].values[-1]
    assert np.abs(a - b)[:GAP].max() < 1e-6
    for found in (together, one):
        before = found.data["role"] == "before"
        for direction in found.directions:
            assert float(np.abs(found.effects(direction).where(before)).max()) == 0.0  # to the bit, in any batch


def test_prompts_of_one_length_share_a_batch_within_the_budget(lm):
    jobs = jobs_of(CausalTrace(), lm, MIXED)
    assert batches(jobs, 2, 10_000) == [[2], [3], [0, 1, 4]]
    assert batches(jobs, 2, 24) == [[2], [3], [0, 1], [4]] and batches(jobs, 2, 1) == [[2], [3], [0], [1], [4]]
    whole = jobs_of(
        CausalTrace(answers="whole"), lm, [prompt(), prompt(answer="w1 w2"), prompt("w5 w9 w23 w41 w7", answer="w1 w2")]
    )
    assert batches(whole, 1, 10_000) == [[2], [0], [1]]


def test_out_of_memory_halves_the_batch_and_says_so(lm, monkeypatch):
    whole, tried = Sweep.trace, []

    def trace(self):
        tried.append(len(self.jobs))
        if len(self.jobs) > 1:
            raise torch.OutOfMemoryError("no room")
        return whole(self)

    config = CausalTrace(kinds=("hidden",), noise_samples=1)
    want = config(lm, MIXED)
    monkeypatch.setattr(Sweep, "trace", trace)
    with pytest.warns(UserWarning, match=r"out of memory with [23] prompts at once; going on with 1"):
        got = config(lm, MIXED)
    assert tried == [1, 1, 3, 1, 2, 1, 1] and np.allclose(got.data["low"], want.data["low"], atol=1e-6)


def test_an_interrupted_trace_goes_on(lm, monkeypatch, tmp_path):
    options = {"kinds": ("hidden",), "noise_samples": 2, "batch_tokens": 1, "controls": 1}
    want = CausalTrace(**options)(lm, MIXED)
    config, whole, done = CausalTrace(resume_from=str(tmp_path / "parts"), **options), Sweep.trace, []

    def trace(self):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(self.jobs)
        return whole(self)

    monkeypatch.setattr(Sweep, "trace", trace)
    with pytest.raises(KeyboardInterrupt):
        config(lm, MIXED)
    done.clear()
    got = config(lm, MIXED)
    assert len(done) == 2 and got.data.identical(want.data)
    assert got.config["resume_from"] == "parts"  # no machine path
    with pytest.raises(ArtifactError, match="another trace"):
        CausalTrace(resume_from=str(tmp_path / "parts"), seed=1, **options)(lm, MIXED)


# -- controls ----------------------------------------------------------------------------------------------------------


def test_controls_put_another_prompts_value_in(model, lm):
    facts = [MIXED[3], MIXED[4], MIXED[2]]
    config = CausalTrace(
        kinds=("mlp",), window=1, noise_samples=2, rng="numpy", controls=1, direction=("denoise", "noise")
    )
    found = config(lm, facts)
    jobs = jobs_of(config, lm, facts)
    bank = bank_of(config, lm, jobs)
    role = CONTROLLED.index("last")
    donor = jobs[[i for i in range(3)][int(bank._donors(jobs[2])[role, 0])]]
    assert donor.subject != jobs[2].subject
    ids = torch.tensor([jobs[2].ids])
    noise = found.data.attrs["sigma"] * 3 * torch.from_numpy(np.random.RandomState(1).randn(2, 1, 32)).float()
    corrupt = ("embed", None, lambda x: torch.cat([x[:, :1], x[:, 1:2] + noise, x[:, 2:]], dim=1))
    value = oracle.capture(model, "mlp_out", 1, torch.tensor([donor.ids]))[0, -1]
    for direction, first in (("denoise", [corrupt]), ("noise", [])):
        logits = oracle.edited(model, [*first, ("mlp_out", 1, putting(2, value))], ids.repeat(2, 1))[:, -1].double()
        answer = jobs[2].answer_ids[0]
        got = found.data["control"].sel(direction=direction).isel(prompt=2, kind=0, pos=2, layer=1, metric=PROB)
        assert float(got) == pytest.approx(float(logits.softmax(-1)[:, answer].mean()), rel=1e-4)
    controlled = found.data["role"].isin(CONTROLLED)
    assert np.isnan(found.control_effects().where(~controlled)).all()
    assert set(found.by_role(control=True, known=False)["role"].values) >= {"last subject", "last"}
    with pytest.raises(BadInput, match=r"2 of 2 prompts.*another subject and another answer"):
        config(lm, [prompt(), prompt(answer="w3")])
    with pytest.raises(BadInput, match="controls=5"):
        CausalTrace(kinds=("mlp",))(lm, facts).control_effects()


def test_a_planted_fact_beats_its_controls_and_the_null_does_not():
    made = wired.fact(n_layers=4, writer=1, mover=2)
    rows = [row for row in made.prompts[::3] if len(row["subject"].split()) == 2]
    facts = [Prompt.of(row["prompt"], answer=row["attribute"], subject=row["subject"]) for row in made.prompts]
    found = CausalTrace(kinds=("hidden",), noise_samples=2, controls=2)(as_lm(made), facts)
    assert len(rows) == 4
    control = found.by_role("prob", control=True)["mean"].sel(kind="hidden", role="last subject")
    assert (
        float(control.max()) < 0.05
        and float(found.by_role()["mean"].sel(kind="hidden", role="last subject").max()) > 0.5
    )
    for against in ("zero", "control"):
        test = found.significant(against=against, correction="bh")
        assert test.attrs["groups"] == 8 and test.attrs["least_p"] == 2 / 2**8 and test.attrs["attainable"]
        mark = test["significant"].sel(kind="hidden")
        assert mark.sel(role="last subject").values.tolist() == [True, True, False, False]
        assert mark.sel(role="last").values.tolist() == [False, False, True, True]
        assert int(mark.sum()) == 4
    null = CausalTrace(kinds=("hidden",), noise_samples=1, controls=1, corruption="resample")
    nothing = null(as_lm(wired.fact(n_layers=4, writer=1, mover=2, null=True)), facts)
    assert not bool(nothing.significant("logit_diff", against="control", known=False)["significant"].any())


# -- prompts at the edges ----------------------------------------------------------------------------------------------


def test_subjects_anywhere(lm):
    facts = [prompt("w23 w41 w7 w88"), prompt("w7 w88 w23 w41"), prompt("w7 w23 w88", "w23"), prompt("w23", "w23")]
    found = CausalTrace(kinds=("hidden", "mlp"), window=1, noise_samples=2, direction=("denoise", "noise"))(lm, facts)
    roles = [[role for role in row if role] for row in found.data["role"].values.tolist()]
    assert roles == [
        ["first subject", "last subject", "first after", "last"], ["before", "before", "first subject", "last subject"],
        ["before", "last subject", "last"], ["last subject"],
    ]  # fmt: skip
    table = found.by_role(known=False)
    counts = dict(
        zip(table["role"].values.tolist(), zip(table["n"].values, table["n_tokens"].values, strict=True), strict=True)
    )
    assert counts == {
        "before": (2, 3),
        "first subject": (2, 2),
        "last subject": (4, 4),
        "first after": (1, 1),
        "last": (2, 2),
    }
    assert int(table["n_tokens"].sum()) == int(found.data["n_pos"].sum()) == 12
    with pytest.raises(SpanError, match="BOS"):
        CausalTrace(kinds=("hidden",))(lm, Prompt.of("<bos> w5 w6", subject="<bos>"))


def test_pairs_by_task(lm):
    clean = prompt()
    task = Task(
        [PromptPair(clean, clean.swap(subject="w51 w52", answer="w19", foil="w17"))],
        name="one",
        chance=0.5,
        describe="one pair",
    )
    found = CausalTrace(corruption="counterfactual", kinds=("hidden",))(lm, task)
    assert found.data["subject"].values.tolist() == ["w23 w41"]
