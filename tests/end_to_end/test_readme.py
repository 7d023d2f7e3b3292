"""The README's Python runs as written, and the quickstart model answers what the README shows."""

import ast
import json
import re
import shutil
from pathlib import Path

import pytest

from t5jax.cli import main

ROOT = Path(__file__).parents[2]


def blocks() -> list[str]:
    """The Python of the README up to T5's tasks, whose data has to be downloaded."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text[: text.index("## T5's tasks")], flags=re.S)


def run(block: str, names: dict) -> int:
    """Runs a block; an expression with a value as its comment must have that value."""
    # A shorter run: the block shows the calls.
    short = '["steps"] = 2; config["optimizer"]["warmup"] = 1'
    block, shown = block.replace('["steps"] = 200', short), 0
    lines = block.splitlines()
    for node in ast.parse(block).body:
        code = ast.get_source_segment(block, node)
        comment = lines[node.end_lineno - 1][node.end_col_offset :].strip()
        if isinstance(node, ast.Expr) and re.match(r"# [\"\[]+\"?\w", comment) and '"' in comment:
            assert eval(code, names) == ast.literal_eval(comment[2:]), code
            shown += 1
        else:
            exec(code, names)
    return shown


@pytest.mark.slow
def test_the_quickstart_model_answers_what_the_readme_shows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "configs", "configs")
    Path("runs").mkdir()
    main(["vocabulary", "words", "runs/words.model", "--size", "160", "--words", "76"])
    main(["train", "configs/quickstart.yaml"])
    # 0.49 of pronunciations have an error, and 0.15 of phonemes are wrong; see README.
    metrics = json.loads(Path("runs/quickstart/eval/pronounce/metrics.json").read_text())
    assert metrics["wer"] < 0.6 and metrics["per"] < 0.2
    Path("runs/in.txt").write_text("past: stop\nplural: city\n")
    names: dict = {}
    assert sum(run(block, names) for block in blocks()) >= 5
