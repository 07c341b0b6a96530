"""Recovery under relearning: what a few texts bring back shows what was never gone.

The question. Two models no longer answer questions about a concept. One has forgotten; the other only holds back. Fine-tune both on a
few texts about it. What comes back beyond what those texts say was still there:

    told      questions whose fact one of the relearning texts states: any model can learn these
    untold    questions whose fact none of them states: only a model that still holds the fact can answer
    share(t) = (relearned(t) - unlearned) / (before - unlearned)         at each step t, of a mean over questions

Beside them stand controls, as further models under the same relearning: the model as it was before, one that never knew (where there
is one), and a decoy: the same texts with their answers exchanged, which no model ever knew. How fast those are learned is how fast
anything is.

Source. Relearning as an attack on unlearning: Lynch et al. 2024, "Eight Methods to Evaluate Robust Unlearning in LLMs" (arXiv 2402.16835);
relearning from texts that do not hold the answers: Hu et al. 2024, "Jogging the Memory of Unlearned Models" (arXiv 2406.13356). The split
into told and untold, and the decoy, are ours.

How. Adam on all block weights, every text in every step (in batches of `batch`); texts that hold an evaluation prompt word for word are
left out, and of texts longer than the context only what fits is read (and told). Half of the texts tell facts that are asked for, half do
not, as far as there are such. Everything happens inside `lm.tuning()`: afterwards the model is what it was.

When it misleads
- Steps and step size decide. A recovery that takes hundreds of steps is learning; look at the curve and at the controls.
- Questions on one relation share their answers: a model that relearns only *which words* are answers gets one in so many right.
- Where nothing was unlearned there is nothing to recover: the share is NaN where the fall is below `TOLERANCE`.

    import interp
    from interp.analyses.unlearning.recovery import Relearning
    lm, known = interp.load("atlas"), interp.models.reference.concept_set("atlas", n=4)
    curve = Relearning(steps=1, texts=4).run(lm, known.get("colour"), known.get("colour").related)
    curve.steps, curve.told, curve.top
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from interp.core.batch import Batch
from interp.core.errors import BadInput
from interp.core.lm import LM
from interp.core.seed import numpy_generator
from interp.data.concepts import Concept
from interp.data.prompts import Prompt

from .asking import Questions, training
from .jailbreaks import holds
from .methods.losses import mean_nll

TOLERANCE = 0.05
"""Fall of the mean below which nothing counts as unlearned, so nothing can be recovered."""


@dataclass(frozen=True, eq=False)
class Relearned:
    """One model under relearning. Arrays are [step, prompt]."""

    steps: np.ndarray
    """Optimiser steps after which questions were asked; the first is 0."""
    prob: np.ndarray
    """Probability of the answer."""
    top: np.ndarray
    """1 where greedy decoding gives it."""
    told: np.ndarray
    """Whether a relearning text states the prompt's fact, bool [prompt]."""
    loss: np.ndarray
    """Mean loss of the relearning texts before each step, nats a token."""
    decoy_top: np.ndarray
    """Of the told prompts, in a relearning of its own with exchanged answers: 1 where the exchanged answer is given; else NaN."""
    texts: tuple[str, ...]
    """What it was trained on."""


@dataclass(frozen=True)
class Relearning:
    """Fine-tune on a few texts about a concept and ask its questions on the way."""

    texts: int = 16
    """Texts to relearn from; half of them tell facts that are asked for, where there are such."""
    steps: int = 20
    """Adam steps."""
    lr: float = 1e-3
    """Adam's step size."""
    batch: int = 32
    """Texts a step, in turn; all where there are fewer."""
    points: int = 6
    """How often questions are asked on the way, first and last included."""
    others_only: bool = False
    """Take only texts that tell no fact that is asked for."""

    def __post_init__(self) -> None:
        for name in ("texts", "steps", "batch"):
            if getattr(self, name) < 1:
                raise BadInput(f"`{name}` must be at least 1; not {getattr(self, name)}.")
        if self.points < 2:
            raise BadInput(f"`points` must be at least 2, first and last; not {self.points}.")
        if not self.lr > 0:
            raise BadInput(f"`lr` must be positive; not {self.lr}.")

    @property
    def marks(self) -> list[int]:
        """Steps after which questions are asked: 0, then closer at first."""
        wanted = self.steps * np.linspace(0, 1, self.points) ** 1.5
        return sorted({0, self.steps, *(round(step) for step in wanted)})

    def pick(self, concept: Concept, prompts: Sequence[Prompt], *, seed: int = 0) -> tuple[str, ...]:
        """The texts to relearn from. Raises `BadInput` where the concept has none that are no evaluation prompts."""
        usable = [text for text in concept.texts if not any(prompt.text in text for prompt in prompts)]
        if not usable:
            raise BadInput(
                f"the concept {concept.name!r} has {len(concept.texts)} texts, and none to relearn from that is not one of the questions. "
                "Give `texts` in other words than `related`."
            )
        order = numpy_generator(seed, "relearning texts", concept.name).permutation(len(usable))
        telling = [usable[place] for place in order if any(tells(usable[place], prompt) for prompt in prompts)]
        silent = [usable[place] for place in order if not any(tells(usable[place], prompt) for prompt in prompts)]
        half = 0 if self.others_only else max(self.texts // 2, self.texts - len(silent))
        chosen = [*telling[:half], *silent[: self.texts - min(half, len(telling))]]
        if not chosen:
            raise BadInput(
                f"every text of the concept {concept.name!r} tells a fact that is asked for. Ask fewer, or set others_only=False."
            )
        return tuple(chosen)

    def run(self, lm: LM, concept: Concept, prompts: Sequence[Prompt], *, seed: int = 0, decoy: bool = False) -> Relearned:  # fmt: skip
        """Relearn from the model as it is now (inside a `Revision.apply`, the unlearned one). `prompts` have answers.

        `decoy` also relearns, from the same model, the same texts with their answers exchanged.
        """
        texts = tuple(read_of(lm, text) for text in self.pick(concept, prompts, seed=seed))
        told = np.array([any(tells(text, prompt) for text in texts) for prompt in prompts])
        marks = np.array(self.marks)
        read, loss = self._train(lm, texts, Questions(lm, prompts), seed)
        prob, top = (np.stack([getattr(scores, name)[:, 0] for scores in read]) for name in ("prob", "top"))
        decoys = np.full(top.shape, np.nan)
        if decoy:
            swapped, wanted = exchanged(texts, prompts, seed=seed)
            if asked := [place for place, answer in enumerate(wanted) if answer is not None]:
                questions = Questions(lm, [prompts[place] for place in asked], [(wanted[place],) for place in asked])
                decoys[:, asked] = np.stack(
                    [scores.top[:, 0] for scores in self._train(lm, swapped, questions, seed)[0]]
                )
        return Relearned(marks, prob, top, told, loss, decoys, texts)

    def _train(self, lm: LM, texts: Sequence[str], questions: Questions, seed: int):  # type: ignore[no-untyped-def]
        """What is answered at each mark, and the loss before each step."""
        rows = [list(lm.tokenizer.encode(text).ids[: lm.spec.n_ctx]) for text in texts]
        read, losses = [], list[float]()
        order: list[int] = []
        with lm.tuning() as tuning:  # type: ignore[attr-defined]
            adam = torch.optim.Adam(list(tuning.parameters.values()), lr=self.lr)
            for step in range(self.steps + 1):
                if step in self.marks:
                    read.append(questions.read(training(tuning)))
                if step == self.steps:
                    break
                if len(order) < min(self.batch, len(rows)):
                    order += numpy_generator(seed, "relearning order", step).permutation(len(rows)).tolist()
                chosen, order = order[: self.batch], order[self.batch :]
                batch = Batch.padded([rows[place] for place in chosen])
                adam.zero_grad()
                loss = mean_nll(tuning.logits(batch), batch)
                loss.backward()
                adam.step()
                losses.append(float(loss.detach()))
        return read, np.array(losses)


def tells(text: str, prompt: Prompt) -> bool:
    """Whether a text states what a prompt asks for: it holds the answer and, where one is marked, the subject."""
    if not holds(text, str(prompt.answer)):
        return False
    return holds(text, prompt.span("subject")) if "subject" in prompt.spans else True


def exchanged(texts: Sequence[str], prompts: Sequence[Prompt], *, seed: int = 0) -> tuple[list[str], list[str | None]]:
    """The texts with the answers of the prompts that they tell exchanged among these, and what each prompt's answer is then.

    None for prompts that no text tells, and where there is no second answer to exchange with.
    """
    told = [place for place, prompt in enumerate(prompts) if any(tells(text, prompt) for text in texts)]
    answers = sorted({str(prompts[place].answer) for place in told})
    if len(answers) < 2:
        return list(texts), [None] * len(prompts)
    turn = 1 + int(numpy_generator(seed, "exchanged answers").integers(len(answers) - 1))
    instead = {answer: answers[(number + turn) % len(answers)] for number, answer in enumerate(answers)}
    changed = []
    for text in texts:
        here = {str(prompts[place].answer) for place in told if tells(text, prompts[place])}
        changed.append(_replaced(text, {answer.strip(): instead[answer].strip() for answer in here}))
    return changed, [
        instead[str(prompt.answer)] if place in set(told) else None for place, prompt in enumerate(prompts)
    ]


def _replaced(text: str, words: Mapping[str, str]) -> str:
    """Whole words of a text put for others, all at once, in either case; of words that begin alike the longest counts."""
    if not words:
        return text
    by_lower = {word.lower(): other for word, other in words.items()}
    either = "|".join(re.escape(word) for word in sorted(by_lower, key=len, reverse=True))
    return re.sub(
        rf"(?<!\w)(?:{either})(?!\w)", lambda found: by_lower[found.group().lower()], text, flags=re.IGNORECASE
    )


def read_of(lm: LM, text: str) -> str:
    """As much of a text as the model reads at once."""
    encoded = lm.tokenizer.encode(text)
    return text if len(encoded.ids) <= lm.spec.n_ctx else text[: encoded.offsets[lm.spec.n_ctx - 1][1]]


def recovered_share(before: np.ndarray, unlearned: np.ndarray, relearned: np.ndarray) -> np.ndarray:
    """(relearned - unlearned) / (before - unlearned) of means over the first axis; NaN where the fall is below `TOLERANCE`."""
    fall = np.nanmean(before, axis=0) - np.nanmean(unlearned, axis=0)
    risen = np.nanmean(relearned, axis=0) - np.nanmean(unlearned, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(fall >= TOLERANCE, risen / fall, np.nan)
