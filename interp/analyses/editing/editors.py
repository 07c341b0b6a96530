"""The contract of every editor: what is asked for (`Request`), who does it (`Editor`), and what comes out (`WeightChange`).

An editor never changes a model. It gives the difference of weights that would; `WeightChange.apply` puts it in for the time of a
`with` block and takes it out bit for bit. Changes of several edits add up, so a sequence of edits is a sum:

    from interp.analyses import editing
    total = WeightChange.none()
    for request in editing.requests_for(lm, facts[:2], "error_injection"):
        with total.apply(lm):                                    # the model as edited so far
            total = total + editing.FineTuning(steps=2).edit(lm, [request], layers=1)

All editors here change the down-projection of MLPs, `W_out` [d_mlp, d_model]: `mlp_out = mlp_post @ W_out + b_out`. What they do is
exact only where that product is what is added to the residual stream, so families with a norm behind it and mixtures of experts are
refused by name.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from interp.core.errors import BadInput, SpanError, UnsupportedArchitecture, one_of
from interp.core.lm import LM
from interp.data.prompts import Prompt, continuation
from interp.data.tokens import TokenPrompt, tokenize

from ..tracing.cells import window_layers

if TYPE_CHECKING:
    from .moments import SecondMoments

Objective = Literal["raise", "lower"]
OBJECTIVES = ("raise", "lower")


@dataclass(frozen=True, eq=False)
class Request:
    """One wish: make the model continue `prompt` with `target` (raise), or no longer do so (lower). Most come from `requests_for`."""

    prompt: Prompt
    """The sentence, with the span `subject` marked."""
    target: str
    """The continuation whose probability is to change, character for character (with its leading space)."""
    ids: tuple[int, ...]
    """The target's tokens as they follow the prompt; also what is scored after paraphrases and neighbours."""
    objective: Objective = "raise"
    """Raise or lower the target's probability."""
    noise: Tensor | None = None
    """Added to `hook_embed` at the subject's tokens while editing, [draw, token, d_model] (Fact Forcing); cut to the subject's tokens."""
    held_noise: Tensor | None = None
    """Other draws of the same noise, for evaluation; with `noise` only."""
    paraphrases: tuple[Prompt, ...] = ()
    """The same question about the same subject in other words: here the target should move too."""
    neighbours: tuple[Prompt, ...] = ()
    """The same question about other subjects: here nothing should move. Their `answer` is what the model should go on saying."""
    problem: str = ""
    """Which editing problem it belongs to, see `PROBLEMS`."""

    def __post_init__(self) -> None:
        one_of("objective", self.objective, OBJECTIVES)
        if "subject" not in self.prompt.spans:
            raise SpanError(
                f"the prompt {self.prompt.text!r} marks no subject, and an edit is made at its last token. "
                "Build it with Prompt.of(text, subject=...)."
            )
        if not self.ids:
            raise BadInput(
                f"the request for {self.prompt.text!r} has no target tokens. Build it with Request.of(lm, ...)."
            )
        if self.held_noise is not None and self.noise is None:
            raise BadInput("`held_noise` is for evaluation beside `noise`, which is not there. Give both, or neither.")
        for name, noise in {"noise": self.noise, "held_noise": self.held_noise}.items():
            if noise is not None and noise.ndim != 3:
                raise BadInput(f"`{name}` must be shaped [draw, token, d_model]; not {tuple(noise.shape)}.")

    @classmethod
    def of(cls, lm: LM, prompt: Prompt, target: str | None = None, **fields: Any) -> "Request":
        """A request for `target` (the prompt's own answer where None), tokenised as what follows the prompt. Raises `BadInput`."""
        wanted = prompt
        if target is not None:
            continued = continuation(prompt.text, target)
            wanted = dataclasses.replace(prompt, answer=continued, foil=None)
        if wanted.answer is None:
            raise BadInput(f"the prompt {prompt.text!r} has no answer. Give a `target`.")
        tokens = tokenize(wanted, lm.tokenizer, answers="whole", n_ctx=lm.spec.n_ctx)
        return cls(prompt, wanted.answer, tokens.answer_ids, **fields)

    @property
    def id(self) -> str:
        """The prompt's name."""
        return self.prompt.id

    @property
    def subject(self) -> str:
        """The subject's words."""
        return self.prompt.span("subject")

    def tokens(self, lm: LM) -> TokenPrompt:
        """The prompt as this model reads it."""
        return tokenize(self.prompt, lm.tokenizer, answers="whole", n_ctx=lm.spec.n_ctx)


@dataclass(frozen=True, eq=False)
class WeightChange:
    """What an edit does to the weights: a difference a matrix, and how it came about."""

    deltas: Mapping[str, Tensor]
    """Key of `lm.edit_weights` -> what is added to that matrix, in its shape (`W_out.3`: [d_mlp, d_model])."""
    log: Mapping[str, Any] = field(default_factory=dict)
    """Plain values: `loss` a step, `residual` of the constraint, `prefixes`, and whatever else the editor says of itself."""

    @classmethod
    def none(cls) -> "WeightChange":
        """No change at all: where a sum of edits begins."""
        return cls({})

    @contextmanager
    def apply(self, lm: LM) -> Iterator[None]:
        """The model with the change in it, inside the `with`; bit for bit as before after it. May be nested."""
        with lm.edit_weights({key: matrix_of(lm, key) + delta for key, delta in self.deltas.items()}):
            yield

    @property
    def norms(self) -> dict[str, float]:
        """Frobenius norm of each matrix's change."""
        return {key: float(delta.double().norm()) for key, delta in self.deltas.items()}

    def relative(self, lm: LM) -> dict[str, float]:
        """The same as a share of the norm of the matrix as it is now."""
        return {key: norm / float(matrix_of(lm, key).norm()) for key, norm in self.norms.items()}

    def __add__(self, other: "WeightChange") -> "WeightChange":
        """Both changes together; the log is the later one's."""
        keys = dict.fromkeys([*self.deltas, *other.deltas])
        parts = {key: [change.deltas[key] for change in (self, other) if key in change.deltas] for key in keys}
        return WeightChange({key: torch.stack(both).sum(dim=0) for key, both in parts.items()}, other.log)

    def __repr__(self) -> str:
        norms = ", ".join(f"{key} {norm:.3g}" for key, norm in self.norms.items())
        return f"WeightChange({norms or 'none'})"


@dataclass(frozen=True)
class Editor(ABC):
    """Base of the editors: a configuration that turns requests into a `WeightChange`."""

    name: ClassVar[str] = ""
    """What tables call it."""
    uses_moments: ClassVar[bool] = False
    """Whether `edit` needs `moments`."""

    @property
    def width(self) -> int:
        """Layers that are edited together around a centre."""
        return 1

    def edit(
        self,
        lm: LM,
        requests: Sequence[Request],
        *,
        layers: int | Sequence[int],
        moments: "SecondMoments | None" = None,
        seed: int = 0,
    ) -> WeightChange:
        """The change of weights that grants all requests at once.

        `layers` is a centre, around which `width` layers are edited, or the layers themselves. `moments` are the second moments of
        the keys of these layers (`second_moments`), where the editor needs them. The model is as it was when this returns.
        Raises `BadInput`, `UnsupportedArchitecture`.
        """
        chosen = self.layers_of(layers, lm.spec.n_layers)
        check_editable(lm)
        if not requests:
            raise BadInput("there are no requests to edit for. Give at least one.")
        if self.uses_moments:
            if moments is None:
                raise BadInput(
                    f"{self.name} needs the second moments of the keys at layers {list(chosen)}. Compute them once with "
                    "second_moments(lm, corpus, layers), or pass SecondMoments.identity(lm, layers)."
                )
            moments.check(lm, chosen)
        return self._edit(lm, list(requests), chosen, moments, seed)

    @abstractmethod
    def _edit(
        self,
        lm: LM,
        requests: list[Request],
        layers: tuple[int, ...],
        moments: "SecondMoments | None",
        seed: int,
    ) -> WeightChange:
        """The change itself; every editor has its own. What `edit` checks has been checked."""

    def layers_of(self, layers: int | Sequence[int], n_layers: int) -> tuple[int, ...]:
        """The layers that are edited: `width` of them around a centre, clipped to the model, or the ones that are named."""
        if isinstance(layers, int):
            named: tuple[int, ...] = (layers,)
        else:
            named = tuple(int(layer) for layer in layers)
        if bad := [layer for layer in named if not 0 <= layer < n_layers]:
            raise BadInput(f"layers {bad} are not in this model: it has layers 0 to {n_layers - 1}.")
        if isinstance(layers, int):
            return window_layers(layers, self.width, n_layers)
        if not named or len(set(named)) < len(named):
            raise BadInput(f"`layers` must name each layer once, at least one; not {list(named)}.")
        return tuple(sorted(named))


def matrix_of(lm: LM, key: str) -> Tensor:
    """A copy of the down-projection that `key` (`W_out.LAYER`) names, in float64 [d_mlp, d_model]."""
    name, _, layer = key.partition(".")
    if name != "W_out" or not layer.isdigit():
        raise BadInput(f"editors change W_out only, keys like 'W_out.3'; not {key!r}.")
    matrix: Tensor = lm.weights.W_out(int(layer))
    return matrix.detach().double()


def check_editable(lm: LM) -> None:
    """Refuse models whose `W_out` is not the last map before the residual stream (`UnsupportedArchitecture`)."""
    spec = lm.spec
    reason = ""
    if spec.post_norm:
        reason = "a norm lies between its W_out and the residual stream, so no closed form says what an edit adds"
    elif spec.experts:
        reason = f"its MLP is a mixture of {spec.experts} experts, and which one a token takes changes with the edit"
    elif not lm.sites("mlp.hook_post"):
        reason = "it has no site `mlp.hook_post`, the keys of W_out"
    if reason:
        raise UnsupportedArchitecture(
            f"{spec.name} ({spec.family}) cannot be edited: {reason}. Edit a family such as gpt2, gpt_neo, gpt_neox, llama or qwen3."
        )
