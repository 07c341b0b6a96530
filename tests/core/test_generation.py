"""What a generation says of itself."""

from interp.core.generation import Generation


def test_it_counts_rows_tokens_and_ends() -> None:
    made = Generation(
        ((1, 2), (3,)), ((4, 0), (5, 6, 7)), (" a", " b c d"), ((-0.1, -0.2), (-1.0, -2.0, -3.0)), (True, False)
    )
    assert len(made) == 2 and repr(made) == "Generation(2 rows, 5 new tokens, 1 rows ended by themselves)"
