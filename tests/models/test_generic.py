"""Decoders of no proven family: what is named is what it is said to be, checked by the oracle's bare hooks; the rest is refused."""

import copy
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import interp
from interp import data
from interp.core.batch import At, Batch
from interp.core.edit import add, replace, scale
from interp.core.errors import BadInput, InterpError, UnknownSite, UnsupportedArchitecture
from interp.core.site import Site
from interp.models.base import BaseLM
from interp.models.families import family_of
from interp.models.generic import prove, refuse_config
from interp.models.load import load, spec_of_checkpoint, wrap
from interp.models.plain import PlainModel
from interp.models.tracer import TracerLM
from tests import oracle
from tests.models.others import DECODERS, VOCAB, other
from tests.models.tiny import tiny_tokenizer, tokens
from tests.models.wrapped import tokenizer

every = pytest.mark.parametrize("kind", DECODERS)


@cache
def lm(kind: str) -> BaseLM:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "tiny: .* is an unproven family")
        return wrap(other(kind), tokenizer(), "tiny")


def layers_of(kind: str) -> nn.ModuleList:
    """Found by name, not by observation."""
    path = {
        "opt": "model.decoder.layers",
        "bloom": "transformer.h",
        "falcon": "transformer.h",
        "mamba": "backbone.layers",
    }
    return other(kind).get_submodule(path.get(kind, "model.layers"))


def hooked(module: nn.Module, change: Any, side: str) -> Any:
    """A bare hook of PyTorch itself that replaces the module's stream."""
    if side == "in":
        return module.register_forward_pre_hook(lambda _m, args: (change(args[0]), *args[1:]))
    return module.register_forward_hook(
        lambda _m, _a, out: (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)
    )


def bare(kind: str, ids: Tensor) -> Tensor:
    return other(kind)(input_ids=ids, use_cache=False).logits


@every
def test_what_is_named_and_answered_by_bare_hooks(kind: str) -> None:
    model, ids = lm(kind), tokens(2, 9)
    assert model.spec.kinds == DECODERS[kind][1] and not model.spec.proven and isinstance(model, TracerLM)
    assert {info.site.kind for info in model.sites()} == set(model.spec.kinds)
    assert (model.spec.n_layers, model.spec.d_model, model.spec.vocab) == (3, 32, VOCAB)
    assert "unproven" in repr(model) and model.fidelity().ok
    run = model.run(ids, capture=[info.site for info in model.sites()])
    seen: list[Tensor] = []
    hooks = [
        hooked(layer, lambda x: seen.append(x.clone()) or x, side)
        for layer in layers_of(kind)
        for side in ("in", "out")
    ]
    assert torch.equal(bare(kind, ids), run.logits)
    for hook in hooks:
        hook.remove()
    for index in range(3):
        assert torch.equal(run[Site("resid_pre", index)], seen[2 * index])
        assert torch.equal(run[Site("resid_post", index)], seen[2 * index + 1])
        if "attn_out" in model.spec.kinds:
            parts = [run[Site(name, index)] for name in ("resid_pre", "attn_out", "mlp_out")]
            torch.testing.assert_close(sum(parts), run[Site("resid_post", index)], rtol=0, atol=1e-5)
    torch.testing.assert_close(model.unembed(run[Site("resid_post", 2)]), run.logits, rtol=0, atol=1e-4)
    entering = run["hook_embed"]
    same = model.run(ids.flip(1), capture="hook_embed")["hook_embed"].flip(1)
    torch.testing.assert_close(entering, same, rtol=0, atol=1e-6)  # a token's embedding knows no position


@every
def test_edits_do_what_bare_hooks_do(kind: str) -> None:
    model, ids = lm(kind), tokens(2, 9)
    noise = torch.randn(32, generator=torch.Generator().manual_seed(1))
    at = torch.zeros(9, 1)
    at[4] = 1
    for side, name in (("in", "resid_pre"), ("out", "resid_post")):
        hook = hooked(layers_of(kind)[1], lambda x: x + noise * at, side)
        want = bare(kind, ids)
        hook.remove()
        got = model.run(ids, edits=[add(Site(name, 1), noise, at=At.index(4))])
        torch.testing.assert_close(got.logits, want, rtol=0, atol=1e-6)
        clean = model.run(ids)
        assert (
            torch.equal(got.logits[:, :4], clean.logits[:, :4])
            and float((got.logits - clean.logits).abs().max()) > 1e-2
        )


@pytest.mark.parametrize("kind", ["opt", "bloom", "phi", "mamba"])
def test_partial_recomputation_begins_at_layer_skip_and_is_exact(kind: str) -> None:
    plain = lm(kind).plain
    ids, others = tokens(3, 9), tokens(3, 9, seed=5)
    assert plain.resume_level == "layer skip"
    clean = plain.run(others, capture=[info.site for info in lm(kind).sites()])
    noise = torch.randn(32, generator=torch.Generator().manual_seed(2))
    sites = [info.site for info in lm(kind).sites() if info.site.layer in (None, 1)]
    cells = [[replace(site, clean, at=At.index(2, 5))] for site in sites]
    cells += [[], [add("hook_embed", noise), scale("blocks.2.hook_resid_pre", 0.5)]]
    cells += [[scale("blocks.0.hook_resid_post", 0.5, at=At.index(3).in_rows(1)), add("ln_final.hook_out", noise)]]
    for edits in (
        [],
        [add("hook_embed", noise), scale("blocks.1.hook_resid_post", 0.5), add("blocks.1.hook_resid_pre", noise)],
    ):
        base = plain.record(ids, edits=edits)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            got = plain.resume(base, cells, positions=[-1, 4])
        found = plain.resume_sites(base, cells, [Site("resid_post", 1)], at=[3])[Site("resid_post", 1)]
        for index, cell in enumerate(cells):
            want = plain.run(ids, edits=[*edits, *cell], capture="blocks.1.hook_resid_post")
            torch.testing.assert_close(got[index], want.logits[:, [-1, 4]], rtol=0, atol=1e-6, msg=str(cell))
            torch.testing.assert_close(found[index], want["blocks.1.hook_resid_post"][:, [3]], rtol=0, atol=1e-6)
    assert plain.resume_level == "layer skip"


@every
def test_what_changes_nothing_moves_no_bit(kind: str) -> None:
    plain = lm(kind).plain
    base = plain.record(tokens(2, 9), capture=[info.site for info in lm(kind).sites()])
    cells = [[replace(info.site, base.run)] for info in lm(kind).sites()]
    cells += [[], [scale("blocks.2.hook_resid_post", 0.0, at=At.index(3))]]  # what nobody reads
    got = plain.resume(base, cells, positions=[-1, 5])
    assert all(torch.equal(logits, base.run.logits[:, [-1, 5]]) for logits in got)


def test_only_the_layers_behind_a_change_are_run() -> None:
    plain, ran = PlainModel(other("bloom")), []
    base = plain.record(tokens(2, 9))
    plain.resume(base, [[]])  # the self-check is done here
    hooks = [
        layer.mlp.register_forward_hook(lambda *_, index=index: ran.append(index))
        for index, layer in enumerate(layers_of("bloom"))
    ]
    plain.resume(base, [[scale("blocks.1.hook_resid_pre", 0.5)]])
    plain.resume(base, [[scale("blocks.1.hook_resid_post", 0.5)]])
    for hook in hooks:
        hook.remove()
    assert ran == [1, 2, 2]
    assert oracle.hook_count(other("bloom")) == 0 and not any(
        "forward" in vars(part) for part in other("bloom").modules()
    )


def test_the_engine_falls_to_a_full_pass_where_a_layer_cannot_be_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = PlainModel(other("opt"))
    base = plain.record(tokens(2, 9))
    monkeypatch.setattr("interp.models.skipping._giving", lambda value: lambda *_a, **_k: value.flip(-1))
    cells = [[scale("blocks.1.hook_resid_pre", 0.5)]]
    with pytest.warns(UserWarning, match="'layer skip' does not agree.*Falling back to 'full'"):
        got = plain.resume(base, cells)
    want = plain.run(base.batch, edits=cells[0]).logits[:, -1:]
    torch.testing.assert_close(got[0], want, rtol=0, atol=1e-6)


def test_documents_are_read_one_by_one() -> None:
    plain = PlainModel(other("bloom"))
    documents = [tokens(1, n, seed=n)[0] for n in (5, 9, 5)]
    got = plain.read(documents, ["blocks.1.hook_resid_post"])[Site("resid_post", 1)]
    alone = [
        plain.run(document[None], capture="blocks.1.hook_resid_post")["blocks.1.hook_resid_post"][0]
        for document in documents
    ]
    assert torch.equal(got, torch.cat(alone))


def test_loading_says_once_what_the_model_has(tmp_path: Path) -> None:
    tiny_tokenizer(tmp_path)
    other("bloom").save_pretrained(tmp_path)
    with pytest.warns(
        UserWarning, match=r"bloom is an unproven family.*sites: embed, resid_pre, resid_post, final"
    ) as seen:
        model = load(tmp_path)
    assert len(seen) == 1 and model.spec.backend == "nnsight" and model.spec.n_ctx == 64
    assert model.run("The Eiffel Tower").logits.shape[-1] == VOCAB
    assert torch.equal(model.run(tokens()).logits, model.module(tokens()).logits)
    with pytest.raises(UnsupportedArchitecture, match=r"bloom is an unproven family.*interp\.load"):
        spec_of_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("kind", "config", "why"),
    [
        ("bert", {}, "it is an encoder"),
        ("t5", {"is_encoder_decoder": True}, "an encoder besides its decoder"),
        (
            "gemma3",
            {"text_config": {"model_type": "gemma3_text"}, "vision_config": {}},
            "several models in one. Load only its text model",
        ),
        ("vit", {}, "no causal language model of this type"),
    ],
)
def test_what_is_no_decoder_is_refused_by_its_configuration(kind: str, config: dict, why: str) -> None:
    from types import SimpleNamespace

    with pytest.raises(UnsupportedArchitecture, match=f"'{kind}' are not supported: .*{why}.*'gpt_neox'"):
        refuse_config(SimpleNamespace(model_type=kind, **config))


def test_an_encoder_with_a_language_models_head_is_refused(tmp_path: Path) -> None:
    from transformers import BertConfig, BertLMHeadModel, T5Config, T5ForConditionalGeneration

    small = {
        "vocab_size": 160,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
    }
    bert = BertLMHeadModel(BertConfig(**small)).eval()
    with pytest.raises(UnsupportedArchitecture, match=r"'bert'.*encoder"):
        wrap(bert, tokenizer(), "m")
    t5 = T5ForConditionalGeneration(
        T5Config(vocab_size=160, d_model=32, num_layers=2, num_heads=4, d_kv=8, d_ff=48)
    ).eval()
    with pytest.raises(UnsupportedArchitecture, match=r"'t5'.*encoder besides"):
        wrap(t5, tokenizer(), "m")
    t5.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedArchitecture, match=r"'t5'.*encoder besides"):
        load(tmp_path)


class Remembering(nn.Embedding):
    """An embedding that keeps what it gave last."""

    def forward(self, ids: Tensor) -> Tensor:
        self.last = super().forward(ids)
        return self.last


class Flawed(nn.Module):
    """A decoder layer with a flaw."""

    def __init__(self, layer: nn.Module, flaw: str, embed: nn.Module) -> None:
        super().__init__()
        self.layer, self.flaw, self.embed = layer, flaw, embed

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        out = self.layer(x, *args, **kwargs)
        if self.flaw == "ahead":
            return out + x.mean(dim=1, keepdim=True)
        if self.flaw == "random":
            return out + 1e-3 * torch.randn(out.shape)
        return out + self.embed.last


@pytest.mark.parametrize(
    ("flaw", "why"),
    [
        ("ahead", "depend on later tokens"),
        ("random", "logits differ by|depend on later tokens"),
        ("beside", "resid_post does not carry everything"),
    ],
)
def test_flaws_are_found_before_anything_is_measured(flaw: str, why: str) -> None:
    model = copy.deepcopy(other("stablelm"))
    embed = Remembering(VOCAB, 32, _weight=model.model.embed_tokens.weight)
    model.model.embed_tokens = embed
    model.model.layers[2] = Flawed(model.model.layers[2], flaw, embed)
    with pytest.raises(UnsupportedArchitecture, match=f"'stablelm' are not supported: .*({why})"):
        wrap(model.eval(), tokenizer(), "m")


def test_layers_that_are_no_list_are_refused() -> None:
    model = copy.deepcopy(other("stablelm"))
    model.model.layers[2] = model.model.layers[1]
    with pytest.raises(
        UnsupportedArchitecture, match=r"no list of layers.*model.layers: not every layer is called once"
    ):
        family_of(model)


def test_a_site_that_is_not_what_it_is_said_to_be_is_found() -> None:
    """An LM whose captures are shifted fails the proof."""

    class Shifted:
        def __init__(self, own: BaseLM) -> None:
            self.own = own

        def __getattr__(self, name: str) -> Any:
            return getattr(self.own, name)

        def run(self, batch: Batch, **options: Any) -> Any:
            run = self.own.run(batch, **options)
            run.captured.update({site: x + 1e-6 for site, x in run.captured.items() if site.kind == "resid_post"})
            return run

    prove(lm("opt"))
    with pytest.raises(UnsupportedArchitecture, match="hook_resid_post is not what a bare hook sees"):
        prove(Shifted(lm("opt")))  # type: ignore[arg-type]


def test_methods_that_need_more_than_the_stream_say_so() -> None:
    model = lm("opt")
    reason = "opt is an unproven family"
    for site in (
        "blocks.0.attn.hook_z",
        "blocks.1.attn.hook_pattern",
        "blocks.1.mlp.hook_post",
        "blocks.0.hook_attn_out",
    ):
        with pytest.raises(UnknownSite, match=rf"{reason}.*blocks\.\*\.hook_resid_post"):
            model.run(tokens(), capture=site)
    asked = [
        lambda: model.weights.W_Q(0), lambda: model.weights.W_out(), lambda: model.weights.W_E, lambda: model.weights.W_U,
        lambda: model.weights.norm("final"), lambda: model.weights.unembedding(folded=True), lambda: model.weights.pre_norm,
    ]  # fmt: skip
    for view in asked:
        with pytest.raises(BadInput, match=reason):
            view()
    with pytest.raises(UnsupportedArchitecture, match=f"{reason}.*folded=False"):
        wrap(other("opt"), tokenizer(), "m", folded=True)
    text = data.corpus(data.neutral_text(), model.tokenizer, n_ctx=64, limit_tokens=60)
    for method, given in ((interp.HeadScores(), None), (interp.WeightStats(), None), (interp.WriteShares(), text)):
        with pytest.raises(InterpError, match=reason):
            method(model, given)
    with model.edit_weights({"model.decoder.layers.1.fc2.weight": torch.zeros(32, 48)}):
        assert not torch.allclose(model.run(tokens()).logits, bare("opt", tokens() * 0 + 1), atol=1e-3)


def test_the_stream_can_be_traced() -> None:
    model = lm("bloom")
    facts = interp.reference.facts("atlas")[:1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = interp.CausalTrace(kinds=("hidden",), answers="first")(model, facts)
    assert set(result.data["kind"].values) == {"hidden"}
    with pytest.raises(UnknownSite, match="bloom is an unproven family"):
        interp.CausalTrace(answers="first")(model, facts)


def test_the_report_card_leaves_out_what_is_not_there(tmp_path: Path) -> None:
    import pandas as pd

    options = {"static": False, "max_tokens": 60, "facts": interp.reference.facts("atlas")[:1]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        page = interp.report(
            lm("opt"), tmp_path / "card", store=interp.Store(tmp_path / "store"), **options
        ).read_text()
    assert page.count("Left out:") == 5  # weights, shares, heads, channels, value vectors
    assert "opt, an unproven family: 3 layers × 32" in page and "MLP and attention are not traced" in page
    rows = pd.read_json(tmp_path / "card" / "card.jsonl", lines=True)
    assert {"identity", "LossByPosition", "LogitLens", "CausalTrace"} <= set(rows["analysis"])
