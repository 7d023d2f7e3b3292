"""The notebooks run from top to bottom, and show what they say."""

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("torch")
pytest.importorskip("transformers")

FOLDER = Path(__file__).parents[2] / "scripts" / "notebooks"


def shown(cell) -> str:
    """What a cell prints and returns; progress goes to stderr."""
    return "".join(
        x.get("text") or x.get("data", {}).get("text/plain", "")
        for x in cell.get("outputs", [])
        if x.get("name") != "stderr"
    )


@pytest.mark.slow
def test_checkpoints_notebook_runs_and_agrees_with_transformers(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    notebook = nbformat.read(FOLDER / "checkpoints.ipynb", as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    outputs = {cell.source: shown(cell) for cell in notebook.cells if cell.cell_type == "code"}
    of = lambda part: next(text for source, text in outputs.items() if part in source)  # noqa: E731
    assert of('"upper: night", "upper: note"') == "['NIGHT', 'NOTE']"
    best = max(of("t5.score").splitlines(), key=lambda line: float(line.split()[1]))
    assert best.startswith("WORLD ")
    assert of('format="hf"').strip() == "BACK"
    difference = of("AutoModelForSeq2SeqLM").split()[-1]
    assert float(difference) < 1e-4
