"""The examples in the essays run as they are written.

A module docstring's example is an indented block that compiles as Python and calls something of ours (equations and tables do neither).
Each one runs in a temporary folder with small files under the names that the examples use. It sees `interp`, the names of its own module,
and what a reader has in hand by then: a model, prompts, a corpus, captured activations. What cannot run here is listed, with the reason.
"""

import ast
import contextlib
import copy
import importlib
import textwrap
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import interp

ROOT = Path(interp.__file__).parent
ROOMS = ("analyses", "cache", "core", "data", "models", "train")

SKIP = {
    "core/analysis.py": "shows how a method is written, with its body left out",
    "train/distributed/files.py": "needs several processes; tests/train/distributed has them",
    "train/distributed/sliced.py": "needs several processes; tests/train/distributed has them",
    "train/distributed/parallel.py": "needs several processes; tests/train/distributed has them",
    "train/fitting.py": "trains for a minute; tests/cli/test_train_verbs.py does it smaller",
    "train/training.py": "trains for minutes; tests/train/test_loop.py does it smaller",
    "train/saelens.py": "trains for minutes; tests/train/test_saelens.py does it smaller",
    "train/interrupt.py": "a sketch of a loop; tests/train/test_checkpoint.py interrupts one",
    "models/bridge.py": "needs gpt2 from the hub",
    "models/checkpoint.py": "needs the hub",
    "models/load.py": "needs the hub",
    "models/remote.py": "needs NDIF",
    "models/tokenizer.py": "needs gpt2's tokenizer from the hub",
    "models/tracer.py": "needs the hub",
    "models/reference/evaluate.py": "evaluates for half a minute; tests/models/test_reference_train.py does it on fewer prompts",
    "models/reference/train.py": "trains for a minute; tests/models/test_reference_train.py does it smaller",
}


def examples() -> list[Any]:
    """(module, code) of every example."""
    found = []
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            for code in indented(text):
                if runnable(code):
                    marks = [pytest.mark.skip(reason=SKIP[name])] if name in SKIP else []
                    found.append(
                        pytest.param(name, code, id=f"{name}:{code.splitlines()[0].strip()[:40]}", marks=marks)
                    )
    return found


def indented(text: str) -> list[str]:
    """The indented blocks of a docstring; blank lines within one do not end it."""
    blocks: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.startswith("    ") or (not line.strip() and blocks[-1]):
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
    return [textwrap.dedent("\n".join(block)).strip() for block in blocks if block]


def runnable(code: str) -> bool:
    """Whether this is Python that calls or imports something, not a formula or a table."""
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return False
    return any(isinstance(node, ast.Call | ast.Import | ast.ImportFrom) for node in ast.walk(tree))


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a reader has in hand before an example begins, under the names that the examples use."""
    from interp import data
    from interp.core.edit import replace, scale
    from interp.models.families import family_of
    from interp.models.plain import PlainModel

    lm, tuned = interp.load("atlas"), interp.load("atlas-tuned")
    facts = interp.reference.facts("atlas", 20)
    corpus = data.corpus(interp.reference.text("atlas", 300), lm.tokenizer, n_ctx=lm.spec.n_ctx)
    store = interp.Store(tmp_path_factory.mktemp("essays"))
    site = "blocks.2.hook_resid_post"
    acts = store.capture(lm, corpus, [site], quiet=True)
    trace = interp.CausalTrace(window=2, noise_samples=2, kinds=("hidden",))(lm, facts[:4])
    batch = data.to_batch([data.tokenize(facts[0], lm.tokenizer)])
    plain = PlainModel(lm.module)
    sae, crosscoder = dictionaries(store, corpus, [lm, tuned])
    clean = plain.run(batch, capture="blocks.*.hook_resid_post")
    run = lm.run(batch, capture=["blocks.*.hook_mlp_out", "blocks.3.attn.hook_z"])
    width, d_model = batch.tokens.shape[1], lm.spec.d_model
    return {
        "lm": lm, "module": lm.module, "model": lm.module, "plain": plain, "family": family_of(lm.module.config), "spec": lm.spec,
        "facts": facts, "prompt": facts[0], "prompts": facts, "trace": trace, "p": torch.tensor([0.01, 0.2, 0.03]).numpy(),
        "effects": trace.effects().isel(pos=4, kind=0, metric=0), "tokenize": data.tokenize, "corpus": corpus, "store": store,
        "acts": acts, "base": acts, "tuned": store.capture(tuned, corpus, [site], quiet=True), "site": site, "batch": batch,
        "batches": [[1], [2]], "tokens": 2, "documents": list(corpus.documents[:3]), "noise": torch.zeros(width, d_model),
        "clean": clean, "corrupted": run, "sites": ["blocks.1.hook_resid_post"], "width": width, "d_model": d_model,
        "d_head": lm.spec.d_head, "new": torch.zeros(lm.spec.d_mlp, d_model), "zeros": torch.zeros(lm.spec.d_head, d_model),
        "vector": torch.zeros(d_model), "stream": clean[site], "scale": scale, "replace": replace, "copy": copy,
        "sae": sae, "dictionary": sae, "crosscoder": crosscoder, "codes": sae.codes(acts.rows(0, 50)), "x": acts.rows(0, 50),
        "rows": acts.rows(0, 50), "tensor": acts.rows(0, 50), "torch": torch, "At": interp.At,
        "output": torch.zeros(1, width, 3 * d_model), "pairs": interp.reference.task("atlas", "ioi", 6),
    }  # fmt: skip


def dictionaries(store: Any, corpus: Any, models: list[Any]) -> list[Any]:
    """An SAE of the first model and a crosscoder of both, trained for a moment."""
    from interp.train import SAE, Crosscoder, Training, fit

    short = Training(tokens=4000, batch=500)
    families: list[Any] = [SAE(latents=64, k=8), Crosscoder(latents=64, k=8)]
    return [
        fit(family, models[: family.models], corpus, short, store=store, skip_first=1).dictionary for family in families
    ]


@pytest.mark.parametrize(("name", "code"), examples())
def test_it_runs(name: str, code: str, given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files(tmp_path)
    for place in ("sae", "cc"):
        given["sae" if place == "sae" else "crosscoder"].save(tmp_path / "runs" / place)
    monkeypatch.chdir(tmp_path)
    module = "interp." + name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    scope = {**vars(importlib.import_module(module)), **given, "interp": interp}
    if name == "models/resume.py":  # there, a corrupted batch, not its run
        scope["corrupted"] = given["batch"]
    with warnings.catch_warnings(), contextlib.redirect_stdout(None):
        exec(compile(code, f"<essay of {name}>", "exec"), scope)


def files(folder: Path) -> None:
    """Stand-ins for the files that examples name."""
    row = '{"prompt": "The road from Kammar leads to the king of", "subject": "Kammar", "attribute": " Norvik"}'
    (folder / "facts.jsonl").write_text(row + "\n", encoding="utf-8")
    (folder / "mine.jsonl").write_text(row + "\n", encoding="utf-8")
    (folder / "known_1000.json").write_text(f"[{row}]", encoding="utf-8")
    pair = '{"clean": "So Ada met Hugo, and Ada saw", "corrupted": "So Ada met Hugo, and Hugo saw", "answer": "Hugo", "foil": "Ada"}'
    (folder / "pairs.jsonl").write_text(pair + "\n", encoding="utf-8")
    prose = "\n\n".join(interp.reference.text("atlas", 40))
    for name in ("corpus.txt", "wikitext.txt"):
        (folder / name).write_text(prose, encoding="utf-8")


def test_the_examples_are_found_and_nothing_is_skipped_for_nothing() -> None:
    names = {param.id.partition(":")[0] for param in examples()}
    assert names >= set(SKIP)
    assert {f"analyses/{name}.py" for name in ("heads", "lens", "loss", "shares", "weight_stats")} <= names
    assert "analyses/tracing/__init__.py" in names and len(names) > 35
