"""Time and memory of loading a checkpoint, beside transformers': the same safetensors file.

    python scripts/benchmark_loading.py --variant t5_base

Writes a checkpoint of random weights, then loads it in processes of their own. Memory is what a
process holds at most beyond what it held before loading: anonymous pages (its own), and pages of
mapped files, which the system takes back when it needs them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import t5jax
from t5jax.formats import huggingface
from t5jax.formats.checkpoint import Checkpoint, Tensor, paths


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variant", default="t5_base", choices=t5jax.VARIANTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=3, metavar=("WHO", "DTYPE", "FOLDER"))
    arguments = parser.parse_args()
    if arguments.child:
        child(*arguments.child)
        return
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "model"
        count = write_random(target, t5jax.VARIANTS[arguments.variant])
        size = (target / "model.safetensors").stat().st_size
        print(f"{arguments.variant}: {count / 1e6:.0f} M parameters, {size / 1e6:.0f} MB file")
        for dtype, width in (("float32", 4), ("bfloat16", 2)):
            runs: dict[str, list[dict]] = {"t5jax": [], "transformers": []}
            for _ in range(arguments.rounds):
                for who, results in runs.items():
                    command = [sys.executable, __file__, "--child", who, dtype, str(target)]
                    out = subprocess.run(command, check=True, capture_output=True, text=True)
                    results.append(json.loads(out.stdout.splitlines()[-1]))
            for who, results in runs.items():
                middle = sorted(results, key=lambda r: r["seconds"])[len(results) // 2]
                own = max(r["anonymous"] for r in results)
                print(
                    f"  {dtype:9} {who:13} {middle['seconds']:6.2f} s   anonymous "
                    f"{own / 1e6:6.0f} MB ({own / (count * width):.2f} x the parameters), mapped "
                    f"{middle['mapped'] / 1e6:.0f} MB"
                )


def write_random(target: Path, config: t5jax.T5Config) -> int:
    """A Hugging Face folder of random weights; returns the number of parameters."""
    import numpy as np

    rng = np.random.default_rng(0)

    def tensor(shape: tuple[int, ...]) -> Tensor:
        return Tensor(shape, np.dtype("float32"), lambda: rng.standard_normal(shape, np.float32))

    tensors = {name: tensor(shape) for name, shape in paths(config).items()}
    huggingface.write(target, Checkpoint(config, tensors))
    return sum(int(np.prod(t.shape)) for t in tensors.values())


def child(who: str, dtype: str, folder: str) -> None:
    """Loads once and prints seconds and bytes."""
    if who == "t5jax":
        import jax

        jax.devices()

        def load() -> object:
            t5 = t5jax.load(folder, dtype=dtype)
            jax.block_until_ready(t5._params)
            return t5
    else:
        import torch
        import transformers

        transformers.logging.disable_progress_bar()

        def load() -> object:
            kind = transformers.T5ForConditionalGeneration
            model = kind.from_pretrained(folder, dtype=getattr(torch, dtype))
            # It maps a file without reading it: one number of each page makes it be there.
            for weight in model.parameters():
                weight.data.flatten()[:: 4096 // weight.element_size()].sum()
            return model

        _ = transformers.T5ForConditionalGeneration  # its import is not its loading

    before, most, done = memory(), {"RssAnon": 0, "RssFile": 0}, threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            for name, value in memory().items():
                most[name] = max(most[name], value)

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    model = load()
    seconds = time.perf_counter() - began
    done.set()
    watcher.join()
    print(
        json.dumps(
            {
                "seconds": seconds,
                "anonymous": most["RssAnon"] - before["RssAnon"],
                "mapped": most["RssFile"] - before["RssFile"],
            }
        )
    )
    del model


def memory() -> dict[str, int]:
    """Bytes of the process by kind of page."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = (line.split() for line in lines if line.startswith(("RssAnon", "RssFile")))
    return {name.rstrip(":"): int(value) * 1024 for name, value, _ in fields}


if __name__ == "__main__":
    main()
