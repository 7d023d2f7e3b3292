"""Tests that need eight devices stand in their rooms; this one runs them all, in one process."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.devices import environment

TESTS = Path(__file__).parent
MARKED = "mark." + "eight_devices"


@pytest.mark.slow
def test_what_needs_eight_devices_passes_where_there_are_eight():
    files = [f for f in sorted(TESTS.rglob("test_*.py")) if MARKED in f.read_text("utf-8")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "eight_devices", "-p", "no:xdist",
         *map(str, files)],
        cwd=TESTS.parent, env=environment(devices=8), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:]
