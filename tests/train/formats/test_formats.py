"""Recognising, exporting, importing."""

import ast
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from interp.core.dictionary import Dictionary
from interp.core.errors import BadInput
from interp.train import formats

Make = Callable[..., Dictionary]


def test_an_unknown_folder_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "readme.md").write_text("nothing")
    with pytest.raises(BadInput) as caught:
        formats.read(tmp_path)
    message = str(caught.value)
    assert "it holds ['readme.md']" in message
    assert all(f"{name}: {what}" in message for name, what in formats.FORMATS.items()) and len(formats.FORMATS) == 7
    with pytest.raises(BadInput, match="there is no folder"):
        formats.read(tmp_path / "absent")
    with pytest.raises(BadInput, match="`format` must be one of 'interp', 'sae_lens'"):
        formats.read(tmp_path, "saelens")
    with pytest.raises(BadInput, match="`format` must be one of 'sae_lens' or 'circuit_tracer'"):
        formats.write(None, tmp_path, "sparsify")  # type: ignore[arg-type]


def test_export_and_import_go_round(make: Make, rows: Tensor, tmp_path: Path) -> None:
    ours = make("batchtopk")
    ours.save(tmp_path / "ours")
    assert formats.recognise(tmp_path / "ours") == "interp"
    assert torch.equal(formats.read(tmp_path / "ours").encode(rows), ours.encode(rows))
    formats.export(tmp_path / "ours", "sae_lens", tmp_path / "theirs")
    back = formats.import_(tmp_path / "theirs", tmp_path / "back", model="renamed")
    again = Dictionary.load(tmp_path / "back")
    assert torch.equal(again.encode(rows), back.encode(rows)) and again.cfg.model_name == "renamed"
    assert torch.allclose(again(rows), ours(rows), atol=1e-5)
    assert (again.metadata["context_size"], again.metadata["bos"], again.metadata["format"]) == (64, True, "sae_lens")
    with pytest.raises(BadInput, match=r"a sae_lens folder has no use for \['names'\]; it takes \['factor'\]"):
        formats.read(tmp_path / "theirs", names=("a",))
    with pytest.raises(BadInput, match="`site_out` is what a transcoder writes"):
        formats.read(tmp_path / "theirs", site_out="blocks.0.hook_mlp_out")


def test_what_is_said_of_our_own_is_not_dropped(make: Make, tmp_path: Path) -> None:
    make("topk").save(tmp_path / "own")
    (view,) = formats.read(tmp_path / "own", site="blocks.7.hook_mlp_out", model="another").config.reads
    assert (view.site, view.model) == ("blocks.7.hook_mlp_out", "another")
    assert formats.read(tmp_path / "own").digest == make("topk").digest
    with pytest.raises(BadInput, match=r"interp folder has no use for \['factor'\]"):
        formats.read(tmp_path / "own", factor=2.0)


def test_reading_needs_no_other_library() -> None:
    """SAELens is imported inside functions only."""
    for path in Path(formats.__file__).parents[1].rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert not any(name.split(".")[0] == "sae_lens" for name in names), path.name
