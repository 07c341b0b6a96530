import numpy as np
import pytest
import torch

from interp.core.batch import At, Batch
from interp.core.edit import Edit, add, call, freeze, mask, project_out, replace, scale, swap
from interp.core.errors import BadInput, UnknownSite
from interp.core.run import Run
from interp.core.site import Site

SITE, Z, PATTERN = "blocks.0.hook_resid_post", "blocks.0.attn.hook_z", "blocks.0.attn.hook_pattern"
BATCH = Batch.of([[1, 2, 3], [4, 5, 6]])
ONE = At.index(1)


def x(*shape: int) -> torch.Tensor:
    return torch.randn(*(shape or (2, 3, 4)), generator=torch.Generator().manual_seed(0))


def act(edit: Edit, value: torch.Tensor, start: int = 0) -> torch.Tensor:
    return edit.apply(value, edit.where(BATCH), start)


def test_operations_change_exactly_the_selected_positions() -> None:
    base, other = x(), x() + 1
    for edit, expected in [
        (replace(SITE, other, at=ONE), other),
        (replace(SITE, 2.0, at=ONE), torch.full_like(base, 2.0)),
        (add(SITE, other, at=ONE), base + other),
        (scale(SITE, 0.0, at=ONE), torch.zeros_like(base)),
        (call(SITE, torch.tanh, at=ONE), torch.tanh(base)),
        (mask(SITE, other, torch.tensor(0.25), at=ONE), 0.75 * base + 0.25 * other),
    ]:
        kept = base.clone()
        new = act(edit, base)
        torch.testing.assert_close(new[:, 1], expected[:, 1])
        assert torch.equal(new[:, [0, 2]], base[:, [0, 2]]) and torch.equal(
            base, kept
        )  # and the original is left alone


def test_replacing_with_itself_changes_nothing_bit_for_bit() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        base = x().to(dtype)
        for edit in (replace(SITE, base), swap(SITE, base, x(4, 2)), mask(SITE, base, torch.tensor(0.3))):
            assert torch.equal(act(edit, base), base), edit.describe()


def test_interpolation_is_exact_at_both_ends_and_learnable() -> None:
    base, other = x() * 1e3, x() * 1e-3 + 7
    assert torch.equal(act(mask(SITE, other, torch.tensor(1.0)), base), other)
    assert torch.equal(act(mask(SITE, other, torch.tensor(0.0)), base), base)
    strength = torch.full((4,), 0.5, requires_grad=True)
    act(mask(SITE, other, strength), base).sum().backward()
    torch.testing.assert_close(strength.grad, (other - base).sum(dim=(0, 1)))


def test_heads_select_their_axis_only() -> None:
    base = x(2, 3, 5, 4)
    new = act(scale(Z, 0.0, heads=[1, 3]), base)
    assert not new[:, :, [1, 3]].any() and torch.equal(new[:, :, [0, 2, 4]], base[:, :, [0, 2, 4]])
    with pytest.raises(BadInput, match="heads 0 to 4"):
        act(scale(Z, 0.0, heads=[5]), base)
    with pytest.raises(BadInput, match="no head axis"):
        scale(SITE, 0.0, heads=[0])
    with pytest.raises(BadInput, match="names no head"):
        scale(Z, 0.0, heads=[])


def test_pattern_positions_are_queries() -> None:
    base = x(2, 5, 3, 3).softmax(-1)
    new = act(scale(PATTERN, 0.0, at=ONE, heads=[2]), base)
    assert not new[:, 2, 1].any()
    assert torch.equal(new[:, 2, [0, 2]], base[:, 2, [0, 2]]) and torch.equal(
        new[:, [0, 1, 3, 4]], base[:, [0, 1, 3, 4]]
    )


def test_project_out_removes_the_subspace_and_nothing_else() -> None:
    base, basis = x(), x(4, 2)
    q, _ = torch.linalg.qr(basis)
    new = act(project_out(SITE, basis), base)
    torch.testing.assert_close(new @ q, torch.zeros(2, 3, 2), atol=1e-6, rtol=0)
    torch.testing.assert_close(new, base - base @ q @ q.T)
    toward = act(project_out(SITE, basis, toward=x() + 1), base)
    torch.testing.assert_close(toward @ q, (x() + 1) @ q)
    torch.testing.assert_close(
        act(project_out(SITE, basis[:, 0]), base) @ basis[:, 0], torch.zeros(2, 3), atol=1e-5, rtol=0
    )


def test_swap_takes_the_subspace_from_the_other_run() -> None:
    base, other, (q, _) = x(), x().flip(0), torch.linalg.qr(x(4, 2))
    new = act(swap(SITE, other, q), base)
    torch.testing.assert_close(new @ q, other @ q)
    torch.testing.assert_close(new - new @ q @ q.T, base - base @ q @ q.T)


def test_projection_in_half_precision_is_as_good_as_the_rounding_of_its_result() -> None:
    base, basis = x(2, 3, 256) * 10, x(256, 8)
    exact = act(project_out(SITE, basis.double()), base.bfloat16().double())
    new = act(project_out(SITE, basis), base.bfloat16())
    assert new.dtype == torch.bfloat16
    assert (new.double() - exact).abs().max() <= exact.abs().max() * 2**-8


@pytest.mark.parametrize(
    "basis", [torch.ones(4, 2), torch.zeros(4), torch.randn(2, 3), torch.full((4, 1), torch.nan), torch.zeros(4, 0)]
)
def test_a_basis_without_full_rank_is_refused(basis: torch.Tensor) -> None:
    with pytest.raises(BadInput, match="the basis"):
        project_out(SITE, basis)


def test_values_are_aligned_from_a_start_position() -> None:
    base, other = x(), x() + 1
    assert torch.equal(act(replace(SITE, other, at=At.all()), base[:, 1:], start=1), other[:, 1:])
    assert torch.equal(
        act(replace(SITE, other[0]), base[:, 1:], start=1), other[0, 1:].expand(2, 2, 4)
    )  # no batch axis
    assert torch.equal(act(replace(SITE, other[0, 0]), base[:, 1:], start=1), other[0, 0].expand(2, 2, 4))
    pattern = x(2, 5, 3, 3)
    assert torch.equal(act(replace(PATTERN, pattern + 1), pattern[:, :, 2:], start=2), pattern[:, :, 2:] + 1)


@pytest.mark.parametrize("value", [x(2, 2, 4), x(3, 3, 4), x(5), x(2, 2, 3, 4)])
def test_a_value_of_another_shape_is_refused(value: torch.Tensor) -> None:
    for build in (replace, add):
        with pytest.raises(BadInput, match="does not broadcast"):
            act(build(SITE, value), x())
    with pytest.raises(BadInput, match="makes"):
        act(call(SITE, lambda t: t[:, :1]), x())


def test_the_dtype_of_the_activation_is_kept() -> None:
    for edit in (
        replace(SITE, x().double()),
        add(SITE, x()),
        mask(SITE, x(), torch.tensor(0.5)),
        swap(SITE, x(), x(4, 1)),
    ):
        assert act(edit, x().bfloat16()).dtype == torch.bfloat16


def test_what_cannot_be_an_edit_is_refused() -> None:
    with pytest.raises(BadInput, match="`op` must be one of"):
        Edit(Site.parse(SITE), "set", 0.0)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="needs a function"):
        Edit(Site.parse(SITE), "call", 0.0)
    with pytest.raises(BadInput, match="Use `call`"):
        Edit(Site.parse(SITE), "add", torch.tanh)
    with pytest.raises(BadInput, match="needs a `basis`"):
        Edit(Site.parse(SITE), "project", 0.0)
    with pytest.raises(UnknownSite):
        replace("blocks.0.hook_resid", 0.0)


def test_digest_changes_with_everything_that_decides_the_effect() -> None:
    half = torch.tensor(0.5)
    edits = [
        replace(SITE, x()), replace(SITE, x() + 1), replace(SITE, x().double()), add(SITE, x()), replace(SITE, x(), at=ONE),
        replace("blocks.1.hook_resid_post", x()), replace(SITE, 0.0), mask(SITE, x(), half), mask(SITE, x(), half / 2),
        swap(SITE, x(), x(4, 1)), swap(SITE, x(), x(4, 2)), scale(Z, 0.0, heads=[0]), scale(Z, 0.0, heads=[1]), scale(Z, 0.0),
    ]  # fmt: skip
    assert len({edit.digest() for edit in edits}) == len(edits)
    assert edits[0].digest() == replace(SITE, x()).digest()
    with pytest.raises(BadInput, match="cannot be cached"):
        call(SITE, torch.tanh).digest()


def test_values_come_from_runs_by_site() -> None:
    run = Run(BATCH, None, {Site.parse(SITE): x()})
    assert torch.equal(act(replace(SITE, run), x() + 1), x())
    with pytest.raises(UnknownSite, match="was not captured"):
        replace(Z, run)
    frozen = freeze([SITE], run, at=ONE)
    assert len(frozen) == 1 and torch.equal(act(frozen[0], x() + 1)[:, 1], x()[:, 1])
    assert frozen[0].describe() == f"replace at {SITE}, index(1,)"


def test_a_function_that_writes_into_its_argument_acts_at_its_positions_only() -> None:
    base = x()
    before = base.clone()
    got = act(call(SITE, lambda value: value.zero_(), at=ONE), base)
    assert torch.equal(base, before), "the activation itself is left alone"
    assert torch.equal(got, act(scale(SITE, 0.0, at=ONE), base))
    with pytest.raises(BadInput, match="gave NoneType"):
        act(call(SITE, lambda value: None), base)  # type: ignore[arg-type, return-value]


def test_a_mask_of_positions_means_what_its_key_says() -> None:
    """A mask of numbers selects wherever it is not 0, and its text says so too: 256 is not 0, nor is 0.5."""
    yes = torch.tensor([[False, True, False], [False, False, True]])
    for numbers in (yes.int() * 256, yes.float() * 0.5):
        assert At.mask(numbers).describe() == At.mask(yes).describe()
        assert torch.equal(At.mask(numbers).resolve(BATCH), yes)


def test_numbers_of_numpy_are_numbers_and_what_is_no_number_is_refused() -> None:
    """Anything but a tensor or a Python number once counted as 0: `scale(site, np.float32(2))` ablated."""
    base = x()
    for two in (np.float32(2.0), np.float64(2.0), np.int64(2), 2):
        assert torch.equal(act(scale(SITE, two), base), base * 2)  # type: ignore[arg-type]
    for wrong in ("2", None, [0.0] * 4, np.zeros(4, np.float32)):
        for build in (scale, add, replace):
            with pytest.raises(BadInput, match=r"must be a number or a tensor; not \w+.*torch.as_tensor"):
                build(SITE, wrong)  # type: ignore[operator]
    with pytest.raises(BadInput, match=r"At\.last"):
        scale(SITE, 0.0, at="last")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="has 3 rows; the site's last axis has 4"):
        act(project_out(SITE, torch.eye(3)), base)
