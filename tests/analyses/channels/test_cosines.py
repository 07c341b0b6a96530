"""Components held against components: of pairs of heads, of whole models, and of the same head in other coordinates."""

import numpy as np
import pytest
import torch

from interp.analyses.channels import Channels, Setting, correspondence, cosines, cosines_top, decompose, scores_into
from interp.core.errors import BadInput
from interp.models import reference


@pytest.mark.parametrize("kind", ["Q", "K", "V"])
def test_cosines_are_the_scores_taken_apart(atlas, kind):
    found = cosines(atlas, "0.2", "3.1", kind=kind)
    spectrum = (
        Channels(precision="float64")(atlas).data["spectrum"].sel(kind=kind, reader_layer=3, reader_head=1).values
    )
    score = np.sqrt((found.numpy() ** 2 * spectrum**2).sum(1) / (spectrum**2).sum())
    assert np.allclose(score, scores_into(atlas, "3.1", kind=kind).sel(layer=0, head=2), atol=1e-12)
    with pytest.raises(BadInput, match=r"'2.1' cannot read what '2.0' writes"):
        cosines(atlas, "2.0", "2.1", kind=kind)


def test_the_largest_cosines_of_all_pairs_are_found(atlas):
    moves, weighs = ([decompose(atlas, layer, which=which) for layer in range(4)] for which in ("ov", "qk"))
    every = {}
    for late in range(1, 4):
        reads = {"Q": weighs[late].read, "K": weighs[late].write, "V": moves[late].read}
        for early in range(late):
            for kind, read in reads.items():
                found = torch.einsum("aid,bjd->aibj", moves[early].write, read).abs()
                for a, i, b, j in (found > 0.3).nonzero().tolist():
                    every[f"{early}.{a}.{i}", f"{late}.{b}.{j}", kind] = float(found[a, i, b, j])
    assert len(every) > 200
    for precision, within in (("float32", 1e-6), ("float64", 1e-12)):
        table = cosines_top(atlas, 200, precision=precision)
        names = list(zip(table["writer"], table["reader"], table["kind"], strict=True))
        assert len(set(names)) == 200 and np.allclose(table["cosine"], sorted(every.values())[:-201:-1], atol=within)
        assert all(abs(every[name] - value) < within for name, value in zip(names, table["cosine"], strict=True))
    row = table.iloc[0]
    layer, head, index = map(int, row["writer"].split("."))
    value = moves[layer].values[head]
    assert row["writer_share"] == pytest.approx(float(value[index] ** 2 / value.square().sum()))
    assert row["over_null"] == pytest.approx(row["cosine"] * 127**0.5)
    assert float(cosines(atlas, "0.2", "3.1", kind="K")[4, 5]) == pytest.approx(
        abs(float(moves[0].write[2, 4] @ weighs[3].write[1, 5]))
    )


def test_planted_channels_are_the_closest_components(planted, story):
    table = cosines_top(planted, 4)
    want = {
        (f"{c.writer[0]}.{c.writer[1]}.{c.component}", f"{c.reader[0]}.{c.reader[1]}.0")
        for c in reference.channels().answers["channels"]
    }
    assert set(zip(table["writer"][:3], table["reader"][:3], strict=True)) == want
    assert np.allclose(table["cosine"][:3], 1, atol=1e-5) and table["cosine"][3] < 0.6
    assert np.allclose(table["reader_share"][:3], 0.36, atol=2e-3)
    assert set(cosines_top(story, 5)["kind"]) == {"V"} and len(cosines_top(story, 5, offsets=(1,), kinds=("Q",))) == 5
    with pytest.raises(BadInput, match="`n` must be at least 1"):
        cosines_top(planted, 0)
    with pytest.raises(BadInput, match="rotates queries and keys"):
        cosines_top(story, kinds=("Q",))


def test_components_keep_their_function_when_their_number_changes(planted):
    name = next(name for name in dict(planted.module.named_parameters()) if name.endswith("h.0.ln_1.weight"))
    gain = dict(planted.module.named_parameters())[name].detach().clone()
    noise = torch.randn(len(gain), generator=torch.Generator().manual_seed(3))
    with planted.edit_weights({name: gain * (1.5 * noise).exp()}):
        matches = correspondence(planted, [f"0.1.{n}" for n in range(16)], other=Setting(folded=False))
        raw, folded = Channels(folded=False)(planted).channels(1), Channels()(planted).channels(1)
    assert any(match.component.index != n for n, match in enumerate(matches))  # the numbers do change
    assert all(match.component.owner.head == 1 and 0 <= match.cosine <= 1 + 1e-12 for match in matches)
    for row in (raw, folded):
        assert int(row["other"][0]) >= 0 and 0 < float(row["other_cosine"][0]) <= 1
    same = correspondence(planted, ["0.1.5"], other=Setting())
    assert str(same[0].component) == "0.1.5" and same[0].cosine == pytest.approx(1)
