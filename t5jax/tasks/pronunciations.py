"""The tasks `pronounce:FILE`: words to phonemes, from a file of pronunciations.

A line is a word, a tab, and phonemes separated by spaces. Several lines of a word are alternative
pronunciations:

    TOMATO<tab>T AH M EY T OW
    TOMATO<tab>T AH M AA T OW

Inputs and metrics are those of `pronounce`. Words become lower case.
"""

from __future__ import annotations

import re
from pathlib import Path

import seqio

from t5jax.tasks import pronounce, registry
from t5jax.tasks.metrics import phoneme_error_rate, word_error_rate
from t5jax.tasks.source import (
    Row,
    Table,
    TableSource,
    output_features,
    shuffled,
    split_of,
    text_to_text,
)
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


def table(pronunciations: dict[str, tuple[str, ...]]) -> Table:
    """The splits: `validation` has about 5 % of the words, chosen as for `pronounce`.

    `train`, the other words, has a row for each pronunciation. `validation`, and `all`, for a file
    that is a test set, have a row for each word, whose answer is the first pronunciation.
    """
    rows: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for word, listed in pronunciations.items():
        of_word = [Row(pronounce.NAME, word, answer, listed) for answer in listed]
        rows["all"].append(of_word[0])
        if split_of(word) == "validation":
            rows["validation"].append(of_word[0])
        else:
            rows["train"] += of_word
    return {split: shuffled(of_split) for split, of_split in rows.items()}


def task(path: Path) -> seqio.Task:
    """The task `pronounce:NAME` of a file called NAME; errors as `read_pronunciations`."""
    splits = table(read_pronunciations(path))
    # seqio allows no other characters; results are in a folder of this name.
    name = re.sub(r"[^\w.]", "_", path.name)
    return seqio.Task(
        f"{pronounce.NAME}:{name}",
        source=TableSource(lambda: splits, SPLITS),
        preprocessors=[text_to_text, seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        postprocess_fn=pronounce.postprocess,
        metric_fns=[word_error_rate, phoneme_error_rate],
        output_features=output_features(),
    )


registry.add_file_task(pronounce.NAME, task)
