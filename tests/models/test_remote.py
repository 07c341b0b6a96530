"""The remote path, as far as it can be tested without a server: packed, unpacked and run in this process."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from interp.core.errors import BadInput, CheckpointError
from interp.models.load import load
from interp.models.remote import RemoteLM
from interp.models.tracer import load_nnsight
from tests.models.tiny import tiny_checkpoint, tokens


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("models"), "llama")


RUN = """
import sys, torch
from interp.core.batch import At, Batch
from interp.core.edit import add, scale
from interp.core.errors import EditDidNotFire
from interp.models.load import load
from tests.models.tiny import tokens

torch.set_num_threads(1)
there, here = (load(sys.argv[1], backend="nnsight", remote=remote) for remote in ("local", False))
batch = Batch.padded([tokens(1, n)[0].tolist() for n in (9, 5)], side="left")
names = [info.site.name for info in there.sites()]
edits = [add("blocks.1.hook_resid_mid", 0.5, at=At.last()), scale("blocks.2.attn.hook_z", 0.0, heads=[1])]
got, want = there.run(batch, capture=names, edits=edits), here.run(batch, capture=names, edits=edits)
assert torch.equal(got.logits[batch.mask], want.logits[batch.mask])
assert all(torch.equal(got[name][batch.mask], want[name][batch.mask]) for name in names)
assert [vars(got.fired[edit]) for edit in edits] == [vars(want.fired[edit]) for edit in edits]
rows = [row[mask].tolist() for row, mask in zip(batch.tokens, batch.mask)]
assert there.generate(rows, 5) == here.generate(rows, 5)
early = there.run(batch, capture=names[3], stop_after=names[3])
assert early.logits is None and torch.equal(early[names[3]][batch.mask], here.run(batch, capture=names[3])[names[3]][batch.mask])
try:
    there.run(batch, edits=[scale("hook_embed", 0.0, at=At.mask(torch.zeros(2, 9).bool()))])
except EditDidNotFire:
    print("all is well")
"""


def test_captures_edits_and_logits_come_back(folder: Path, tmp_path: Path) -> None:
    """In a process of its own: functions that the test run has wrapped to check shapes cannot be sent anywhere.

    And on a copy of the package: nnsight sends functions as the lines of their files, so a file that somebody saves meanwhile breaks it.
    """
    root = Path(__file__).parents[2]
    shutil.copytree(root / "interp", tmp_path / "interp", ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.append({str(root)!r})\n{RUN}", str(folder)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "all is well" in done.stdout, done.stderr[-2000:]


def test_what_a_remote_model_cannot_do_is_refused(folder: Path) -> None:
    model = load(folder, backend="nnsight", remote="local")
    assert isinstance(model, RemoteLM) and not model.sites("pattern")
    with pytest.raises(BadInput, match="remote model"):
        model.run(tokens(), capture="blocks.1.attn.hook_pattern")
    with pytest.raises(BadInput, match="others use"):
        model.edit_weights({})
    with pytest.raises(BadInput, match="others use"):
        model.tuning()
    with pytest.raises(BadInput, match="backend='nnsight'"):
        load(folder, remote=True)
    with pytest.raises(CheckpointError, match="reachable hub"):
        load("org/no-such-model", backend="nnsight", remote=True)


def test_without_weights_only_runs_are_left(folder: Path) -> None:
    nn = load_nnsight().TransformersModel(str(folder), task="text-generation", tokenizer=str(folder))
    model = RemoteLM(nn, "far away", remote=True)
    assert "meta" in repr(model) and model.encode("The city").tokens.shape[0] == 1
    acts = [model.fingerprint, model.tensors, model.fidelity, lambda: model.record(tokens())]
    acts += [lambda: model.weights.W_O(0), lambda: model.weights.norm("final")]
    acts += [lambda: model.read([tokens()[0]], ["hook_embed"]), lambda: model.unembed(torch.zeros(2, 32))]
    acts += [lambda: model.generate("The city"), lambda: model.save("nowhere")]
    for act in acts:
        with pytest.raises(BadInput, match="needs the weights of far away"):
            act()
