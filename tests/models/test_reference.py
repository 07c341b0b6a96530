"""The embedded reference checkpoints: where they are, what they are asked, and what is said when they are missing."""

import json

import pytest

from interp.core.errors import BadInput, CheckpointError
from interp.models import reference


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installation without files, into which a test may put some."""
    monkeypatch.setattr(
        reference, "__file__", str(tmp_path / "site" / "interp" / "models" / "reference" / "__init__.py")
    )
    return tmp_path / "site"


def test_missing_files_say_what_to_do(package):
    with pytest.raises(CheckpointError, match="interp reference train"):
        reference.path("atlas")
    with pytest.raises(CheckpointError):
        reference.load("atlas")


@pytest.mark.parametrize("where", ["interp/assets/reference", "assets/reference"])
def test_files_are_found_in_a_wheel_and_in_a_checkout(package, where):
    folder = package / where / "atlas"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert reference.path("atlas") == folder.resolve()


def test_a_mistyped_name_is_not_looked_up_anywhere():
    with pytest.raises(BadInput, match="Did you mean 'atlas'"):
        reference.load("atls")


def test_facts_are_held_out_and_in_one_fixed_order(package):
    folder = package / "assets" / "reference" / "atlas"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({}))
    facts, first = reference.facts("atlas"), reference.facts("atlas", 30)
    assert [fact.id for fact in facts[:30]] == [fact.id for fact in first]
    assert len({fact.id for fact in facts}) == len(facts) > 500
    assert len({fact.meta["relation"] for fact in first}) > 1
    assert all(fact.answer and fact.answer.startswith(" ") and "subject" in fact.spans for fact in facts)


@pytest.mark.parametrize("name", reference.names())
def test_the_committed_checkpoints_load_and_agree_with_transformers(name):
    try:
        reference.path(name)
    except CheckpointError:
        pytest.skip(f"{name} is not in this checkout yet")
    lm = reference.load(name)
    assert lm.spec.name == name
    found = lm.fidelity()
    assert found.ok and not found.silent, found.line
