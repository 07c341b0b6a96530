"""The five editing problems of Hase et al., from facts that a model knows.

    error_injection       raise P(o_false | s, r)              the usual benchmark: put a false fact in
    tracing_reversal      raise P(o_noise | s, r)              make the model say what it says when the subject is noised
    fact_erasure          lower P(o_true | s, r)               the loss is the probability itself
    fact_amplification    raise P(o_true | s, r)
    fact_forcing          raise P(o_true | s + noise, r)       make it know the fact although it cannot read the subject

Causal tracing restores o_true from a noised subject; fact forcing is the editing problem closest to what tracing does, error injection
the one that editing is used for. Source: Hase et al. 2023, "Does Localization Inform Editing?" (arXiv 2301.04213), section 4.

Deviations. o_noise is greedy, is the continuation only, and is as long as the true answer: the published target was sampled text
decoded together with the prompt and cut to twelve tokens in all, so it began with the prompt and often held no continuation.
Noise for evaluation is drawn apart from the noise that was edited under (`Request.held_noise`); theirs is one stream that the
editing advances.

Facts that a problem cannot be made of (noise does not take the answer away; no false answer is at hand) are left out and listed in
`.skipped`, never silently.

    requests = requests_for(lm, facts, "error_injection", seed=0)
    requests[0].target, requests.skipped
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp.core.errors import BadInput, SpanError, one_of
from interp.core.lm import LM
from interp.core.seed import generator, numpy_generator
from interp.data.prompts import Prompt
from interp.data.tokens import TokenPrompt, tokenize
from interp.data.world import RELATIONS

from ..tracing.corrupt import sigma_of
from .contexts import Item, Rows
from .editors import Objective, Request
from .prompts import in_world, neighbours, paraphrases, relation_of

SPARE = 4
"""Tokens that noise is drawn for beyond the subject's own: in another sentence a subject may be cut into more of them."""
TRIES = 10
"""Draws of noise that may be tried until the answer is gone."""


@dataclass(frozen=True)
class Problem:
    """One of the five problems."""

    objective: Objective
    """Raise or lower the target's probability."""
    target: str
    """Whose answer the target is: true, false, or noised (what the model says when the subject is noised)."""
    noised: bool = False
    """Whether the subject is noised while editing and while evaluating."""
    title: str = ""
    """What tables call it."""


PROBLEMS: dict[str, Problem] = {
    "error_injection": Problem("raise", "false", title="Error Injection"),
    "tracing_reversal": Problem("raise", "noised", title="Tracing Reversal"),
    "fact_erasure": Problem("lower", "true", title="Fact Erasure"),
    "fact_amplification": Problem("raise", "true", title="Fact Amplification"),
    "fact_forcing": Problem("raise", "true", noised=True, title="Fact Forcing"),
}


class Requests(list[Request]):
    """A list of requests that also knows which facts were left out."""

    skipped: tuple[str, ...] = ()
    """One message for each fact that no request could be made of."""


def requests_for(
    lm: LM,
    facts: Iterable[Prompt],
    problem: str,
    *,
    seed: int = 0,
    noise: float = 3.0,
    draws: int = 10,
    n_paraphrases: int = 1,
    n_neighbours: int = 1,
) -> Requests:
    """A request a fact. `noise` is in standard deviations of the subjects' embeddings, `draws` the number for fact forcing.

    A false answer is the prompt's `foil`, CounterFact's `target_new`, or by seed another answer of the same relation. Raises
    `BadInput` for an unknown problem, facts without answer or subject, and where no fact is left.
    """
    one_of("problem", problem, PROBLEMS)
    if draws < 1 or not noise > 0:
        raise BadInput(f"`draws` must be at least 1 and `noise` positive; not {draws} and {noise}.")
    prompts, chosen = list(facts), PROBLEMS[problem]
    if not prompts:
        raise BadInput("there are no facts to edit. Give at least one.")
    read = [_read(lm, prompt) for prompt in prompts]
    scale = 0.0
    if chosen.noised or chosen.target == "noised":
        scale = noise * sigma_of(lm, "subjects", read)
    made, skipped = Requests(), []
    for prompt, tokens in zip(prompts, read, strict=True):
        near: dict[str, Any] = {
            "paraphrases": paraphrases(prompt, prompts, count=n_paraphrases, seed=seed),
            "neighbours": neighbours(prompt, prompts, count=n_neighbours, seed=seed),
        }
        try:
            target = _target(lm, prompt, tokens, prompts, chosen, seed, scale)
        except BadInput as error:
            skipped.append(f"{prompt.id}: {error}")
            continue
        if chosen.noised:
            near["noise"] = _draw(tokens, lm.spec.d_model, draws, scale, seed, "editing noise")
            near["held_noise"] = _draw(tokens, lm.spec.d_model, draws, scale, seed, "evaluation noise")
        if isinstance(target, str):
            made.append(Request.of(lm, prompt, target, objective=chosen.objective, problem=problem, **near))
        else:
            text = lm.tokenizer.decode(target)
            made.append(Request(prompt, text, target, chosen.objective, problem=problem, **near))
    if not made:
        raise BadInput(f"no request for {problem} can be made of these {len(prompts)} facts. The first: {skipped[0]}")
    made.skipped = tuple(skipped)
    return made


def _read(lm: LM, prompt: Any) -> TokenPrompt:
    if not isinstance(prompt, Prompt):
        raise BadInput(
            f"editing needs prompts with a subject and an answer; not {prompt!r:.100}. Use `interp.data.facts`."
        )
    if prompt.answer is None:
        raise BadInput(
            f"the fact {prompt.text!r} has no answer. Build it with Prompt.of(text, answer=..., subject=...)."
        )
    if "subject" not in prompt.spans:
        raise SpanError(
            f"the fact {prompt.text!r} marks no subject. Build it with Prompt.of(text, answer=..., subject=...)."
        )
    return tokenize(prompt, lm.tokenizer, answers="whole", n_ctx=lm.spec.n_ctx)


def _target(
    lm: LM, prompt: Prompt, tokens: TokenPrompt, facts: Sequence[Prompt], problem: Problem, seed: int, scale: float
) -> str | tuple[int, ...]:
    if problem.target == "true":
        assert prompt.answer is not None
        return prompt.answer
    if problem.target == "false":
        return false_answer(prompt, facts, seed=seed)
    noise = _draw(tokens, lm.spec.d_model, TRIES, scale, seed, "target noise")
    for draw in noise:
        ids = noised_answer(lm, tokens, draw)
        if ids != tokens.answer_ids:
            return ids
    raise BadInput(f"the answer survives {TRIES} draws of noise. Use more `noise`.")


def false_answer(prompt: Prompt, facts: Sequence[Prompt] = (), *, seed: int = 0) -> str:
    """A wrong answer: the prompt's foil, CounterFact's `target_new`, or by seed another answer of its relation. Raises `BadInput`."""
    true = str(prompt.answer).strip()
    given = prompt.foil if prompt.foil is not None else prompt.meta.get("target_new")
    given = given.get("str") if isinstance(given, dict) else given
    if isinstance(given, str) and given.strip():
        if given.strip() == true:
            raise BadInput(f"the false answer of {prompt.text!r} is its true one, {given!r}. Give it another `foil`.")
        return given
    relation = relation_of(prompt)
    if in_world(prompt):
        answers = {" " + one for one in RELATIONS[relation]}
    else:
        answers = {str(one.answer) for one in facts if relation is not None and relation_of(one) == relation}
    others = sorted(one for one in answers if one.strip() != true)
    if not others:
        raise BadInput(
            f"no false answer is at hand for {prompt.text!r}: it has no foil, and no other fact has its relation ({relation!r}). "
            "Give the prompt a `foil`."
        )
    return others[int(numpy_generator(seed, "false answer", prompt.id).integers(len(others)))]


@torch.no_grad()
def noised_answer(lm: LM, tokens: TokenPrompt, noise: Tensor) -> tuple[int, ...]:
    """What the model goes on with, greedily, when `noise` [token, d_model] is on the subject; as many tokens as the true answer has."""
    found: tuple[int, ...] = ()
    for _ in range(max(1, len(tokens.answer_ids))):
        rows = Rows.of([Item(tokens, (*found, 0), noise=noise)], lm.spec.d_model)
        found = (*found, int(lm.run(rows.batch, edits=rows.edits).last_logits[0].argmax()))
    return found


def _draw(tokens: TokenPrompt, d_model: int, draws: int, scale: float, seed: int, name: str) -> Tensor:
    """Noise for a subject, [draw, token, d_model]."""
    start, end = tokens.spans["subject"]
    rng = generator(seed, name, tokens.id)
    return scale * torch.randn(draws, end - start + SPARE, d_model, generator=rng)
