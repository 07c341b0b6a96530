import io
from types import SimpleNamespace

from interp.core import progress as core
from interp.train import progress
from interp.train.progress import Live, line
from interp.train.training import Training

from .toys import data, sae


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_line_is_short():
    assert line({"loss": 0.312345, "FVU": 0.1, "L0": 32.0, "dead": 1400}) == "loss 0.312 · FVU 0.1 · L0 32 · dead 1,400"


def test_numbers_are_not_asked_for_where_nobody_looks():
    def never():
        raise AssertionError

    with Live("training", 10) as live:
        live.update(5, never)


def test_a_training_shows_how_it_goes(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(core, "sys", SimpleNamespace(stderr=stream, modules={}))
    monkeypatch.setattr(core, "DELAY", 0.0)
    monkeypatch.setattr(progress, "EVERY", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    Training(tokens=640, batch=64)(data(), sae())
    shown = stream.getvalue()
    assert "training" in shown and "loss" in shown and "FVU" in shown and "L0 2" in shown and "dead" in shown
