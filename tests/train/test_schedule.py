import pytest

from interp.train.schedule import Schedule, law


def test_the_rate_rises_stays_and_falls():
    schedule = Schedule(tokens=1000, warmup=0.1, decay=0.2)
    rates = [schedule.rate(seen, 10) for seen in range(0, 1000, 10)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert set(rates[10:80]) == {1.0}
    assert rates[80:] == pytest.approx([1 - 0.05 * i for i in range(20)])
    assert all(0 < rate <= 1 for rate in rates)


def test_a_rate_is_never_zero_even_beyond_the_end():
    assert Schedule(tokens=1000).rate(999, 100) > 0 and Schedule(tokens=1000).rate(1000, 100) > 0


def test_the_shape_does_not_depend_on_the_length():
    short, long = Schedule(tokens=1000, k_start=64), Schedule(tokens=100_000, k_start=64)
    for seen in range(0, 1000, 50):
        assert short.rate(seen, 10) == pytest.approx(long.rate(100 * seen, 1000))
        assert short.k(seen, 8) == pytest.approx(long.k(100 * seen, 8))


def test_k_falls_from_its_start_and_stays():
    schedule = Schedule(tokens=1000, k_start=40, k_anneal=0.5)
    assert [schedule.k(seen, 4.0) for seen in (0, 250, 500, 990)] == [40.0, 22.0, 4.0, 4.0]
    assert Schedule(tokens=1000, k_start=0).k(0, 4.0) == 4.0


def test_the_penalty_rises():
    schedule = Schedule(tokens=1000, sparsity_warmup=0.05)
    assert [schedule.sparsity(seen, 10) for seen in (0, 20, 40, 900)] == pytest.approx([0.2, 0.6, 1.0, 1.0])
    assert Schedule(tokens=1000, sparsity_warmup=0).sparsity(0, 1) == 1.0


def test_no_warmup_and_no_decay_are_a_constant():
    schedule = Schedule(tokens=1000, warmup=0, decay=0)
    assert {schedule.rate(seen, 10) for seen in range(0, 1000, 10)} == {1.0}


def test_the_law():
    assert law(16384) == 2e-4 and law(4096) == pytest.approx(4e-4) and law(65536) == pytest.approx(1e-4)
