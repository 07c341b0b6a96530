"""Tasks that the embedded checkpoints can do, in the wording of their world and with words that were held out.

    from interp.models import reference
    reference.tasks("atlas")                           # ('ioi', 'laundry_list', 'facts', 'induction')
    task = reference.task("atlas", "ioi", 12)          # pairs, as `interp.data.tasks.named` makes them for other models
    reference.task("atlas", "laundry_list", 12, items=3).chance

People, and things on lists, are names that no training sentence contains; facts are asked in wordings not taught with their
subject. Entity tracking, agreement and years are not among them: these checkpoints were never shown such texts and answer by chance.
"""

from typing import TYPE_CHECKING, Any

from interp.core.errors import one_of
from interp.core.seed import numpy_generator

if TYPE_CHECKING:
    from interp.data import Task
    from interp.data.tasks import Lexicon

TASKS = ("ioi", "laundry_list", "facts", "induction")


def tasks(name: str = "atlas") -> tuple[str, ...]:
    """Names of the tasks that a reference checkpoint can do."""
    from . import path

    path(name)
    return TASKS


def task(name: str = "atlas", task: str = "ioi", n: int = 100, seed: int = 0, **options: Any) -> "Task":
    """`n` pairs of a task for a reference checkpoint; `options` are the task's own (`order`, `items`, ...)."""
    from interp.data import tasks as made
    from interp.data.world import World
    from interp.models.tokenizer import load_tokenizer

    from . import facts, path

    one_of("task", task, tasks(name))
    world = World.generate()
    tokenizer = load_tokenizer(path(name), name, rows=world.vocab_size)
    if task == "facts":
        made.check_options("facts", made.facts_swapped, options)
        known = facts(name)
        order = numpy_generator(seed, "reference task").permutation(len(known))
        return made.facts_swapped([known[row] for row in order], tokenizer, n=n, seed=seed)
    return made.named(task, tokenizer, n=n, seed=seed, lexicon=lexicon(name, task), **options)


def lexicon(name: str, task: str) -> "Lexicon | None":
    """The held-out words and the wording of a task for a reference checkpoint; None where the task needs none."""
    from interp.data import tasks as made
    from interp.data.world import World, templates
    from interp.data.world.lexicon import PLACES

    one_of("task", task, tasks(name))
    world = World.generate()
    words: dict[str, Any] = {
        "ioi": {"names": world.names["heldout"], "objects": world.objects["train"], "places": tuple(PLACES)},
        "laundry_list": {"objects": world.objects["heldout"]},
    }
    forms = {"ioi": templates.INDIRECT, "laundry_list": templates.LISTS}
    return made.Lexicon(**words[task], templates={task: forms[task]}) if task in words else None
