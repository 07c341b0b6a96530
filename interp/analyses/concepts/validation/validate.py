"""The analysis: its options, its checks, and the concepts one after another."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from interp.core.analysis import Analysis, Cost
from interp.core.errors import BadInput, InterpError, one_of
from interp.core.lm import LM
from interp.core.progress import track

from .assemble import assemble
from .damage import DOSES, HOW
from .material import Asked, asked_of
from .nulls import MATCHES
from .result import ConceptValidationResult
from .trials import Trials


@dataclass(frozen=True)
class ConceptValidation(Analysis[ConceptValidationResult]):
    """Damage a concept's value vectors; see what becomes of prompts that ask for it, of prompts that do not, and of matched vectors."""

    takes: ClassVar[str] = "concepts"

    concept: tuple[str, ...] = ()
    """Names of the concepts to look at; none given means all. Each is judged by its own prompts."""
    how: Literal["zero", "scale", "noise", "relative-noise"] = "scale"
    """Remove the vectors, scale them, or add noise: of an absolute size a coordinate (published: 0.1), or as a multiple of the vector's
    own length."""
    doses: tuple[float, ...] = ()
    """Factors (1 changes nothing), or sizes of the noise; by default 0.5, 0, -1; noise 0.1; relative noise 0.5, 1, 2."""
    sizes: tuple[int, ...] = ()
    """How many vectors are damaged together, the first ones; by default those that a concept names, from one to all, and 1, 4 and 16 of
    a concept that names none."""
    tokens: int = 20
    """Tokens generated after each prompt, before and after damage (published: 100); 0 generates nothing."""
    draws: int = 99
    """Matched sets that the largest set is compared with at the main dose: most of the cost. The smallest p is 1 / (draws + 1), and Holm's
    is that times the concepts: 99 can tell four concepts at 5 %; twenty times as many as there are concepts are needed."""
    band: int = 4
    """Matched sets at each other size and dose, at most `draws`: enough for a band, too few for a p (the smallest is 1 / (band + 1))."""
    null_answers: int = 0
    """Matched sets that answers are generated with too, for a null of the overlap; each costs a generation a size and dose."""
    match: Literal["norm", "write"] = "norm"
    """Matched by the norm of the vector, or by what it writes on related prompts (norm times mean coefficient)."""
    noise_samples: int = 3
    """Draws of the noise, averaged (published: 1)."""
    reference: Literal["original", "damaged"] = "original"
    """Which answer is BLEU's reference; the published code takes the damaged model's."""
    prompts: int | None = None
    """At most so many related and so many unrelated prompts a concept, the first ones; None takes all (published: the last 10 of 50)."""
    answers: Literal["whole", "first", "single"] = "whole"
    """Score all tokens of a gold answer, its first, or refuse those of several."""
    folded: bool = False
    """Look for vectors through the final norm's gain, where a concept names none."""
    bos: bool | None = None
    """Put a BOS before each prompt; None follows the model's tokenizer."""
    batch_tokens: int = 2048
    """Tokens of one recorded batch; more is faster and takes more memory."""
    seed: int = 0
    """Seed of noise and of the matched sets' order."""

    def __post_init__(self) -> None:
        one_of("how", self.how, HOW)
        one_of("match", self.match, MATCHES)
        one_of("reference", self.reference, ["original", "damaged"])
        one_of("answers", self.answers, ["whole", "first", "single"])
        object.__setattr__(self, "concept", (self.concept,) if isinstance(self.concept, str) else tuple(self.concept))
        for name in ("doses", "sizes"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, int | float) else tuple(value))
        object.__setattr__(self, "doses", tuple(float(dose) for dose in self.doses) or DOSES[self.how])
        self._check_doses()
        if any(isinstance(size, bool) or not isinstance(size, int) or size < 1 for size in self.sizes):
            raise BadInput(f"`sizes` are whole numbers of vectors, 1 or more; not {self.sizes!r}.")
        object.__setattr__(self, "sizes", tuple(sorted(set(self.sizes))))
        for name in ("tokens", "draws", "band", "null_answers", "noise_samples", "batch_tokens"):
            least = int(name in ("noise_samples", "batch_tokens"))
            if getattr(self, name) < least:
                raise BadInput(f"`{name}` must be at least {least}; not {getattr(self, name)}.")
        if self.prompts is not None and self.prompts < 1:
            raise BadInput(f"`prompts` must be at least 1, or None for all; not {self.prompts}.")

    def _check_doses(self) -> None:
        if len(set(self.doses)) < len(self.doses) or not all(map(math.isfinite, self.doses)):
            raise BadInput(f"`doses` must be different finite numbers; not {self.doses!r}.")
        if self.how == "zero" and self.doses != (0.0,):
            raise BadInput(f"how='zero' has the one dose 0; not {self.doses!r}. Use how='scale' for other factors.")
        if self.noisy and min(self.doses) < 0:
            raise BadInput(f"sizes of noise are 0 or more; not {self.doses!r}.")

    @property
    def noisy(self) -> bool:
        """Whether noise is added."""
        return self.how in ("noise", "relative-noise")

    @property
    def main(self) -> int:
        """Place of the dose that the tables and tests are about: removal, the factor nearest to it, or the published noise."""
        goal = 0.1 if self.how == "noise" else 1.0 if self.noisy else 0.0
        return int(np.argmin(np.abs(np.array(self.doses) - goal)))

    def check(self, lm: LM, data: Any) -> None:
        """Refuse models and concepts that cannot be judged (`BadInput`, `UnsupportedArchitecture`)."""
        self._asked(lm, data)

    def run(self, lm: LM, data: Any, store: Any = None) -> ConceptValidationResult:
        """Concept by concept; the model is bit for bit what it was after each."""
        asked, before = self._asked(lm, data), lm.fingerprint()
        found = [Trials(self, lm, one).run() for one in track(asked, "concept validation", total=len(asked))]
        if lm.fingerprint() != before:
            raise InterpError(
                f"{lm.spec.name} is not what it was before its vectors were damaged: every number is void. Load the model again."
            )
        return assemble(self, lm, found)

    def cost(self, lm: LM, data: Any = None) -> Cost:
        """Rows through the layers behind a damage, for every damage; noise and generated answers take whole passes."""
        rows = tokens = speech = 0.0
        kept, asked = 0, self._asked(lm, data)
        for one in asked:
            lengths = [len(prompt) + max(0, len(prompt.answer_ids) - 1) for prompt in one.tokens]
            share = 1.0 if self.noisy else 1 - one.layers[0] / lm.spec.n_layers
            cells = len(one.sizes) * len(self.doses)
            each = cells * (1 + min(self.band, self.draws)) + max(0, self.draws - self.band)
            samples = self.noise_samples if self.noisy else 1
            times = share * each * samples + 2
            said = 1 + cells * (1 + min(self.null_answers, self.draws)) * samples if self.tokens else 0
            rows += len(lengths) * (times + 2 * said)
            tokens += sum(lengths) * times
            speech += said * sum(2 * length + 2 * self.tokens for length in lengths)
            targets = sum(max(1, len(prompt.answer_ids)) for prompt in one.tokens)
            kept = max(kept, targets if self.noisy else 0, len(lengths) * self.tokens)
        layers = max(len(one.layers) for one in asked)
        width = 3 * lm.spec.n_layers * lm.spec.d_model + layers * lm.spec.d_mlp
        held = self.batch_tokens * (width * lm.spec.bytes_per_value + 16 * lm.spec.vocab) + 8 * kept * lm.spec.vocab
        note = f"{len(asked)} concepts, {sum(len(one.tokens) for one in asked)} prompts"
        return Cost(rows, int(tokens + speech), int(held), note)

    def _asked(self, lm: LM, data: Any) -> list[Asked]:
        return asked_of(
            lm, data, names=self.concept, sizes=self.sizes, prompts=self.prompts, answers=self.answers, bos=self.bos,
            folded=self.folded, tokens=self.tokens,
        )  # fmt: skip
