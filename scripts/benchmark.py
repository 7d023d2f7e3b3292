"""Speed of t5jax and other libraries: one checkpoint of random weights, the same inputs and sizes.

    python scripts/benchmark.py decoding --cases 1x64-64 4x64-64x4
    python scripts/benchmark.py encoding --cases 1,8x64,256,1024
    python scripts/benchmark.py training --cases 8x128-32 --dropout 0

A case is ROWSxINPUTS (encoding), ROWSxINPUTS-OUTPUTS, or ROWSxINPUTS-OUTPUTSxBEAMS (decoding);
lengths are in tokens, and every output has exactly OUTPUTS tokens. A list such as 1,8 in place of a
number gives a case for each, so that --cases 1,8x64,1024-1,64x1,4 is a matrix of 16.

Every contender has a process of its own. They take turns, one at a time. The ratio is the median of
the rounds' ratios. t5jax is compared with transformers, CTranslate2 and T5X, where they can be
imported; --python names the interpreter of another environment.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from contenders import report
from contenders.cases import SUBJECTS, expand
from contenders.turns import SCRIPTS, Contender, Failed, Process, processes, take_turns


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("subject", choices=SUBJECTS)
    parser.add_argument("--variant", default="t5_small", help="sizes of the model (t5_small)")
    parser.add_argument("--cases", nargs="+", metavar="CASE", help="(default: by subject)")
    parser.add_argument("--contenders", nargs="+", metavar="LIBRARY[@LABEL]", help="ours first")
    parser.add_argument("--dtypes", nargs="+", default=["float32"], help="also bfloat16, int8")
    parser.add_argument("--dropout", type=float, default=0.1, help="of training (0.1)")
    parser.add_argument("--python", nargs="+", default=[], type=pair, metavar="CONTENDER=PYTHON")
    parser.add_argument(
        "--path", nargs="+", default=[], type=pair, metavar="CONTENDER=FOLDER",
        help="first on its PYTHONPATH, such as t5jax@before=OTHER_CLONE",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=1, help="calls of a turn (1)")
    parser.add_argument("--json", help="file for the results, written after every case")
    parser.add_argument("--plot", help="file for a heat map of the ratios; needs matplotlib")
    arguments = parser.parse_args()
    if arguments.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib: pip install matplotlib")
    names, usual, libraries = SUBJECTS[arguments.subject]
    try:
        cases = [
            sizes
            for text in arguments.cases or usual.split()
            for sizes in expand(text, names)
        ]  # fmt: skip
    except ValueError as error:
        parser.error(str(error))
    if arguments.subject == "training":
        cases = [{**sizes, "dropout": arguments.dropout} for sizes in cases]
    contenders = [
        Contender(
            name,
            dtype,
            dict(arguments.python).get(name, sys.executable),
            dict(arguments.path).get(name),
        )
        for dtype in arguments.dtypes
        for name in arguments.contenders or libraries
    ]
    with tempfile.TemporaryDirectory() as temporary:
        folder = f"{temporary}/model"
        words = ["-m", "contenders.checkpoint", arguments.variant, folder]
        if subprocess.run([sys.executable, *words], cwd=SCRIPTS).returncode:
            raise SystemExit(f"error: no checkpoint of variant {arguments.variant}; see above")
        try:
            rows = compare(contenders, cases, folder, arguments)
        except Failed as error:
            raise SystemExit(f"error: {error}") from None
    summary(rows)
    if arguments.plot:
        report.heat_map(rows, arguments.plot)


def pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not CONTENDER=VALUE")
    # A virtual environment's interpreter is a link, which must not be resolved.
    return name, str(Path(value).absolute())


def compare(
    contenders: Sequence[Contender],
    cases: Sequence[Mapping[str, Any]],
    folder: str,
    arguments: argparse.Namespace,
) -> list[dict[str, Any]]:
    """Measures every case; prints each, and writes the JSON after each."""
    about = {"subject": arguments.subject, "variant": arguments.variant}
    rows: list[dict[str, Any]] = []
    asked = bool(arguments.contenders)
    with processes(contenders, arguments.subject, folder, skip=not asked) as started:
        for sizes in cases:
            print(", ".join(f"{value} {name}" for name, value in sizes.items()), flush=True)
            agree(started, [process.prepare(**sizes) for process in started])
            seconds = take_turns(started, arguments.rounds, arguments.calls)
            for dtype in arguments.dtypes:
                group = [p.contender for p in started if p.contender.dtype == dtype]
                ours = str(group[0])
                some = {str(contender): seconds[str(contender)] for contender in group}
                for row in report.rows({**sizes, "dtype": dtype}, some, ours):
                    print(report.line(row, ours), flush=True)
                    rows.append(row)
            report.write(arguments.json, about, rows)
        for process in started:
            print(f"{process.contender}: {process.peak() / 2**20:.0f} MiB at most over its model")
    return rows


def agree(started: Sequence[Process], found: Sequence[Any]) -> None:
    """Prints how many ids are the first contender's."""
    for process, ids in zip(started, found, strict=True):
        if ids is not None and process is not started[0]:
            share = np.mean(np.equal(ids, found[0]))
            print(f"  {process.contender!s:30} {share:7.1%} of the values are the first's")


def summary(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints a table of every case's fastest peer."""
    print("\n| case | dtype | fastest peer | s | ours, s | ours is … x as fast |")
    print("|---|---|---|---|---|---|")
    for ours, peer in report.pairs(rows):
        print(
            f"| {report.case(ours)} | {ours['dtype']} | {peer['contender'].split()[0]} "
            f"| {peer['seconds']:.3f} | {ours['seconds']:.3f} | {peer['ratio']:.2f} |"
        )


if __name__ == "__main__":
    main()
