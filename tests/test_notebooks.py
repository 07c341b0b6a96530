"""Every notebook runs from top to bottom on the embedded checkpoint, and is committed without outputs."""

import time
from pathlib import Path

import pytest

from interp.core.errors import CheckpointError
from interp.models import reference

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SECONDS = 300


def read(path: Path):
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed; it comes with the dev extra")
    return nbformat.read(path, as_version=4)


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_committed_clean(path):
    notebook = read(path)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None, (
                f"clear the outputs of {path.name} before committing it"
            )
    assert path.stat().st_size < 200_000
    assert str(Path.home()) not in path.read_text(encoding="utf-8")
    assert (
        notebook.cells[-1].cell_type == "markdown" and "interp " in notebook.cells[-1].source
    )  # the lines that reproduce it


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed; it comes with the dev extra")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed; it comes with the dev extra")
    try:
        reference.path("atlas")
    except CheckpointError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = read(path)
    client = nbclient.NotebookClient(
        notebook, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    began = time.monotonic()
    client.execute()
    assert time.monotonic() - began < SECONDS
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in shown if output.output_type == "error"]
    figures = [output for output in shown if "application/vnd.plotly.v1+json" in output.get("data", {})]
    assert figures, "a notebook shows something"
    for output in shown:  # a result's own picture stays small
        assert len(output.get("data", {}).get("text/html", "")) < 100_000
