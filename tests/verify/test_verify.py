"""Every known answer comes out here; and each kind of check fails when what it checks is broken."""

import io
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from interp import verify
from interp.core.errors import BadInput
from interp.models import base, families
from interp.models.reference import planted
from interp.verify import invariants, mechanisms, report
from interp.verify.case import Case, Outcome


def failing(name: str) -> Outcome:
    (outcome,) = verify.run(name)
    assert not outcome.ok
    return outcome


@pytest.mark.parametrize("case", verify.cases(), ids=lambda case: case.name)
def test_known_answer(case):
    outcome = case.run()
    assert outcome.ok, str(outcome)
    assert outcome.found and outcome.expected and case.question.endswith("?")


def test_names_are_unique_and_checked():
    names = [case.name for case in verify.cases()]
    assert len(set(names)) == len(names)
    with pytest.raises(BadInput, match="stale cache"):
        verify.run("stale cahce")


def test_what_a_case_raises_is_its_outcome():
    outcome = Case("x", "Does it?", "no", lambda: 1 / 0).run()  # type: ignore[arg-type, return-value]
    assert not outcome.ok and "ZeroDivisionError" in outcome.found


@pytest.mark.parametrize(
    ("case", "model"),
    [("induction", "induction"), ("causal tracing", "fact"), ("concept vectors", "concepts"), ("channels", "channels")],
)
def test_nothing_is_found_where_nothing_is_planted(case, model, monkeypatch):
    """The null variant with the planted answers: the check must not pass by itself."""
    real, _ = mechanisms.planted(model)
    null, lm = mechanisms.planted(model, null=True)
    assert not null.answers
    monkeypatch.setattr(mechanisms, "planted", lambda name, null=False: (replace(real, module=null.module), lm))
    failing(case)


@pytest.mark.parametrize(
    ("case", "model"),
    [("causal tracing, null", "fact"), ("concept vectors, null", "concepts"), ("channels, null", "channels")],
)
def test_a_null_case_fails_where_something_is_planted(case, model, monkeypatch):
    real = mechanisms.planted(model)
    monkeypatch.setattr(mechanisms, "planted", lambda name, null=False: real)
    failing(case)


def test_unread_checksums_are_caught(monkeypatch):
    from interp.cache import Store

    real = Store.__init__
    monkeypatch.setattr(Store, "__init__", lambda self, root, **options: real(self, root, verify="never"))
    assert "flipped bit" in failing("damaged cache").found


def test_an_engine_that_does_not_check_itself_is_caught(monkeypatch):
    monkeypatch.setattr("interp.models.resume.check_level", lambda plain, base: None)
    assert "SILENTLY" in failing("wrong engine").found


def test_a_hook_that_stays_is_caught(monkeypatch):
    real, left = base.BaseLM.run, []

    def forgetful(self, tokens, **options):
        left.append(self.plain.module.transformer.h[0].register_forward_hook(lambda *_: None))
        return real(self, tokens, **options)

    monkeypatch.setattr(base.BaseLM, "run", forgetful)
    try:
        failing("borrowed model")
    finally:
        for handle in left:
            handle.remove()


def test_an_architecture_let_through_is_caught(monkeypatch):
    real = families.family_of
    monkeypatch.setattr(
        families, "family_of", lambda config: None if config.__class__ is SimpleNamespace else real(config)
    )
    assert failing("bad input").found == "3 of 4 refused"


def test_a_key_without_the_weights_is_caught(monkeypatch):
    monkeypatch.setattr(base.BaseLM, "fingerprint", lambda self: "0" * 32)
    assert "STALE: weight" in failing("stale cache").found


def test_a_silent_engine_is_caught(monkeypatch):
    monkeypatch.setattr("interp.core.run.check_fired", lambda fired: None)
    assert failing("silent edits").found == "3 of 4 refused"


def test_weights_that_stay_changed_are_caught(monkeypatch):
    @contextmanager
    def forget(module, changes):
        kept = dict(module.named_parameters())["transformer.h.0.ln_1.weight"]
        kept.detach().add_(1e-6)
        yield

    lm = invariants.random_lm()
    saved = lm.module.transformer.h[0].ln_1.weight.detach().clone()
    monkeypatch.setattr(base, "edit_weights", forget)
    failing("weight edits")
    lm.module.transformer.h[0].ln_1.weight.detach().copy_(saved)


def test_recomputing_too_little_is_caught(monkeypatch):
    def stale(self, recording, cells, *, positions=(-1,)):
        return recording.run.last_logits[None, :, None].expand(len(cells), -1, 1, -1)

    monkeypatch.setattr(base.BaseLM, "resume", stale)
    failing("partial recomputation")


def test_padding_that_is_attended_to_is_caught(monkeypatch):
    original = base.BaseLM.run

    def unmasked(self, tokens, **options):
        if isinstance(tokens, invariants.Batch):
            tokens = replace(tokens, mask=torch.ones_like(tokens.mask))
        return original(self, tokens, **options)

    monkeypatch.setattr(base.BaseLM, "run", unmasked)
    failing("padding")


def test_report_and_status():
    good = Outcome("a", "Is it?", "yes", "yes", True, 0.1)
    bad = replace(good, name="b [x]", found="no [red]", ok=False)
    console = Console(width=100, record=True, file=io.StringIO())
    report.show([good, bad], console)
    text = console.export_text()
    assert "FAIL" in text and "no [red]" in text and "1 of 2 FAILED (b [x])" in text
    assert report.status([good]) == 0 and report.status([good, bad]) == 1 and report.status([]) == 1
    assert "1 of 1 known answers" in report.verdict([good])


def test_the_command_line_gives_an_exit_status(monkeypatch):
    from typer.testing import CliRunner

    from interp.cli import app

    good = Outcome("a", "Is it?", "yes", "yes", True, 0.1)
    for ok, code in ((True, 0), (False, 1)):
        monkeypatch.setattr(verify, "run", lambda ok=ok: [replace(good, ok=ok)])
        assert CliRunner().invoke(app, ["verify"]).exit_code == code


def test_planted_models_are_public():
    from interp.models import reference

    assert reference.fact is planted.fact and "induction" in dir(reference)
    assert reference.names() == ["atlas", "atlas-tuned"]
    with pytest.raises(BadInput, match="Did you mean"):
        reference.path("atlsa")
    with pytest.raises(AttributeError, match="no attribute"):
        _ = reference.nothing
