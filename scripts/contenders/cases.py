"""Subjects of benchmarks, and their cases."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Subject(NamedTuple):
    """What is measured: the names of a case's numbers, usual cases, and libraries, ours first."""

    names: Sequence[str]
    cases: str
    libraries: Sequence[str]


SUBJECTS = {
    "decoding": Subject(
        ("rows", "inputs", "outputs", "beams"),
        "1x64-1 8x256-1 4x512-16 2x1024-1 2x1024-64x4 1x2048-16 1x64-64 1x128-128 16x64-64 "
        "4x64-64x4",
        ("t5jax", "transformers", "ctranslate2", "t5x"),
    ),
    "encoding": Subject(
        ("rows", "inputs"), "1x64 8x128 8x256 4x512 2x1024 1x2048", ("t5jax", "transformers")
    ),
    "scoring": Subject(("rows", "inputs", "targets"), "8x128-32 4x512-88", ("t5jax",)),
    "training": Subject(
        ("rows", "inputs", "targets"),
        "8x128-32 8x256-48 4x512-88 2x1024-176",
        ("t5jax", "transformers"),
    ),
}


def expand(text: str, names: Sequence[str]) -> Iterator[dict[str, int]]:
    """The cases of a text such as 1,8x64-1; a number that is left out is 1.

    Raises:
      ValueError: it has another form, or another number of numbers than there are `names`.
    """
    found = re.fullmatch(r"([\d,]+)x([\d,]+)(?:-([\d,]+)(?:x([\d,]+))?)?", text)
    lists = [part for part in found.groups() if part] if found else []
    if not len(names) - ("beams" in names) <= len(lists) <= len(names):
        raise ValueError(f"case {text!r} does not have the form of --help, with {', '.join(names)}")
    lists += ["1"] * (len(names) - len(lists))
    for numbers in itertools.product(*([int(x) for x in part.split(",")] for part in lists)):
        yield dict(zip(names, numbers, strict=True))
