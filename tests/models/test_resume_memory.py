"""Running out of memory: halved budgets and one loud warning, then an error that says what was held."""

import warnings

import pytest
import torch
from torch import Tensor

from interp.core.batch import At
from interp.core.edit import replace
from interp.core.site import Site
from interp.models import memory
from interp.models.plain import PlainModel
from interp.models.runner import Runner
from tests.models.tiny import tiny, tokens


def setting() -> tuple[PlainModel, object, list[list[object]]]:
    plain = PlainModel(tiny("llama"))
    base, other = plain.record(tokens(2, 14)), plain.run(tokens(2, 14, seed=3), capture=["blocks.*.hook_resid_post"])
    cells = [[replace(Site("resid_post", layer), other, at=At.index(t))] for layer in range(3) for t in (2, 7, 11)]
    plain.resume(base, [[]])
    return plain, base, cells


@pytest.mark.parametrize(
    "problem",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_less_is_tried_and_said_once(problem: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, base, cells = setting()
    want, sites = plain.resume(base, cells), plain.resume_sites(base, cells, [Site("z", 2)])
    whole, sizes = Runner._layer, []

    def cramped(self: Runner, layer: int, x: Tensor, *rest: object, **named: object) -> object:
        sizes.append(x.shape[:2].numel())
        if sizes[-1] > 60:
            raise problem
        return whole(self, layer, x, *rest, **named)

    monkeypatch.setattr(Runner, "_layer", cramped)
    with pytest.warns(UserWarning, match=r"out of memory .* 2048 tokens .* 1074 MB .* 1024 tokens and 537 MB") as said:
        got = plain.resume(base, cells)
    assert len(said) == 1 and 32 <= plain.token_budget <= 64 and max(sizes) > 60
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = plain.resume_sites(base, cells, [Site("z", 2)])
    torch.testing.assert_close(again[Site("z", 2)], sites[Site("z", 2)], rtol=0, atol=1e-5)


def test_what_does_not_fit_at_all_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, base, cells = setting()

    def never(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("no")

    monkeypatch.setattr(Runner, "_layer", never)
    with (
        pytest.warns(UserWarning, match="out of memory"),
        pytest.raises(memory.OutOfMemory, match=r"2 rows .* 32 tokens"),
    ):
        plain.resume(base, cells)


def test_other_errors_are_no_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, base, cells = setting()
    monkeypatch.setattr(Runner, "_layer", lambda *_, **__: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="size"):
        plain.resume(base, cells)
    assert plain.token_budget == 2048


def test_states_never_exceed_their_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, base, cells = setting()
    plain.state_bytes = 4 * 2 * 14 * 32 * 3
    held, through = [], Runner._through

    def watched(self: Runner, strands: list, layer: int) -> list:
        out = through(self, strands, layer)
        held.append(sum(one.state.numel() * 4 for one in out))
        return out

    monkeypatch.setattr(Runner, "_through", watched)
    plain.resume(base, cells)
    assert 0 < max(held) <= plain.state_bytes and len(held) > 4
