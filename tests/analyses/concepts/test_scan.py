"""The concept scan: planted vectors lead it, shuffled and scrambled ones are nothing, and its rows are what the model adds."""

import numpy as np
import pytest
import torch

import interp
from interp.analyses.concepts.scan import ConceptScan
from interp.analyses.concepts.scan.coherence import Embeddings, Together, kinds_of
from interp.analyses.concepts.scan.held import auc, enrichment, nearness
from interp.analyses.concepts.scan.sources import Source
from interp.core.errors import BadInput, InterpError, UnsupportedArchitecture
from interp.core.seed import generator
from interp.data import Concept, Concepts
from interp.models import reference
from interp.verify.concepts import scrambled
from tests.models import wrapped
from tests.models.tiny import EXPERTS, FAMILIES


@pytest.fixture(scope="module")
def planted():
    made = reference.concepts()
    return made, reference.as_lm(made)


@pytest.fixture(scope="module")
def atlas():
    return reference.load("atlas")


@pytest.fixture(scope="module")
def known():
    return reference.concept_set("atlas", n=2)


@pytest.fixture(scope="module")
def scan(atlas, known):
    return ConceptScan()(atlas, known)


def words_of(made):
    return Concepts([Concept(one.name, one.words) for one in made.answers["concepts"]])


def test_planted_vectors_lead_with_their_words_and_their_logit(planted):
    made, lm = planted
    for one in made.answers["concepts"]:
        found = ConceptScan(k=len(one.words), draws=50)(lm)
        name = f"{one.layer}.{one.neuron}"
        first = [row["vector"] for row in found.strongest(4).to_dict("records")]
        assert set(first) == {f"{c.layer}.{c.neuron}" for c in made.answers["concepts"]}
        tokens = found.tokens(name)
        assert {lm.tokenizer.encode(word.lstrip("␣"), bos=False).ids for word, _ in tokens} == {
            (i,) for i in one.tokens
        }
        assert float(found.data["concreteness"].sel(vector=name)) == pytest.approx(1.5, abs=1e-5)
        # orthonormal columns: w logits of 1.5, the others 0
        w, v = len(one.words), lm.spec.vocab
        spread = 1.5 * np.sqrt(w / v * (1 - w / v))
        assert float(found.data["z"].sel(vector=name)) == pytest.approx((1.5 - 1.5 * w / v) / spread, rel=1e-4)


def test_planted_concepts_are_held_by_their_vectors_alone(planted):
    made, lm = planted
    found = ConceptScan(draws=50)(lm, words_of(made))
    for one in made.answers["concepts"]:
        best = found.strongest(1, concept=one.name).iloc[0]
        assert best["vector"] == f"{one.layer}.{one.neuron}" and best["precision"] == 1 and best["auc"] == 1
        assert found.holding()[one.name] == [best["vector"]]


def test_nothing_is_held_in_random_weights_nor_of_words_that_do_not_belong_together(planted):
    made, _ = planted
    null = reference.as_lm(reference.concepts(null=True))
    found = ConceptScan(draws=200)(null, words_of(made))
    assert not any(found.holding().values()) and len(found.coherent()) == 0
    mixed = np.array([word for one in made.answers["concepts"] for word in one.words[:5]]).reshape(4, 5).T
    torn = Concepts([Concept(f"mixed {i}", tuple(map(str, row))) for i, row in enumerate(mixed)])
    assert not any(ConceptScan(draws=50)(reference.as_lm(made), torn).holding().values())


def test_atlas_has_its_concepts_where_they_are_known_to_be(scan, known):
    best = {name: scan.strongest(5, concept=name) for name in known.names}
    assert best["colour"].iloc[0]["vector"] == "2.474"
    assert {word.strip("␣") for word, _ in scan.tokens("2.474")[:23]} < set(known.get("colour").words)
    assert float(best["colour"].iloc[0]["precision"]) == 1.0
    for name, vector, share in (("kingdom", "2.145", 22), ("harvest", "1.362", 20), ("craft", "2.69", 16)):
        row = best[name].set_index("vector").loc[vector]
        assert row["precision"] == pytest.approx(share / 24) and row["p_words"] < 1e-10
    held = scan.holding()
    assert [held[name][0] for name in ("kingdom", "harvest", "colour")] == ["2.145", "1.362", "2.474"]
    assert not held["craft"]  # a random direction comes as near, among as many
    assert next(iter(scan.strongest(1)["vector"])) == "2.474"
    first = best["colour"].iloc[0]
    assert first["article"] == 1 and first["article_words"] < 1e-6 and first["article_p"] < 0.05


def test_a_scrambled_atlas_holds_nothing(atlas, known):
    with atlas.edit_weights(scrambled(atlas)):
        found = ConceptScan(draws=300)(atlas, known)
    assert not any(found.holding().values())
    assert (
        float(found.data["precision"].max()) >= 0.5 and float(found.data["p_words"].min()) < 1e-9
    )  # what would have misled
    assert len(found.coherent()) <= 10  # of 1,436; at a false discovery rate of 5 % of those that are found


def test_scores_are_those_of_the_raw_parameters(atlas, scan):
    module = atlas.module
    table = module.lm_head.weight.detach().double()[: atlas.tokenizer.vocab]
    embedding = module.transformer.wte.weight.detach().double()[: atlas.tokenizer.vocab]
    centred = torch.nn.functional.normalize(embedding - embedding.mean(dim=0), dim=1)
    k = scan.data.attrs["k"]
    for name in ("0.0", "1.362", "2.474", "3.511"):
        layer, neuron = map(int, name.split("."))
        v = module.transformer.h[layer].mlp.c_proj.weight.detach()[neuron].double()  # Conv1D: [in, out]
        logits = table @ v
        top = logits.topk(k)
        here = scan.data.sel(vector=name)
        assert float(here["concreteness"]) == pytest.approx(float(top.values.mean()), abs=1e-5)
        z = (top.values.mean() - logits.mean()) / logits.std(correction=0)
        assert float(here["z"]) == pytest.approx(float(z), rel=1e-4)
        unit = centred[top.indices]
        pairs = (unit @ unit.T)[~torch.eye(k, dtype=torch.bool)].mean()
        assert float(here["coherence"]) == pytest.approx(float(pairs), abs=1e-5)


def test_the_share_that_is_kept_is_of_each_layer(scan):
    for layer in range(4):
        here = scan.data.isel(vector=scan.data["layer"].values == layer)
        kept = here["kept"].values
        assert kept.sum() == 359  # 0.7 of 512, rounded up
        assert here["concreteness"].values[kept].min() >= here["concreteness"].values[~kept].max()


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_what_the_model_adds(family):
    """Moving a row moves what the MLP gives along the same direction, and nothing else: whatever the layout of its parameters."""
    lm = wrapped.lm(family, "nnsight")
    delta = torch.randn(lm.spec.d_model, generator=generator(0, "row"))
    heard = []

    def hook(module, inputs, output):
        heard.append(
            (output[0] if isinstance(output, tuple) else output).detach().reshape(-1, lm.spec.d_model).double()
        )

    layers = lm.module.get_submodule(lm.weights.family.layers)
    moved = set()
    for part in Source(lm, "mlp").parts():
        if part.layer not in (1, 2):
            continue
        remove = layers[part.layer].mlp.register_forward_hook(hook)
        before = part.rows[5].clone()
        try:
            heard.clear()
            with torch.no_grad():
                lm.module(torch.arange(1, 41)[None])
                part.rows[5] += delta  # a view of the parameter itself
                lm.module(torch.arange(1, 41)[None])
        finally:
            part.rows[5] = before
            remove.remove()
        change = heard[1] - heard[0]
        along = (change @ delta.double()) / delta.double().square().sum()
        assert (change - along[:, None] * delta.double()).abs().max() < 1e-4 * max(1.0, float(along.abs().max()))
        if along.abs().max() > 1e-3:
            moved.add((part.layer, part.expert))
        assert part.names[5] == (f"{part.layer}.5" if part.expert < 0 else f"{part.layer}.e{part.expert}.5")
    assert len(moved) >= (6 if family in EXPERTS else 2)


@pytest.mark.parametrize("square", [False, True])
def test_experts_of_a_square_layout_too(square):
    """Where an expert is as wide as the stream, no shape says which axis is which."""
    wide = {"intermediate_size": 32} if square else {}
    lm = wrapped.lm("gpt_oss", "nnsight", **wide)
    found = ConceptScan(draws=20, most=200, vectors=("2.e3.17",))(lm)
    row = lm.module.model.layers[2].mlp.experts.down_proj[3, 17].detach()
    want = (lm.module.lm_head.weight.detach() @ row)[: found.data.attrs["vocabulary"]].topk(5)
    assert [lm.tokenizer.label(int(i)) for i in want.indices] == [word for word, _ in found.tokens("2.e3.17", 5)]


def test_unproven_experts_are_refused(monkeypatch):
    monkeypatch.setattr("interp.analyses.concepts.scan.sources.DOWN", {})
    with pytest.raises(UnsupportedArchitecture, match="how their down projections are laid out"):
        ConceptScan()(wrapped.lm("gpt_oss", "nnsight"))


def test_folded_goes_through_the_norms_between_row_and_logits():
    for family in ("gpt_neox", "gemma2"):
        lm = wrapped.lm(family, "nnsight")
        name = "1.7"
        found = ConceptScan(draws=20, folded=True, vectors=(name,))(lm)
        v, model = lm.weights.W_out(1)[7].double(), lm.module
        if family == "gpt_neox":
            norm = model.gpt_neox.final_layer_norm
            seen, head = (v - v.mean()) * norm.weight.double(), model.get_output_embeddings().weight
        else:
            layer = model.model.layers[1]
            seen = v * (1 + layer.post_feedforward_layernorm.weight.double()) * (1 + model.model.norm.weight.double())
            head = model.lm_head.weight
        want = (head.detach().double() @ seen.detach())[: found.data.attrs["vocabulary"]].topk(5)
        assert [value for _, value in found.tokens(name)] == pytest.approx(want.values.tolist(), rel=1e-5)
        assert found.data.attrs["post_norm"] == (family == "gemma2")


def test_attention_components_are_those_of_the_heads(atlas):
    found = ConceptScan(source="ov", draws=50, most=5)(atlas)
    names = found.data["vector"].values.tolist()
    assert len(names) + 2 * found.data.attrs["left_out"] == 2 * 4 * 4 * 32
    direction = interp.analyses.channels.single(atlas, "1.2.0").write.float()
    logits = atlas.weights.W_U[:, : atlas.tokenizer.vocab].T @ direction
    k = found.data.attrs["k"]
    for sign, mark in ((1, "+"), (-1, "-")):
        want = float((sign * logits).topk(k).values.mean())
        assert float(found.data["concreteness"].sel(vector=f"1.2.0{mark}")) == pytest.approx(want, abs=1e-5)


def test_components_that_cannot_be_told_apart_are_left_out(atlas):
    eye = torch.eye(128)
    changes = {"W_V.1.2": eye[:, :32], "W_O.1.2": eye[:32], "W_O.2.0": torch.zeros(32, 128)}  # all alike, and none
    with atlas.edit_weights(changes):
        found = ConceptScan(source="ov", draws=20, most=5, folded=True)(atlas)
    names = found.data["vector"].values.tolist()
    assert not [name for name in names if name.startswith("2.0.")]
    assert len(names) == 2 * (16 * 32 - found.data.attrs["left_out"]) and found.data.attrs["left_out"] > 32
    assert any("left out" in line for line in found.report_lines())


def test_decoder_rows_of_a_file(tmp_path, atlas):
    from safetensors.torch import save_file

    rows = torch.cat(
        [atlas.weights.W_out(2)[470:480], 0.1 * torch.randn(6, 128, generator=generator(0, "decoder"))]
    ).contiguous()
    save_file({"W_dec": rows, "W_enc": rows.T.contiguous()}, tmp_path / "sae_weights.safetensors")
    (tmp_path / "cfg.json").write_text('{"metadata": {"hook_name": "blocks.2.hook_mlp_out"}}')
    save_file({"decoder.weight": rows.T.contiguous()}, tmp_path / "plain.safetensors")
    np.save(tmp_path / "rows.npy", rows.numpy())
    for name in ("", "plain.safetensors", "rows.npy"):
        found = ConceptScan(source="rows", rows=str(tmp_path / name), draws=20)(atlas)
        assert found.strongest(1)["vector"].tolist() == ["4"]  # 2.474
        assert set(found.data["layer"].values.tolist()) == ({2} if not name else {-1})


def test_dictionaries_that_do_not_fit_are_refused(tmp_path, atlas):
    from safetensors.torch import save_file

    save_file({"W_dec": torch.zeros(8, 64)}, tmp_path / "other.safetensors")
    save_file({"W_dec": torch.zeros(128, 9)}, tmp_path / "turned.safetensors")
    save_file({"W_dec": torch.zeros(3, 8, 128)}, tmp_path / "cross.safetensors")
    save_file({"W": torch.zeros(8, 128)}, tmp_path / "named.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"not one")
    (tmp_path / "text.txt").write_text("1 2 3")
    sae = tmp_path / "sae"
    sae.mkdir()
    save_file({"W_dec": torch.zeros(8, 128)}, sae / "sae_weights.safetensors")
    (sae / "cfg.json").write_text('{"hook_name": "blocks.9.hook_resid_pre"}')
    for name, said in (
        ("other.safetensors", "rows of 64 numbers, and atlas a stream of 128"), ("turned.safetensors", "transposed"),
        ("cross.safetensors", "several layers"), ("named.safetensors", "'W'"), ("broken.safetensors", "cannot be read"),
        ("text.txt", "neither .safetensors nor .npy"), ("sae", "blocks.9.hook_resid_pre"), ("nothing.npy", "nothing.npy"),
    ):  # fmt: skip
        with pytest.raises(InterpError, match=said):
            ConceptScan(source="rows", rows=str(tmp_path / name))(atlas)


def test_bad_input_is_refused(atlas, known):
    for options, said in (
        ({"k": 5000}, "vocabulary of 1163"), ({"keep": 0.0}, "above 0"), ({"source": "mpl"}, "Did you mean 'mlp'"),
        ({"most": 0}, "at least 1"),
        ({"rows": "x.npy"}, "go together"), ({"source": "rows"}, "go together"), ({"coherence": "pmi"}, "needs texts"),
        ({"vectors": ("9.9",)}, "'9.9' was not scanned"), ({"rank_by": "size"}, "rank_by"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=said):
            ConceptScan(**options)(atlas)
    with pytest.raises(BadInput, match="concepts are needed"):
        ConceptScan()(atlas, ["colour"])
    with pytest.raises(BadInput, match="neither words nor texts"):
        ConceptScan()(atlas, Concepts([Concept("nothing")]))
    with pytest.raises(BadInput, match="one token"):
        ConceptScan()(atlas, Concepts([Concept("cut", ("xyzzyx", "qwertyuiop"))]))
    with (
        atlas.edit_weights({"W_out.1.3": torch.full((128,), torch.nan)}),
        pytest.raises(BadInput, match=r"layer 1 .* NaN"),
    ):
        ConceptScan()(atlas)


def test_what_a_result_says_survives_saving(tmp_path, scan):
    back = interp.open(scan.save(tmp_path / "scan"))
    assert back.report_lines() == scan.report_lines() and back.headline() == scan.headline()
    assert back.holding() == scan.holding() and back.tokens("2.474") == scan.tokens("2.474")
    lines = "\n".join(scan.report_lines())
    assert "2.474" in lines and "100 % of the words come first" in lines and "pieces of words" in lines
    with pytest.raises(BadInput, match="its tokens are not held"):
        scan.tokens("0.0")
    with pytest.raises(BadInput, match="was not scanned"):
        scan.tokens("9.0")
    with pytest.raises(BadInput, match="larger"):
        scan.strongest(500)


def test_a_judge_of_ones_own(scan):
    colours = set(reference.concept_set("atlas", n=1).get("colour").words)
    frame = scan.judged(lambda words: sum(word.strip("␣") in colours for word in words) / len(words))
    assert frame[frame["clear"]]["vector"].tolist() == ["2.474"]
    with pytest.raises(BadInput, match="from 0 to 1"):
        scan.judged(lambda words: 7.0)


def test_coherence_by_texts(atlas, known):
    found = ConceptScan(coherence="pmi", draws=200)(atlas, known)
    texts = [text for concept in known for text in concept.texts]
    together = Together(atlas.tokenizer, texts, atlas.tokenizer.vocab)
    ids = torch.tensor(
        [[atlas.tokenizer.encode(" " + word, bos=False).ids[0] for word in known.get("colour").words[:4]]]
    )
    documents = [set(atlas.tokenizer.encode(text, bos=False).ids) for text in texts]
    total = []
    for a in ids[0].tolist():
        for b in ids[0].tolist():
            if a != b:
                pa, pb, both = (sum(want <= one for one in documents) / len(documents) for want in ({a}, {b}, {a, b}))
                total.append(np.log(both / (pa * pb)) / -np.log(both) if both else -1.0)
    assert float(together.of(ids)[0]) == pytest.approx(float(np.mean(total)), abs=1e-5)
    assert np.isfinite(found.data["coherence"]).mean() > 0.5
    with pytest.raises(BadInput, match="20 or more"):
        Together(atlas.tokenizer, texts[:5], atlas.tokenizer.vocab)


def test_matched_tokens_are_about_as_long(atlas):
    embeddings = Embeddings(atlas, atlas.tokenizer.vocab)
    ids = torch.randint(0, 1000, (50, 20), generator=generator(0, "ids"))
    other = embeddings.matched(ids, 0)
    assert (other != ids).float().mean() > 0.9
    assert np.corrcoef(embeddings.size[ids].flatten(), embeddings.size[other].flatten())[0, 1] > 0.85


def test_auc_and_enrichment():
    logits = torch.randn(3, 40, generator=generator(0, "auc"))
    ids = torch.tensor([3, 7, 20])
    rest = [i for i in range(40) if i not in ids.tolist()]
    want = [np.mean([float(row[i] > row[j]) for i in ids for j in rest]) for row in logits]
    assert auc(logits, ids).tolist() == pytest.approx(want)
    assert auc(torch.zeros(1, 10), torch.tensor([0, 1])).tolist() == [0.5]
    assert enrichment(0, 5, 5, 50) == 1 and enrichment(5, 5, 5, 10) == pytest.approx(1 / 252)


def test_nearness_is_what_random_directions_have():
    rows, toward = torch.randn(20_000, 12, generator=generator(0, "near"), dtype=torch.float64), torch.ones(12)
    p = nearness(rows, toward, 12)
    for level in (0.01, 0.1, 0.5):
        assert np.mean(p <= level) == pytest.approx(level, abs=4 * np.sqrt(level / 20_000))
    assert nearness(toward[None].double(), toward, 12)[0] == 0


def test_concepts_by_their_texts_alone(atlas, known):
    bare = Concepts([Concept(one.name, texts=one.texts) for one in known])
    found = ConceptScan(draws=300)(atlas, bare)
    assert "2.474" in found.holding()["colour"] and found.data["precision"].isnull().all()
    assert "are the article's" in "\n".join(found.report_lines())
    assert found.headline()
    with atlas.edit_weights(scrambled(atlas)):
        null = ConceptScan(draws=300)(atlas, bare)
    assert not any(null.holding().values())


def test_tokens_that_are_no_words_are_told(real_models):
    lm = interp.load(str(real_models / "stories260K-llama"), check=False)
    kinds = kinds_of(lm.tokenizer, lm.tokenizer.vocab)
    by_label = {lm.tokenizer.label(i): int(kinds.kind[i]) for i in range(lm.tokenizer.vocab)}
    assert kinds.marked
    assert [by_label[label] for label in ("␣the", "␣a", "ing", "0xFF", "U+0003", "!", "<s>")] == [0, 0, 1, 2, 2, 3, 3]
    found = ConceptScan(draws=200)(lm)
    table, row = lm.module.lm_head.weight.detach(), lm.module.model.layers[3].mlp.down_proj.weight.detach()[:, 11]
    assert float(found.data["concreteness"].sel(vector="3.11")) == pytest.approx(
        float((table @ row).topk(10).values.mean()), abs=1e-5
    )
    shares = found.data["whole"] + found.data["partial"] + found.data["other"]
    assert np.allclose(shares, 1) and 0 < float(found.data["partial"].mean()) < 1
