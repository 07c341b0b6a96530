import pytest
import torch

from interp.core.batch import At, Batch
from interp.core.edit import add, call, replace, scale
from interp.core.errors import CaptureEmpty, EditDidNotFire, SpanError, UnknownSite
from interp.core.run import Tape
from interp.core.site import Site

from .toy import forward

BATCH = Batch.padded([[1, 2, 3], [4]], side="left")
MID, POST = "blocks.0.hook_resid_mid", "blocks.1.hook_resid_post"


def test_an_empty_edit_list_changes_nothing_bit_for_bit() -> None:
    x = torch.randn(2, 3, 4)
    assert Tape(BATCH)(Site.parse(POST), x) is x
    assert torch.equal(forward(BATCH).logits, forward(BATCH, [POST], []).logits)


def test_captures_are_what_the_forward_pass_computed() -> None:
    run = forward(BATCH, [MID, POST])
    embed = BATCH.tokens[..., None].float().expand(-1, -1, 4)
    assert torch.equal(run[MID], embed + 1) and torch.equal(run["blocks.1.hook_out"], run[POST])
    assert torch.equal(run[POST], 3 * (3 * (embed + 1) + 1))
    assert torch.equal(run.last_logits, run.logits[:, -1])
    assert "captured ['blocks.0.hook_resid_mid'" in repr(run)


def test_captures_hold_the_site_after_its_edits() -> None:
    run = forward(BATCH, [POST], [replace(POST, 5.0)])
    assert bool((run[POST][BATCH.mask] == 5).all()) and bool((run.logits[BATCH.mask] == 20).all())


def test_fired_counts_calls_rows_and_positions_without_padding() -> None:
    everywhere, one = add(POST, 1.0), add(POST, 1.0, at=At.index(2))
    fired = forward(BATCH, [], [everywhere, one]).fired
    assert (fired[everywhere].calls, fired[everywhere].rows, fired[everywhere].positions) == (1, 2, 4)
    assert (fired[one].calls, fired[one].rows, fired[one].positions) == (1, 1, 1)


def test_edits_at_one_site_act_in_the_order_given() -> None:
    for edits, expected in [([add(POST, 1.0), scale(POST, 2.0)], 24), ([scale(POST, 2.0), add(POST, 1.0)], 20)]:
        run = forward(Batch.of([0]), [], [replace(POST, 2.0), *edits])
        assert float(run.logits[0, 0, 0]) == expected


def test_an_edit_that_did_not_fire_raises() -> None:
    with pytest.raises(EditDidNotFire, match="changed nothing"):  # never reached
        forward(BATCH, [], [add("blocks.5.hook_mlp_out", 1.0)])
    with pytest.raises(EditDidNotFire, match=r"blocks\.1\.hook_resid_post"):  # no such token
        forward(BATCH, [], [add(POST, 1.0, at=At.token(99))])
    with pytest.raises(SpanError):
        forward(BATCH, [], [add(POST, 1.0, at=At.span("subject"))])


def test_an_edit_may_be_allowed_not_to_fire() -> None:
    from dataclasses import replace as change

    edit = change(add(POST, 1.0, at=At.token(99)), may_not_fire=True)
    run = forward(BATCH, [], [edit])
    assert run.fired[edit].positions == 0 and torch.equal(run.logits, forward(BATCH).logits)


def test_a_capture_that_matched_nothing_raises() -> None:
    with pytest.raises(CaptureEmpty, match=r"blocks\.1"):
        forward(BATCH, [POST], layers=1)


def test_what_was_not_captured_is_refused_with_a_suggestion() -> None:
    run = forward(BATCH, [POST])
    with pytest.raises(UnknownSite, match=r"Did you mean .*blocks\.1\.hook_resid_post"):
        run["blocks.1.hook_resid_pre"]
    with pytest.raises(CaptureEmpty, match="stopped before the logits"):
        _ = Tape(BATCH).finish(None).last_logits


def test_the_middle_stream_is_edited_where_attention_adds() -> None:
    """No module outputs the stream between attention and MLP: hooking its reader must not be enough."""
    edit = add(MID, 10.0, at=At.last())
    tape = Tape(BATCH, [], [edit])
    assert {site.kind for site in tape.sites} == {"resid_pre", "attn_out"}
    assert tape.edited_sites == {Site("attn_out", 0)}
    run = forward(BATCH, [MID, "blocks.0.hook_resid_post"], [edit])
    clean = forward(BATCH, [MID, "blocks.0.hook_resid_post"])
    assert torch.equal(run[MID][:, -1], clean[MID][:, -1] + 10) and torch.equal(run[MID][:, :-1], clean[MID][:, :-1])
    assert torch.equal(
        run["blocks.0.hook_resid_post"][:, -1], clean["blocks.0.hook_resid_post"][:, -1] + 30
    )  # the stream and the MLP
    assert run.fired[edit].calls == 1 and run.fired[edit].positions == 2


def test_middle_and_attention_edits_compose() -> None:
    run = forward(
        BATCH, [MID], [replace("blocks.0.hook_attn_out", 100.0), scale(MID, 2.0), add("blocks.0.hook_resid_pre", 1.0)]
    )
    embed = BATCH.tokens[..., None].float().expand(-1, -1, 4)
    real = BATCH.mask
    torch.testing.assert_close(run[MID][real], (2 * (embed + 1 + 100))[real])
    assert torch.equal(run[MID][~real], (embed + 1)[~real])  # padding is left alone


def test_replacing_the_middle_stream_with_itself_changes_nothing() -> None:
    clean = forward(BATCH, [MID])
    assert torch.equal(forward(BATCH, [], [replace(MID, clean)]).logits, clean.logits)


def test_captures_are_detached_unless_gradients_are_asked_for() -> None:
    assert not forward(BATCH, [POST]).captured[Site.parse(POST)].requires_grad
    run = forward(BATCH, [POST, "hook_embed"], grad=True)
    (gradient,) = torch.autograd.grad(run.logits.sum(), run["hook_embed"])
    assert torch.equal(gradient, torch.full((2, 3, 4), 90.0))  # 3 · 3 per layer, ten logits


def test_gradients_flow_through_a_learnable_value() -> None:
    value = torch.zeros(4, requires_grad=True)
    run = forward(BATCH, [], [add(POST, value)], grad=True)
    run.logits[..., 0].sum().backward()
    assert torch.equal(value.grad, torch.full((4,), 4.0))  # four real tokens


def test_an_edit_by_function_sees_the_tensor_of_its_site() -> None:
    seen = []
    forward(BATCH, [], [call(MID, lambda x: seen.append(x.shape) or x)])
    assert seen == [(2, 3, 4)]
