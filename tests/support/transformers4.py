"""transformers 4.57.6, which scripts/test.sh installs beside version 5, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / ".venv" / "transformers4"


def run(program: list[str], jobs: Any) -> Any:
    """What a Python program, which reads `jobs` from stdin, prints as its last line; all JSON."""
    if not FOLDER.is_dir():
        pytest.skip("transformers 4 is not there; scripts/test.sh installs it")
    done = subprocess.run(
        [sys.executable, *program],
        input=json.dumps(jobs),
        env={**os.environ, "PYTHONPATH": str(FOLDER), "TRANSFORMERS_VERBOSITY": "error"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
