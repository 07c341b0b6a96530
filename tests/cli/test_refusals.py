"""Bad input: one readable message that says what to do, exit code 2, nothing written."""

import json
import shutil

import pytest
import torch
import xarray as xr
from safetensors.torch import load_file, save_file

import interp.cli
from interp.cli.running import finish
from interp.core.analysis import Result
from interp.core.errors import BadInput, CheckpointError
from interp.models import reference

from .running import run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Checkpoints and files in every state of being wrong."""
    try:
        source = reference.path("atlas")
    except CheckpointError as error:
        pytest.skip(str(error))
    made = tmp_path_factory.mktemp("bad")
    for name in ("noweights", "cut", "nan", "othertokenizer"):
        shutil.copytree(source, made / name)
    (made / "noweights" / "model.safetensors").unlink()
    cut = made / "cut" / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:100_000])
    tensors = load_file(made / "nan" / "model.safetensors")
    tensors["transformer.h.1.mlp.c_fc.weight"][3, 4] = torch.nan
    save_file(tensors, made / "nan" / "model.safetensors", metadata={"format": "pt"})
    vocabulary = made / "othertokenizer" / "tokenizer.json"
    content = json.loads(vocabulary.read_text())
    content["model"]["vocab"] += [[f"zz{index}", -20.0] for index in range(9)]  # ids beyond the embedding
    vocabulary.write_text(json.dumps(content))
    (made / "empty.txt").write_text(" \n")
    (made / "binary.txt").write_bytes(b"abc\0\1" * 20)
    (made / "latin.txt").write_bytes("café".encode("latin1"))
    rows = {
        "long": {"text": "The lamp of Brendo " * 60 + "is", "subject": "Brendo", "answer": " Marlow", "occurrence": 0},
        "nosubject": {"text": "In Brendo, people", "subject": "Marlow", "answer": " Marlow"},
        "twotokens": {"text": "In Brendo, people", "subject": "Brendo", "answer": " antidisestablishment"},
        "noanswer": {"text": "In Brendo, people", "subject": "Brendo"},
    }
    for name, row in rows.items():
        (made / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    (made / "broken.jsonl").write_text('{"text": \n')
    return made


CASES = [
    ("report noweights -o o", "no weights"),
    ("report cut -o o", "cut short"),
    ("report nan -o o", "NaN"),
    ("report othertokenizer -o o", "tokenizer does not match"),
    ("report atlas -o nan", "exists"),
    ("report atlas -o no/such/o", "Make it first"),
    ("report atlas -o o --text empty.txt", "empty"),
    ("report atlas -o o --text binary.txt", "NUL byte"),
    ("report atlas -o o --text latin.txt", "not UTF-8"),
    ("report atlas -o o --text missing.txt", "does not exist"),
    ("report atlas -o o --facts long.jsonl", "context is 128"),
    ("report atlas -o o --facts nosubject.jsonl", "--skip-bad"),
    ("report atlas -o o --facts noanswer.jsonl", "'answer' is missing"),
    ("report atlas -o o --facts broken.jsonl", "not JSON"),
    ("report atlas -o o --device cuda:9", "no device"),
    ("report atlas -o o --dtype float8", "float16"),
    ("report atlas -o o --backend tl", "transformer_lens"),
    ("report atlass -o o", "Did you mean 'atlas'"),
    ("report", "Missing argument"),
    ("trace atlas -o o --facts twotokens.jsonl", "--answers first"),
    ("trace atlas -o o --facts long.jsonl --limit 1", "context is 128"),
    ("trace atlas -o nan", "exists"),
    ("trace atlas --window 0", "at least 1"),
    ("trace atlas --kinds hidden,mlps", "Did you mean 'mlp'"),
    ("trace atlas --sigma subject", "vocabulary"),
    ("trace atlas --figure o.gif", "'pdf'"),
    ("trace atlas --figure no/o.pdf", "Make it first"),
    ("trace noweights", "needs facts"),
    ("capture atlas --sites blocks.*.hook_resid_pst", "Did you mean 'blocks.*.hook_resid_post'"),
    ("capture atlas --sites blocks.9.hook_resid_post", "layers 0 to 3"),
    ("capture atlas --sites hook_embd", "Did you mean 'hook_embed'"),
    ("capture noweights --sites hook_embed", "--text"),
    ("capture atlas --sites hook_embed --shard 3/2", "0/4"),
    ("capture atlas --sites hook_embed --max-disk 1kB", "raise the limit"),
    ("capture atlas --sites hook_embed --max-disk 20", "20GB"),
    ("capture atlas --sites hook_embed --stored-dtype int8", "bfloat16"),
    ("direct atlas -o empty.txt/run", "cannot be written"),
    ("open nowhere", "Check the path"),
    ("open noweights", "no artefact"),
    ("sites atlas --like rsid", "Did you mean"),
    ("sites atlas --layer 9", "0 to 3"),
    ("sites nowhere/at/all", "no such folder"),
    ("sites empty.txt", "is a file"),
    ("reference show atlass", "Did you mean 'atlas'"),
    ("cache gc --max-size lots", "--max-size 'lots'"),
    ("frobnicate", "frobnicate"),
]


@pytest.mark.parametrize(("words", "says"), CASES, ids=[words for words, _ in CASES])
def test_bad_input_is_refused(words, says, folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    outcome = run(capsys, *words.split())
    assert outcome.code == 2
    assert says in outcome.err and "Traceback" not in outcome.err
    assert sorted(folder.rglob("*")) == before


def test_a_refused_figure_does_not_cost_the_result(tmp_path):
    result = Result(xr.Dataset({"x": ("prompt", [1.0])}))  # has no figure
    with pytest.raises(BadInput, match="has no figure"):
        finish(lambda: result, output=tmp_path / "out", figure=tmp_path / "f.json", paper=False, overwrite=False)
    assert interp.open(tmp_path / "out").data.identical(result.data)


def test_debug_shows_where_a_refusal_came_from(folder, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(CheckpointError, match="no weights"):
        interp.cli.main(["report", "noweights", "--debug"])


def test_a_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr("interp.models.load.spec_of_checkpoint", lambda model: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        interp.cli.main(["sites", "atlas"])


def test_advice_is_given_in_the_words_of_the_command_line():
    said = interp.cli.refusal(
        BadInput("pass answers='first' or dtype='float32' (`skip_bad=True` leaves such rows out.)")
    )
    assert said == "pass --answers first or --dtype float32 (--skip-bad leaves such rows out.)"
    assert "No space left" in str(interp.cli.refusal(OSError(28, "No space left on device", "card.jsonl")))
    assert interp.cli.refusal(OSError("transformers says")) is None and interp.cli.refusal(KeyError("x")) is None


def test_an_interrupt_is_no_traceback(capsys, monkeypatch):
    def interrupt(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr("interp.cli.app", interrupt)
    outcome = run(capsys, "sites", "atlas")
    assert outcome.code == 130 and "interrupted" in outcome.err
