"""Tries bad inputs on commands, files and the Python API; each must be refused in one line.

    python scripts/bad_inputs.py --count 600 --seed 0

Cases are generated (`bad_cases.py`) and drawn by a seed, evenly over their groups. A worker process
runs them one by one, and is killed if a case takes longer than 30 s or more than 2 GB. Exits 1 for
a traceback, a case over these limits, or an invalid value that is accepted.
"""

from __future__ import annotations

import argparse
import collections
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

SECONDS, BYTES = 30.0, 2 * 10**9
# A worker keeps the programs of its cases and grows; it is replaced after so many.
CASES_A_PROCESS = 150
FINDINGS = ("traceback", "too long", "too much memory", "accepted")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=600, help="cases (%(default)s; 0: all)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw (%(default)s)")
    parser.add_argument("--only", default="", help="only groups whose name contains this")
    parser.add_argument("--verbose", action="store_true", help="print every case and its outcome")
    parser.add_argument("--worker", metavar="FOLDER", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(Path(arguments.worker), arguments.seed)
        return
    began = time.monotonic()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for result in run(Path(folder), arguments.count, arguments.seed, arguments.only):
            results.append(result)
            if result["outcome"] in FINDINGS or arguments.verbose:
                where = f"[{result['group']}] {result['name']}"
                seconds = f"{result['seconds']:.1f} s"
                print(f"{result['outcome']:16} {where}: {result['told']} ({seconds})", flush=True)
    print_table(results)
    counts = collections.Counter(result["outcome"] for result in results)
    print(
        f"{len(results)} bad inputs (seed {arguments.seed}) in {time.monotonic() - began:.0f} s: "
        + ", ".join(f"{counts[name]} {name}" for name in FINDINGS)
        + f"; largest {max(r['peak'] for r in results) / 1e9:.2f} GB, "
        f"longest {max(r['seconds'] for r in results):.1f} s"
    )
    raise SystemExit(1 if any(counts[name] for name in FINDINGS) else 0)


def print_table(results: Sequence[dict[str, Any]]) -> None:
    """Prints the outcomes by group."""
    outcomes = ("refused", "taken", *FINDINGS)
    print(f"{'':20} {'cases':>6} " + " ".join(f"{name:>15}" for name in outcomes))
    for group in dict.fromkeys(result["group"] for result in results):
        counts = collections.Counter(r["outcome"] for r in results if r["group"] == group)
        row = " ".join(f"{counts[name]:15}" for name in outcomes)
        print(f"{group:20} {counts.total():6} {row}")


def run(folder: Path, count: int, seed: int, only: str = "") -> Iterator[dict[str, Any]]:
    """The results of `count` cases, in the order of their draw."""
    worker = Worker(folder, seed)
    cases = worker.cases
    chosen = draw([group for group, _ in cases], count, only)
    for number, index in enumerate(chosen):
        if number and number % CASES_A_PROCESS == 0:
            worker.end()
            worker = Worker(folder, seed)
        result = worker.try_case(index)
        if worker.process.poll() is not None:
            worker = Worker(folder, seed)
        group, name = cases[index]
        assert (result.setdefault("group", group), result.setdefault("name", name)) == cases[index]
        yield result
    worker.end()


def draw(groups: Sequence[str], count: int, only: str) -> list[int]:
    """Indices of cases, from every group in turn, so that small groups are tried whole."""
    queues: dict[str, collections.deque[int]] = {}
    for index, group in enumerate(groups):
        if only in group:
            queues.setdefault(group, collections.deque()).append(index)
    chosen = []
    while any(queues.values()) and (not count or len(chosen) < count):
        for queue in queues.values():
            if queue and (not count or len(chosen) < count):
                chosen.append(queue.popleft())
    return sorted(chosen)


class Worker:
    """A watched process that runs cases."""

    def __init__(self, folder: Path, seed: int) -> None:
        environment = {
            "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3", **os.environ,
            "XLA_FLAGS": "--xla_backend_optimization_level=0 " + os.environ.get("XLA_FLAGS", ""),
        }  # fmt: skip
        script = str(Path(__file__).resolve())
        words = [sys.executable, script, "--worker", str(folder), "--seed", str(seed)]
        self.process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.cases: list[tuple[str, str]] = [tuple(case) for case in self._answer()]

    def try_case(self, index: int) -> dict[str, Any]:
        """The case's outcome, message, seconds and bytes."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{index}\n")
        self.process.stdin.flush()
        began, ended, killed = time.monotonic(), threading.Event(), ""

        def watch() -> None:
            nonlocal killed
            while not ended.wait(0.05):
                if time.monotonic() - began > SECONDS:
                    killed = "too long"
                elif resident(self.process.pid) > BYTES:
                    killed = "too much memory"
                if killed:
                    self.process.kill()
                    return

        watcher = threading.Thread(target=watch)
        watcher.start()
        answer = self._answer()
        ended.set()
        watcher.join()
        seconds = time.monotonic() - began
        if answer is None:
            code = self.process.wait()
            told = f"ended after {seconds:.1f} s with exit code {code}"
            return {"outcome": killed or "traceback", "told": told, "peak": 0, "seconds": seconds}
        if answer["peak"] > BYTES:
            answer["outcome"] = "too much memory"
        return answer | {"seconds": seconds}

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def resident(pid: int, field: str = "VmRSS") -> int:
    """Bytes of a process's memory; 0 if it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = [line.split()[1] for line in status.splitlines() if line.startswith(field + ":")]
    return int(found[0]) * 1024 if found else 0


def work(folder: Path, seed: int) -> None:
    """Answers each number on stdin with that case's result, a line of JSON."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # cases print to stderr, answers go to stdout

    from bad_cases import all_cases, make_fixtures, quiet

    made = folder / "made"
    if not made.exists():
        make_fixtures(made)
    # Cases may change their fixtures; the next worker must make the same cases.
    folder = Path(shutil.copytree(made, folder / str(os.getpid())))
    os.chdir(folder)  # some cases name files to write
    quiet("tasks", "inflect", "--n", "1")  # imports TensorFlow before cases are timed
    quiet("generate", folder / "t5jax", "go", "--max_new_tokens", 2)
    cases = all_cases(folder, seed)
    gc.freeze()  # collecting over all imported objects takes a second
    print(json.dumps([(case.group, case.name) for case in cases]), file=answers, flush=True)
    for line in sys.stdin:
        case = cases[int(line)]
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        outcome, told = attempt(case)
        result = {"group": case.group, "name": case.name, "outcome": outcome, "told": told}
        result["peak"] = resident(os.getpid(), "VmHWM")
        print(json.dumps(result), file=answers, flush=True)


def attempt(case: Any) -> tuple[str, str]:
    """Runs a case -> (outcome, message)."""
    try:
        case.run()
    except (ValueError, TypeError, OSError) as error:
        told = " ".join(str(error).split())[:300]
        if case.wanted and case.named not in str(error):
            return "traceback", f"{type(error).__name__} that does not name {case.named}: {told}"
        return "refused", told
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(where.filename).name}:{where.lineno}"
        told = " ".join(str(error).split())[:300]
        return "traceback", f"{type(error).__name__} at {place}: {told}"
    return ("accepted" if case.wanted else "taken"), ""


if __name__ == "__main__":
    main()
