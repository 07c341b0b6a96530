"""`interp train …` and `interp dictionary …`: what they write, that they go on, and what they refuse."""

from pathlib import Path

import pytest

import interp
from interp.cli.train import FAMILIES
from interp.train.families import FAMILIES as KINDS

from .running import run

SMALL = ("--limit-tokens", 3000, "--tokens", 20_000, "--batch", 500, "--latents", 64, "--k", 4)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERP_CACHE", str(cache))


def test_every_family_has_its_verb() -> None:
    assert list(FAMILIES) == list(KINDS)


def test_an_sae_from_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    done = run(capsys, "train", "sae", "atlas", *SMALL, "--skip-first", 1, "-o", tmp_path / "sae")
    assert done.code == 0, done.err
    assert "FVU" in done.out
    assert "wrote" in done.out
    shown = run(capsys, "dictionary", "show", tmp_path / "sae")
    assert "64 latents" in shown.out
    assert "atlas blocks.2.hook_resid_post" in shown.out
    assert run(capsys, "open", tmp_path / "sae" / "training").code == 0
    again = run(capsys, "train", "sae", "atlas", *SMALL, "--skip-first", 1, "-o", tmp_path / "sae")
    assert again.code == 0, again.err  # nothing left to do
    other = run(capsys, "train", "sae", "atlas", *SMALL, "--skip-first", 1, "--lr", 0.01, "-o", tmp_path / "sae")
    assert other.code == 2
    assert "lr" in other.err


def test_a_sweep_trains_several_on_one_pass(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    done = run(capsys, "train", "sae", "atlas", *SMALL, "--sweep", "k=2,8", "-o", tmp_path / "sweep")
    assert done.code == 0, done.err
    found = [interp.open(path) for path in sorted((tmp_path / "sweep").glob("dictionary*"))]
    assert [one.config.k for one in found] == [2, 8]
    both = run(capsys, "dictionary", "show", tmp_path / "sweep")
    assert both.code == 2
    assert "training of 2 dictionaries" in both.err
    wrong = run(capsys, "train", "sae", "atlas", *SMALL, "--sweep", "kk=2,8", "-o", tmp_path / "x")
    assert wrong.code == 2
    assert "'kk'" in wrong.err


def test_a_crosscoder_of_two_models(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    done = run(capsys, "train", "crosscoder", "atlas", "atlas-tuned", *SMALL, "--dedicated", 0.1, "-o", tmp_path / "cc")
    assert done.code == 0, done.err
    shown = run(capsys, "dictionary", "show", tmp_path / "cc").out
    assert "group base only: 6 latents" in shown
    assert "reads tuned: atlas-tuned blocks.2.hook_resid_post" in shown


def test_the_cost_is_said_first(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    done = run(capsys, "train", "transcoder", "atlas", *SMALL, "--dry-run", "-o", tmp_path / "t")
    assert done.code == 0, done.err
    assert "parameters" in done.out
    two = run(capsys, "train", "sae", "atlas", *SMALL, "--sweep", "latents=64,128", "--dry-run", "-o", tmp_path / "t")
    assert "64 latents" in two.out and "128 latents" in two.out
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("sae", "atlas", "--k", 65), "at most the 64 latents"),
        (("sae", "atlas", "--site", "blocks.9.hook_resid_post"), "layers 0 to 3"),
        (("sae", "atlas", "--activation", "softmax"), "softmax"),
        (("crosscoder", "atlas"), "OTHER"),
    ],
)
def test_refusals(capsys: pytest.CaptureFixture[str], tmp_path: Path, words: tuple[object, ...], said: str) -> None:
    done = run(capsys, "train", *words[:2], *SMALL, *words[2:], "-o", tmp_path / "x")
    assert done.code == 2
    assert said in done.err + done.out


def test_out_and_back_through_saelens(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(capsys, "train", "sae", "atlas", *SMALL, "-o", tmp_path / "sae").code == 0
    assert run(capsys, "dictionary", "export", tmp_path / "sae", tmp_path / "out").code == 0
    back = run(capsys, "dictionary", "import", tmp_path / "out", tmp_path / "back", "--model", "atlas")
    assert back.code == 0, back.err
    assert interp.open(tmp_path / "back").config.reads[0].site == "blocks.2.hook_resid_post"
    refused = run(capsys, "dictionary", "show", tmp_path / "out")
    assert "interp dictionary import" in refused.err
