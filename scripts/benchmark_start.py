"""Time from the start of a process to its first output, cold and warm.

    python scripts/benchmark_start.py runs/quickstart "pronounce: hello"

Each process is the command `t5jax generate`. The cold process compiles; warm ones read the
compilation cache that it wrote.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", help="a folder")
    parser.add_argument("text")
    parser.add_argument("--rounds", type=int, default=5, help="warm processes")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "XDG_CACHE_HOME": folder}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)

        def start() -> float:
            command = [sys.executable, "-m", "t5jax.cli", "generate"]
            began = time.perf_counter()
            process = subprocess.Popen(
                [*command, arguments.checkpoint, arguments.text],
                env=environment,
                stdout=subprocess.PIPE,
            )
            with process:
                line = process.stdout.readline()
                seconds = time.perf_counter() - began
            if process.returncode or not line:
                raise SystemExit(process.returncode or 1)  # its error is above
            return seconds

        print(f"cold: {start():.1f} s")
        warm = [start() for _ in range(arguments.rounds)]
        print(f"warm: {statistics.median(warm):.1f} s ({min(warm):.1f} to {max(warm):.1f})")


if __name__ == "__main__":
    main()
