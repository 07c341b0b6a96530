import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from interp.core import artifact as module
from interp.core.analysis import Result
from interp.core.artifact import open_result, read_artifact, save_result, write_artifact
from interp.core.errors import ArtifactError
from interp.core.manifest import Manifest

from .toy import Length, LengthResult, ToyLM


def result(value: float = 1.0) -> Result:
    return Result(
        xr.Dataset({"x": (("prompt", "layer"), np.full((3, 2), value))}, coords={"prompt": ["a", "b", "c"]}),
        config={"v": value},
    )


def value_in(directory: Path) -> float:
    return float(open_result(directory).data["x"][0, 0])


def files(directory: Path) -> set[str]:
    return {path.name for path in directory.rglob("*")}


def test_a_result_comes_back_as_it_was(tmp_path: Path) -> None:
    saved = Length()(ToyLM(), ["ab", "c"])
    path = save_result(saved, tmp_path / "run")
    assert files(path) == {"meta.json", "arrays.safetensors"} and files(tmp_path) == {
        "run",
        "meta.json",
        "arrays.safetensors",
    }
    for kind in (None, LengthResult):
        again = open_result(str(path), kind)
        assert again.data.identical(saved.data) and again.manifest == saved.manifest and again.config == saved.config
        assert type(again) is (kind or Result)  # classes outside of interp are never imported
    assert open_result(path, LengthResult).headline() == saved.headline()


def test_a_class_of_ours_comes_back_as_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Named(Result):
        pass

    Named.__module__, Named.__qualname__ = "interp.core.analysis", "Named"
    monkeypatch.setattr("interp.core.analysis.Named", Named, raising=False)
    path = Named(result().data).save(tmp_path / "run")
    assert type(open_result(path)) is Named
    monkeypatch.delattr("interp.core.analysis.Named")
    with pytest.raises(ArtifactError, match="this version of interp lacks"):
        open_result(path)


def test_files_are_readable_by_others(tmp_path: Path) -> None:
    path = result().save(tmp_path / "run")
    result().save(path, overwrite=True)
    assert {oct(file.stat().st_mode & 0o777) for file in path.iterdir()} == {"0o644"}


def test_tensors_of_every_kind_come_back_bit_for_bit(tmp_path: Path) -> None:
    base = torch.randn(4, 6)
    tensors = {
        "bf16": base.bfloat16(), "half": base.half(), "double": base.double(), "bool": base > 0,
        "int": torch.arange(3), "scalar": torch.tensor(2.0),
        "empty": torch.zeros(0, 3), "view": base.T, "shared": base, "slice": base[1], "needs_grad": base.clone().requires_grad_(),
        "numpy": np.arange(6, dtype=np.uint16).reshape(2, 3).T,
    }  # fmt: skip
    manifest = Manifest.of(ToyLM())
    meta = {"cfg": {"d": 6, "odd": [float("inf"), None, "ü"]}}
    found = read_artifact(write_artifact(tmp_path / "d", tensors, meta, kind="dictionary", manifest=manifest))
    assert (
        found.kind == "dictionary"
        and found.meta == meta
        and found.manifest == manifest
        and set(found.tensors) == set(tensors)
    )
    for name, tensor in tensors.items():
        expected = torch.from_numpy(tensor.copy()) if isinstance(tensor, np.ndarray) else tensor
        assert found.tensors[name].dtype == expected.dtype and torch.equal(found.tensors[name], expected), name
    with pytest.raises(ArtifactError, match="is a dictionary, not a result"):
        open_result(tmp_path / "d")


def test_numbers_that_json_lacks_come_back_and_the_file_is_strict_json(tmp_path: Path) -> None:
    saved = Result(xr.Dataset({"x": ("a", [1.0])}, attrs={"limit": float("inf")}), config={"lr": float("nan")})
    path = saved.save(tmp_path / "run")
    json.loads((path / "meta.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert open_result(path).data.attrs == {"limit": float("inf")} and np.isnan(open_result(path).config["lr"])


# ---------------------------------------------------------------- what is there already


def test_an_existing_artefact_is_only_replaced_on_request(tmp_path: Path) -> None:
    path = result(1).save(tmp_path / "run")
    with pytest.raises(ArtifactError, match="exists already"):
        result(2).save(path)
    assert value_in(path) == 1
    for value in (2, 3):
        result(value).save(path, overwrite=True)
        assert value_in(path) == value and len(files(path)) == 2
    empty = tmp_path / "empty"
    empty.mkdir()
    assert value_in(result(4).save(empty)) == 4


def test_what_is_not_an_artefact_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("x")
    (tmp_path / "alien").mkdir()
    (tmp_path / "alien" / "meta.json").write_text('{"files": {"../file": 1}}')
    for name in ("folder", "file", "alien"):
        with pytest.raises(ArtifactError, match="is not an artefact of interp"):
            result().save(tmp_path / name, overwrite=True)
    assert (tmp_path / "folder" / "thesis.tex").read_text() == "years of work" and (
        tmp_path / "file"
    ).read_text() == "x"


def test_other_files_in_the_directory_survive(tmp_path: Path) -> None:
    path = result(1).save(tmp_path / "run")
    (path / "notes.txt").write_text("mine")
    result(2).save(path, overwrite=True)
    assert (path / "notes.txt").read_text() == "mine" and value_in(path) == 2


@pytest.mark.parametrize("step", ["_write_arrays", "_write_meta", "save_file"])
@pytest.mark.parametrize("existing", [False, True])
def test_a_failure_leaves_the_old_one_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, existing: bool
) -> None:
    path = tmp_path / "run"
    if existing:
        result(1).save(path)
    before = files(tmp_path)
    real = getattr(module, step)

    def fail(*args: object, **options: object) -> None:
        real(*args, **options)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, step, fail)
    with pytest.raises(ArtifactError, match="No space left"):
        result(2).save(path, overwrite=True)
    monkeypatch.undo()
    assert files(tmp_path) == before
    if existing:
        assert value_in(path) == 1
    else:
        assert not path.exists()


def test_reserved_fields_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="reserved"):
        write_artifact(tmp_path / "d", {}, {"checksum": 1})


# ---------------------------------------------------------------- damage


def test_every_flipped_bit_is_detected(tmp_path: Path) -> None:
    path = result().save(tmp_path / "run")
    rng = np.random.default_rng(0)
    for name in ("arrays.safetensors", "meta.json"):
        whole = (path / name).read_bytes()
        for place in rng.choice(len(whole), size=60, replace=False):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << int(rng.integers(8))
            (path / name).write_bytes(damaged)
            if name == "meta.json" and _same_json(whole, bytes(damaged)):
                continue  # a space that became another white space says the same
            with pytest.raises(ArtifactError):
                open_result(path)
        (path / name).write_bytes(whole)
    assert value_in(path) == 1


def _same_json(a: bytes, b: bytes) -> bool:
    try:
        return json.loads(a) == json.loads(b)
    except ValueError:
        return False


@pytest.mark.parametrize("name", ["arrays.safetensors", "meta.json"])
@pytest.mark.parametrize("keep", [0, 10, -1])
def test_a_truncated_file_is_detected(tmp_path: Path, name: str, keep: int) -> None:
    path = result().save(tmp_path / "run")
    whole = (path / name).read_bytes()
    (path / name).write_bytes(whole[:keep] if name != "meta.json" or keep >= 0 else whole[:-3])
    with pytest.raises(ArtifactError, match=r"cut short|damaged"):
        open_result(path)


def test_missing_things_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="there is no 'run'"):
        open_result(tmp_path / "run")
    path = result().save(tmp_path / "run")
    (path / "arrays.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"run/arrays\.safetensors is missing"):
        open_result(path)
    (path / "meta.json").unlink()
    with pytest.raises(ArtifactError, match=r"no meta\.json"):
        open_result(path)


def forge(path: Path, **changes: object) -> None:
    """Change the description and sign it again, as only somebody who means it would."""
    meta = json.loads((path / "meta.json").read_text()) | changes
    meta["checksum"] = module._digest({key: value for key, value in meta.items() if key != "checksum"})
    (path / "meta.json").write_text(json.dumps(meta))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": module.SCHEMA + 1}, "Upgrade interp"),
        ({"format": "other"}, "was not written by interp"),
        ({"class": "subprocess:Popen"}, "not one of interp"),
        ({"class": "interpreter:Popen"}, "not one of interp"),
        ({"class": "interp.core.errors:InterpError"}, "which is not a result"),
        ({"class": "interp.core.analysis:Gone"}, "lacks"),
        ({"class": "interp.gone:Gone"}, "lacks"),
        ({"labels": None}, "no labels"),
        ({"labels": {"attrs": {}, "variables": {}}}, "not described"),
        ({"files": {}}, "is missing"),
        ({"manifest": {"schema": 99}}, "Upgrade interp"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = result().save(tmp_path / "run")
    forge(path, **changes)
    with pytest.raises(ArtifactError, match=message):
        open_result(path)


def test_a_forged_name_cannot_reach_outside(tmp_path: Path) -> None:
    path = result().save(tmp_path / "run")
    outside = tmp_path / "secret.safetensors"
    outside.write_bytes((path / "arrays.safetensors").read_bytes())
    said = json.loads((path / "meta.json").read_text())["files"]["arrays.safetensors"]
    forge(path, files={"../secret.safetensors": said})
    with pytest.raises(ArtifactError, match="missing"):
        open_result(path)
    result(2).save(path, overwrite=True)
    assert outside.exists()


# ---------------------------------------------------------------- kills and races

KILLS = """
import os, shutil, signal, sys, time
from pathlib import Path
import numpy as np, xarray as xr
from interp.core.analysis import Result
from interp.core.artifact import open_result

def save(turn, path):
    Result(xr.Dataset({"x": (("a", "b"), np.full((200, 1000), float(turn)))})).save(path, overwrite=True)

def value(path):
    values = open_result(path).data["x"].values
    assert (values == values[0, 0]).all(), "two writes are mixed"
    return float(values[0, 0])

root = Path(sys.argv[1])
save(-1, root / "run")
left = 0
for attempt in range(60):
    if attempt >= 6 and left:  # when a kill falls is up to the machine: go on until one fell in mid-write
        break
    child = os.fork()
    if not child:
        for turn in range(10**6):
            save(turn, root / "run" if attempt % 2 else root / f"new-{attempt}-{turn}")
    seen, until = set(), time.monotonic() + 20
    while len(seen) < 3 and time.monotonic() < until:  # read on until it has been seen to write
        seen.add(value(root / "run") if attempt % 2 else len(list(root.glob("new-*"))))
    assert len(seen) >= 3, "the writer wrote nothing"
    time.sleep(0.007 * (attempt % 6))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    for path in root.iterdir():
        if path.name.startswith("."):
            left += 1
        else:
            value(path)
            if path.name != "run":
                shutil.rmtree(path)
print(left)
"""


def test_a_killed_writer_leaves_whole_artefacts_and_a_reader_sees_nothing_else(tmp_path: Path) -> None:
    """Six times and until a kill has hit: read while another process replaces an artefact or makes new ones, and kill it in mid-write."""
    done = subprocess.run([sys.executable, "-c", KILLS, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0  # kills did hit half-written ones


def test_what_killed_writers_left_is_swept_once_it_is_old(tmp_path: Path) -> None:
    path = result(1).save(tmp_path / "run")
    old, young = path / "arrays-old.safetensors", path / "arrays-young.safetensors"
    aside = tmp_path / ".new.00000000.writing"
    for orphan in (old, young, aside):
        orphan.mkdir() if orphan == aside else orphan.touch()
    for orphan in (old, aside):
        os.utime(orphan, (1, 1))
    result(2).save(path, overwrite=True)
    result(3).save(tmp_path / "new")
    assert not old.exists() and not aside.exists() and young.exists()
