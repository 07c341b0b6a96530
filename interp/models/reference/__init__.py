"""The embedded reference checkpoints and the hand-wired models.

    from interp.models import reference
    reference.names()                              # ['atlas', 'atlas-tuned']: small trained models whose world is known
    lm = reference.load("atlas")                   # the same as interp.load("atlas")
    reference.facts("atlas", 100)                  # prompts about what it knows, in wordings it has not seen with that subject
    reference.task("atlas", "ioi", 100)            # pairs for patching, in its world's words; `reference.tasks("atlas")` lists them
    reference.text("atlas")                        # prose of its world
    reference.concept_set("atlas")                 # what it knows: words, texts, questions; `reference.labelled` for probes
    lm = reference.as_lm(reference.induction())    # hand-wired: the mechanism is known, see `reference.planted`

`atlas` has really learned facts, lists, indirect objects and induction, from text that this project generates; `atlas-tuned` is
the same model after learning one more relation, one more concept and a known set of changed facts. Hand-wired models hold exactly
one mechanism each, with the answers that every method must give.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.core.errors import BadInput, CheckpointError, hint, listing

from .knowledge import concept_set, labelled
from .tasks import lexicon, task, tasks

if TYPE_CHECKING:
    from interp.data import Facts
    from interp.models.base import BaseLM

    from .planted import Channel as Channel
    from .planted import Planted as Planted
    from .planted import PlantedVector as PlantedVector
    from .planted import channels as channels
    from .planted import concepts as concepts
    from .planted import counterfactual as counterfactual
    from .planted import expected_patterns as expected_patterns
    from .planted import fact as fact
    from .planted import fact_map as fact_map
    from .planted import flag_pair as flag_pair
    from .planted import flags as flags
    from .planted import gate_pairs as gate_pairs
    from .planted import gates as gates
    from .planted import induction as induction
    from .planted import pointer as pointer
    from .planted import pointer_pairs as pointer_pairs
    from .planted import prefix_score as prefix_score
    from .planted import repeated as repeated
    from .planted import rotary_channels as rotary_channels
    from .planted import sharpened as sharpened
    from .planted import tracker as tracker
    from .planted import tracker_desiderata as tracker_desiderata
    from .planted import tracker_pairs as tracker_pairs
    from .planted import uniform_score as uniform_score
    from .planted import window as window

_PLANTED = (
    "Channel", "Planted", "PlantedVector", "channels", "concepts", "counterfactual", "expected_patterns", "fact", "fact_map", "flag_pair",
    "flags", "gate_pairs", "gates", "induction", "laundry", "laundry_words", "pointer", "pointer_pairs", "prefix_score", "repeated",
    "rotary_channels", "sharpened", "tracker", "tracker_desiderata", "tracker_pairs", "uniform_score", "window",
)  # fmt: skip
_CHECKPOINTS = ("atlas", "atlas-tuned")

__all__ = ["as_lm", "concept_set", "facts", "labelled", "lexicon", "load", "names", "path", "task", "tasks", "text", *_PLANTED]  # fmt: skip


def names() -> list[str]:
    """Names of the embedded checkpoints."""
    return list(_CHECKPOINTS)


def path(name: str) -> Path:
    """Folder of an embedded checkpoint: inside the installed package, or `assets/reference` of a source checkout."""
    if name not in _CHECKPOINTS:
        raise BadInput(
            f"no reference checkpoint is called {name!r}; there are {listing(_CHECKPOINTS)}.{hint(name, _CHECKPOINTS)}"
        )
    package = Path(__file__).resolve().parents[2]
    places = [package / "assets" / "reference" / name, package.parent / "assets" / "reference" / name]
    for place in places:
        if (place / "config.json").is_file():
            return place
    raise CheckpointError(
        f"the files of {name!r} are not in this installation. Install the wheel again, or train them: "
        "`interp reference train -o DIR` (about an hour on two cores), then load DIR/" + name + "."
    )


def load(name: str = "atlas", **options: Any) -> "BaseLM":
    """Load an embedded checkpoint; the options are those of `interp.load`."""
    from interp.models.load import load as load_checkpoint

    path(name)  # a mistyped name is refused here, not looked up on the hub
    return load_checkpoint(name, **options)


def facts(name: str = "atlas", n: int | None = None) -> "Facts":
    """Facts that a reference checkpoint knows, each in a sentence that it was never taught with this subject.

    In one fixed random order, so that the first `n` are a fair sample of subjects, relations and wordings. Each has a span `subject`.
    """
    from interp import data
    from interp.core.seed import numpy_generator
    from interp.data.world import World

    path(name)
    rows = World.generate().facts(tuned=name == "atlas-tuned")
    order = numpy_generator(0, "reference facts").permutation(len(rows))[:n]
    named = [{"id": "{relation}-{entity}-{template}".format_map(rows[row]), **rows[row]} for row in order]
    return data.facts(named)


def text(name: str = "atlas", n: int = 120) -> list[str]:
    """Running prose of the reference world, as the checkpoint was trained on but drawn anew: `n` short texts."""
    from interp.data.world import World

    path(name)
    return World.generate().prose(n, tuned=name == "atlas-tuned", name="reference text")


def as_lm(planted: "Planted", **options: Any) -> "BaseLM":
    """A hand-wired model as an `LM`; `backend="transformer_lens"` (default) or "nnsight"."""
    from interp.models.load import wrap

    return wrap(planted.module, planted.tokenizer, planted.name, **options)


def __getattr__(name: str) -> Any:
    if name in _PLANTED or name == "planted":
        module = importlib.import_module("interp.models.reference.planted")
        return module if name == "planted" else getattr(module, name)
    raise AttributeError(f"module 'interp.models.reference' has no attribute {name!r}.{hint(name, __all__)}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
