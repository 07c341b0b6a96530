"""What a study asks of every model of one concept, prepared once: questions in all their wordings, texts to keep, a first snapshot."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from interp.core.errors import BadInput
from interp.core.lm import LM
from interp.core.seed import numpy_generator
from interp.data.concepts import Concept, Concepts
from interp.data.prompts import Prompt

from ..asking import Forward, Questions, own_answers
from ..jailbreaks import Jailbroken, jailbroken


@dataclass(frozen=True, eq=False)
class Asked:
    """The questions of one group, in every way of asking, with a decoy beside each answer."""

    prompts: tuple[Prompt, ...]
    ways: tuple[str, ...]
    skipped: dict[str, str]
    questions: Questions
    where: np.ndarray
    """(way, prompt) of each row of `questions`, [row, 2]."""

    def read(self, forward: Forward) -> dict[str, np.ndarray]:
        """prob, top, decoy_prob, decoy_top [way, prompt]; NaN where a question cannot be asked in that way."""
        scores = self.questions.read(forward)
        found = {}
        for name, values in (("prob", scores.prob), ("top", scores.top)):
            for column, prefix in enumerate(("", "decoy_")):
                table = np.full((len(self.ways), len(self.prompts)), np.nan)
                table[self.where[:, 0], self.where[:, 1]] = values[:, column]
                found[prefix + name] = table
        return found


def asked(
    lm: LM, prompts: Sequence[Prompt], concept: Concept, others: Sequence[str], *, names: Sequence[str], seed: int
) -> Asked:
    """Questions with answers, in the ways of `names` and plain."""
    made: Jailbroken = jailbroken(lm, prompts, concept, others=others, names=names, seed=seed)
    wrong = decoys(prompts, seed)
    rows = [
        (way, place, prompt)
        for way, asked_so in enumerate(made.prompts.values())
        for place, prompt in enumerate(asked_so)
        if prompt is not None
    ]
    questions = Questions(
        lm, [prompt for *_, prompt in rows], [(prompt.answer, wrong[place]) for _, place, prompt in rows]
    )
    where = np.array([(way, place) for way, place, _ in rows])
    return Asked(tuple(prompts), tuple(made.prompts), dict(made.skipped), questions, where)


def decoys(prompts: Sequence[Prompt], seed: int) -> list[str | None]:
    """For each prompt the answer of another one of its group, by seed; None where all have the same answer."""
    found: list[str | None] = []
    for prompt in prompts:
        others = sorted({str(one.answer) for one in prompts if one.answer not in (prompt.answer, prompt.foil)})
        rng = numpy_generator(seed, "decoy", prompt.id)
        found.append(others[int(rng.integers(len(others)))] if others else None)
    return found


def with_answers(lm: LM, concept: Concept, limit: int) -> tuple[Concept, list[str]]:
    """The concept with up to `limit` related and unrelated prompts, each with an answer; and the ids of those the model is silent on.

    A prompt without a gold answer takes the first words of the model's own. Raises `BadInput` where no related prompt is left.
    """
    related, silent = own_answers(lm, concept.related[:limit])
    unrelated, mute = own_answers(lm, concept.unrelated[:limit])
    if not related:
        raise BadInput(
            f"the concept {concept.name!r} has {len(concept.related)} questions, and none with an answer. Give `QA` (and `answers`)."
        )
    if not unrelated:
        raise BadInput(
            f"the concept {concept.name!r} has no unrelated questions, so nobody can see what else a method breaks. Give `unrelated_QA`."
        )
    return replace(concept, related=tuple(related), unrelated=tuple(unrelated)), [*silent, *mute]


def split_others(concepts: Concepts, name: str) -> tuple[list[str], list[str]]:
    """The texts of all other concepts, each once, every other one: what methods may train on to keep, and what they never see.

    Texts that the concept has, too, are neither. A single text is both, since there is no other.
    """
    own = set(concepts.get(name).texts)
    texts = [text for text in dict.fromkeys(concepts.others(name)) if text not in own]
    if not texts:
        raise BadInput(
            f"every text of the other concepts is one of {name!r}, too, so there is nothing to keep. Give texts of their own."
        )
    return texts[::2], texts[1::2] or texts


def former(lm: LM, prompts: Sequence[Prompt]) -> Questions | None:
    """For prompts with a former answer (`foil`): the alternatives former, then every other candidate but the present answer.

    Candidates are all answers and foils of the group; the columns of a prompt are its own former answer and the others in a fixed order,
    padded with None. None where no prompt has a foil, or there are fewer than three candidates.
    """
    candidates = sorted(
        {str(answer) for prompt in prompts for answer in (prompt.answer, prompt.foil) if answer is not None}
    )
    if not any(prompt.foil for prompt in prompts) or len(candidates) < 3:
        return None
    rows: list[list[str | None]] = []
    for prompt in prompts:
        if prompt.foil is None:
            rows.append([None] * (len(candidates) - 1))
            continue
        rest: list[str | None] = [one for one in candidates if one not in (prompt.answer, prompt.foil)]
        rows.append([prompt.foil, *rest, *[None] * (len(candidates) - 2 - len(rest))])
    return Questions(lm, prompts, rows)
