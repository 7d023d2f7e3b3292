"""The tasks `pronounce:FILE`: words to phonemes, from a file of pronunciations.

A line is a word, a tab, and phonemes separated by spaces. Several lines of a word are alternative
pronunciations:

    TOMATO<tab>T AH M EY T OW
    TOMATO<tab>T AH M AA T OW

Inputs and metrics are those of `pronounce`. Words become lower case.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import seqio

from t5jax.tasks import pronounce, registry
from t5jax.tasks.source import WordPair, WordTable, split_of, table_of, word_task
from t5jax.text_files import read_lines

SPLITS = ("train", "validation", "all")


def read_pronunciations(path: Path) -> dict[str, tuple[str, ...]]:
    """Lower-case words with their distinct pronunciations, in the file's order.

    Raises:
      FileNotFoundError: no such file. ValueError, with the file and the line's number: a line that
        is not `word<TAB>phonemes`, or not UTF-8; a file without a line.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file of pronunciations (word<TAB>phonemes on every line)"
        )
    pronunciations: dict[str, dict[str, None]] = {}
    for number, line in enumerate(read_lines(path), 1):
        word, phonemes = _entry(line, f"{path}, line {number}")
        pronunciations.setdefault(word, {})[phonemes] = None
    if not pronunciations:
        raise ValueError(f"{path} is empty; every line must be word<TAB>phonemes")
    return {word: tuple(listed) for word, listed in pronunciations.items()}


def _entry(line: str, where: str) -> tuple[str, str]:
    word, *rest = (part.strip() for part in line.split("\t"))
    if not word or len(rest) != 1 or not rest[0]:
        raise ValueError(f"{where}: {line.rstrip()!r} is not word<TAB>phonemes")
    return word.lower(), " ".join(rest[0].split())


def table(pronunciations: dict[str, tuple[str, ...]]) -> WordTable:
    """The splits: `validation` has about 5 % of the words, chosen as for `pronounce`.

    `train`, the other words, has a row for each pronunciation. `validation`, and `all`, for a file
    that is a test set, have a row for each word, whose answer is the first pronunciation.
    """

    def rows() -> Iterator[tuple[str, WordPair]]:
        for word, listed in pronunciations.items():
            of_word = [WordPair(pronounce.NAME, word, answer, listed) for answer in listed]
            yield "all", of_word[0]
            if split_of(word) == "validation":
                yield "validation", of_word[0]
            else:
                yield from (("train", row) for row in of_word)

    return table_of(rows(), SPLITS)


def task(path: Path) -> seqio.Task:
    """The task `pronounce:NAME` of a file called NAME; errors as `read_pronunciations`."""
    splits = table(read_pronunciations(path))
    # seqio allows no other characters; results are in a folder of this name.
    name = re.sub(r"[^\w.]", "_", path.name)
    return word_task(
        f"{pronounce.NAME}:{name}", lambda: splits, pronounce.postprocess, pronounce.METRICS, SPLITS
    )


registry.add_file_task(pronounce.NAME, task)
