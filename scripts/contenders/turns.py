"""Contenders in processes of their own, which take turns.

In one process libraries disturb each other: the threads of OpenMP, PyTorch and XLA wait for work by
spinning. CTranslate2 needed 0.885 s there for what it does in 0.365 s alone (T5-small, one row, 64
tokens, 2 cores). So every contender has a process that lives through the run, one works at a time,
and between two turns there is a pause in which threads fall asleep.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).parents[1]


class Failed(Exception):
    """A contender's process ended; what it printed is above."""


@dataclass(frozen=True)
class Contender:
    """A library in a dtype.

    Attributes:
      name: "LIBRARY", or "LIBRARY@LABEL" for a second version of it.
      dtype: what it computes with: "float32", "bfloat16" or "int8".
      python: the interpreter of its environment.
      path: a folder that is first on its PYTHONPATH, or None.
    """

    name: str
    dtype: str
    python: str = sys.executable
    path: str | None = None

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}"

    def command(self, subject: str, folder: str) -> list[str]:
        library = self.name.partition("@")[0]
        # -P: a clone in the working folder must not come before PYTHONPATH.
        return [self.python, "-P", "-m", "contenders.worker", library, subject, folder, self.dtype]

    def environment(self) -> dict[str, str]:
        before = os.environ.get("PYTHONPATH", "")
        folders = [*([self.path] if self.path else []), str(SCRIPTS), *([before] if before else [])]
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(folders),
            # On a GPU the contenders share its memory.
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "TOKENIZERS_PARALLELISM": "false",
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "TQDM_DISABLE": "1",
        }


class Process:
    """A contender's process, with the peak of its memory."""

    def __init__(self, contender: Contender, subject: str, folder: str) -> None:
        self.contender = contender
        self._process = subprocess.Popen(
            contender.command(subject, folder),
            env=contender.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()
        self._idle = self._peak = self._anonymous()
        threading.Thread(target=self._watch, daemon=True).start()

    def prepare(self, **sizes: int | float) -> Any:
        """Compiles a case -> what the contender computes for it, nested lists, or None."""
        return self._ask({"prepare": sizes})["found"]

    def run(self, calls: int = 1) -> float:
        """Seconds of one call, or of one token where calls return how many they took in."""
        return self._ask({"run": calls})["seconds"]

    def peak(self) -> int:
        """Bytes: the most anonymous memory so far over that after loading; compilation counts."""
        return self._peak - self._idle

    def stop(self) -> None:
        self._process.stdin.close()
        self._process.wait()

    def _ask(self, question: dict) -> dict:
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer is that there is none
        return self._answer()

    def _answer(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            raise Failed(f"{self.contender}: its process ended with {self._process.wait()}")
        return json.loads(line)

    def _watch(self) -> None:
        while self._process.poll() is None:
            self._peak = max(self._peak, self._anonymous())
            time.sleep(0.01)

    def _anonymous(self) -> int:
        try:
            status = Path(f"/proc/{self._process.pid}/status").read_text()
        except OSError:
            return 0
        lines = [line for line in status.splitlines() if line.startswith("RssAnon:")]
        return int(lines[0].split()[1]) * 1024 if lines else 0


@contextlib.contextmanager
def processes(
    contenders: Sequence[Contender], subject: str, folder: str, skip: bool = False
) -> Iterator[list[Process]]:
    """Starts a process each, one after the other; stops them at the end.

    With `skip`, one that cannot start is left out, unless it is the first of its dtype.
    """
    with contextlib.ExitStack() as stack:
        started: list[Process] = []
        for contender in contenders:
            try:
                process = Process(contender, subject, folder)
            except Failed as error:
                first = all(one.contender.dtype != contender.dtype for one in started)
                if first or not skip:
                    raise
                print(f"left out: {error}", flush=True)
                continue
            stack.callback(process.stop)
            started.append(process)
        yield started


def take_turns(
    started: Sequence[Process], rounds: int, calls: int = 1, pause: float = 0.5
) -> dict[str, list[float]]:
    """Seconds in each round, as of `Process.run`, by contender, all of which are prepared.

    Every other round goes backwards, so that none always comes after the same one. `pause` is in
    seconds.
    """
    seconds: dict[str, list[float]] = {str(process.contender): [] for process in started}
    for number in range(rounds):
        for process in started if number % 2 == 0 else reversed(started):
            time.sleep(pause)
            seconds[str(process.contender)].append(process.run(calls))
    return seconds
