"""Every method's verb: its help lists the config's options, its cost is said without a run, and one pass on the reference checkpoint."""

import importlib
import json

import pytest

import interp
from interp.cache.gather import view_of
from interp.cli.methods import METHODS
from interp.cli.sources import options_for
from interp.core.dictionary import Dictionary, DictionaryConfig

from .running import run

SMALL = {
    "patch": "--kinds z --over layer",
    "das": "--k 2 --layers 1 --steps 3 --draws 1",
    "mask": "--epochs 1 --seeds 1 --draws 1",
    "cmap": "--kinds mlp_out",
    "direct": "--task ioi",
    "dictionary-eval": "",
    "crosscoder-eval": "",
    "latents": "--n 3",
    "latent-effect": "--draws 2",
    "diff": "--patch-tokens 300 --random-sets 1",
}
"""Options that make one pass quick; verbs with a test of their own elsewhere are not here."""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def kind(method):
    module, _, name = method.analysis.partition(":")
    return getattr(importlib.import_module(module), name)


@pytest.fixture(scope="module")
def dictionaries(tmp_path_factory, atlas, atlas_tuned):
    """Untrained dictionaries of the reference checkpoints: of the first, and (True) of both."""
    site, found = "blocks.2.hook_resid_post", {}
    for several, models in ((False, {"in": atlas}), (True, {"base": atlas, "tuned": atlas_tuned})):
        views = [view_of(lm, site, name) for name, lm in models.items()]
        config = DictionaryConfig(64, views, views, k=4, centred=not several, family="crosscoder" if several else "sae")
        found[several] = tmp_path_factory.mktemp("dictionaries") / "one"
        Dictionary.initialise(config, norm=1.0).save(found[several])
    return found


def limited(method, dictionaries):
    """Few data, and the dictionary and latent that some methods ask for."""
    analysis = kind(method)
    said, options = (
        options_for(analysis.may_take or analysis.takes),
        {option.name: option for option in analysis.options()},
    )
    words = ["--limit", 12] if "limit" in said else []
    words += ["--limit-tokens", 600] if "limit_tokens" in said else []
    words += ["--dictionary", dictionaries[method.two_models]] if "dictionary" in options else []
    return (*words, "--latent", 3) if "latent" in options and not options["latent"].default else words


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.verb)
def test_help_lists_the_configs_options(method, capsys):
    outcome = run(capsys, method.verb, "--help")
    assert outcome.code == 0 and f"Usage: interp {method.verb}" in outcome.out
    text = " ".join(outcome.out.split())
    assert method.essay.split(":")[0] in text
    for option in kind(method).options():
        assert f"--{option.name.replace('_', '-')}" in text, option.name


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.verb)
def test_the_cost_is_said_and_nothing_written(method, capsys, here, dictionaries):
    models = ["atlas", "atlas-tuned"] if method.two_models else ["atlas"]
    outcome = run(capsys, method.verb, *models, *limited(method, dictionaries), "--dry-run", "-o", "out")
    assert outcome.code == 0, outcome.err
    assert "forward passes" in outcome.out and not list(here.iterdir())


@pytest.mark.parametrize("verb", SMALL)
def test_a_verb_runs_draws_and_saves(verb, capsys, here, dictionaries):
    method = next(one for one in METHODS if one.verb == verb)
    models = ["atlas", "atlas-tuned"] if method.two_models else ["atlas"]
    outcome = run(
        capsys, verb, *models, *limited(method, dictionaries), *SMALL[verb].split(), "-o", "out", "--figure", "f.json"
    )
    assert outcome.code == 0, outcome.err
    assert json.loads((here / "f.json").read_text())["data"] and interp.open("out").data.sizes


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("patch atlas --task io", "Did you mean 'ioi'"),
        ("patch atlas --task ioi/name", "Leave it out after the slash"),
        ("patch atlas --task ioi --pairs p.jsonl", "give one of"),
        ("trace atlas --task ioi", "Give --facts"),
        ("mask atlas --task ioi --position nowhere", "nowhere"),
        ("das atlas --task ioi --layers 9", "layers 0 to 3"),
        ("cmap atlas", "OTHER"),
        ("unlearn-eval atlas", "OTHER"),
        ("concepts atlas --words crimson --concepts c.json", "one of --concepts and --words"),
        ("concepts atlas --template {q}", "Give --concepts FILE"),
        ("concept-validate nowhere", "needs concepts: give --concepts FILE"),
        ("concept-fires atlas --concept colur", "Did you mean 'colour'"),
        ("directions nowhere", "needs labelled texts: give --labelled FILE"),
        ("directions atlas --topic colur", "Did you mean 'colour'"),
        ("erase atlas --labelled a.tsv --positive p.jsonl", "either --labelled, or"),
        ("steer atlas --topic colour --positive p.jsonl --negative p.jsonl", "Leave it out, or the files"),
    ],
)
def test_refusals_are_one_message(words, said, capsys, here):
    (here / "p.jsonl").write_text("{}\n")
    outcome = run(capsys, *words.split())
    assert outcome.code == 2 and said in outcome.err
