"""`interp.open` gives back what was saved, by what its folder says."""

from pathlib import Path

import pytest
import torch
import xarray as xr

import interp
from interp.core.analysis import Result
from interp.core.artifact import write_artifact
from interp.core.dictionary import Dictionary, DictionaryConfig, View
from interp.core.errors import ArtifactError


def test_it_opens_results_and_dictionaries(tmp_path: Path) -> None:
    view = View("in", width=4)
    made = Dictionary.initialise(DictionaryConfig(8, (view,), (view,), k=2))
    made.save(tmp_path / "sae")
    Result(xr.Dataset({"x": ("row", [1.0])})).save(tmp_path / "result")
    assert interp.open(tmp_path / "sae").digest == made.digest
    assert float(interp.open(tmp_path / "result").data["x"][0]) == 1.0


def test_parts_of_something_larger_are_refused(tmp_path: Path) -> None:
    write_artifact(tmp_path / "part", {"x": torch.zeros(1)}, {}, kind="part")
    with pytest.raises(ArtifactError, match="is a part, not a result"):
        interp.open(tmp_path / "part")
