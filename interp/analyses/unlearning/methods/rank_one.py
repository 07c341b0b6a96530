"""Rank-one erasure: the concept's words made unlikely where its texts say them, by edits of W_out in closed form.

Requests are made from the concept's own texts: a text up to the first of the concept's words in it is the prompt, the word is the
target. Each is then one request to an editor of `interp.analyses.editing`, at the last token of the prompt, where the word is about
to be said:

    target="lower"      the value is optimised to make the word unlikely                            (fact erasure, as in Hase et al.)
    target="TEXT"       the value is optimised to say TEXT instead: a dummy is the published "MEMIT-Empty"

ROME changes one layer by rank one a request; MEMIT changes several layers by one least-squares solution for all requests.

Source. Meng et al. 2022 (arXiv 2202.05262) and 2023 (arXiv 2210.07229), the editors; Hase et al. 2023 (arXiv 2301.04213), the
lowered objective; MEMIT-Empty and MEMIT-Entropy as unlearning baselines: Patil et al. 2023 (arXiv 2309.17410), Hong et al. 2024
(arXiv 2406.11614), with layer 23 of LLaMA-2-7B, a clamp of 4 and 25 steps of 0.5 on the value. Deviations. There requests are
(subject, relation) pairs from Wikidata, edited at the subject's last token; a concept's texts mark no subject, so here it is the
last token of the prompt. MEMIT-Entropy, whose value maximises the entropy of the next token, is not here: `lower` is the nearest
thing.

When it misleads. Both edit what the model says after these prompts; that it does not say it any more does not mean it is not stored
(the other vectors that promote the word are as they were). Many rank-one edits one after the other disturb everything a little:
look at the perplexity.

    from interp.analyses.unlearning.methods.rank_one import RankOneErasure
    concepts = interp.models.reference.concept_set("atlas", texts=20)
    revision = RankOneErasure(n=1, steps=2).unlearn(lm, concepts.get("colour"), concepts.others("colour"))
    revision.log["prompts"], revision.log["layers"]
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from interp.core.errors import BadInput, one_of
from interp.core.lm import LM
from interp.core.seed import generator
from interp.data.concepts import Concept
from interp.data.prompts import Prompt

from ...editing import MEMIT, ROME, Editor, Request, check_editable, second_moments
from ...editing.editors import matrix_of
from ..revision import Revision, Unlearner
from .pieces import word_finder
from .training import forget_texts, positive, retain_texts, whole

EDITORS = ("rome", "memit")


@dataclass(frozen=True)
class RankOneErasure(Unlearner):
    """ROME or MEMIT against the concept's words, where its texts say them."""

    name: ClassVar[str] = "rank-one"

    editor: Literal["rome", "memit"] = "rome"
    """`rome`: a rank-one edit of one layer a request. `memit`: one edit of `layers` for all requests."""
    layers: tuple[int, ...] = ()
    """What is edited; empty takes the middle of the model."""
    n: int = 20
    """Requests at most, drawn from the texts by seed."""
    target: str = "lower"
    """`lower` makes the words unlikely; any other text is what should be said instead, with its leading space."""
    steps: int = 25
    """Steps on each value."""
    lr: float = 0.5
    """Step size on the value, in its own units."""
    clamp_factor: float = 4.0
    """Largest change of a value, as a multiple of its norm."""
    damping: float = 1e-2
    """Added to the second moments of the keys, as a share of their mean diagonal."""

    def __post_init__(self) -> None:
        one_of("editor", self.editor, EDITORS)
        whole(self, "n", "steps")
        positive(self, "lr", "clamp_factor", "damping")
        if not self.target.strip():
            raise BadInput(
                f"`target` must be 'lower' or a text to say instead; not {self.target!r}. A dummy is ' the'."
            )

    def unlearn(self, lm: LM, concept: Concept, retain: Sequence[str], *, seed: int = 0) -> Revision:
        """New down-projections. Raises `BadInput`, and `UnsupportedArchitecture` where no closed form holds."""
        check_editable(lm)
        keep = list(retain_texts(self, retain))
        requests = self.requests(lm, concept, seed)
        middle = lm.spec.n_layers // 2
        layers = self.layers or (
            (middle,) if self.editor == "rome" else tuple(range(middle, min(middle + 2, lm.spec.n_layers)))
        )
        moments = second_moments(lm, keep, list(layers), damping=self.damping)
        change = self._editor().edit(lm, requests, layers=layers, moments=moments, seed=seed)
        values = {key: (matrix_of(lm, key) + delta).float() for key, delta in change.deltas.items()}
        log: dict[str, Any] = {
            "method": self.name,
            "editor": self.editor,
            "layers": list(layers),
            "target": self.target,
            "prompts": [request.prompt.text for request in requests],
            "residual": _residual(change.log),
        }
        return Revision(values, log)

    def requests(self, lm: LM, concept: Concept, seed: int = 0) -> list[Request]:
        """What is asked of the editor: one request a text that says one of the concept's words, `n` at most."""
        texts = forget_texts(self, concept)
        if not concept.words:
            raise BadInput(
                f"{self.name} lowers the words of a concept in its texts, and {concept.name!r} has no `words`. Give it some."
            )
        word = word_finder(concept.words)
        rng = generator(seed, "rank-one", concept.name)
        found = []
        for place in torch.randperm(len(texts), generator=rng).tolist():
            match = word.search(texts[place])
            if match and (prompt := _before(texts[place], match.start())):
                goal = " " + match.group() if self.target == "lower" else self.target
                found.append(Request.of(lm, prompt, goal, objective="lower" if self.target == "lower" else "raise"))
            if len(found) == self.n:
                break
        if not found:
            raise BadInput(
                f"none of the {len(texts)} texts of {concept.name!r} says one of its words behind others, so there is nothing to lower. "
                "Give texts and words that belong together."
            )
        return found

    def _editor(self) -> Editor:
        common: dict[str, Any] = {
            "steps": self.steps, "lr": self.lr, "clamp_factor": self.clamp_factor, "prefixes": (), "kl_factor": 0.0,
        }  # fmt: skip
        return ROME(**common) if self.editor == "rome" else MEMIT(**common)


def _before(text: str, end: int) -> Prompt | None:
    """The text up to a word, its own last word marked as what the edit is made at; None where nothing stands there."""
    before = text[:end].rstrip()
    if not re.search(r"\w", before):
        return None
    return Prompt.of(before, subject=(len(before) - len(before.split()[-1]), len(before)))


def _residual(log: Any) -> list[float]:
    """How far what the edited layers put out is from what was asked of them, relative, a request."""
    logs = log.get("requests", [log])
    return [float(one["residual"]) for one in logs]
