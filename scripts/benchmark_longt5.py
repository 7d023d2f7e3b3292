"""Time and memory of LongT5's transient-global encoder, with t5jax and transformers, one row.

Each library runs in its own process, in turns. Memory is the peak of anonymous memory over the
process's memory before its first call; compilation counts.

python scripts/benchmark_longt5.py --tokens 16384
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from interleaved import measure, table, write_json

import t5jax


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variant", default="t5_1_1_small", choices=t5jax.VARIANTS)
    parser.add_argument("--tokens", type=int, default=16384, help="tokens of the input")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="file for the results")
    parser.add_argument("--serve", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    config = t5jax.VARIANTS[arguments.variant].replace(encoder_attention_type="transient-global")
    ids = np.random.default_rng(0).integers(3, config.vocab_size, (1, arguments.tokens))
    if arguments.serve:
        serve(SIDES[arguments.serve](config, ids))
        return

    print(f"{arguments.variant}'s sizes, transient-global, {arguments.tokens} tokens, float32")
    sides = {name: Side([*sys.argv, "--serve", name]) for name in SIDES}
    seconds = measure({name: side.call for name, side in sides.items()}, arguments.rounds)
    rows = table(seconds, arguments.tokens, "tokens", "t5jax")
    for row in rows:
        row["peak_over_idle_mib"] = sides[row["name"]].stop() / 2**20
        print(f"  {row['name']:28} {row['peak_over_idle_mib']:8.0f} MiB over idle")
    ours, theirs = rows
    for name, key in (("time", "seconds"), ("memory", "peak_over_idle_mib")):
        print(f"t5jax / transformers, {name}: {ours[key] / theirs[key]:.2f}")
    write_json(arguments.json, rows)


class Side:
    """A process that runs one contender, whose memory is watched."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.wait()
        self.idle = self.peak = self.anonymous()
        threading.Thread(target=self.watch, daemon=True).start()

    def wait(self) -> None:
        if self.process.stdout.readline() != "ready\n":
            raise RuntimeError("a contender's process ended early; its error is above")

    def call(self) -> None:
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        self.wait()

    def stop(self) -> int:
        """Bytes of the peak over idle."""
        self.process.stdin.close()
        self.process.wait()
        return self.peak - self.idle

    def watch(self) -> None:
        while self.process.poll() is None:
            self.peak = max(self.peak, self.anonymous())
            time.sleep(0.002)

    def anonymous(self) -> int:
        """Bytes of anonymous memory now."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return 0
        lines = [line for line in status.splitlines() if line.startswith("RssAnon:")]
        return int(lines[0].split()[1]) * 1024 if lines else 0


def serve(run: Callable[[], object]) -> None:
    """Calls `run` for each line on stdin."""
    print("ready", flush=True)
    for _ in sys.stdin:
        run()
        print("ready", flush=True)


def ours(config: t5jax.T5Config, ids: np.ndarray) -> Callable[[], object]:
    import jax

    from t5jax.model.family import family_of
    from t5jax.model.parameters import for_serving, init_params

    params = jax.jit(lambda key: for_serving(config, init_params(config, key)))(jax.random.key(0))
    jax.block_until_ready(params)
    model = family_of(config).serving(config, np.dtype("float32"))
    encode = jax.jit(model.encode)
    segments = np.ones_like(ids, np.int32)
    return lambda: encode(params, ids.astype(np.int32), segments).block_until_ready()


def theirs(config: t5jax.T5Config, ids: np.ndarray) -> Callable[[], object]:
    import torch
    import transformers

    from t5jax.model.t5.huggingface import config_fields

    torch.manual_seed(0)
    model = transformers.LongT5EncoderModel(transformers.LongT5Config(**config_fields(config)))
    model.eval()
    inputs = torch.tensor(ids)

    def run() -> object:
        with torch.no_grad():
            return model(input_ids=inputs)

    return run


SIDES = {"t5jax": ours, "transformers": theirs}

if __name__ == "__main__":
    main()
