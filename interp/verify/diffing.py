"""Cases on two models whose one difference is planted: who has it is told from who shares it, and artifacts from differences."""


def scaled_latents() -> tuple[bool, str]:
    """A latent of the tuned model alone, one shrunk to nothing in the base, and one that others write there, all with delta 1."""
    import torch

    from interp.analyses.dictionaries.diffing import ScalingSums, bins, label, relative_difference
    from interp.core.dictionary import Codes
    from interp.core.seed import generator

    draw = generator(0, "verify diffing")
    on = torch.rand(6000, 4, generator=draw) < torch.tensor([0.2, 0.2, 0.2, 0.0])
    codes = ((0.5 + torch.rand(6000, 4, generator=draw)) * on).double()
    codes[:, 3] = codes[:, 2]  # it fires with the third, and writes that into the base
    tuned = torch.eye(8, dtype=torch.float64)[:4] * torch.tensor([[1.0], [1.0], [1.0], [0.0]])
    base = torch.eye(8, dtype=torch.float64)[[0, 1, 2, 2]] * torch.tensor([[0.0], [0.0], [0.0], [1.0]])
    there = torch.eye(8, dtype=torch.float64)[[0, 1, 2, 3]] * torch.tensor([[0.0], [0.4], [1.0], [0.0]])
    rows, made = {"base": codes @ there, "tuned": codes @ tuned}, {"base": codes @ base, "tuned": codes @ tuned}
    sums = ScalingSums(4, {"base": 8, "tuned": 8})
    sums.add(Codes.of(codes), rows, made)
    found = sums.finish({"base": base, "tuned": tuned})
    named = bins(relative_difference(base.norm(dim=1).numpy(), tuned.norm(dim=1).numpy()), found.active > 0)
    ratios = found.free("tuned")
    said = label(ratios[0], ratios[1], found.active).tolist()[:3]
    strength = float(ratios[1, 1])
    ok = (
        named.tolist() == ["tuned only", "tuned only", "tuned only", "base only"]
        and said == ["specific", "complete shrinkage", "latent decoupling"]
        and abs(strength - 0.4) < 0.02
        and float(abs(found.nu("tuned")[1, 1] - strength)) < 0.02
    )
    return ok, f"{', '.join(said)}; strength in the base {strength:.2f}"


def own_latents() -> tuple[bool, str]:
    """KL to a tuned model from its base with the planted latent put in, without it, and with both models the same."""
    import torch

    from interp.analyses.dictionaries.diffing.patching import NOTHING, Patcher, Sets, divergence
    from interp.core.dictionary import Dictionary, DictionaryConfig, View
    from interp.core.seed import generator

    draw = generator(0, "verify patching latents")
    views = (View("base", width=8), View("tuned", width=8))
    made = Dictionary(DictionaryConfig(8, views, views, activation="relu", centred=False, family="crosscoder"))
    for encoder, decoder in zip(made.encoders, made.decoders, strict=True):
        encoder.copy_(0.5 * torch.eye(8))
        decoder.copy_(torch.eye(8))
    made.encoders[0][0], made.encoders[1][0], made.decoders[0][0] = (
        0.0,
        torch.eye(8)[0],
        0.0,
    )  # the first is the tuned model's alone
    tuned = torch.rand(500, 8, generator=draw)
    base = tuned.clone()
    base[:, 0] = 0.0
    readout = torch.randn(8, 30, generator=draw)
    first = torch.arange(8) == 0
    sets, patcher = Sets({"own": first, "shared": ~first}), Patcher(made)
    codes = made.codes({"base": base, "tuned": tuned})
    target = (tuned @ readout).log_softmax(dim=-1)
    kl = {
        name: float(divergence(patcher.stream(name, sets, base, tuned, codes) @ readout, target).mean())
        for name in (NOTHING, "own", "shared")
    }
    ok = kl[NOTHING] > 0.05 and kl["own"] < 1e-6 and abs(kl["shared"] - kl[NOTHING]) < 1e-6
    return (
        ok,
        f"{kl[NOTHING]:.3f} nats without, {kl['own']:.0e} with its own latent, {kl['shared']:.3f} with the others",
    )
