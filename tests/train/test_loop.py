import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import interp
from interp.cache import DifferenceView, MemoryView
from interp.core.dictionary import Dictionary, DictionaryConfig, View
from interp.core.errors import BadInput, Diverged
from interp.core.options import options_of
from interp.core.site import Site
from interp.train import learner, loop
from interp.train.checkpoint import Checkpoints, tokens_of
from interp.train.data import TrainingData
from interp.train.heldout import Heldout
from interp.train.schedule import law
from interp.train.training import Training

from .toys import CONCEPTS, crosscoder, data, pair, rows, sae

SHORT = Training(tokens=3200, batch=64, watch=640, dead_after=1000)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A crosscoder of two models that each lack something, long enough to have learned it."""
    torch.set_num_threads(1)
    options = Training(tokens=60_000, batch=200, lr=1e-2, k_start=6.0)
    said: list[str] = []
    return options(pair(), crosscoder(), folder=tmp_path_factory.mktemp("runs") / "crosscoder", say=said.append), said


def test_a_crosscoder_learns_what_is_there_and_of_whom(trained):
    done, said = trained
    end = done.result.final()
    assert float(end["fvu"].max()) < 0.03 and float(end["l0"][0]) == pytest.approx(2.0, rel=0.01)
    assert int(end["latents"][0] - end["dead"][0]) == CONCEPTS  # alive latents: exactly the concepts
    counts = done.result.exclusive().isel(step=-1, dictionary=0)
    assert counts.sel(view="base") == 1 and counts.sel(view="tuned") == 2  # what the other lacks
    assert any("2e-4" in text for text in said) is False and any("learning rate 0.01" in text for text in said)


def test_the_table_says_what_it_says(trained):
    result = trained[0].result
    table = result.data
    assert list(table["fvu"].dims) == ["step", "dictionary", "view"] and list(table["view"].values) == ["base", "tuned"]
    tokens = table["tokens"].values
    assert tokens[-1] == 60_000 and (np.diff(tokens) > 0).all() and 90 <= len(tokens) <= 110
    assert table["lr"].values.max() == pytest.approx(1e-2) and table["lr"].values[-1, 0] < 1e-3
    k = table["k"].values[:, 0]
    assert k[0] > 5 and (np.diff(k) <= 0).all() and k[-1] == 2.0
    assert np.allclose(table["alive"].values, 1 - table["dead"].values / 48)
    squared = (
        table["terms"].sel(term="reconstruction").values[:, 0]
    )  # mean over rows of the squared error of both views
    variance = {
        view: float(pair().moments(view).var.sum()) * pair().scalings()[view].factor ** 2 for view in ("base", "tuned")
    }
    both = sum(table["fvu"].sel(view=view).values[:, 0] * variance[view] for view in variance)
    assert np.allclose(squared, both, rtol=1e-4)
    looked = np.isfinite(table["l0_heldout"].values[:, 0])
    assert 5 <= looked.sum() <= 25 and np.isfinite(table["fvu_heldout"].values[looked]).all()


def test_a_saved_training_opens_again(trained):
    done, _ = trained
    again = interp.open(done.folder / "training")
    assert again.data.equals(done.result.data) and again.headline() == done.result.headline()
    loaded = Dictionary.load(done.folder / "dictionary")
    assert loaded.digest == done.dictionary.digest and loaded.metadata["l0"] == float(done.result.final()["l0"][0])
    x = {"base": rows(50, seed=3), "tuned": rows(50, seed=4)}
    assert torch.equal(loaded.encode(x), done.dictionary.encode(x))
    assert not any(p.requires_grad or p.grad is not None for p in done.dictionary.parameters())


def test_the_report_says_both_thresholds(trained):
    lines = "\n".join(trained[0].result.report_lines())
    assert "set on held-out rows (L0 2.00)" in lines and "running mean in training" in lines
    assert lines.count("crosscoder") >= 2 and "of 48" in lines
    head = trained[0].result.headline()
    assert list(head) == ["FVU", "L0", "dead latents"] and head["dead latents"] == 48 - CONCEPTS


def test_the_threshold_gives_k_on_rows_that_were_kept_aside(trained):
    done, _ = trained
    kept = torch.cat([done.dictionary.encode(batch) for batch in pair().heldout()])
    assert int((kept != 0).sum()) == round(2.0 * len(kept))
    assert float(done.dictionary.threshold) == float(done.result.final()["calibrated"][0, 0])


def test_held_out_numbers_are_what_the_dictionary_does(trained):
    done, _ = trained
    held = {name: torch.cat([batch[name] for batch in pair().heldout()]).double() for name in ("base", "tuned")}
    made = done.dictionary({name: x.float() for name, x in held.items()})
    for name, x in held.items():
        fvu = (made[name].double() - x).square().sum() / (x - x.mean(dim=0)).square().sum()
        assert float(done.result.final()["fvu"].sel(view=name)[0]) == pytest.approx(float(fvu), rel=1e-4)


def test_several_on_one_pass_are_what_each_would_be_alone():
    configs = [sae(), sae(k=4.0), sae(activation="topk", k=3), sae(activation="relu", latents=24)]
    options = Training(tokens=1280, batch=64, coefficient=0.2)
    together = options(data(), configs)
    assert together.result.names == [
        "sae latents 32 batchtopk k 2", "sae latents 32 batchtopk k 4", "sae latents 32 topk k 3", "sae latents 24 relu k 2",
    ]  # fmt: skip
    for place, config in enumerate(configs):
        own = options if config.activation == "relu" else replace(options, coefficient=0.0)
        alone = own(data(), config).dictionary
        for name, value in alone.state_dict().items():
            assert torch.equal(value, together.dictionaries[place].state_dict()[name])
    with pytest.raises(BadInput, match="take one of"):
        _ = together.dictionary


def test_batch_size_changes_steps_and_not_the_spans():
    small, large = (Training(**{**SHORT.to_dict(), "batch": size})(data(), sae()).result.data for size in (64, 128))
    assert small["step"].values[-1] == 2 * large["step"].values[-1]
    assert small["tokens"].values[-1] == large["tokens"].values[-1] == 3200
    for table in (small, large):  # the rate of the step before each record
        before = table["tokens"].values - 3200 // table["step"].values[-1]
        assert np.allclose(table["lr"].values[-3:, 0], law(32) * np.minimum(1, (3200 - before[-3:]) / 640))


def test_defaults_that_depend_on_the_data_are_written_out():
    assert Training(batch=100).settled(data()).tokens == 100_000  # a thousand steps of a small set
    assert Training(batch=2).settled(data()).tokens == data().rows // 2 * 2  # one pass, which is longer
    options = Training(tokens=1_000_000)
    assert (options.dead_tokens, options.watch_tokens, options.save_tokens) == (50_000, 10_000, 100_000)
    assert Training(tokens=10**10).dead_tokens == 10_000_000


def test_every_option_says_what_it_is():
    assert all(option.help and not option.required for option in options_of(Training))


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"batch": 0}, "`batch`"),
        ({"tokens": 10}, "shorter than one `batch`"),
        ({"warmup": 1.5}, "`warmup` is a share"),
        ({"lr": -1.0}, "`lr`"),
        ({"beta2": 1.0}, "`beta2`"),
        ({"sparsity": "l3"}, "'auto', 'none', 'l1' or 'l0'"),
        ({"normalise": "yes"}, "`normalise`"),
        ({"reconstruction": "cubed"}, "`reconstruction`"),
        ({"coefficient": math.nan}, "`coefficient`"),
        ({"keep": 0}, "`keep`"),
        ({"seed": 1.5}, "`seed` must be a whole number"),
        ({"auxiliary": math.nan}, "`auxiliary`"),
        ({"coefficient": 0.1, "group_weights": (1.0, -1.0)}, "`group_weights` must be at least 0"),
    ],
)
def test_options_that_cannot_be_are_refused(changes, said):
    with pytest.raises(BadInput, match=said):
        Training(**changes)


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(BadInput, match=r"batch of 8,192 rows, and there are 3,\d+"):
        Training(tokens=10_000, batch=8192)(data(), sae())
    with pytest.raises(BadInput, match=r"'in'; the data have \['base', 'tuned'\]"):
        SHORT(pair(), sae())
    wide = View("in", width=17)
    with pytest.raises(BadInput, match=r"width 17.*16"):
        SHORT(data(), DictionaryConfig(latents=32, reads=(wide,), writes=(wide,)))
    with pytest.raises(BadInput, match="`k_start`"):
        Training(tokens=6400, batch=64, k_start=33.0)(data(), sae())
    with pytest.raises(BadInput, match="`k`"):
        sae(k=33.0)
    with pytest.raises(BadInput, match="DictionaryConfig"):
        SHORT(data(), [])
    with pytest.raises(BadInput, match="device"):
        Training(tokens=6400, batch=64, device="toaster")(data(), sae())


def test_each_step_is_told_what_the_schedule_and_the_counters_say(monkeypatch):
    real, adam, told, applied = learner.step, torch.optim.Adam.step, [], []

    def step(dictionary, batch, objective, context):
        outcome = real(dictionary, batch, objective, context)
        told.append((context, outcome, objective))
        return outcome

    def apply(self, *rest):
        grads = [p.grad for group in self.param_groups for p in group["params"]]
        applied.append((self.param_groups[0]["lr"], float(torch.cat([g.flatten() for g in grads]).norm())))
        return adam(self, *rest)

    monkeypatch.setattr(learner, "step", step)
    monkeypatch.setattr(torch.optim.Adam, "step", apply)
    options = Training(
        tokens=1280, batch=64, lr=0.01, warmup=0.2, decay=0.25, clip=0.05, k_start=9.0, k_anneal=0.5, coefficient=0.3, sparsity="l1",
        sparsity_warmup=0.4, dead_after=200, watch=1280, init_norm=0.05,
    )  # fmt: skip
    trained = options(data(), sae(latents=64, activation="batchtopk"))
    silent, threshold = torch.zeros(64, dtype=torch.int64), None
    for number, (context, outcome, objective) in enumerate(told):
        seen = 64 * number
        assert context.warmup == pytest.approx(min(1.0, (seen + 64) / 512)) and objective.coefficient == 0.3
        assert context.k == pytest.approx(max(2.0, 9.0 - 7.0 * seen / 640))
        rate = min(1.0, (seen + 64) / 256, (1280 - seen) / 320)
        assert applied[number][0] == pytest.approx(0.01 * rate) and applied[number][1] <= 0.05 * 1.0001
        assert context.cut == (told[number - 1][1].cut if number else None)
        assert (context.dead is None) == (seen < 200) and (seen < 200 or torch.equal(context.dead, silent >= 200))
        silent = torch.where(outcome.fired > 0, 0, silent + 64)
        threshold = outcome.cut if threshold is None else 0.9 * threshold + (1 - 0.9) * outcome.cut
    assert max(norm for _, norm in applied) == pytest.approx(0.05, rel=1e-3)  # it was clipped
    assert any(context.dead is not None and context.dead.any() for context, _, _ in told)
    assert trained.dictionary.metadata["threshold_running"] == pytest.approx([threshold])


def test_a_decoupled_dictionary_has_a_threshold_a_view(monkeypatch):
    real, cuts = learner.step, []

    def step(*given):
        outcome = real(*given)
        cuts.append(outcome.extra["cuts"])
        return outcome

    monkeypatch.setattr(learner, "step", step)
    found = Training(tokens=640, batch=64)(pair(), crosscoder(code_scale="decoupled")).dictionary
    mean = cuts[0]
    for one in cuts[1:]:
        mean = 0.9 * mean + (1 - 0.9) * one
    assert found.metadata["threshold_running"] == pytest.approx(mean.tolist()) and mean[0] != mean[1]
    held = {name: torch.cat([batch[name] for batch in pair().heldout()]) for name in ("base", "tuned")}
    codes = found.pre(found.normalise(held)).relu()
    for place, name in enumerate(held):  # each view keeps k a row of its own
        assert int(((codes * found.scale(name)).double() > found.threshold[place]).sum()) == round(2.0 * len(codes))


def test_options_that_would_do_nothing_are_refused():
    with pytest.raises(BadInput, match="nothing is penalised: 'batchtopk'"):
        Training(**{**SHORT.to_dict(), "coefficient": 5.0})(data(), sae())
    with pytest.raises(BadInput, match="`k_start` is of topk and batchtopk"):
        Training(**{**SHORT.to_dict(), "coefficient": 0.1, "k_start": 9.0})(data(), sae(activation="relu"))


def test_a_view_that_never_changes_is_refused():
    views = {"base": rows(), "tuned": torch.full((4000, 16), 3.1)}
    same = TrainingData({name: MemoryView(x, name) for name, x in views.items()})
    with pytest.raises(BadInput, match=r"'tuned'.* is the same in every row"):
        SHORT(same, crosscoder())


def test_rows_of_another_site_are_refused():
    class Stored(MemoryView):
        site = Site.parse("blocks.1.hook_resid_post")

    view = View("in", site="blocks.2.hook_resid_post", width=16)
    config = DictionaryConfig(latents=32, reads=(view,), writes=(view,), k=2.0)
    for stored in (Stored(rows(), "atlas"), DifferenceView(Stored(rows(), "a"), Stored(rows(seed=1), "b"))):
        with pytest.raises(BadInput, match=r"'in' of the dictionary is blocks\.2.*Give the rows of that site"):
            SHORT(TrainingData({"in": stored}), config)


def test_latents_that_were_never_on_are_told_where_none_can_count_as_dead():
    options = Training(**{**SHORT.to_dict(), "dead_after": 10_000_000})
    (text,) = [text for text in options(data(), sae(latents=256)).result.warnings if "never on" in text]
    assert "of its 256 latents" in text and "10,000,000 tokens) being longer than the training (3,200)" in text


def test_a_loss_that_is_not_finite_stops_and_spoils_nothing(tmp_path, monkeypatch):
    real = learner.step

    def broken(dictionary, batch, objective, context):
        calls.append(1)
        if len(calls) == 37:
            batch["tuned"][5, 3] = float("nan")
        return real(dictionary, batch, objective, context)

    calls: list[int] = []
    monkeypatch.setattr(learner, "step", broken)
    options = Training(**{**SHORT.to_dict(), "save_every": 640})
    with pytest.raises(Diverged, match=r"step 37 \(2,368 tokens\).*view 'tuned'.*1,920 tokens is kept.*`lr`"):
        options(pair(), crosscoder(), folder=tmp_path / "run")
    kept = Checkpoints(tmp_path / "run")
    assert [tokens_of(path) for path in kept.all()] == [1280, 1920]
    calls.extend([1] * 100)
    assert options(pair(), crosscoder(), folder=tmp_path / "run").result.data["tokens"].values[-1] == 3200


def test_a_learning_rate_far_too_high_is_not_called_a_success():
    with pytest.raises(Diverged, match=r"step \d+ .*view 'in'"):
        Training(tokens=6400, batch=64, lr=1e30)(data(), sae())


def test_all_dead_is_said_loudly(monkeypatch):
    real = loop.begin

    def stillborn(*rest):
        new = real(*rest)
        new.b_enc.data.fill_(-100.0)
        return new

    monkeypatch.setattr(loop, "begin", stillborn)
    said: list[str] = []
    options = Training(tokens=3200, batch=64, coefficient=0.3, auxiliary=0.0, watch=640, dead_after=640)
    trained = options(data(), sae(activation="relu"), say=said.append)
    assert any("none of its 32 latents" in text and "`coefficient` (now 0.3)" in text for text in said)
    assert any("100% of its 32 latents are dead" in text for text in trained.result.warnings)
    assert "! sae: none of its" in "\n".join(trained.result.report_lines())


def test_without_rows_kept_aside_it_says_so():
    trained = SHORT(data(heldout=0.0), sae())
    assert any("running mean" in text for text in trained.result.warnings)
    assert trained.dictionary.threshold.isfinite().all() and np.isnan(trained.result.data["calibrated"].values).all()
    assert np.isnan(trained.result.data["l0_heldout"].values).all()


def test_exclusive_latents_that_still_appear_are_warned_of(trained):
    result = trained[0].result
    assert result.still_finding() == {} and not any("exclusive" in text for text in result.warnings)
    data = result.data.copy(deep=True)
    data["exclusive"].values[:, 0, 1] = np.linspace(0, 40, data.sizes["step"]).astype(int)
    early, late = type(result)(data).still_finding()["crosscoder"]
    assert late == 40 + int(data["exclusive"].values[-1, 0, 0]) and 30 <= early <= 35
    data["exclusive"].values[-3:] = data["exclusive"].values[-4]  # it stopped
    data["exclusive"].values[int(0.75 * data.sizes["step"]) :] = data["exclusive"].values[-1]
    assert type(result)(data).still_finding() == {}


def test_nothing_is_said_about_views_where_there_is_one():
    result = SHORT(data(), sae()).result
    assert result.exclusive() is None and result.still_finding() == {} and "exclusive" not in result.data


def test_named_by_what_tells_them_apart():
    assert loop.named([sae()]) == ["sae"]
    assert loop.named([sae(), sae(k=3.0)]) == ["sae k 2", "sae k 3"]
    assert loop.named([sae(), sae()]) == ["sae (1)", "sae (2)"]


def test_held_out_rows_are_looked_at_in_tiles_of_any_size(monkeypatch, trained):
    from interp.train import heldout
    from interp.train.distributed import Parallel

    looking = Heldout(pair(), 10_000, Parallel.none())
    whole = looking.measure(trained[0].dictionary)
    monkeypatch.setattr(heldout, "TILE", 48 * 7)
    parts = looking.measure(trained[0].dictionary)
    assert whole[1] == parts[1] and whole[0] == pytest.approx(parts[0], rel=1e-9)
