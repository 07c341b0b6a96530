import getpass
import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from interp.core import manifest as module
from interp.core.errors import ArtifactError, WrongModel
from interp.core.manifest import Manifest, refuse_other_model

from .toy import ToyLM, ToyTokenizer, spec


def made(lm: ToyLM | None = None, **changes: object) -> Manifest:
    values: dict = {
        "analysis": "Length",
        "config": {"factor": 1.0},
        "inputs": {"data": ["a", "b"]},
        "seeds": {"seed": 0},
    }
    return Manifest.of(lm or ToyLM(), **(values | changes))


def test_it_says_what_produced_the_numbers() -> None:
    manifest = made(seconds=1.23456)
    assert manifest.model["name"] == "toy" and manifest.model["fingerprint"] == "abcdef0123456789"
    assert manifest.tokenizer == {"digest": "t0", "bos": False} and manifest.backend == "transformer_lens"
    assert manifest.device == "cpu" and manifest.seconds == 1.235 and manifest.started.endswith("Z")
    assert {"torch", "numpy", "transformers"} <= set(manifest.versions) and len(manifest.code) == 8
    assert manifest.git is None or len(manifest.git["commit"]) == 40
    assert manifest.line == f"interp {manifest.interp} · toy@abcdef01 · {manifest.hash}"


def test_the_hash_covers_what_decides_the_numbers() -> None:
    base = made()
    others = [
        made(ToyLM(weights_hash="f" * 16)), made(ToyLM(spec(dtype="bfloat16"))), made(ToyLM(spec(attention="sdpa"))),
        made(ToyLM(spec(processing="folded"))), made(ToyLM(spec(backend="nnsight"))), made(ToyLM(tokenizer=ToyTokenizer("t1"))),
        made(ToyLM(tokenizer=ToyTokenizer(default_bos=True))), made(config={"factor": 2.0}), made(inputs={"data": ["a", "c"]}),
        made(seeds={"seed": 1}), made(analysis="Other"), replace(base, versions=base.versions | {"torch": "9"}),
        replace(base, code="00000000"), replace(base, device="cuda"),
    ]  # fmt: skip
    hashes = {base.hash, *(other.hash for other in others)}
    assert len(hashes) == len(others) + 1 and all(len(text) == 8 for text in hashes)


def test_the_hash_ignores_when_where_and_how_long() -> None:
    base = made()
    same = [
        replace(base, started="later", seconds=9.0, git={"commit": "x", "dirty": True}, python="3.99"),
        made(ToyLM(spec(name="copy", revision="main"))),
    ]  # fmt: skip
    assert {manifest.hash for manifest in same} == {base.hash}


def test_json_round_trip() -> None:
    for manifest in (made(), Manifest.of()):
        again = Manifest.from_dict(json.loads(json.dumps(manifest.to_dict(), allow_nan=False)))
        assert again == manifest and again.hash == manifest.hash


def test_it_may_be_published_as_it_is(tmp_path: Path) -> None:
    text = json.dumps(made(config={"facts": tmp_path / "facts.jsonl", "where": str(tmp_path)}).to_dict())
    assert (
        str(tmp_path) not in text
        and str(Path(module.__file__).parents[2]) not in text
        and str(Path.home()) + "/" not in text
    )
    assert socket.gethostname() not in text and f'"{getpass.getuser()}"' not in text


def test_a_newer_schema_and_unknown_fields_are_refused() -> None:
    with pytest.raises(ArtifactError, match="Upgrade interp"):
        Manifest.from_dict(made().to_dict() | {"schema": module.SCHEMA + 1})
    with pytest.raises(ArtifactError, match="surprise"):
        Manifest.from_dict(made().to_dict() | {"surprise": 1})


def test_artefacts_refuse_a_model_that_they_do_not_fit() -> None:
    manifest = made()
    refuse_other_model(manifest, ToyLM(spec(name="copy")))
    with pytest.raises(WrongModel, match=r"made from toy \(fingerprint abcdef01\), not from other"):
        refuse_other_model(manifest, ToyLM(spec(name="other"), weights_hash="1" * 16))
    with pytest.raises(WrongModel, match="processing raw"):
        refuse_other_model(manifest, ToyLM(spec(processing="folded")))
    with pytest.raises(WrongModel, match="does not say which model"):
        refuse_other_model(Manifest.of(), ToyLM())


def test_a_directory_that_is_no_checkout_has_no_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "__file__", str(tmp_path / "interp" / "core" / "manifest.py"))
    assert module._git.__wrapped__() is None
