"""The README is true: its Python runs, its commands are those that CI runs, its names exist."""

import re
from pathlib import Path

import pytest

import interp

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
ATLAS = ROOT / "assets" / "reference" / "atlas" / "model.safetensors"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.skipif(not ATLAS.is_file(), reason="the reference checkpoint is not in this copy")
def test_its_python_runs_from_top_to_bottom() -> None:
    scope: dict[str, object] = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), scope)
    assert type(scope["trace"]).__name__ == "TraceResult"


def test_its_two_commands_are_what_ci_runs() -> None:
    setup, tests = (block.strip() for block in blocks("sh")[:2])
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    install, report = re.search(r"pip install (.*?) && (interp report .*?) -o", setup).groups()  # type: ignore[union-attr]
    assert install in ci and report in ci
    assert tests.endswith("&& pytest") and re.search(r"^pytest$", ci, flags=re.MULTILINE)


def test_its_verbs_exist() -> None:
    import typer.main

    from interp.cli import app

    verbs = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    named = set(re.findall(r"^interp ([\w-]+)", "\n".join(blocks("sh")), flags=re.MULTILINE))
    assert named <= verbs
    assert verbs <= named | {"report"}


def test_its_picture_is_there() -> None:
    for path in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / path).stat().st_size > 10_000


def test_public_names_load() -> None:
    for name in interp.__all__:
        assert getattr(interp, name) is not None
    with pytest.raises(AttributeError, match="CausalTrace"):
        _ = interp.CausalTrac
