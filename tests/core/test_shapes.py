import jaxtyping
import pytest
import torch

from interp.core.batch import At, Batch
from interp.core.edit import replace


def test_shapes_at_public_borders_are_checked_here() -> None:
    edit = replace("blocks.0.hook_resid_post", 0.0)
    batch = Batch.of([[1, 2, 3]])
    with pytest.raises(jaxtyping.TypeCheckError, match="where"):
        edit.apply(torch.zeros(1, 3, 4), edit.where(batch)[0])
    with pytest.raises(jaxtyping.TypeCheckError, match="where"):
        edit.apply(torch.zeros(1, 3, 4), edit.where(batch).float())
    assert At.all().resolve(batch).shape == (1, 3)
