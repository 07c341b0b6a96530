import io
import subprocess
import sys
from types import SimpleNamespace

import pytest

from interp.core import progress
from interp.core.progress import Progress, track, wanted


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    stream = Terminal()
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=stream, modules={}))  # capturing resets the real one
    monkeypatch.setattr(progress, "DELAY", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    return stream


def test_items_pass_through(terminal: Terminal) -> None:
    assert list(track([1, 2, 3], "counting")) == [1, 2, 3]
    assert list(track((i for i in range(3)), "counting", total=3)) == [0, 1, 2] and list(track([], "nothing")) == []


def test_a_bar_shows_label_count_and_time_left(terminal: Terminal) -> None:
    for _ in track(range(4), "tracing facts"):
        pass
    shown = terminal.getvalue()
    assert "tracing facts" in shown and "4/4" in shown and "left" in shown
    assert Progress._display is None


def test_nothing_shows_before_the_delay(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "DELAY", 60.0)
    list(track(range(100), "quick"))
    assert terminal.getvalue() == ""


def test_nothing_shows_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=stream, modules={}))
    monkeypatch.setattr(progress, "DELAY", 0.0)
    list(track(range(100), "silent"))
    assert not wanted() and stream.getvalue() == ""
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=None, modules={}))  # as under pythonw
    assert not wanted() and list(track([1], "silent")) == [1]


def test_nested_bars_share_one_display(terminal: Terminal) -> None:
    for _ in track(range(2), "outer"):
        for _ in track(range(2), "inner"):
            pass
    assert "outer" in terminal.getvalue() and "inner" in terminal.getvalue()
    assert Progress._display is None and Progress._open == 0


def test_a_bar_ends_with_its_loop_also_on_error_and_on_break(terminal: Terminal) -> None:
    with pytest.raises(KeyError), Progress("failing", total=5) as bar:
        bar.update(2)
        raise KeyError
    assert Progress._display is None
    for item in track(range(5), "leaving"):
        if item == 2:
            break
    del item
    assert Progress._display is None and Progress._open == 0


def test_what_is_printed_meanwhile_still_goes_to_stdout(terminal: Terminal, capsys: pytest.CaptureFixture[str]) -> None:
    for item in track(range(2), "printing"):
        print("line", item)
    assert capsys.readouterr().out == "line 0\nline 1\n" and "line" not in terminal.getvalue()


def test_updates_count_by_more_than_one(terminal: Terminal) -> None:
    with Progress("tokens", total=10) as bar:
        bar.update(4)
        bar.update(6)
    assert bar.done == 10 and "10/10" in terminal.getvalue()


def test_a_note_stands_behind_the_bar(terminal: Terminal) -> None:
    with Progress("training", total=3) as bar:
        assert not bar.visible
        bar.update()
        bar.note("loss 0.31")
        assert bar.visible
        bar.update()
        Progress._display.refresh()
        assert "loss 0.31" in terminal.getvalue()
        bar.note("loss 0.29")
        bar.update()
    assert "loss 0.29" in terminal.getvalue()


def test_rich_is_only_imported_for_a_bar() -> None:
    code = "import sys; from interp.core.progress import track; list(track(range(3), 'x')); sys.exit('rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
