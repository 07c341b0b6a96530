import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.core.errors import UnknownSite
from interp.core.site import KINDS, Site, expand, sites_of

from .toy import spec


@given(kind=st.sampled_from(sorted(KINDS)), layer=st.integers(0, 200))
def test_every_name_reads_back_as_itself(kind: str, layer: int) -> None:
    site = Site(kind, layer if "{}" in KINDS[kind].template else None)
    for spelling in site.spellings:
        assert Site.parse(spelling) == site
    assert Site.parse(site.name) == site and str(site) == site.name and Site.parse(site) is site


@pytest.mark.parametrize(
    "name",
    [
        "",
        "blocks.0.hook_resid_pots",
        "blocks.hook_z",
        "blocks.*.attn.hook_z",
        "blocks.-1.hook_resid_pre",
        "blocks.0.hook_embed",
        "hook_z",
    ],
)
def test_anything_else_is_refused(name: str) -> None:
    with pytest.raises(UnknownSite, match="interp sites MODEL"):
        Site.parse(name)


def test_a_slip_gets_a_suggestion_at_the_same_layer() -> None:
    with pytest.raises(UnknownSite, match=r"Did you mean 'blocks\.7\.hook_resid_post'"):
        Site.parse("blocks.7.hook_resid_pots")


def test_sites_come_in_the_order_of_the_forward_pass() -> None:
    names = [info.site.name for info in sites_of(spec())]
    assert names[0] == "hook_embed" and names[1] == "hook_pos_embed" and names[-1] == "ln_final.hook_out"
    assert names.index("blocks.0.hook_resid_post") < names.index("blocks.1.hook_resid_pre")
    assert (
        names.index("blocks.0.attn.hook_z")
        < names.index("blocks.0.hook_attn_out")
        < names.index("blocks.0.hook_resid_mid")
    )


def test_a_model_lacks_what_it_does_not_compute() -> None:
    kinds = {info.site.kind for info in sites_of(spec(positions="rotary", parallel=True))}
    assert not kinds & {"pos_embed", "resid_mid", "mlp_pre_linear"}
    assert "mlp_pre_linear" in {info.site.kind for info in sites_of(spec(gated=True))}


def test_shapes_and_bytes_a_token() -> None:
    by_kind = {info.site.kind: info for info in sites_of(spec(n_heads=4, n_kv_heads=2, dtype="bfloat16"))}
    assert by_kind["q"].shape == (4, 2) and by_kind["k"].shape == (2, 2)
    assert by_kind["resid_post"].bytes_per_token == 4 * 2
    assert by_kind["pattern"].shape == (4, 1, 16) and by_kind["pattern"].bytes_per_token == 4 * 16 * 2


def test_patterns_expand_without_repeats_in_order() -> None:
    found = expand(["blocks.*.hook_mlp_out", "blocks.1.hook_mlp_out", "hook_embed"], spec())
    assert [site.name for site in found] == ["hook_embed", "blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out"]


def test_patterns_match_aliases_too() -> None:
    assert expand("blocks.*.hook_out", spec()) == expand("blocks.*.hook_resid_post", spec())


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("blocks.2.hook_resid_pre", "layers 0 to 1"),
        ("blocks.0.mlp.hook_pre_linear", "not gated"),
        ("blocks.*.hook_nothing", "matches no site"),
    ],
)
def test_what_a_model_lacks_is_refused_with_the_reason(name: str, why: str) -> None:
    with pytest.raises(UnknownSite, match=why):
        expand([name], spec())
