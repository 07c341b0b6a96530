"""By what evidence is a prompt answered: recall of a fact, a heuristic, a guess, or plain language modelling?

The question. A right answer is not yet a recalled fact. A model may say "Italian" because the name sounds so, repeat a word of the subject,
or give what is most frequent after these words whoever the subject is. Averages of causal tracing over such a mixture describe none of
its parts, so every tracing result can be split by these labels (`trace.by_role(split="scenario")`).

How. Yes-or-no features of each prompt, and a table of rules:

    fact         it has a subject and an answer (else it is running text)
    confident    the prediction is among the `top_k` of at least `agree` of the wordings: the prompt and its paraphrases
                 (running text: its probability is at least `sure`)
    overlap      the predicted object and the subject share a word, or four or more first letters
    name bias    the name alone predicts it ("X is a common name in")
    prompt bias  the prompt predicts it with the subject blanked ("It is in the city of")
    correct      the prediction is the answer
    popular      the subject has more than `popular` page views, where the data say

    running text, confident                                         generic
    a fact, not confident                                           guesswork
    a fact, confident, any of overlap, name bias, prompt bias       heuristics
    a fact, confident, none of them, correct, popular or not said   exact recall
    everything else, and facts with too few wordings to tell        unassigned

Paraphrases are those in the prompt's `meta["paraphrases"]` and the other wordings of its relation (`meta["relation"]`) in the data, with
this subject put in. The features are published beside the label.

Source. PrISM, "Fact Recall, Heuristics or Pure Guesswork?" (arXiv 2410.14405), from its description; its code was not read, so the
templates and thresholds here are options, not its values.

When it misleads. Labels belong to one model. Thresholds set the balance of the classes. A heuristic that is not listed passes as recall.
Popularity differs between the classes and confounds what they are compared on. Blanks ("It", "They") change grammar as well as subject.

    labels = ScenarioLabels()(lm, facts[:8])
    labels.counts()                            # prompts of each label
    trace = interp.CausalTrace(window=1, kinds=("mlp",), noise_samples=2)(lm, facts[:8])
    parts = trace.split(labels)                # a result for each label
    trace.with_labels(labels).by_role(split="scenario", known=False)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import xarray as xr

from interp.core.analysis import Analysis, Cost, Result
from interp.core.batch import Batch
from interp.core.errors import BadInput
from interp.core.progress import track
from interp.core.seed import generator
from interp.data.prompts import Prompt
from interp.data.tokens import tokenize

from .tracing.jobs import unique_ids

if TYPE_CHECKING:
    from interp.core.lm import LM

SCENARIOS = ("exact recall", "heuristics", "guesswork", "generic", "unassigned")
FEATURES = ("fact", "confident", "overlap", "name_bias", "prompt_bias", "correct")
LETTERS = 4
"""First letters that two words must share to look alike."""


def label_of(*, fact: bool, confident: bool | None, heuristic: bool, correct: bool, popular: bool | None) -> str:
    """The rule table. `confident=None` is not known (too few wordings), `popular=None` is not said by the data."""
    if confident is None:
        return "unassigned"
    if not fact:
        return "generic" if confident else "unassigned"
    if not confident:
        return "guesswork"
    if heuristic:
        return "heuristics"
    return "exact recall" if correct and popular is not False else "unassigned"


class ScenarioResult(Result):
    """A label and its features for every prompt.

    data (dim prompt): label (str, one of `SCENARIOS`); fact, confident, overlap, name_bias, prompt_bias, correct (bool); agreement (share
        of wordings whose top k hold the prediction; for running text its probability), wordings (how many), probability (of the
        prediction), popularity (NaN where not said).
    coords: prompt (ids), subject, answer (as given), predicted (token label).
    """

    figure: ClassVar[str] = "scenarios"
    main: ClassVar[str] = "agreement"

    def counts(self) -> dict[str, int]:
        """Prompts of each label, in the order of `SCENARIOS`."""
        labels = self.data["label"].values.tolist()
        return {name: labels.count(name) for name in SCENARIOS}

    def shares(self) -> xr.DataArray:
        """Share of the prompts of each label that have each feature, [label, feature]; NaN for labels that do not occur."""
        labels = self.data["label"].values
        table = np.full((len(SCENARIOS), len(FEATURES)), np.nan)
        for row, name in enumerate(SCENARIOS):
            if (labels == name).any():
                table[row] = [self.data[feature].values[labels == name].mean() for feature in FEATURES]
        return xr.DataArray(table, {"label": list(SCENARIOS), "feature": list(FEATURES)}, ("label", "feature"))

    def headline(self) -> dict[str, float]:
        """Shares of exact recall, heuristics and guesswork."""
        counts, total = self.counts(), self.data.sizes["prompt"]
        return {f"{name} (of {total})": counts[name] / total for name in SCENARIOS[:3]}


@dataclass(frozen=True)
class ScenarioLabels(Analysis[ScenarioResult]):
    """Label prompts by the evidence that the model answers them on."""

    top_k: int = 3
    """A wording agrees when the prediction is among its so many most probable tokens."""
    agree: float = 0.5
    """Share of the wordings that must agree for the model to count as confident."""
    least_wordings: int = 3
    """Wordings, the prompt among them, below which confidence in a fact cannot be told."""
    paraphrases: int = 9
    """Other wordings of a prompt, at most; drawn at random where there are more."""
    sure: float = 0.5
    """Probability of the prediction from which running text counts as confident."""
    names: tuple[str, ...] = ("{} is a common name in", "The name {} is mostly used in")
    """Prompts that give the name alone, with {} for the subject."""
    blanks: tuple[str, ...] = ("it", "they", "this one")
    """Words that blank the subject; the prompt is biased when at least half of them leave the prediction in the top k."""
    popular: float = 1000.0
    """Page views above which a subject is well known."""
    popularity: str = "popularity"
    """Field of a prompt's `meta` that holds the page views."""
    bos: bool | None = None
    """Put a BOS before each prompt; None follows the model's tokenizer."""
    batch_tokens: int = 2048
    """Tokens in one forward pass."""
    seed: int = 0
    """Seed of the choice among paraphrases."""

    def __post_init__(self) -> None:
        for name in ("names", "blanks"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        for name in ("top_k", "least_wordings", "batch_tokens"):
            if getattr(self, name) < 1:
                raise BadInput(f"`{name}` must be at least 1; not {getattr(self, name)}.")
        for name in ("agree", "sure"):
            if not 0 < getattr(self, name) <= 1:
                raise BadInput(f"`{name}` must be more than 0 and at most 1; not {getattr(self, name)}.")
        if bad := [name for name in self.names if name.count("{}") != 1]:
            raise BadInput(f"every one of `names` must hold {{}} once, for the subject; {bad[0]!r} does not.")

    def check(self, lm: "LM", data: Any) -> None:
        """Refuse what is no list of prompts, and prompts that the model cannot read."""
        for prompt in self._prompts(data):
            tokenize(prompt, lm.tokenizer, bos=self.bos, answers="first", n_ctx=lm.spec.n_ctx)

    def run(self, lm: "LM", data: Any, store: Any = None) -> ScenarioResult:
        """Ask the model every wording once, then apply the rules."""
        prompts = self._prompts(data)
        asked = [self._questions(prompt, prompts) for prompt in prompts]
        top = self._top(
            lm, list(dict.fromkeys(text for questions in asked for part in questions.values() for text in part))
        )
        rows = [self._row(lm, prompt, questions, top) for prompt, questions in zip(prompts, asked, strict=True)]
        columns = {name: ("prompt", [row[name] for row in rows]) for name in rows[0]}
        coords = {
            "prompt": unique_ids([prompt.id for prompt in prompts]),
            "subject": ("prompt", [prompt.span("subject") if "subject" in prompt.spans else "" for prompt in prompts]),
            "answer": ("prompt", [prompt.answer or "" for prompt in prompts]),
            "predicted": columns.pop("predicted"),
        }
        return ScenarioResult(xr.Dataset(columns, coords))

    def cost(self, lm: "LM", data: Any = None) -> Cost:
        """One forward pass a different wording."""
        prompts = self._prompts(data)
        texts = {text for prompt in prompts for part in self._questions(prompt, prompts).values() for text in part}
        tokens = sum(len(lm.tokenizer.encode(text, bos=self.bos).ids) for text in texts)
        return Cost(float(len(texts)), tokens, self.batch_tokens * lm.spec.vocab * lm.spec.bytes_per_value)

    def _prompts(self, data: Any) -> list[Prompt]:
        items = [data] if isinstance(data, Prompt) else list(data or ())
        if not items:
            raise BadInput("there are no prompts to label. Give at least one.")
        for item in items:
            if not isinstance(item, Prompt):
                raise BadInput(
                    f"scenario labels need prompts; not {item!r:.100}. Build them with Prompt.of(text, subject=...)."
                )
        return items

    def _questions(self, prompt: Prompt, prompts: Sequence[Prompt]) -> dict[str, list[str]]:
        """The texts that are asked for one prompt: itself, other wordings, the name alone, the subject blanked."""
        questions: dict[str, list[str]] = {"own": [prompt.text], "other": [], "name": [], "blank": []}
        if "subject" in prompt.spans:
            subject = prompt.span("subject")
            questions["other"] = self._wordings(prompt, subject, prompts)
            questions["name"] = [template.replace("{}", subject) for template in self.names]
            begins = prompt.spans["subject"][0] == 0
            blanks = [blank[0].upper() + blank[1:] if begins else blank for blank in self.blanks]
            questions["blank"] = [prompt.swap(subject=blank).text for blank in blanks]
        return questions

    def _wordings(self, prompt: Prompt, subject: str, prompts: Sequence[Prompt]) -> list[str]:
        given = prompt.meta.get("paraphrases", ())
        texts = {str(text) for text in ([given] if isinstance(given, str) else given)}
        relation = prompt.meta.get("relation")
        if relation is not None:
            same = (one for one in prompts if one.meta.get("relation") == relation and "subject" in one.spans)
            texts |= {one.swap(subject=subject).text for one in same}
        found = sorted(texts - {prompt.text})
        order = torch.randperm(len(found), generator=generator(self.seed, "wordings", prompt.id)).tolist()
        return [found[place] for place in sorted(order[: self.paraphrases])]

    def _top(self, lm: "LM", texts: Sequence[str]) -> dict[str, tuple[list[int], float]]:
        """The most probable tokens after each text, and the probability of the first."""
        ids = {text: lm.tokenizer.encode(text, bos=self.bos).ids for text in texts}
        groups: dict[int, list[str]] = {}
        for text in texts:
            groups.setdefault(len(ids[text]), []).append(text)
        batches = [
            group[first : first + max(1, self.batch_tokens // width)]
            for width, group in sorted(groups.items())
            for first in range(0, len(group), max(1, self.batch_tokens // width))
        ]
        found = {}
        for batch in track(batches, "scenarios"):
            logits = lm.run(Batch.of(torch.tensor([ids[text] for text in batch]))).last_logits.float()
            best = logits.softmax(dim=-1).topk(min(self.top_k, logits.shape[-1]), dim=-1)
            for text, tokens, values in zip(batch, best.indices.tolist(), best.values.tolist(), strict=True):
                found[text] = (tokens, values[0])
        return found

    def _row(
        self, lm: "LM", prompt: Prompt, asked: Mapping[str, list[str]], top: Mapping[str, tuple[list[int], float]]
    ) -> dict[str, Any]:
        tokens, probability = top[prompt.text]
        predicted = tokens[0]
        answer = tokenize(prompt, lm.tokenizer, bos=self.bos, answers="first").answer_ids
        fact, correct = "subject" in prompt.spans and bool(answer), answer[:1] == (predicted,)
        said = (prompt.answer or "") if correct else lm.tokenizer.decode([predicted])
        hits = {name: [predicted in top[text][0] for text in texts] for name, texts in asked.items()}
        wordings = len(hits["own"] + hits["other"])
        agreement = float(np.mean(hits["own"] + hits["other"])) if fact else probability
        enough = not fact or wordings >= self.least_wordings
        confident = (agreement >= (self.agree if fact else self.sure)) if enough else None
        views = prompt.meta.get(self.popularity)
        clues = {
            "overlap": fact and alike(prompt.span("subject"), said),
            "name_bias": any(hits["name"]),
            "prompt_bias": 2 * sum(hits["blank"]) >= max(1, len(hits["blank"])),
        }
        label = label_of(
            fact=fact, confident=confident, heuristic=any(clues.values()), correct=correct,
            popular=None if views is None else float(views) > self.popular,
        )  # fmt: skip
        return {
            "label": label, "fact": fact, "confident": bool(confident), **clues, "correct": correct, "agreement": agreement,
            "wordings": wordings, "probability": probability, "popularity": float("nan") if views is None else float(views),
            "predicted": lm.tokenizer.label(predicted),
        }  # fmt: skip


def alike(subject: str, said: str) -> bool:
    """Whether the object and the subject share a word of three letters or more, or their first four."""
    ours, theirs = ([word.strip(".,'\"()") for word in text.casefold().split()] for text in (subject, said))
    pairs = [(a, b) for a in ours for b in theirs if len(a) > 2 and len(b) > 2]
    return any(a == b or (len(b) >= LETTERS and a[:LETTERS] == b[:LETTERS]) for a, b in pairs)
