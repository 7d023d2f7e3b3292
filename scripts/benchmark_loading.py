"""Time and memory of loading a safetensors file, with t5jax and transformers.

    python scripts/benchmark_loading.py --variant t5_base

Writes a checkpoint of random weights, then loads it in separate processes, in turns. Memory is a
process's peak over its memory before loading: anonymous pages, and pages of mapped files, which the
system can reclaim. Time and memory are measured in different processes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import t5jax
from t5jax.formats import huggingface
from t5jax.formats.checkpoint import About, SingleTensors
from t5jax.model.parameters import paths
from t5jax.model.tensors import Tensor


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variant", default="t5_base", choices=t5jax.VARIANTS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--writer",
        default="t5jax",
        choices=["t5jax", "transformers"],
        help="writer of the file: t5jax aligns tensors to 64 bytes, transformers does not",
    )
    parser.add_argument("--child", nargs=4, metavar=("WHAT", "WHO", "DTYPE", "FOLDER"))
    arguments = parser.parse_args()
    if arguments.child:
        child(*arguments.child)
        return
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "model"
        count = write_random(target, t5jax.VARIANTS[arguments.variant])
        if arguments.writer == "transformers":
            import transformers

            model = transformers.T5ForConditionalGeneration.from_pretrained(target)
            target = Path(folder) / "theirs"
            model.save_pretrained(target)
            del model
        file = target / "model.safetensors"
        with open(file, "rb") as stream:
            offset = 8 + int.from_bytes(stream.read(8), "little")
        print(
            f"{arguments.variant}: {count / 1e6:.0f} M parameters, {file.stat().st_size / 1e6:.0f} "
            f"MB written by {arguments.writer}, {offset % 64} bytes past a multiple of 64"
        )
        for dtype, width in (("float32", 4), ("bfloat16", 2)):
            seconds: dict[str, list[float]] = {"t5jax": [], "transformers": []}
            for _ in range(arguments.rounds):
                for who, results in seconds.items():
                    results.append(run("seconds", who, dtype, str(target))["seconds"])
            ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
            for who, results in seconds.items():
                bytes = run("memory", who, dtype, str(target))
                own = bytes["anonymous"]
                print(
                    f"  {dtype:9} {who:13} {statistics.median(results):6.2f} s   anonymous "
                    f"{own / 1e6:6.0f} MB ({own / (count * width):.2f} x the parameters), mapped "
                    f"{bytes['mapped'] / 1e6:.0f} MB"
                )
            print(
                f"  {dtype:9} t5jax takes {statistics.median(ratios):.2f} x transformers' time "
                f"({min(ratios):.2f} to {max(ratios):.2f})"
            )


def run(*words: str) -> dict:
    """Runs a child process of this script -> its JSON output."""
    command = [sys.executable, __file__, "--child", *words]
    out = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(out.stdout.splitlines()[-1])


def write_random(target: Path, config: t5jax.T5Config) -> int:
    """Writes a Hugging Face folder of random weights; returns the number of parameters."""
    import numpy as np

    rng = np.random.default_rng(0)

    def tensor(shape: tuple[int, ...]) -> Tensor:
        return Tensor(shape, np.dtype("float32"), lambda: rng.standard_normal(shape, np.float32))

    tensors = {name: tensor(shape) for name, shape in paths(config).items()}
    huggingface.write(target, SingleTensors(About(config), tensors))
    return sum(int(np.prod(t.shape)) for t in tensors.values())


def child(what: str, who: str, dtype: str, folder: str) -> None:
    """Loads once and prints seconds, or bytes."""
    if who == "t5jax":
        import jax
        import numpy as np

        jax.devices()

        def load() -> object:
            t5 = t5jax.load(folder, dtype=dtype)
            for weight in jax.tree.leaves(jax.block_until_ready(t5.decoder.params)):
                # Reads a number of each mapped page, so that all are loaded.
                np.asarray(weight).reshape(-1)[:: 4096 // weight.itemsize].astype(np.float32).sum()
            return t5
    else:
        import torch
        import transformers

        transformers.logging.disable_progress_bar()

        def load() -> object:
            kind = transformers.T5ForConditionalGeneration
            model = kind.from_pretrained(folder, dtype=getattr(torch, dtype))
            # Reads a number of each mapped page, so that all are loaded.
            for weight in model.parameters():
                weight.data.flatten()[:: 4096 // weight.element_size()].sum()
            return model

        _ = transformers.T5ForConditionalGeneration  # imports before the clock starts

    if what == "seconds":
        began = time.perf_counter()
        model = load()
        print(json.dumps({"seconds": time.perf_counter() - began}))
        del model
        return
    before, most, done = memory(), {"RssAnon": 0, "RssFile": 0}, threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            for name, value in memory().items():
                most[name] = max(most[name], value)

    watcher = threading.Thread(target=watch)
    watcher.start()
    model = load()
    done.set()
    watcher.join()
    anonymous, mapped = (most[name] - before[name] for name in ("RssAnon", "RssFile"))
    print(json.dumps({"anonymous": anonymous, "mapped": mapped}))
    del model


def memory() -> dict[str, int]:
    """The process's bytes by kind of page."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = (line.split() for line in lines if line.startswith(("RssAnon", "RssFile")))
    return {name.rstrip(":"): int(value) * 1024 for name, value, _ in fields}


if __name__ == "__main__":
    main()
