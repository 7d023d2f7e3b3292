"""Damages a run's files one by one, and reports how commands react.

    python scripts/damage.py [--seed 0] [--every N]     the table of all cases
    python scripts/damage.py --cost 1.0                 seconds to verify a gigabyte

Trains a tiny run with two checkpoints. Each file of the newest checkpoint, and each other file of
the run, is removed, emptied, cut in half, and has a bit flipped at a seeded place. Then the run is
loaded, converted, evaluated (flips, and runs that did not load unchanged) and resumed.

same: the same parameters; the file is not read. named: one `error:` line. before: training resumed
from the checkpoint before, to the same parameters. warned: a line says that checksums are missing.
Exits 1 if damaged content was used (SILENT), for an exception (TRACEBACK), or if a damaged
checkpoint kept a run from resuming (STOPPED).
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax
import numpy as np
import yaml

import t5jax
from t5jax import run_folder
from t5jax.cli import main
from t5jax.formats import checksums
from t5jax.vocabulary import ByteVocabulary, train_sentencepiece

CONFIG = {
    "model": {
        "d_model": 8, "d_kv": 4, "d_ff": 8, "num_heads": 2, "num_layers": 1,
        "num_decoder_layers": 1,
    },
    "data": {
        "mixture": "inflect", "lengths": {"inputs": 48, "targets": 32}, "batch": 8, "streams": 2,
        "shuffle_buffer": 100_000,
    },
    "optimizer": {"warmup": 100},
    "training": {"steps": 6, "log_every": 2, "save_every": 3},
}  # fmt: skip
MORE = 8  # last step of the resumed run


def remove(file: Path, rng: random.Random) -> None:
    file.unlink()


def empty(file: Path, rng: random.Random) -> None:
    file.write_bytes(b"")


def cut(file: Path, rng: random.Random) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path, rng: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


DAMAGES = {"removed": remove, "emptied": empty, "cut": cut, "flipped": flip}


def command(*words: object) -> tuple[int, str]:
    """A command's exit code and output; -1 and the traceback for an exception.

    `load` is t5jax.load, whose ValueError and FileNotFoundError become `error:` lines.
    """
    printed, code = io.StringIO(), 0
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        warnings.resetwarnings()
        try:
            if words[0] == "load":
                t5jax.load(str(words[1]))
            else:
                main([str(word) for word in words])
        except (ValueError, FileNotFoundError) as error:
            print(f"error: {error}")
            code = 2
        except SystemExit as error:
            code = int(error.code or 0)
        except BaseException:
            traceback.print_exc()
            code = -1
    return code, printed.getvalue()


def params(run: Path) -> list[np.ndarray]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [np.asarray(x) for x in jax.tree.leaves(t5jax.load(run).params)]


def same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def outcome(code: int, output: str, right: Callable[[], bool]) -> str:
    """named, before, warned or same; failures in capitals."""
    if code == -1 or "Traceback" in output:
        return "TRACEBACK"
    if code:
        errors = [line for line in output.splitlines() if line.startswith("error:")]
        return "named" if code == 2 and len(errors) == 1 else f"EXIT {code}"
    if not right():
        return "SILENT"
    if " is taken" in output:
        return "before"
    return "warned" if "not verified" in output else "same"


def cases(run: Path) -> Iterator[str]:
    """The files of the newest checkpoint, and the run's files outside checkpoints."""
    newest = run / run_folder.CHECKPOINTS / str(run_folder.steps(run)[-1])
    for file in sorted(run.rglob("*")):
        inside = run_folder.CHECKPOINTS in file.relative_to(run).parts
        if file.is_file() and (not inside or newest in file.parents):
            yield str(file.relative_to(run))


def make_run(folder: Path) -> Path:
    """Trains the run; returns its configuration file."""
    words = ["past: walk", "walked", "plural: house", "houses", "past: sing", "sang"] * 50
    train_sentencepiece(words, folder / "words.model", vocab_size=26)
    config = folder / "config.yaml"
    tree = {**CONFIG, "vocabulary": str(folder / "words.model"), "run_dir": str(folder / "run")}
    config.write_text(yaml.safe_dump(tree))
    code, output = command("train", config)
    if code:
        raise SystemExit(output)
    return config


def damage(folder: Path, config: Path, seed: int, every: int) -> collections.Counter[str]:
    """Tries the cases, prints a line each, and counts outcomes."""
    run, whole = folder / "run", folder / "whole"
    shutil.copytree(run, whole)
    before = params(run)
    resume = ("train", config, f"--training.steps={MORE}")
    code, output = command(*resume)
    if code:
        raise SystemExit(output)
    after = params(run)
    counts: collections.Counter[str] = collections.Counter()
    rng = random.Random(seed)
    todo = [(name, kind) for name in cases(whole) for kind in DAMAGES]
    for name, kind in todo[seed % every :: every]:
        results = []
        for action in ("load", "convert", "eval", "resume"):
            if action == "eval" and results[0] == "same" and kind != "flipped":
                results.append("-")  # evaluation is slow, and reads no further files
                continue
            for old in (run, folder / "out"):
                shutil.rmtree(old, ignore_errors=True)
            shutil.copytree(whole, run)
            if not (run / name).stat().st_size:
                continue
            DAMAGES[kind](run / name, rng)
            out = folder / "out"
            if action == "load":
                words: tuple[object, ...] = ("load", run)
                right = lambda: same(params(run), before)  # noqa: E731
            elif action == "convert":
                words = ("convert", run, out, "--format", "t5jax")
                right = lambda: same(params(folder / "out"), before)  # noqa: E731
            elif action == "eval":
                words = ("eval", run, "--tasks", "inflect", "--examples", 2, "--out", out)
                right = lambda: same(params(run), before)  # noqa: E731
            else:
                words = resume
                right = lambda: same(params(run), after)  # noqa: E731
            result = outcome(*command(*words), right)
            results.append(result)
            counts[f"{action} {result}"] += 1
            if result == "named" and action == "resume" and run_folder.CHECKPOINTS in name:
                counts["resume STOPPED"] += 1
        print(f"{kind:8} {name:70} {' '.join(f'{r:9}' for r in results)}", flush=True)
    return counts


def cost(gigabytes: float, folder: Path) -> None:
    """Prints the seconds to verify and load a model of this size, with cached files."""
    layers = max(1, round(gigabytes * 2**30 / 4 / (4 * 1024**2 + 2 * 1024 * 4096) / 2))
    config = t5jax.T5Config(
        vocab_size=384, d_model=1024, d_kv=64, d_ff=4096, num_heads=16, num_layers=layers,
        num_decoder_layers=layers, feed_forward_proj="relu",
    )  # fmt: skip
    from t5jax.model.parameters import init_params

    params = jax.jit(lambda key: init_params(config, key))(jax.random.key(0))
    t5 = t5jax.Text2Text(config, params, ByteVocabulary())
    began = time.monotonic()
    t5.save(folder / "large")
    saved = time.monotonic() - began
    step = folder / "large" / run_folder.CHECKPOINTS / "0"
    size = sum(file.stat().st_size for file in step.rglob("*") if file.is_file())
    del t5, params
    for _ in range(3):
        began = time.monotonic()
        checksums.verify(step)
        verified = time.monotonic() - began
        began = time.monotonic()
        jax.block_until_ready(t5jax.load(folder / "large").params)
        loaded = time.monotonic() - began
        print(
            f"{size / 2**30:.2f} GiB: verified in {verified:.2f} s, loaded with it in "
            f"{loaded:.2f} s, saved with it in {saved:.2f} s"
        )


def main_() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=1, help="try every Nth case (%(default)s)")
    parser.add_argument("--cost", type=float, metavar="GB", help="measure verification instead")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        if arguments.cost:
            cost(arguments.cost, Path(made))
            return
        config = make_run(Path(made))
        counts = damage(Path(made), config, arguments.seed, arguments.every)
    print()
    for name, count in sorted(counts.items()):
        print(f"{count:5} {name}")
    if any(word.isupper() for name in counts for word in name.split()):
        sys.exit(1)


if __name__ == "__main__":
    main_()
