"""Edge attribution: exact where all is linear, complete along the path, true where it is checked; circuits run with exact floors."""

import numpy as np
import pytest
import torch

import interp
import tests.oracle as oracle
from interp.analyses.attribution import EdgeAttribution, Graph
from interp.analyses.attribution.circuit import extract, greedy, pruned, random_circuit, strongest
from interp.analyses.attribution.forward import CircuitRuns, edge_effects
from interp.analyses.attribution.metric import Metric
from interp.analyses.attribution.reading import readings
from interp.analyses.pairs import pair_groups
from interp.core.errors import BadInput, InterpError
from interp.data import Prompt, PromptPair
from interp.models.load import load, wrap
from tests.models.tiny import tiny

from . import wired_attribution as wired
from .test_tracing import words

PAIR = PromptPair(Prompt.of("w5 w9 w23 w41 w7", answer="w17", foil="w30"), Prompt.of("w5 w9 w60 w41 w7"))


@pytest.fixture(scope="module")
def found(atlas):
    return EdgeAttribution(steps=5, sizes=(24,), draws=1, verify=8)(atlas, wired.world_pairs(1))


def runs_of(lm, pair=PAIR):
    group = pair_groups(lm, pair)[0]
    return CircuitRuns.of(lm, group.clean, group.corrupted, Metric.of("logit_diff", group)), group


# -- the graph ---------------------------------------------------------------------------------------------------------


def test_the_graph_of_gpt2_small_has_its_published_size():
    graph = Graph(12, 12)  # K6d, K6e
    assert (len(graph.sources), len(graph.destinations), int(graph.edges.sum())) == (157, 445, 32_491)


def test_who_sees_whom():
    graph, side = Graph(2, 2), Graph(2, 2, parallel=True)

    def sees(graph, source, destination):
        return bool(graph.edges[graph.sources.index(source), graph.destinations.index(destination)])

    assert sees(graph, "0.1", "mlp 0") and not sees(side, "0.1", "mlp 0")  # heads feed the MLP of their layer ...
    assert not sees(graph, "mlp 1", "1.0.q") and sees(graph, "mlp 0", "1.0.q")  # ... and never the other way
    assert all(sees(graph, source, "logits") for source in graph.sources)
    assert not sees(graph, "1.0", "0.0.v") and graph.where(len(graph.destinations) - 1) == (-1, "logits", -1)
    assert [graph.where(place) for place in (0, 3, 5, 6, 7)] == [
        (0, "q", 0), (0, "k", 1), (0, "v", 1), (0, "mlp", -1), (1, "q", 0),
    ]  # fmt: skip


# -- scores ------------------------------------------------------------------------------------------------------------


def test_scores_are_exact_in_a_linear_model_with_frozen_attention():
    """K6c: every edge, by corrupting it and by running the circuit without it."""
    lm, pairs = wired.linear(n_layers=2), wired.linear_pairs()[:2]
    found = EdgeAttribution(method="eap", verify=1000, sizes=())(lm, pairs)
    assert found.graph.edges.sum() == 46 and np.isfinite(found.data["true"].values).sum() == 2 * 46
    assert float(abs(found.data["score"] - found.data["true"]).max()) < 1e-7 < 1 < float(abs(found.data["true"]).max())
    assert found.agreement()["rho"] > 0.999 and float(abs(found.completeness()["gap"]).max()) < 1e-8
    runs, group = runs_of(lm, pairs[0])
    full = found.graph.edges
    for source, destination in np.argwhere(full)[::15]:
        without = full.copy()
        without[source, destination] = False
        lost = float(runs.score(full)[0] - runs.score(without)[0])
        assert lost == pytest.approx(float(found.data["score"].values[group.index[0], source, destination]), abs=1e-7)


def test_completeness_converges_in_the_order_of_its_rule():
    """K6a, K6a2, on a smooth random GPT-2 in double precision."""
    lm = wrap(tiny("gpt2", n_layer=1).double(), words(), "gpt2")

    def gap(**options):
        one = EdgeAttribution(verify=0, sizes=(), **options)(lm, PAIR).completeness()
        return abs(float((one["attributed"] - one["moved"])[0])), abs(float(one["moved"][0]))

    off = {(rule, steps): gap(rule=rule, steps=steps)[0] for rule in ("left", "midpoint") for steps in (4, 16)}
    assert 3.2 < off["left", 4] / off["left", 16] < 5.5
    assert 11 < off["midpoint", 4] / off["midpoint", 16] < 22
    plain, moved = gap(method="eap")
    assert off["midpoint", 16] < 0.05 * moved and off["midpoint", 16] < plain
    signed = []
    for rule in ("left", "right"):  # with one step, the two ends
        one = EdgeAttribution(verify=0, sizes=(), rule=rule, steps=1)(lm, PAIR).completeness()
        signed.append(float((one["attributed"] - one["moved"])[0]))
    assert gap(method="clean-corrupted")[0] == pytest.approx(abs(sum(signed) / 2), rel=1e-6)


def derivative(model, lm, pair, source, destination, step):
    """Slope of M along (clean - corrupted) of one edge into q of a head, or into an MLP or the logits, with plain hooks."""
    group = pair_groups(lm, pair)[0]
    ids, other = group.clean.tokens, group.corrupted.tokens
    answer, foil = int(group.answer[0]), int(group.foil[0])
    layer, what, head = Graph.of(lm.spec).where(destination)

    def moved(t):
        """M with t times the difference added to the one reader's input."""
        shift = t * (_writes(model, source, ids) - _writes(model, source, other))
        if what == "logits":
            changes = [("resid_post", lm.spec.n_layers - 1, lambda x: x + shift)]
        else:
            stream = "resid_pre" if what != "mlp" else "resid_mid"
            with torch.no_grad():
                site = "mlp_out" if what == "mlp" else what
                alone = {}

                def catch(x):
                    alone[0] = x.clone()

                with oracle.at(model, site, layer, catch):
                    oracle.edited(model, [(stream, layer, lambda x: x + shift)], ids)

            def put(x):
                if what == "mlp":
                    return alone[0]
                x = x.clone()
                x[:, :, head] = alone[0][:, :, head]
                return x

            changes = [(site, layer, put)]
        logits = oracle.edited(model, changes, ids)[0, -1]
        return float(logits[answer] - logits[foil])

    return (moved(step) - moved(-step)) / (2 * step)


def _writes(model, source, ids):
    name = source
    if name == "input":
        return oracle.capture(model, "resid_pre", 0, ids)
    if name.startswith("mlp"):
        return oracle.capture(model, "mlp_out", int(name[4:]), ids)
    layer, head = (int(part) for part in name.split("."))
    z = oracle.capture(model, "z", layer, ids)
    attention = oracle.attention_of(model, layer)
    linear = next(
        getattr(attention, name) for name in ("o_proj", "c_proj", "dense", "out_proj") if hasattr(attention, name)
    )
    matrix = linear.weight.T if isinstance(linear, torch.nn.Linear) else linear.weight
    width = z.shape[-1]
    return z[:, :, head] @ matrix[head * width : (head + 1) * width]


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "gpt_neo"])
def test_scores_are_slopes_by_plain_hooks(family):
    """LayerNorm and RMSNorm, grouped heads, a gated MLP, parallel attention; finite differences in double precision."""
    model = tiny(family).double()
    lm = wrap(model, words(), family)
    score = EdgeAttribution(method="eap", verify=0, sizes=())(lm, PAIR).data["score"][0]
    graph = Graph.of(lm.spec)
    step, off = (
        (1e-4, 1e-5) if family in ("gpt2", "gpt_neox") else (3e-2, 2e-4)
    )  # the others compute parts in single precision
    for source, reader in (
        ("input", "1.2.q"),
        ("0.3", "1.1.q"),
        ("mlp 0", "2.0.q"),
        ("mlp 1", "logits"),
        ("1.2", "logits"),
    ):
        want = derivative(model, lm, PAIR, source, graph.destinations.index(reader), step)
        assert float(score.sel(source=source, destination=reader)) == pytest.approx(want, rel=3e-3, abs=off), (
            source,
            reader,
        )
    if not lm.spec.parallel:
        for source, reader in (("input", "mlp 0"), ("0.1", "mlp 0"), ("mlp 0", "mlp 2")):
            want = derivative(model, lm, PAIR, source, graph.destinations.index(reader), step)
            assert float(score.sel(source=source, destination=reader)) == pytest.approx(want, rel=3e-3, abs=off), (
                source,
                reader,
            )


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
def test_one_edge_corrupted_is_the_circuit_without_it(family):
    """Two ways to the same number, for q, k, v, MLP and logits, shared keys included."""
    lm = wrap(
        tiny(family, dtype=torch.float64, **{"n_layer" if family == "gpt2" else "num_hidden_layers": 2}),
        words(),
        family,
    )
    runs, _ = runs_of(lm)
    graph = runs.graph
    edges = [("input", "1.2.k"), ("0.3", "1.1.v"), ("0.1", "1.3.q"), ("input", "mlp 0"), ("0.2", "logits")]
    places = np.array([(graph.sources.index(a), graph.destinations.index(b)) for a, b in edges])
    true = edge_effects(runs, places)[0]
    full = float(runs.score(graph.edges)[0])
    for place, one in zip(places, true, strict=True):
        without = graph.edges.copy()
        without[tuple(place)] = False
        assert full - float(runs.score(without)[0]) == pytest.approx(one, abs=1e-4)
    assert np.abs(true).min() > 1e-5


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "phi3"])
def test_all_edges_are_the_clean_run_and_none_the_corrupted_one(family):
    lm = wrap(tiny(family), words(), family)
    runs, group = runs_of(lm)
    for circuit, batch in ((runs.graph.edges, group.clean), (np.zeros_like(runs.graph.edges), group.corrupted)):
        want = float(runs.metric(lm.run(batch).last_logits)[0])
        assert float(runs.score(circuit)[0]) == pytest.approx(want, abs=2e-4)


# -- circuits ----------------------------------------------------------------------------------------------------------


def test_circuits_are_extracted_and_pruned():
    graph = Graph(2, 2)
    score = np.where(graph.edges, 0.0, np.nan)

    def place(source, destination):
        return graph.sources.index(source), graph.destinations.index(destination)

    way = [("input", "0.1.v"), ("0.1", "1.0.q"), ("1.0", "logits")]
    for rank, edge in enumerate(way):
        score[place(*edge)] = 3.0 - rank
    score[place("mlp 0", "1.1.k")] = 10.0  # the strongest edge of all, and it leads nowhere
    for how in ("greedy", "top"):
        found = extract(graph, score, 4, how)
        want = [place(*edge) for edge in way]
        assert {tuple(edge) for edge in np.argwhere(found)} >= set(want) and not found[place("mlp 0", "1.1.k")]
    assert strongest(graph, score, 1)[place("mlp 0", "1.1.k")] and not greedy(graph, score, 3)[place("mlp 0", "1.1.k")]
    assert not pruned(graph, strongest(graph, score, 3)).any()  # without its last edge nothing reaches the logits
    assert strongest(graph, score, 10_000).sum() == graph.edges.sum() == greedy(graph, score, 10_000).sum()
    drawn = random_circuit(graph, 12, np.random.default_rng(0))
    assert drawn.sum() >= 12 and (pruned(graph, drawn) == drawn).all()


def test_a_circuit_found_on_a_trained_model_is_faithful_and_random_ones_are_not(found):
    share = found.faithfulness()
    assert float(share["full"]) == pytest.approx(1, abs=1e-4) and float(share["empty"]) == pytest.approx(0, abs=1e-4)
    assert float(share["circuit"][0]) > 0.8 > 0.5 > float(abs(share["random"]).max())
    assert (found.data["edges"].values <= [24]).all()
    assert (found.data["random_edges"].values >= found.data["edges"].values[:, None]).all()
    assert float(abs(found.completeness()["gap"]).max()) < 0.05
    assert found.agreement()["r"] > 0.3
    table = found.circuit(24)
    assert set(zip(table["source"], table["destination"], strict=True)) == _members(found, 0)
    assert found.top(5, by="signed")["score"].is_monotonic_decreasing


def test_what_is_shown_is_what_was_run():
    """Extraction, ranking and order of sizes follow the result into its tables and its headline."""
    lm, pairs = wired.linear(n_layers=2, n_heads=1), wired.linear_pairs()[:1]
    how = {"method": "eap", "verify": 0, "draws": 0, "extraction": "top", "by": "signed"}
    found = EdgeAttribution(sizes=(9, 4), **how)(lm, pairs)
    assert found.data["size"].values.tolist() == [4, 9]
    for place, size in enumerate((4, 9)):
        table = found.circuit(size)
        assert set(zip(table["source"], table["destination"], strict=True)) == _members(found, place)
    assert _members(found, 1) != set(
        found.circuit(9, by="magnitude")[["source", "destination"]].itertuples(index=False, name=None)
    )
    assert any(f"of {int(found.data['edges'][1])} of" in name for name in found.headline())


def _members(found, size):
    graph = found.graph
    return {(graph.sources[a], graph.destinations[b]) for a, b in np.argwhere(found.data["member"].values[size])}


def test_a_result_survives_the_disk(found, tmp_path):
    found.save(tmp_path / "edges")
    again = interp.open(tmp_path / "edges")
    assert again.headline() == found.headline() and again.graph == found.graph
    assert again.circuit(24).equals(found.circuit(24))


def test_nothing_is_found_where_nothing_is_read():
    lm = wired.linear(n_layers=2, n_heads=1)
    with torch.no_grad():
        lm.module.lm_head.weight.zero_()
    found = EdgeAttribution(method="eap", verify=100, sizes=(5,), draws=1)(lm, wired.linear_pairs()[:2])
    assert float(abs(found.data["score"]).max()) == float(abs(found.data["true"]).max()) == 0.0
    assert np.isnan(found.agreement()["rho"]) and np.isnan(found.agreement()["r"])
    with pytest.raises(BadInput, match="share of nothing"):
        found.faithfulness()
    assert not any("faithfulness" in name for name in found.headline())


@pytest.mark.parametrize("name", ["stories260K-llama"])
def test_real_checkpoints(name, real_models):
    lm = load(real_models / name)
    texts = [f"One day, Tom and Lily went to the park. {who} gave the ball to" for who in ("Tom", "Lily")]
    if len({len(lm.encode(text).tokens[0]) for text in texts}) > 1:
        texts = ["the cat and the dog", "the dog and the dog"]
    pair = PromptPair(Prompt.of(texts[0]), Prompt.of(texts[1]))
    found = EdgeAttribution(steps=3, sizes=(), verify=4)(lm, pair)
    assert float(abs(found.completeness()["gap"]).max()) < 0.3
    assert found.agreement()["top"] > 0.3 or np.isnan(found.agreement()["top"])


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["olmo2", "gpt_oss"])
def test_families_without_a_plain_sum_are_refused_by_name(family):
    with pytest.raises(BadInput, match=family) as error:
        EdgeAttribution()(wrap(tiny(family), words(), "it"), PAIR)
    assert ("experts" if family == "gpt_oss" else "norm lies between") in str(error.value)


def test_what_cannot_be_meant_is_refused(atlas):
    for options, match in (
        ({"method": "eap_ig"}, "eap-ig"), ({"sizes": (0,)}, "at least 1"), ({"sizes": (5, 5)}, "different"), ({"steps": 0}, "steps"),
        ({"extraction": "best"}, "greedy"), ({"by": "sign"}, "signed"), ({"verify": -1}, "verify"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=match):
            EdgeAttribution(**options)
    with pytest.raises(BadInput, match="479 edges"):
        EdgeAttribution(sizes=(480,))(atlas, wired.world_pairs(1))
    some = EdgeAttribution(method="eap", verify=0, sizes=())(atlas, wired.world_pairs(1))
    for call in (some.agreement, some.faithfulness, lambda: some.circuit(0)):
        with pytest.raises(BadInput):
            call()


def test_a_stream_that_is_not_read_as_promised_is_noticed(atlas):
    run = atlas.run(
        atlas.encode("Then Ines sat by the well"), capture=["blocks.1.hook_resid_pre", "blocks.1.attn.hook_q"]
    )
    reading = readings(atlas, 1)[0]
    x, y = (run[name] for name in ("blocks.1.hook_resid_pre", "blocks.1.attn.hook_q"))
    assert float(reading.scale(x, y, "float32").min()) > 0
    with pytest.raises(InterpError, match="carried back"):
        reading.scale(x, y + 0.1 * y.abs().max(), "float32")


def test_cost_is_said(atlas):
    cost = EdgeAttribution().cost(atlas, wired.world_pairs(2))
    assert cost.forwards > 10 and "479 edges" in cost.note
