"""Names of heads and components."""

import pytest

from interp.analyses.channels import Component, Head
from interp.core.errors import BadInput
from interp.models import reference


def test_names_are_read_and_written():
    assert str(Component.parse("8.10.1")) == "8.10.1" and Component.parse("8.10.1").owner == Head.parse("8.10")
    assert Component.parse(Component(1, 2, 3)) == Component(1, 2, 3) and Head.parse(Head(1, 2)) == Head(1, 2)
    assert sorted([Component(1, 0, 2), Component(0, 9, 0)])[0].layer == 0


@pytest.mark.parametrize("name", ["8.10", "8.10.x", "8.10.1.2", "", "-1.0.0", "8,10,1", 8.1, None, "²"])
def test_what_is_no_component_is_said(name):
    with pytest.raises(BadInput, match=r"layer\.head\.component"):
        Component.parse(name)


def test_what_the_model_lacks_is_said():
    lm = reference.as_lm(reference.channels())
    assert Component.parse("1.7.15").check(lm) and Head.parse("1.7").check(lm)
    for name, what in (("2.0.0", "layers 0 to 1"), ("1.8.0", "heads 0 to 7"), ("1.0.16", "components 0 to 15")):
        with pytest.raises(BadInput, match=what):
            Component.parse(name).check(lm)
    with pytest.raises(BadInput, match=r"'1\.8' is not in"):
        Head.parse("1.8").check(lm)
