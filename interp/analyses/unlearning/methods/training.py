"""Unlearning by training: the loop that ascent, difference, NPO and DPO share. What they differ in is one function, `_terms`.

    AdamW on all block weights (or on the value vectors only, or on the parameters that patterns name), a batch of forget pieces and as
    many retain pieces a step, in seeded orders; the model itself is not changed, the new values come out as a `Revision`

Source. The program of Hong et al. 2024 (ConceptVectors, arXiv 2406.11614): AdamW with weight decay 0.01, at most 10 epochs, pieces of
at most 500 tokens, step sizes 1e-5 to 5e-5 for models of 7B in bfloat16, NPO and DPO stopped once their loss is 0. Deviations: float32;
the retain texts are whatever is given (there, the article of one random other concept); training stops once a batch's forget loss is
that of guessing (`ceiling`); and where the concept has words, the forget loss is on the tokens of these words (`tokens="auto"`), where
published it is on every token (`tokens="all"`).

Why not every token. In a sentence of `atlas` the colour is what the model is sure of (0.004 nats; 1.07 is the mean over tokens). Ascent on
every token raises the loss where that is cheap: at the loss of guessing, 7 nats a token, four of five held-out questions on colours
are still answered, as many as of all others. On the words alone it is the colour that goes.

When it misleads
- Ascent on cross-entropy has no lower bound. What stops it decides what comes out; `log["stopped"]` says what that was.
- A forget loss that rises shows that these texts became unlikely, in these words. It does not show that anything is gone.
- AdamW's weight decay moves every weight that is trained, also those without a gradient; with a mask they are put back after each step.
- A step size is in units of weights. The defaults were chosen on `atlas`, with the loss of forget and retain texts and the accuracy on
  its questions on colours in view; numbers on these are no held-out scores.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from interp.core.batch import Batch
from interp.core.errors import BadInput, InterpError, UnsupportedArchitecture, one_of
from interp.core.lm import LM
from interp.data.concepts import Concept

from ..revision import Revision, Unlearner
from .losses import mean_nll, nll
from .pieces import SHORTEST, Pieces, batches, pieces, stream


@dataclass(frozen=True, eq=False)
class Step:
    """What a loss is made of: one batch of forget pieces, one of retain pieces, and the model's logits on them now and as it was."""

    forget: Batch
    forget_logits: Tensor
    """The model as it is being trained, with a graph, [row, pos, vocab]."""
    only: Tensor | None
    """Which tokens of the forget batch the loss is on, bool [row, pos]; None for all."""
    forget_ref: Tensor | None
    """Summed cross-entropy of each forget row in the model as it was; None where the loss does not ask for it."""
    retain: Batch | None
    retain_logits: Tensor | None
    """As `forget_logits`, on the retain pieces."""
    retain_ref: Tensor | None
    retain_before: Tensor | None
    """Logits of the model as it was on the retain pieces, where the loss asks for them."""


@dataclass(frozen=True)
class Trained(Unlearner):
    """What the methods share that train."""

    needs_retain: ClassVar[bool] = False
    """Whether the loss has a term on retain texts."""
    compares: ClassVar[bool] = False
    """Whether the loss asks for the cross-entropies of the model as it was."""

    lr: float = 3e-5
    """AdamW's step size. Published: 1e-5 to 5e-5 for 7B models."""
    epochs: int = 20
    """Passes over the forget texts at most. Published: up to 10."""
    steps: int | None = None
    """Steps at most; None leaves it to `epochs`."""
    batch: int = 16
    """Forget pieces a step (and as many retain pieces)."""
    parameters: str | tuple[str, ...] = "blocks"
    """What is trained: `blocks` (every weight of every block), `values` (only W_out), or patterns of transformers' parameter names."""
    tokens: Literal["auto", "all", "words"] = "auto"
    """What the forget loss is on: `all` tokens (as published), those of the concept's `words`, or `auto`: words, if it has any."""
    ceiling: float | None = 1.0
    """Stop once a batch's forget loss is this many times that of guessing: ln of the vocabulary, or of the words (if more than one).
    None: never. A word of several tokens has this loss at each of them, so it goes further up than guessing."""
    max_tokens: int | None = None
    """Tokens of a piece at most; None is 500, or the context where that is less."""
    min_tokens: int = SHORTEST
    """Shorter pieces are left out."""
    weight_decay: float = 0.01
    """AdamW's decoupled weight decay."""

    def __post_init__(self) -> None:
        positive(self, "lr")
        whole(self, "epochs", "batch", *(("steps",) if self.steps is not None else ()))
        one_of("tokens", self.tokens, ["auto", "all", "words"])
        if self.ceiling is not None:
            positive(self, "ceiling")
        if not self.weight_decay >= 0:
            raise BadInput(f"`weight_decay` must be 0 or more; not {self.weight_decay}.")
        if not self.parameters or not isinstance(self.parameters, str | tuple | list):
            raise BadInput(f"`parameters` must be 'blocks', 'values' or patterns of names; not {self.parameters!r}.")

    @abstractmethod
    def _terms(self, step: Step) -> dict[str, Tensor]:
        """The terms of one step's loss, scalars with a graph; the loss is their sum."""

    def _stop(self, loss: float) -> str:
        """Why training stops before this step is taken; empty where it goes on."""
        return ""

    def unlearn(self, lm: LM, concept: Concept, retain: Sequence[str], *, seed: int = 0) -> Revision:
        """New values of the trained parameters, after the last step. Raises `BadInput`, and `InterpError` where the loss breaks down."""
        forget, keep = self.material(lm, concept, retain)
        names = trained_names(lm, self.parameters)
        guess = loss_of_guessing(lm, concept, forget)
        return self._train(lm, forget, keep, names, seed=seed, what=concept.name, guess=guess)

    def material(self, lm: LM, concept: Concept, retain: Sequence[str]) -> tuple[Pieces, Pieces | None]:
        """The pieces to forget, and those to keep where the method needs any."""
        sizes: dict[str, Any] = {"max_tokens": self.max_tokens, "min_tokens": self.min_tokens}
        if self.tokens == "words" and not concept.words:
            raise BadInput(
                f"tokens='words' trains on the words of a concept, and {concept.name!r} has no `words`. Give it some, or tokens='all'."
            )
        words = () if self.tokens == "all" else concept.words
        forget = pieces(lm, forget_texts(self, concept), what=f"texts of {concept.name!r}", words=words, **sizes)
        if not self._retains:
            return forget, None
        return forget, pieces(lm, retain_texts(self, retain), what="retain texts", **sizes)

    @property
    def _retains(self) -> bool:
        return self.needs_retain

    @property
    def _drifts(self) -> bool:
        """Whether the loss asks for the logits of the model as it was on the retain pieces."""
        return False

    def _train(
        self,
        lm: LM,
        forget: Pieces,
        retain: Pieces | None,
        names: Sequence[str] | None,
        *,
        seed: int,
        what: str,
        guess: float,
        mask: Mapping[str, Tensor] | None = None,
    ) -> Revision:
        """The loop. `guess`: the loss of guessing; `mask`: True where weights may change, all others stay to the last bit."""
        sums = {"forget": reference_nll(lm, forget, self.batch)} if self.compares else {}
        if self.compares and retain is not None:
            sums["retain"] = reference_nll(lm, retain, self.batch)
        budget = self.epochs * -(-len(forget) // self.batch)
        budget = budget if self.steps is None else min(budget, self.steps)
        stopped = "epochs" if self.steps is None or budget < self.steps else "steps"
        logged: dict[str, list[float]] = {}
        rows = batches(len(forget), self.batch, seed, "forget", what)
        kept = stream(len(retain), seed, "retain", what) if retain is not None else iter(())
        with lm.tuning(names) as tuning:
            parameters = tuning.parameters
            old = {name: value.detach().clone() for name, value in parameters.items()}
            adam = torch.optim.AdamW(list(parameters.values()), lr=self.lr, weight_decay=self.weight_decay)
            updates = 0
            for chosen in islice(rows, budget):
                beside = list(islice(kept, len(chosen)))
                step = self._step(tuning, old, forget, chosen, retain, beside, sums)
                terms = self._terms(step)
                loss = torch.stack(list(terms.values())).sum()
                found = {f"{name}_loss": float(term.detach()) for name, term in terms.items()}
                found["loss"] = float(loss.detach())
                found["nll"] = float(mean_nll(step.forget_logits.detach(), step.forget, step.only))
                for name, value in found.items():
                    logged.setdefault(name, []).append(value)
                if not all(map(math.isfinite, found.values())):
                    raise InterpError(
                        f"{self.name}: the loss on {what!r} is {logged['loss'][-1]} after {updates} steps: the model overflows. "
                        f"Use a smaller `lr` than {self.lr:g}, or fewer `steps`."
                    )
                if self.ceiling is not None and found["nll"] >= self.ceiling * guess:
                    stopped = "ceiling"
                elif reason := self._stop(found["loss"]):
                    stopped = reason
                if stopped not in ("epochs", "steps"):
                    break
                adam.zero_grad(set_to_none=True)
                loss.backward()
                adam.step()
                updates += 1
                if mask is not None:
                    _restore(parameters, old, mask)
            after = tuning.values()
        if broken := [name for name, value in after.items() if not bool(torch.isfinite(value).all())]:
            raise InterpError(
                f"{self.name}: after {updates} steps on {what!r} {broken[0]} holds numbers that are not finite. Use a smaller `lr` than "
                f"{self.lr:g}, or fewer `steps`."
            )
        log = {
            "method": self.name,
            **logged,
            "guess": guess,
            "on": "words" if forget.marks else "all",
            "stopped": stopped,
            "updates": updates,
            "pieces": len(forget),
            "tokens": forget.tokens,
            "short": forget.short,
            "retain_pieces": 0 if retain is None else len(retain),
            "lr": self.lr,
        }
        return Revision({name: value for name, value in after.items() if not torch.equal(value, old[name])}, log)

    def _step(
        self,
        tuning: Any,
        old: Mapping[str, Tensor],
        forget: Pieces,
        chosen: list[int],
        retain: Pieces | None,
        beside: list[int],
        sums: Mapping[str, Tensor],
    ) -> Step:
        """The material of one step. Old weights are put in, where they are asked for, before any graph is made."""
        rows, kept = forget.batch(chosen), None if retain is None else retain.batch(beside)
        before = _as_it_was(tuning, old, kept) if self._drifts and kept is not None else None
        return Step(
            rows,
            tuning.logits(rows),
            forget.marked(chosen),
            sums["forget"][chosen] if "forget" in sums else None,
            kept,
            None if kept is None else tuning.logits(kept),
            sums["retain"][beside] if "retain" in sums else None,
            before,
        )


def positive(config: Any, *names: str) -> None:
    """Raise `BadInput` for a field that is not a positive number."""
    for name in names:
        if not (isinstance(value := getattr(config, name), int | float) and 0 < value < math.inf):
            raise BadInput(f"`{name}` must be a positive number; not {value!r}.")


def whole(config: Any, *names: str, least: int = 1) -> None:
    """Raise `BadInput` for a field that is not a whole number from `least` on."""
    for name in names:
        if isinstance(value := getattr(config, name), bool) or not isinstance(value, int) or value < least:
            raise BadInput(f"`{name}` must be a whole number from {least} on; not {value!r}.")


def forget_texts(method: Unlearner, concept: Concept) -> Sequence[str]:
    """The concept's texts. Raises `BadInput` where it has none."""
    if not concept.texts:
        raise BadInput(
            f"{method.name} forgets the texts of a concept, and {concept.name!r} has none. Give it `texts` (an article, or sentences)."
        )
    return concept.texts


def retain_texts(method: Unlearner, retain: Sequence[str]) -> Sequence[str]:
    """The texts to keep. Raises `BadInput` where there are none."""
    if isinstance(retain, str):
        raise BadInput(f"`retain` must be a list of texts; not one text, {retain[:40]!r}. Put it into a list.")
    if not retain:
        raise BadInput(
            f"{method.name} needs texts to keep, and `retain` is empty. Give texts on other things: concepts.others(name), or prose."
        )
    return retain


def loss_of_guessing(lm: LM, concept: Concept, forget: Pieces) -> float:
    """Cross-entropy of who knows only what could be said: any of the concept's words where the loss is on these, else any token.

    A single word leaves nothing to guess among, so there it is any token.
    """
    several = len({word.strip() for word in concept.words}) if forget.marks else 0
    return math.log(several if several > 1 else lm.spec.vocab)


def trained_names(lm: LM, parameters: str | Sequence[str]) -> list[str] | None:
    """What `lm.tuning` is asked for: None for `blocks`, the names of every W_out for `values`, patterns as they are."""
    if parameters == "blocks":
        return None
    if parameters == "values":
        return [value_parameter(lm, layer) for layer in range(lm.spec.n_layers)]
    return [parameters] if isinstance(parameters, str) else list(parameters)


def value_parameter(lm: LM, layer: int) -> str:
    """transformers' name of the parameter that W_out of a layer is a view of. Refuses mixtures of experts."""
    if lm.spec.experts:
        raise UnsupportedArchitecture(
            f"{lm.spec.name} ({lm.spec.family}) has {lm.spec.experts} experts a layer, so there is no one matrix of value vectors. Name "
            "the parameters instead: parameters=('*experts*',), say."
        )
    view = lm.weights.W_out(layer)
    for name, value in lm.weights.parameters().items():
        if value.untyped_storage().data_ptr() == view.untyped_storage().data_ptr() and value.numel() == view.numel():
            return str(name)
    raise InterpError(f"W_out of layer {layer} of {lm.spec.name} is no parameter by itself. Name the `parameters`.")


@torch.no_grad()
def reference_nll(lm: LM, rows: Pieces, batch: int) -> Tensor:
    """Summed cross-entropy of each piece in the model as it is, [piece]."""
    found = []
    for start in range(0, len(rows), batch):
        index = range(start, min(start + batch, len(rows)))
        part = rows.batch(index)
        logits = lm.run(part).logits
        assert logits is not None
        found.append(nll(logits, part, rows.marked(index)).cpu())
    return torch.cat(found)


@torch.no_grad()
def mean_loss(lm: LM, rows: Pieces, batch: int = 16) -> float:
    """Cross-entropy a token (of the marked ones, where there are marks): what a step size can be chosen by without asking a question."""
    count = sum(map(sum, rows.marks)) if rows.marks else rows.tokens - len(rows)
    return float(reference_nll(lm, rows, batch).double().sum()) / count


@torch.no_grad()
def _as_it_was(tuning: Any, old: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """Logits of the model before training; the values being trained are put back."""
    with _swapped(tuning.parameters, old):
        return tuning.logits(batch).detach()  # type: ignore[no-any-return]


@contextmanager
def _swapped(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> Iterator[None]:
    now = {name: value.detach().clone() for name, value in parameters.items()}
    _restore(parameters, values)
    try:
        yield
    finally:
        _restore(parameters, now)


@torch.no_grad()
def _restore(parameters: Mapping[str, Tensor], old: Mapping[str, Tensor], mask: Any = None) -> None:
    """Old values back in place: all of them, or where the mask of the parameter is False."""
    for name, value in parameters.items():
        value.copy_(old[name] if mask is None else torch.where(mask[name], value, old[name]))
