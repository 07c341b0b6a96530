"""Sizes as people write them."""

import pytest

from interp.cli.sizes import parse_size
from interp.core.errors import BadInput


@pytest.mark.parametrize(
    ("text", "size"),
    [("20GB", 20_000_000_000), ("500 MB", 500_000_000), ("1.5kB", 1500), ("2GiB", 2**31), ("0b", 0), (None, None)],
)
def test_a_size_is_read(text, size):
    assert parse_size("--max-disk", text) == size


@pytest.mark.parametrize("text", ["20", "", "GB", "-1GB", "20 gigs", "1e9B", "20GB extra"])
def test_what_is_none_is_refused_with_an_example(text):
    with pytest.raises(BadInput, match="20GB"):
        parse_size("--max-disk", text)
