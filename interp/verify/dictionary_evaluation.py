"""Cases on dictionaries in place of activations: what gives back everything, nothing, or some principal components."""

import torch

from interp.core.seed import generator

from . import mechanisms

RANK = 5
"""Principal components that are kept."""


def known_reconstructions() -> tuple[bool, str]:
    """Loss and KL recovered by the identity and by zeros, and how far FVU is from what the left out components explain."""
    from interp.analyses.dictionaries.evaluation import DictionaryEvaluation
    from interp.cache.gather import view_of
    from interp.core.dictionary import Dictionary, DictionaryConfig, View
    from interp.core.site import Site
    from interp.data import Corpus

    lm = mechanisms.planted("induction")[1]
    draw = generator(0, "dictionary case")
    rows = [torch.randint(2, lm.spec.vocab, (12,), generator=draw) for _ in range(8)]
    text = Corpus.from_ids([torch.cat([row, row]) for row in rows])
    view = view_of(lm, f"blocks.{lm.spec.n_layers - 1}.hook_resid_post")

    def coder(view: View, directions: torch.Tensor, mean: torch.Tensor, size: float = 1.0) -> Dictionary:
        made = Dictionary(DictionaryConfig(2 * len(directions), (view,), (view,), activation="relu", code_scale="none"))
        made.encoders[0].copy_(torch.cat([directions, -directions]))
        made.decoders[0].copy_(size * made.encoders[0])
        made.biases[0].copy_(mean)
        return made

    nothing, whole = torch.zeros(view.width), torch.eye(view.width)
    shares = []
    for size in (1.0, 0.0):
        found = DictionaryEvaluation(coder(view, whole, nothing, size))(lm, text)  # type: ignore[arg-type]
        shares += [float(found.recovered(metric)["mean"][0]) for metric in ("ce", "kl")]
    site = Site.parse(view.site)
    x = torch.cat([lm.read([row], [site])[site][1:] for row in text.documents]).double()
    values, axes = torch.linalg.eigh((x - x.mean(dim=0)).T @ (x - x.mean(dim=0)))
    kept = coder(view, axes[:, -RANK:].T.float(), x.mean(dim=0).float())
    fvu = float(DictionaryEvaluation(kept)(lm, text).fvu()["mean"][0])  # type: ignore[arg-type]
    apart = abs(fvu - float(1 - values[-RANK:].sum() / values.sum()))
    said = f"{shares[0]:g} and {shares[1]:g}; {shares[2]:g} and {shares[3]:g}; FVU {fvu:.3f} within {apart:.0e}"
    return shares == [1.0, 1.0, 0.0, 0.0] and apart < 1e-5 and 0.01 < fvu < 0.99, said
