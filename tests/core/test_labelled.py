import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from interp.core.errors import ArtifactError, BadInput
from interp.core.labelled import NUMERIC, pack, unpack


@settings(max_examples=60, deadline=None)
@given(
    values=st.sampled_from(sorted(NUMERIC)).flatmap(
        lambda kind: hnp.arrays(np.dtype(kind), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
    )
)
def test_numbers_keep_dtype_shape_and_every_bit(values: np.ndarray) -> None:
    data = xr.Dataset({"x": (tuple("abc"[: values.ndim]), values)})
    again = unpack(*pack(data))["x"].values
    assert again.dtype == values.dtype and again.shape == values.shape and again.tobytes() == values.tobytes()


def test_everything_labelled_comes_back() -> None:
    data = xr.Dataset(
        {"x": (("prompt", "layer"), np.arange(6.0).reshape(2, 3).T.copy().T, {"unit": "nats", "many": [1, None, {"a": np.float32(2)}]})},
        coords={
            "prompt": ["a", "ünï ⏎"], "layer": ("layer", [3, 1, 2], {"note": "order"}),
            "text": ("prompt", np.array(["x", None], dtype=object)),
            "mixed": ("prompt", np.array([1.5, float("nan")], dtype=object)), "one": "scalar", "flag": ("layer", [True, False, True]),
        },
        attrs={"title": "t"},
    )  # fmt: skip
    again = unpack(*pack(data))
    assert again.identical(data) and list(again.coords) == list(data.coords)
    assert again["prompt"].dtype == data["prompt"].dtype and again["layer"].to_index().equals(data["layer"].to_index())


def test_byte_order_and_memory_order_do_not_matter() -> None:
    big = np.arange(6, dtype=">f4").reshape(2, 3)
    data = xr.Dataset({"x": (("a", "b"), np.asfortranarray(big)), "y": (("b", "a"), big[:, ::-1].T)})
    again = unpack(*pack(data))
    assert again.equals(data) and again["x"].dtype == np.float32 and pack(data)[0]["y"].flags.c_contiguous


@pytest.mark.parametrize(
    "data",
    [
        xr.Dataset({"x": ("a", np.array([1 + 2j]))}),
        xr.Dataset({"x": ("a", np.array(["2020-01-01"], dtype="datetime64[ns]"))}),
        xr.Dataset({"x": ("a", np.array([object()]))}),
        xr.Dataset({"x": ("a", [1.0])}, attrs={"f": object()}),
        xr.Dataset({"x": (("a", "b"), [[1.0]])}, coords={"a": [0], "b": [0]}).stack(c=("a", "b")),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_exactly_is_refused(data: xr.Dataset) -> None:
    with pytest.raises(BadInput, match="cannot be saved"):
        pack(data)


def test_arrays_that_are_not_as_described_are_refused() -> None:
    arrays, structure = pack(xr.Dataset({"x": ("a", np.zeros(3))}))
    for wrong, message in [
        ({}, "missing"),
        ({"x": np.zeros(2)}, r"\[2\]"),
        ({"x": np.zeros(3, "f4")}, "float32"),
        (arrays | {"y": np.zeros(1)}, "not described"),
    ]:
        with pytest.raises(ArtifactError, match=message):
            unpack(wrong, structure)
