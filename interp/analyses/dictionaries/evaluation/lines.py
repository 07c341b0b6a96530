"""The table that the command line prints of an evaluation."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .result import DictionaryEvaluationResult


def lines(result: "DictionaryEvaluationResult") -> tuple[str, ...]:
    """What was reconstructed how well, what it cost, how many latents work, and which tokens were left out."""
    return (*_views(result), "", *_replaced(result), "", *_latents(result), *_tokens(result))


def _views(result: "DictionaryEvaluationResult") -> list[str]:
    data, fvu = result.data, result.fvu()
    width = max(len("view"), *(len(str(name)) for name in data["view"].values))
    out = [f"{'view':<{width}}  FVU                    FVU legacy  cosine  |x̂|/|x|   slope        MSE"]
    for place, name in enumerate(data["view"].values):
        row = data.isel(view=place)
        value, low, high = (float(fvu[column][place]) for column in ("mean", "ci_lo", "ci_hi"))
        out.append(
            f"{name!s:<{width}}  {_ci(value, low, high):<21}  {float(row['fvu_legacy']):>10.4f}  {float(row['cosine']):>6.3f}  "
            f"{float(row['norm_ratio']):>7.3f}  {float(row['slope']):>6.3f}  {float(row['mse']):>9.3g}"
        )
    return out


def _replaced(result: "DictionaryEvaluationResult") -> list[str]:
    data, losses = result.data, result.losses()
    names = [str(name) for name in data["replacement"].values]
    width = max(len("replacement"), *map(len, names))
    out = [
        f"{'replaced':<{width}}  loss clean  dictionary    zero    mean  | recovered: CE/zero      CE/mean  KL/zero  KL/mean"
    ]
    tables = {(metric, base): result.recovered(metric, base) for metric in ("ce", "kl") for base in ("zero", "mean")}
    for place, name in enumerate(names):
        nats = [float(losses.sel(condition=one)[place]) for one in ("clean", "dictionary", "zero", "mean")]
        shares = [float(table["mean"][place]) for table in tables.values()]
        first = tables["ce", "zero"]
        interval = _ci(shares[0], float(first["ci_lo"][place]), float(first["ci_hi"][place]))
        out.append(
            f"{name:<{width}}  {nats[0]:>10.4f}  {nats[1]:>10.4f}  {nats[2]:>6.3f}  {nats[3]:>6.3f}  | {interval:>21}  "
            + "  ".join(f"{share:>7.4f}" for share in shares[1:])
        )
        if not all(np.isfinite(shares)):
            out.append(
                f"{'':<{width}}  an ablation that changes less than a millionth of a nat leaves nothing to recover: nan"
            )
    how = {
        "live": "each layer's codes are computed from what the layers before it became",
        "clean": "from the codes of the clean run",
    }
    if data.attrs["together"]:
        out.append(f"{'':<{width}}  all together: {how[data.attrs['together']]}")
    return out


def _latents(result: "DictionaryEvaluationResult") -> list[str]:
    latents, dead, tokens = result.data.sizes["latent"], result.dead(), int(result.data["tokens"].sum())
    if dead == latents:
        return [
            f"latents: NOT ONE of {latents:,} was on at any of {tokens:,} tokens; what is reconstructed is the bias alone"
        ]
    l0 = result.l0()
    rule = str(result.data.attrs["activation"])
    asked = f", {result.data.attrs['k']:g} asked for" if rule in ("topk", "batchtopk") else ""
    return [
        f"latents: {latents:,}, {dead:,} never on in {tokens:,} tokens, {result.dense():.1%} on at more than 10 % of them; "
        f"L0 {_ci(l0['l0'], l0['ci_lo'], l0['ci_hi'], 2)} at inference ({rule}{asked})"
    ]


def _tokens(result: "DictionaryEvaluationResult") -> list[str]:
    data = result.data
    learned = float(data.attrs.get("trained_on", -1))
    count = {str(part): int(n) for part, n in zip(data["part"].values, data["part_tokens"].values, strict=True)}
    energy = data["part_energy"].values / data["part_energy"].values.sum(axis=0)  # [part, view]
    fvu = ", ".join(f"{float(value):.4g}" for value in data["fvu_all"].values)
    out = [
        f"tokens: {count['evaluated']:,} evaluated; left out and never replaced: the first {data.attrs['skip']} of each document "
        f"({count['first']:,} tokens, {energy[1].max():.1%} of the squared norm) and {count['massive']:,} massive ones "
        f"(above {data.attrs['massive']:g} medians, {energy[2].max():.1%}); FVU with them: {fvu}"
    ]
    if learned > 0:
        out.append(
            f"text: about {learned:.0%} of these documents are of the text that it was trained on; on other text it may do worse"
        )
    return out


def _ci(value: float, low: float, high: float, digits: int = 4) -> str:
    if not np.isfinite(low):
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
