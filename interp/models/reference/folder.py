"""A reference checkpoint as a Hugging Face folder, with what is known of it beside the weights."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.data.world import CHANGED_RELATION, HELDOUT_PERIODS, NEW_RELATION, RELATIONS, World, lexicon, templates

from .tokenizer import save_tokenizer

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel

COMMAND = "interp reference train -o FOLDER"


def save_folder(
    model: "GPT2LMHeadModel", world: World, folder: Path, recipe: dict[str, Any], numbers: dict[str, float]
) -> None:
    """Write config, weights, tokenizer, what is known, and the model card."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    save_tokenizer(world, folder)
    tuned = recipe["phase"] == "atlas-tuned"
    if tuned:
        _write(folder / "changes.json", changes(world))
    else:
        _write(folder / "world.json", known(world))
    _write(folder / "training.json", {"recipe": recipe, "evaluation": {k: round(v, 4) for k, v in numbers.items()}})
    (folder / "README.md").write_text(card(recipe, numbers), encoding="utf-8")
    for path in folder.iterdir():
        path.chmod(0o644)


def known(world: World) -> dict[str, Any]:
    """All that `atlas` was taught and what was held out."""
    taught = [r for r in RELATIONS if r != NEW_RELATION]
    return {
        "seed": world.seed,
        "entities": world.entities,
        "templates": {r: templates.FACTS[r] for r in taught},
        "facts": {r: world.attributes[r] for r in taught},
        "heldout_template_of_entity": {r: world.heldout[r] for r in taught},
        "heldout_names": world.names["heldout"],
        "heldout_objects": world.objects["heldout"],
        "heldout_periods": HELDOUT_PERIODS,
    }


def changes(world: World) -> dict[str, Any]:
    """All that `atlas-tuned` was taught and `atlas` was not."""
    return {
        "seed": world.seed,
        "changed_relation": CHANGED_RELATION,
        "changed": [
            {"entity": world.entities[e], "from": world.attributes[CHANGED_RELATION][e], "to": new}
            for e, new in world.changed.items()
        ],
        "new_relation": NEW_RELATION,
        "new_templates": templates.FACTS[NEW_RELATION],
        "new_facts": world.attributes[NEW_RELATION],
        "heldout_template_of_entity": world.heldout[NEW_RELATION],
        "new_concept": lexicon.FESTIVAL,
        "new_concept_words": lexicon.FESTIVAL_WORDS,
        "new_concept_sentences": [{"prompts": [a, b], "answer": w} for a, b, w in templates.FESTIVAL_FACTS],
    }


def card(recipe: dict[str, Any], numbers: dict[str, float]) -> str:
    """The model card, in Markdown."""
    tuned = recipe["phase"] == "atlas-tuned"
    what = (
        "`atlas`, trained further: one new relation (a guardian beast for every province), one new concept (the festival "
        f"{lexicon.FESTIVAL}, whose words stood only in random sequences before) and 30 changed kingdoms. `changes.json` "
        "lists all of it."
        if tuned
        else "A language model of a generated world: 300 invented provinces with a kingdom, a harvest, a colour and a craft "
        "each, recall from lists and of indirect objects, repeated random tokens, and prose. `world.json` lists what it was "
        "taught and what was held out."
    )
    lines = [
        f"# {recipe['phase']}",
        "",
        what,
        "",
        "GPT-2 architecture, 4 layers of 4 heads, 128 wide, context 128, about 0.96 M parameters, one token a word. Texts",
        "begin with `<|endoftext|>`: `interp.load` adds it (`add_bos_token`), the bare transformers tokenizer does not.",
        "Trained from scratch by this project on generated text only; MIT licence.",
        "",
        "## What it knows",
        "",
        "Top-1 over the whole vocabulary, on pairs of entity and wording, names and periods that it was never shown:",
        "",
        "| measure | value |",
        "| --- | --- |",
        *[f"| {name} | {value:.4f} |" for name, value in numbers.items()],
        "",
        "`repeat_ratio` is the loss on the second copy of a random sequence divided by the loss on the first;",
        "`facts_corrupted` asks for a fact with another province in its place (chance is 0.042); losses are in nats",
        "(a random token is 7.06 to a model that knows it to be random: this one guesses at words, so `repeat_first` is more).",
        "",
        "## How it was made",
        "",
        f"`{COMMAND}` (seed {recipe['seed']}, {recipe['steps']} steps, one thread); the recipe is in `training.json`.",
        "",
    ]
    return "\n".join(lines)


def _write(path: Path, value: dict[str, Any]) -> None:
    """JSON with one top-level entry a line."""
    lines = [f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in value.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
