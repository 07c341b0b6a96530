from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from interp.core.batch import Batch
from interp.core.digest import digest_of, publishable
from interp.core.errors import BadInput


@dataclass
class Item:
    text: str
    values: object = None


class Plain:
    def __init__(self, value: object):
        self.value = value


class Own:
    def digest(self) -> str:
        return "mine"


def dataset(last: float = 0.0) -> xr.Dataset:
    values = np.zeros(5000)
    values[2500] = last  # where a shortened repr would not show it
    return xr.Dataset({"x": ("prompt", values)}, coords={"label": ("prompt", np.full(5000, "a"))})


def things() -> list[object]:
    span = torch.tensor([[0, 1]])
    batch = Batch.of([1, 2, 3])
    return [
        None, True, 1, 1.0, "1", b"1", [1], (1, 2), [[1], 2], [1, [2]], {"a": 1}, {"a": 2}, {"b": 1}, {1, 2}, range(3),
        Item("a"), Item("b"), Item("a", torch.zeros(2)), Item("a", torch.ones(2)), Plain(1), Plain(2), Own(), [Own()], [],
        torch.zeros(2), torch.zeros(2, 1), torch.zeros(2).double(), torch.zeros(2, dtype=torch.bfloat16), torch.tensor(0.0),
        np.ones(2), np.array(["a", "bc"]), np.array(["ab", "c"]), np.float32(3),
        dataset(), dataset(1.0), dataset()["x"], dataset().to_dataframe(), dataset(1.0).to_dataframe(), pd.Series([1, 2]),
        batch, Batch(batch.tokens, batch.mask, {"s": span}), Batch(batch.tokens, batch.mask, {"s": span + 1}), [batch],
    ]  # fmt: skip


def test_different_contents_have_different_digests_and_equal_ones_the_same() -> None:
    first, second = [digest_of(thing) for thing in things()], [digest_of(thing) for thing in things()]
    assert first == second
    assert len(set(first)) == len(first)
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})


def test_a_file_is_its_content(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_text("same")
    b.write_text("same")
    assert digest_of(a) == digest_of(b)
    b.write_text("other")
    assert digest_of(a) != digest_of(b)
    with pytest.raises(BadInput, match="is not a file"):
        digest_of(tmp_path)


@pytest.mark.parametrize("thing", [lambda: 0, (i for i in range(3)), object(), [object()], iter([1]), print, int])
def test_what_has_no_content_is_refused(thing: object) -> None:
    with pytest.raises(BadInput, match="no content that can be recorded"):
        digest_of(thing)


def test_published_values_are_plain_and_hold_no_machine_path(tmp_path: Path) -> None:
    value = {
        "path": tmp_path / "facts.jsonl", "text": str(tmp_path / "facts.jsonl"), "home": "~/secret/x.pt", "url": "file:/srv/data/x.pt",
        "windows": r"C:\Users\me\x.pt", "kept": ["gpt2", "org/model", "A: what is 1/2?", "/imagine", "a /b/c"], "nan": float("nan"),
        "number": np.int64(3), "real": np.float64(0.5), "tuple": (1, None, True), "array": np.zeros(3), "item": Item("a"), "own": Own(),
    }  # fmt: skip
    found = publishable(value)
    assert found["path"] == found["text"] == "facts.jsonl"
    assert found["home"] == found["url"] == found["windows"] == "x.pt"
    assert found["kept"] == value["kept"] and found["nan"] == "nan" and found["tuple"] == [1, None, True]
    assert found["number"] == 3 and type(found["real"]) is float
    assert (
        found["array"].startswith("ndarray[3] ")
        and found["item"] == {"text": "a", "values": None}
        and found["own"] == "Own"
    )
