"""Which point of a grid is steered to: with the answer known, and without. Plain arrays, one length of list at a time.

Point 0 is the untouched run. What is learned (the regions, the best points) is learned on the training half of the prompts; every rule is
then applied to all prompts and must be judged on the other half. What a rule may look at is its `KNOWS`:

    unsteered         nothing            point 0
    oracle region     answer             the region of the right answer: where the reader, on training prompts, looks most at that place
    oracle point      answer             the point that answered best on training prompts with the right answer in that place
    hindsight         outcome            any point at which this very prompt is answered rightly: what a grid of tries would reach at most
    single point      training answers   one point for all prompts, that which answered the training prompts best
    own attention     model              the region of the thing that the untouched reader looks at most
    own answer        model              the region of the thing that the untouched model finds most probable
    self-consistent   model              of all regions the one whose thing the model, steered there, finds most probable
    second list       task               the region of the thing that no later token repeats, read off the tokens

The last one is told how the task is done; where prompts are what they should be it *is* the oracle, and its accuracy is no finding about
the model. Where a thing has no region the prompt stays untouched.
"""

import numpy as np

from ..steering.steer_result import MARGIN

RULES = (
    "unsteered", "oracle region", "oracle point", "hindsight", "single point", "own attention", "own answer", "self-consistent",
    "second list",
)  # fmt: skip
KNOWS = ("nothing", "answer", "answer", "outcome", "training answers", "model", "model", "model", "task")
"""What each of `RULES` looks at, of the prompt that is steered."""


def regions(attention: np.ndarray, margin: float = MARGIN) -> np.ndarray:
    """The point for each listed thing [item] from the reader's attention [prompt, point, item]; -1 where there is none.

    It is the point at which the mean attention to the thing exceeds that to every other one by most, if it does by more than `margin`.
    """
    mean = attention.astype(float).mean(axis=0)  # [point, item]
    lead = np.empty_like(mean)
    for item in range(mean.shape[1]):
        lead[:, item] = mean[:, item] - np.delete(mean, item, axis=1).max(axis=1)
    best = lead.argmax(axis=0)
    return np.where(lead[best, np.arange(len(best))] > margin, best, -1)


def best_point(logprob: np.ndarray, missing: np.ndarray) -> int:
    """The point at which most prompts are answered rightly among the things listed; of several, the one that is surest; else the first.

    `logprob` [prompt, point, item], `missing` [prompt].
    """
    right = np.take_along_axis(logprob, missing[:, None, None], axis=2)[..., 0]  # [prompt, point]
    accuracy = (logprob.argmax(axis=2) == missing[:, None]).mean(axis=0)
    sure = (right - _total(logprob)).mean(axis=0)
    best = np.flatnonzero(accuracy >= accuracy.max() - 1e-12)
    return int(best[sure[best].argmax()])


def choose(
    attention: np.ndarray,
    logprob: np.ndarray,
    answered: np.ndarray,
    *,
    missing: np.ndarray,
    unrepeated: np.ndarray,
    train: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The point that each rule steers each prompt to, [prompt, rule], and the region of each thing [item] (-1: none).

    `attention`, `logprob` [prompt, point, item]; `answered` [prompt, point], `missing` and `unrepeated` (-1: unknown) [prompt] are places
    in the list; `train` is bool.
    """
    n, items = len(missing), attention.shape[2]
    region = regions(attention[train])
    untouched = np.zeros(n, dtype=int)

    def at(things: np.ndarray) -> np.ndarray:
        points = region[things]
        return np.where((things >= 0) & (points >= 0), points, 0)

    points = np.array(
        [best_point(logprob[train & (missing == item)], missing[train & (missing == item)]) for item in range(items)]
    )
    single = best_point(logprob[train], missing[train])
    reached = np.where(region >= 0, region, 0)
    share = (
        logprob[:, reached, np.arange(items)] - _total(logprob)[:, reached]
    )  # [prompt, item]: of each thing in its own region
    share = np.where(region >= 0, share, -np.inf)
    consistent = at(share.argmax(axis=1)) if (region >= 0).any() else untouched
    chosen = {
        "unsteered": untouched,
        "oracle region": at(missing),
        "oracle point": points[missing],
        "hindsight": _hindsight(logprob, answered, missing),
        "single point": np.full(n, single),
        "own attention": at(attention[:, 0].argmax(axis=1)),
        "own answer": at(logprob[:, 0].argmax(axis=1)),
        "self-consistent": consistent,
        "second list": at(unrepeated),
    }
    return np.stack([chosen[rule] for rule in RULES], axis=1), region


def _hindsight(logprob: np.ndarray, answered: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """A point at which the right answer is the best token of all; where there is none, at which it is the best thing listed; else at which
    it is nearest to that. Untouched, if that is as good [prompt]."""
    right = np.take_along_axis(logprob, missing[:, None, None], axis=2)[..., 0]
    others = np.where(np.arange(logprob.shape[2]) == missing[:, None, None], -np.inf, logprob).max(axis=2)
    lead = right - others  # [prompt, point]
    rank = (lead > 0).astype(int) + (answered == missing[:, None])  # 2: of all, 1: of the list
    best = np.where(rank == rank.max(axis=1, keepdims=True), lead, -np.inf)
    return np.where(rank[:, 0] == rank.max(axis=1), 0, best.argmax(axis=1))


def _total(logprob: np.ndarray) -> np.ndarray:
    """Log-probability of all listed things together, [prompt, point]."""
    return np.logaddexp.reduce(logprob.astype(float), axis=2)
