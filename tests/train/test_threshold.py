import pytest
import torch

from interp.core.errors import BadInput
from interp.core.seed import generator
from interp.train.threshold import RunningThreshold, calibrate


def scores(*shape, dtype=torch.float32, name="scores"):
    return torch.randn(*shape, generator=generator(0, name), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("keep", [1, 7, 500, 1999])
def test_it_is_the_quantile_that_sorting_gives(dtype, keep):
    values = scores(100, 60, dtype=dtype) ** 3 * 1e-3
    found = calibrate(lambda: values.split(7), keep)
    assert found == float(values.flatten().double().sort(descending=True).values[keep])
    assert int((values.double() > found).sum()) <= keep
    if dtype != torch.bfloat16:  # without ties exactly so many
        assert int((values.double() > found).sum()) == keep


def test_order_and_batches_do_not_matter():
    values = scores(4096)
    mixed = values[torch.randperm(4096, generator=generator(0, "order"))]
    assert calibrate(lambda: values.split(100), 300) == calibrate(lambda: mixed.split(1333), 300)


def test_ties_at_the_cut_are_left_out():
    values = torch.tensor([[3.0, 2.0, 2.0, 2.0, 1.0]])
    assert calibrate(lambda: [values], 2) == 2.0 and calibrate(lambda: [values], 4) == 1.0


def test_too_few_positive_scores_keep_all_of_them():
    values = torch.tensor([[-1.0, 0.0, 0.5, 2.0]])
    assert calibrate(lambda: [values], 2) == 0.0 and calibrate(lambda: [values], 3) == 0.0
    assert calibrate(lambda: [-values.abs()], 3) == 0.0 and calibrate(lambda: [values], 1) == 0.5


def test_extremes_of_the_number_format():
    values = torch.tensor([1e-45, 1e-38, 1.0, 3e38, torch.finfo(torch.float32).max])
    for keep, expected in enumerate(values.flip(0).tolist()):
        assert calibrate(lambda: [values], keep) == expected


def test_counts_of_several_processes_add_up():
    parts = scores(3, 1000).unbind(0)
    whole = calibrate(lambda: [torch.cat(parts)], 250)
    counted: dict[int, list[torch.Tensor]] = {}

    def add(count):  # what the other two would have counted at this digit
        others = counted[len(seen)]
        seen.append(count)
        for other in others:
            count += other

    every = []
    for part in parts[1:]:
        tape: list[torch.Tensor] = []
        every.append(tape)
        _record(part, 250, tape, parts)
    for digit in range(2):
        counted[digit] = [tape[digit] for tape in every]
    seen: list[torch.Tensor] = []
    assert calibrate(lambda: [parts[0]], 250, add) == whole


def _record(part, keep, tape, parts):
    """The counts of one part at each digit of the common search."""
    target = calibrate(lambda: [torch.cat(parts)], keep)
    bits = int(torch.tensor(target).view(torch.int32))
    own = part[part > 0].view(torch.int32)
    tape.append(torch.bincount(own >> 16, minlength=1 << 16))
    tape.append(torch.bincount(own[own >> 16 == bits >> 16] & 0xFFFF, minlength=1 << 16))


def test_scores_that_are_not_finite_are_refused():
    for bad in (float("nan"), float("inf")):
        with pytest.raises(BadInput, match="finite"):
            calibrate(lambda bad=bad: [torch.tensor([1.0, bad])], 1)


def test_the_running_threshold_is_a_mean_in_float64():
    running = RunningThreshold(0.9, torch.tensor([-torch.inf]))
    running.update(2.0)
    assert running.value.tolist() == [2.0] and running.value.dtype == torch.float64
    running.update(1.0)
    assert running.value.tolist() == [0.9 * 2.0 + (1 - 0.9) * 1.0]


def test_a_running_threshold_a_view():
    running = RunningThreshold(0.5, torch.full((2,), -torch.inf))
    running.update(torch.tensor([1.0, 3.0]))
    running.update(torch.tensor([2.0, 5.0]))
    assert running.value.tolist() == [1.5, 4.0]
