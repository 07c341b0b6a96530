"""Every verb, once, on the reference checkpoint."""

import json
import subprocess
import sys
import warnings

import pytest

import interp
import interp.cli
from interp.core.errors import CheckpointError
from interp.models import reference

from .running import run


@pytest.fixture(autouse=True)
def atlas_is_there():
    try:
        reference.path("atlas")
    except CheckpointError as error:
        pytest.skip(str(error))


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_help_needs_neither_torch_nor_a_backend():
    code = "import interp.cli, sys; print([name for name in ('torch', 'numpy', 'plotly', 'rich.console') if name in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "words", ["", "report", "capture", "open", "sites", "verify", "cache", "cache gc", "reference", "reference train"]
)
def test_every_verb_has_help(words, capsys):
    outcome = run(capsys, *words.split(), "--help")
    assert outcome.code == 0 and "Usage: interp" in outcome.out and "..." not in outcome.out.split("Commands:")[-1]


def test_trace_help_lists_the_methods_own_options(capsys):
    outcome = run(capsys, "trace", "--help")
    assert outcome.code == 0 and "Usage: interp trace" in outcome.out
    text = " ".join(outcome.out.split())
    for option in interp.CausalTrace.options():
        assert f"--{option.name.replace('_', '-')}" in text and option.help.split(".")[0].split("(")[0][:40] in text


def test_version(capsys):
    assert run(capsys, "--version").out.strip() == f"interp {interp.__version__}"


def test_sites_reads_the_config_only(capsys, monkeypatch):
    monkeypatch.setattr("interp.models.load.load_module", lambda *_: pytest.fail("weights were read"))
    outcome = run(capsys, "sites", "atlas", "--like", "resid")
    assert outcome.code == 0 and "blocks.0.hook_resid_post" in outcome.out and "hook_pattern" not in outcome.out
    assert "128" in outcome.out and "512" in outcome.out  # width, bytes a token
    assert "blocks.3.hook_z" in run(capsys, "sites", "atlas", "--layer", "3", "--like", "z").out.replace("attn.", "")


def test_trace_saves_what_open_shows(capsys, here):
    outcome = run(
        capsys, "trace", "atlas", "--limit", 2, "--window", 1, "--noise-samples", 2, "--kinds", "hidden,mlp", "-o", "run",
        "--figure", "trace.html",
    )  # fmt: skip
    assert outcome.code == 0 and "TraceResult(atlas · 2 prompts" in outcome.out and "wrote run" in outcome.out
    result = interp.open("run")
    assert (
        result.config["kinds"] == ["hidden", "mlp"]
        and result.config["window"] == 1
        and result.config["noise_samples"] == 2
    )
    assert result.data.sizes["prompt"] == 2 and (here / "trace.html").is_file()
    shown = run(capsys, "open", "run", "--table", "trace.csv", "--figure", "again.json", "--paper")
    assert shown.code == 0 and result.manifest.hash in shown.out
    assert len((here / "trace.csv").read_text().splitlines()) > 100
    assert json.loads((here / "again.json").read_text())["layout"]["width"] == 528
    assert run(capsys, "trace", "atlas", "--limit", 1, "-o", "run").code == 2  # it exists


def test_dry_run_says_the_cost_and_writes_nothing(capsys, here):
    for words in ("trace atlas --limit 3 -o o", "report atlas -o o", "capture atlas --sites blocks.*.hook_resid_post"):
        outcome = run(capsys, *words.split(), "--dry-run")
        assert outcome.code == 0 and "tokens" in outcome.out and "B" in outcome.out and "about" in outcome.out
    assert not list(here.iterdir())
    assert "nothing is stored" in run(capsys, "cache", "ls").out


def test_capture_fills_the_store_that_cache_lists(capsys, private_cache):
    words = ("capture", "atlas", "--sites", "blocks.*.hook_resid_post,blocks.1.attn.hook_z", "--limit-tokens", 500)
    first, second = run(capsys, *words), run(capsys, *words)
    assert first.code == second.code == 0 and "miss" in first.out and "hit" in second.out
    listed = run(capsys, "cache", "ls").out
    assert listed.count("atlas") == 5 and "blocks.1.attn.hook_z" in listed and "complete" in listed and "500" in listed
    assert "MB" in run(capsys, "cache", "size").out
    assert "every shard is what was written" in run(capsys, "cache", "verify").out
    shard = next(path for path in private_cache.rglob("*.safetensors") if path.stat().st_size > 100_000)
    content = bytearray(shard.read_bytes())
    content[-7] ^= 1
    shard.write_bytes(content)
    damaged = run(capsys, "cache", "verify")
    assert damaged.code == 1 and "1 damaged" in damaged.out and "--repair" in damaged.out
    assert run(capsys, "cache", "verify", "--repair").code == 0
    assert "4 hit, 1" in run(capsys, *words).out
    assert "would remove 5" in run(capsys, "cache", "gc", "--max-size", "0MB", "--dry-run").out
    assert "removed 5" in run(capsys, "cache", "gc", "--max-size", "0B").out
    assert "nothing is stored" in run(capsys, "cache", "ls").out


def test_capture_reads_facts_and_text(capsys, here):
    (here / "facts.jsonl").write_text('{"text": "In Brendo, people", "subject": "Brendo", "answer": " Marlow"}\n')
    outcome = run(
        capsys, "capture", "atlas", "--sites", "hook_embed", "--facts", "facts.jsonl", "--stored-dtype", "bfloat16"
    )
    assert outcome.code == 0 and "bfloat16" in outcome.out


def test_report_on_the_reference_checkpoint_brings_its_own_facts_and_text(capsys, here):
    outcome = run(capsys, "report", "atlas", "-o", "card", "--no-static", "--max-facts", 2, "--max-tokens", 400)
    assert outcome.code == 0 and "wrote card/index.html" in outcome.out and "fidelity" in outcome.err
    manifest = json.loads((here / "card" / "manifest.json").read_text())
    assert manifest["left_out"] == {} and "tracing" in manifest["results"]
    assert "interp report atlas -o card" in (here / "card" / "index.html").read_text()
    assert run(capsys, "open", "card").code == 2  # a report is no result, and it says what to open
    assert "LensResult" in run(capsys, "open", "card/results/lens").out


def test_report_on_a_real_checkpoint_by_its_folder(capsys, here, real_models):
    outcome = run(
        capsys,
        "report",
        real_models / "stories260K-llama",
        "-o",
        "card",
        "--no-static",
        "--max-tokens",
        600,
        "--no-store",
    )
    assert outcome.code == 0
    manifest = (here / "card" / "manifest.json").read_text()
    assert "facts" in json.loads(manifest)["left_out"]["tracing"][0] and str(real_models) not in manifest
    assert str(real_models) not in (here / "card" / "index.html").read_text()


def test_reference_lists_and_shows(capsys):
    assert run(capsys, "reference", "ls").out.startswith("atlas ")
    assert (
        "generated world" in run(capsys, "reference", "show", "atlas-tuned").out
        or "atlas" in run(capsys, "reference", "show").out
    )


def test_verify_reports_known_answers(capsys, monkeypatch):
    from interp import verify

    fine = verify.run("silent edits")
    monkeypatch.setattr("interp.verify.run", lambda: fine)
    outcome = run(capsys, "verify")
    assert outcome.code == 0 and "silent edits" in outcome.out and "1 of 1" in outcome.out


def test_warnings_for_people_are_one_line(capsys, monkeypatch):
    def warn(_):
        warnings.warn("loaded in float32.", stacklevel=1)
        raise SystemExit(0)

    monkeypatch.setattr("interp.models.load.spec_of_checkpoint", warn)
    outcome = run(capsys, "sites", "atlas")
    assert "UserWarning" not in outcome.err
