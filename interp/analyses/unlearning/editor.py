"""An editor of facts as an intervention that composes with unlearning: the first facts of a concept get other answers.

lm = interp.load("atlas")
known = interp.models.reference.concept_set("atlas", n=8, texts=20)
edited = EditFacts("ft", facts=2)
revision = edited.unlearn(lm, known.get("craft"), known.others("craft"))
edited.wanted(lm, known.get("craft"))                  # the questions with their new answers
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from interp.core.errors import BadInput, one_of
from interp.core.lm import LM
from interp.data.concepts import Concept
from interp.data.prompts import Prompt

from ..editing import (
    MEMIT,
    ROME,
    Editor,
    FineTuning,
    Request,
    SecondMoments,
    WeightChange,
    check_editable,
    second_moments,
)
from ..editing.editors import matrix_of
from ..editing.values import ValueEditor
from .revision import Revision, Unlearner
from .study.material import decoys

EDITORS = ("rome", "memit", "ft")
WIDE = 512
"""Width of the stream from which the paper's step sizes are taken; below it, those for small models."""


@dataclass(frozen=True)
class EditFacts(Unlearner):
    """Error injection: the answers of a concept's first questions are edited to those of other questions, one after another."""

    name: ClassVar[str] = "edit"

    editor: str = "rome"
    """rome (rank one), memit (spread over layers) or ft (constrained fine-tuning of one layer)."""
    facts: int = 4
    """How many of the concept's questions get another answer."""

    def __post_init__(self) -> None:
        one_of("editor", self.editor, EDITORS)
        if self.facts < 1:
            raise BadInput(f"`facts` must be at least 1; not {self.facts}.")

    def wanted(self, lm: LM, concept: Concept) -> list[Prompt]:
        """The edited questions, with their new answers. Raises `BadInput` where no question marks a subject, or all have one answer."""
        usable = [prompt for prompt in concept.related if "subject" in prompt.spans]
        found = [
            replace(prompt, answer=answer, foil=None, id=f"{prompt.id}/edited")
            for prompt, answer in zip(usable, decoys(usable, 0), strict=True)
            if answer is not None
        ]
        if not found:
            raise BadInput(
                f"{self.editor} edits facts, and no question on {concept.name!r} marks its subject and has another answer to take. Build "
                "them with Prompt.of(text, answer=..., subject=...)."
            )
        return found[: self.facts]

    def unlearn(self, lm: LM, concept: Concept, retain: Sequence[str], *, seed: int = 0) -> Revision:
        """The down-projections with the edits in them. `retain` gives the second moments of ordinary keys, where the editor uses them."""
        check_editable(lm)
        editor, layer = self._editor(lm), 5 * lm.spec.n_layers // 28
        layers = editor.layers_of(layer, lm.spec.n_layers)
        moments: SecondMoments | None = None
        if editor.uses_moments:
            if not retain:
                raise BadInput(
                    f"{self.editor} needs texts for the second moments of keys, and `retain` is empty. Give some."
                )
            moments = second_moments(lm, list(retain), layers, damping=1e-3)
        total = WeightChange.none()
        for prompt in self.wanted(lm, concept):
            with total.apply(lm):
                total = total + editor.edit(lm, [Request.of(lm, prompt)], layers=layer, moments=moments, seed=seed)
        values = {key: (matrix_of(lm, key) + delta).float() for key, delta in total.deltas.items()}
        return Revision(values, {"method": self.editor, "layers": list(layers), "facts": self.facts})

    def _editor(self, lm: LM) -> Editor:
        small = lm.spec.d_model < WIDE
        made: dict[str, Editor] = {
            "rome": ROME(), "ft": FineTuning(relative=True, lr=0.02, clamp=0.1),
            "memit": MEMIT(window=3, lr=0.2, clamp_factor=2.0, mom2_weight=100.0) if small else MEMIT(),
        }  # fmt: skip
        editor = made[self.editor]
        return replace(editor, prefixes=()) if isinstance(editor, ValueEditor) else editor
