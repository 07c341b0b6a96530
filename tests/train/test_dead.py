import torch

from interp.core.seed import generator
from interp.train.dead import Firing


def test_silence_is_counted_in_rows_whatever_the_batch():
    on = torch.rand(240, 12, generator=generator(0, "on")) < torch.linspace(0, 0.05, 12)
    found = []
    for size in (1, 8, 60):
        firing = Firing(12)
        for start in range(0, 240, size):
            firing.update(on[start : start + size].sum(dim=0), size)
        found.append(firing)
    exact = torch.tensor([240 if not column.any() else 239 - int(column.nonzero().max()) for column in on.T])
    assert torch.equal(found[0].silent, exact)
    for firing, size in zip(found, (1, 8, 60), strict=True):
        assert firing.seen == 240 and bool(((exact - firing.silent >= 0) & (exact - firing.silent < size)).all())


def test_nothing_is_dead_before_it_could_be():
    firing = Firing(3)
    firing.update(torch.tensor([1, 0, 0]), 50)
    assert firing.dead(100) is None
    firing.update(torch.tensor([0, 2, 0]), 50)
    assert firing.dead(100).tolist() == [False, False, True] and firing.dead(50).tolist() == [True, False, True]


def test_alive_means_on_at_least_once_and_not_long_ago():
    firing = Firing(3)
    firing.update(torch.tensor([1, 0, 0]), 50)
    assert firing.alive(1000).tolist() == [True, False, False]
    firing.update(torch.tensor([0, 1, 0]), 50)
    assert firing.alive(1000).tolist() == [True, True, False] and firing.alive(50).tolist() == [False, True, False]
