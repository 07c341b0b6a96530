"""Two real fine-tunes of one base, small talk and slang: the latents changed most are on at slang words and carry the register."""

import os
from pathlib import Path

import pytest

import interp
from interp.analyses.dictionaries.diffing import ModelDiff
from interp.data import corpus
from interp.train import Crosscoder, Training, fit

pytestmark = pytest.mark.skipif(
    not (os.environ.get("INTERP_MODELS") and os.environ.get("INTERP_DATA")),
    reason="needs the real checkpoints and their texts",
)
SLANG = ("fr", "vib", "king", "queen", "bro", "gotta", "legend", "aesthetic")


def lines(register: str) -> list[str]:
    """Conversations of a register."""
    text = (Path(os.environ["INTERP_DATA"]) / "text" / f"tinytalk_{register}.txt").read_text()
    return [one.strip() for one in text.split("<|endoftext|>") if one.strip()]


def test_the_slang_register_shows_up():
    models = os.environ["INTERP_MODELS"]
    base, tuned = (interp.load(str(Path(models) / f"tinytalk-{register}")) for register in ("chat", "slang"))
    chat, slang = lines("chat"), lines("slang")
    family = Crosscoder(latents=320, k=16, activation="batchtopk", site="blocks.5.hook_resid_post")
    text = corpus(slang[:350] + chat[:350], tuned.tokenizer, n_ctx=tuned.spec.n_ctx)
    training = Training(tokens=60_000, batch=192, lr=3e-3)
    crosscoder = fit(family, [base, tuned], text, training, skip_first=1).dictionary
    method = ModelDiff(dictionary=crosscoder, patch_tokens=300, random_sets=2, changed=(0.2,), shown=15)
    result = method(base, tuned, corpus(slang[400:500], tuned.tokenizer, n_ctx=tuned.spec.n_ctx))
    row = result.changed().iloc[0]
    assert row["recovered"] > 0.25 and row["ci_lo"] > 1.5 * row["any_hi"]
    report = "\n".join(result.report_lines())
    assert sum(f"␣{word} " in report for word in SLANG) >= 4
