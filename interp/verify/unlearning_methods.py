"""Cases of unlearning methods: where a loss begins, how far a weight can be dampened, weights of one skill, a planted vector taken out."""

import math

import torch

from interp.core.seed import generator
from interp.models import reference

from .case import Case


def npo_begins_as_ascent() -> tuple[bool, str]:
    """Before any step NPO's loss is (2/b) ln 2 and its gradient that of ascent on the summed cross-entropy."""
    from interp.analyses.unlearning.methods.losses import nll, npo_loss
    from interp.core.batch import Batch

    batch = Batch.padded([[3, 1, 4, 1, 5], [2, 7, 1]])
    logits = torch.randn(2, 5, 9, generator=generator(0, "verify npo"), dtype=torch.float64).requires_grad_()
    now = nll(logits, batch)
    loss = npo_loss(now, now.detach(), 0.1)
    slopes = [torch.autograd.grad(one, logits, retain_graph=True)[0] for one in (loss, -now.mean())]
    off = float((slopes[0] - slopes[1]).abs().max())
    start = float(loss.detach())
    return abs(start - 20 * math.log(2)) < 1e-9 and off < 1e-12, f"loss {start:.4f}, gradients differ by {off:.0e}"


def dampening_has_a_floor() -> tuple[bool, str]:
    """A weight that a quarter of the data uses, and nothing else, cannot be scaled below a quarter."""
    from interp.analyses.unlearning.methods.dampening import dampen
    from interp.analyses.unlearning.methods.fisher import diagonal

    rng = generator(0, "verify dampening")
    x = torch.randn(80, 3, generator=rng, dtype=torch.float64)
    x[20:, 2] = 0
    weights = torch.randn(3, 4, generator=rng, dtype=torch.float64).requires_grad_()
    labels = torch.randint(4, (80,), generator=rng)

    def score(row: int) -> torch.Tensor:
        return (x[row] @ weights).log_softmax(-1)[labels[row]]

    forget, every = (diagonal(score, {"w": weights}, n).diagonal["w"] for n in (20, 80))
    factor = dampen(forget, every, alpha=3.9, dampening=1.0)[2]
    return torch.allclose(factor, torch.full_like(factor, 0.25)), f"factor {float(factor.mean()):.6f}"


def the_needle_takes_out_one_vector() -> tuple[bool, str]:
    """A planted vector is found and removed; where it does not fire not a bit changes, and the model comes back whole."""
    from interp.analyses.unlearning.methods import Needle
    from interp.data import Concept

    lm = reference.as_lm(reference.concepts())
    before = lm.fingerprint()
    revision = Needle().unlearn(lm, Concept("metals", words=("iron", "copper", "silver", "gold", "zinc")), [])
    texts = [lm.encode("we saw the old forge"), lm.encode("we saw the big fox")]
    clean = [lm.run(batch).last_logits for batch in texts]
    with revision.apply(lm):
        moved = [float((lm.run(batch).last_logits - old).abs().max()) for batch, old in zip(texts, clean, strict=True)]
    same = lm.fingerprint() == before
    ok = revision.log["vectors"] == ["1.23"] and moved[0] > 1e-3 and moved[1] == 0 and same
    said = f"logits move by {moved[0]:.2g} where it fires and {moved[1]:.0f} elsewhere"
    return ok, f"found {revision.log['vectors'][0]}; {said}; {'the same' if same else 'another'} fingerprint"


def isolation_spares_the_other_skill() -> tuple[bool, str]:
    """Pruning what only skill A leans on leaves B as it was; pruning all that A leans on hurts B too."""
    from interp.analyses.unlearning.methods.isolation import scores, top_share

    rng = generator(0, "verify isolation")
    weight = torch.randn(12, 10, generator=rng).sign()
    a, b = (torch.randn(400, 12, generator=rng) for _ in range(2))
    a[:, 8:], b[:, :4] = 0, 0  # four inputs are private to A, four are shared, four are B's
    leaned = [top_share(scores(weight, x.norm(dim=0)), 8 / 12) for x in (a, b)]
    masks = {"isolated": leaned[0] & ~leaned[1], "all": leaned[0]}
    kept = {
        (name, skill): float(((x @ (weight * ~mask)).argmax(-1) == (x @ weight).argmax(-1)).float().mean())
        for name, mask in masks.items()
        for skill, x in (("A", a), ("B", b))
    }
    ok = kept["isolated", "B"] == 1 and kept["isolated", "A"] < 0.6 and kept["all", "B"] < 0.6
    return ok, ", ".join(f"{name} {skill} {value:.2f}" for (name, skill), value in kept.items())


CASES = (
    Case(
        "NPO",
        "Does NPO begin at its known loss, with the gradient of ascent?",
        "20 ln 2 = 13.8629, the same gradient",
        npo_begins_as_ascent,
    ),
    Case(
        "dampening",
        "How far can a weight be dampened that only a quarter of all data uses?",
        "to exactly 0.25",
        dampening_has_a_floor,
    ),
    Case(
        "needle",
        "Is a planted value vector found and taken out, and nothing else?",
        "1.23, exactly 0 where it does not fire, the same fingerprint",
        the_needle_takes_out_one_vector,
    ),
    Case(
        "isolation",
        "Does pruning what one skill alone leans on spare the other?",
        "B 1.00 with isolated weights, below 0.60 with all that A leans on",
        isolation_spares_the_other_skill,
    ),
)
