import numpy as np
import pytest

from interp.core.errors import ArtifactError, BadInput
from interp.core.unfinished import Unfinished


def test_a_part_comes_back_and_only_to_its_own_computation(tmp_path) -> None:
    parts = Unfinished(tmp_path / "parts", "one")
    assert parts.get("a") is None
    parts.put("a", {"x": np.arange(3.0), "nan": np.array([np.nan])}, {"names": ["p", "q"], "worst": float("nan")})
    arrays, values = Unfinished(tmp_path / "parts", "one").get("a")
    assert arrays["x"].tolist() == [0, 1, 2] and np.isnan(arrays["nan"]).all()
    assert values["names"] == ["p", "q"] and np.isnan(values["worst"])
    with pytest.raises(ArtifactError, match="another trace"):
        Unfinished(tmp_path / "parts", "other", what="trace").get("a")


def test_a_damaged_part_is_refused_and_a_half_written_one_is_not_there(tmp_path) -> None:
    parts = Unfinished(tmp_path, "one")
    parts.put("a", {"x": np.arange(3.0)}, {})
    next((tmp_path / "a").glob("*.safetensors")).write_bytes(b"cut")
    with pytest.raises(ArtifactError):
        parts.get("a")
    (tmp_path / "b").mkdir()
    assert parts.get("b") is None


def test_without_a_folder_nothing_is_kept(tmp_path) -> None:
    parts = Unfinished(None, "")
    parts.put("a", {"x": np.zeros(1)}, {})
    assert parts.get("a") is None
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInput, match="file"):
        Unfinished(tmp_path / "file", "one")
