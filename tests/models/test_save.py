"""A saved model is the model: the same bytes, the same numbers, the same tokens, read by this package and by transformers."""

from pathlib import Path
from typing import Any

import pytest
import torch

from interp.core.errors import ArtifactError, BadInput
from interp.models import reference
from interp.models import save as module_under_test
from interp.models.load import load, wrap
from tests.models.others import other
from tests.models.test_weight_edits import snapshot, unchanged
from tests.models.tiny import FAMILIES, tiny, tiny_checkpoint, tokens
from tests.models.wrapped import BACKENDS, tokenizer

TEXTS = ["The city of Paris", "When Mary and John went", "", "x\n  y é"]


def big(family: str, **options: Any) -> Any:
    """A tiny model with a row for each token of the tiny tokenizer."""
    return tiny(family, vocab_size=tokenizer().vocab, **options).requires_grad_(False)


def same_tokens(one: Any, two: Any) -> None:
    assert one.digest == two.digest and one.default_bos == two.default_bos
    for text in TEXTS:
        for bos in (None, False):
            assert one.encode(text, bos=bos) == two.encode(text, bos=bos)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_comes_back_bit_for_bit_with_its_edits(family: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = wrap(big(family), tokenizer(), family, backend="nnsight")
    before = snapshot(model.module)
    name = next(name for name in before if name.startswith(f"{model.family.layers}.2.") and before[name].ndim > 1)
    with model.edit_weights({name: before[name] + 0.5}):
        folder = model.save(tmp_path / "edited")
        mark, logits, spec = model.fingerprint(), model.run(tokens()).logits, model.spec
        again = load(folder, backend="nnsight", check=False)
        assert again.fingerprint() == mark and again.tensors() == model.tensors()
        assert torch.equal(again.run(tokens()).logits, logits) or family in ("qwen3_moe", "gpt_oss")
        torch.testing.assert_close(again.run(tokens()).logits, logits, rtol=0, atol=1e-4)
        assert again.spec.tied == spec.tied and again.spec.name == "edited"
        bare: Any = AutoModelForCausalLM.from_pretrained(folder)
        assert unchanged(bare, snapshot(model.module))
    same_tokens(again.tokenizer, model.tokenizer)
    assert unchanged(model.module, before) and model.fingerprint() != mark
    assert sorted(path.name for path in tmp_path.iterdir()) == ["edited"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_reference_model_keeps_its_bos(backend: Any, tmp_path: Path) -> None:
    model = load("atlas", backend=backend, check=False)
    assert model.tokenizer.default_bos
    folder = model.save(tmp_path / "copy")
    again = load(folder, backend=backend, check=backend == "nnsight")
    same_tokens(again.tokenizer, model.tokenizer)
    assert again.fingerprint() == model.fingerprint()
    texts = [fact.text for fact in reference.facts("atlas", 4)]
    assert again.generate(texts, 8) == model.generate(texts, 8)
    assert torch.equal(again.run(texts).logits, model.run(texts).logits)


@pytest.mark.parametrize("name", ["stories260K-llama", "tinytalk-slang"])
def test_real_checkpoints_come_back(real_models, name: str, tmp_path: Path) -> None:
    model = load(real_models / name, backend="nnsight", check=False)
    with model.edit_weights({"W_out.0": 2 * model.weights.W_out(0)}):
        again = load(model.save(tmp_path / name), backend="nnsight", check=False)
        assert again.fingerprint() == model.fingerprint()
        assert again.generate(["Once upon a time"], 12) == model.generate(["Once upon a time"], 12)
    same_tokens(again.tokenizer, model.tokenizer)
    assert again.spec.dtype == model.spec.dtype and again.spec.tied == model.spec.tied


def test_a_tokenizer_that_puts_a_bos_by_itself(tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    from interp.models.tokenizer import HFTokenizer

    fast = tokenizer().fast.__class__(tokenizer_object=type(tokenizer().fast.backend_tokenizer).from_str(
        tokenizer().fast.backend_tokenizer.to_str()), bos_token="<|endoftext|>", eos_token="<|endoftext|>")  # fmt: skip
    fast.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    model = wrap(big("gpt2"), HFTokenizer(fast, "own"), "own")
    assert model.tokenizer.default_bos
    same_tokens(load(model.save(tmp_path / "own"), backend="nnsight", check=False).tokenizer, model.tokenizer)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_dtype_is_kept(dtype: torch.dtype, tmp_path: Path) -> None:
    model = wrap(big("llama", dtype=dtype), tokenizer(), "tiny")
    again = load(model.save(tmp_path / "tiny"), check=False)
    assert again.spec.dtype == str(dtype).removeprefix("torch.") and again.fingerprint() == model.fingerprint()


def test_what_is_trained_is_saved_as_it_is_then(tmp_path: Path) -> None:
    model = wrap(big("qwen3"), tokenizer(), "tiny")
    with model.tuning() as tuning:
        with torch.no_grad():
            for parameter in tuning.parameters.values():
                parameter.add_(0.1)
        folder, mark = model.save(tmp_path / "tuned"), model.fingerprint()
        assert all(parameter.requires_grad for parameter in tuning.parameters.values())
    assert load(folder, check=False).fingerprint() == mark != model.fingerprint()


def test_a_folded_model_that_its_family_can_hold_and_one_that_it_cannot(tmp_path: Path) -> None:
    model = wrap(big("llama"), tokenizer(), "tiny", folded=True)
    assert load(model.save(tmp_path / "folded"), check=False).fingerprint() == model.fingerprint()
    model = wrap(big("gpt2"), tokenizer(), "tiny", folded=True)
    with pytest.raises(BadInput, match=r"cannot be written.*lm_head\.bias.*without folding"):
        model.save(tmp_path / "none")
    assert [path.name for path in tmp_path.iterdir()] == ["folded"]


def test_an_unproven_family_comes_back(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="unproven"):
        model = wrap(other("opt"), tokenizer(), "opt")
    folder = model.save(tmp_path / "opt")
    with pytest.warns(UserWarning, match="unproven"):
        assert load(folder).fingerprint() == model.fingerprint()


def test_what_is_there_is_not_written_over(tmp_path: Path) -> None:
    model = wrap(big("gpt2"), tokenizer(), "tiny", backend="nnsight")
    (tmp_path / "empty").mkdir()
    folder = model.save(tmp_path / "empty")
    mark = model.fingerprint()
    with model.edit_weights({"W_out.1": torch.zeros(128, 32)}):
        with pytest.raises(ArtifactError, match=r"'empty' is not empty.*overwrite=True"):
            model.save(folder)
        assert load(folder, backend="nnsight", check=False).fingerprint() == mark
        model.save(folder, overwrite=True)
        assert load(folder, backend="nnsight", check=False).fingerprint() == model.fingerprint() != mark
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtifactError, match="no model"):
        model.save(tmp_path / "notes", overwrite=True)
    with pytest.raises(ArtifactError, match="is a file"):
        model.save(tmp_path / "file", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "notes"]
    assert (tmp_path / "notes" / "diary.txt").read_text() == "x"


def test_a_link_to_a_folder_is_followed(tmp_path: Path) -> None:
    model = wrap(big("gpt2"), tokenizer(), "tiny", backend="nnsight")
    model.save(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with model.edit_weights({"W_out.1": torch.zeros(128, 32)}):
        model.save(tmp_path / "link", overwrite=True)
        assert load(tmp_path / "real", backend="nnsight", check=False).fingerprint() == model.fingerprint()
    assert (tmp_path / "link").is_symlink()


def test_a_failure_leaves_the_old_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_checkpoint(tmp_path, "gpt2")
    model = load(folder, backend="nnsight", check=False)
    mark = model.fingerprint()

    def fail(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(module_under_test, "_compare", fail)
    with pytest.raises(OSError, match="no space"):
        model.save(folder, overwrite=True)
    assert load(folder, backend="nnsight", check=False).fingerprint() == mark
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-gpt2"]


def test_a_model_that_no_checkpoint_holds_is_told(tmp_path: Path) -> None:
    model = wrap(big("gpt2"), tokenizer(), "tiny", backend="nnsight")
    nan = {"W_out.1.0": torch.full((32,), float("nan"))}
    with model.edit_weights(nan), pytest.raises(BadInput, match="NaN or infinite"):
        model.save(tmp_path / "bad")
    model.module.transformer.ln_f = torch.nn.Identity()
    with pytest.raises(BadInput, match="ln_f"):
        model.save(tmp_path / "bad")
    model = wrap(big("gpt2"), tokenizer(), "tiny", backend="nnsight")
    model.module.transformer.h[1].mlp.act = torch.nn.ReLU()
    with pytest.raises(BadInput, match="other logits"):
        model.save(tmp_path / "bad")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("planted", ["induction", "concepts"])
def test_hand_wired_models_come_back(planted: str, tmp_path: Path) -> None:
    model = reference.as_lm(getattr(reference, planted)(), backend="nnsight")
    again = load(model.save(tmp_path / planted), backend="nnsight", check=False)
    assert again.fingerprint() == model.fingerprint() and again.tokenizer.digest == model.tokenizer.digest
