"""The task `inflect`: English words to their inflected forms, from lemminflect's table.

past: go                 ->  went
participle: go           ->  gone
present participle: go   ->  going
plural: child            ->  children
comparative: good        ->  better
superlative: good        ->  best
"""

from __future__ import annotations

import csv
import functools
import gzip
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import seqio

from t5jax.tasks.metrics import Inflection, inflection_exact_match, rule_exact_match
from t5jax.tasks.source import (
    WordPair,
    WordTable,
    data_file,
    references,
    split_of,
    table_of,
    word_task,
)

NAME = "inflect"

# The prefixes of the columns after the lemma and its part of speech. The third person singular has
# none: except for four verbs it follows the spelling rules of the plural.
_COLUMNS = {
    "noun": ("plural",),
    "verb": ("past", "participle", "present participle", None),
    "adj": ("comparative", "superlative"),
    "adv": ("comparative", "superlative"),
}


def parse_table(lines: Iterable[str]) -> dict[tuple[str, str], tuple[str, ...]]:
    """(prefix, lemma) -> its listed forms, the preferred form first.

    A line is `lemma,part of speech,forms,…`, a column's forms separated by "/". Dropped are:

    - capitalised lemmas: proper nouns are mostly listed as their own plural ("Paris");
    - nouns whose only form is the lemma: they are uncountable ("repulsiveness"), or like "sheep",
      which the table does not distinguish;
    - adjectives compared with "more";
    - errors of the table: verbs without a present participle, whose columns are shifted, and
      comparisons that keep an e before the suffix ("vagueer").
    """
    forms: dict[tuple[str, str], dict[str, None]] = {}
    for lemma, part_of_speech, *columns in csv.reader(lines):
        if lemma != lemma.lower():
            continue
        if part_of_speech == "verb":
            past, participle, present, _ = columns
            if not present:
                continue
            # An empty participle is the same as the past.
            columns[1] = participle or past
        for prefix, column in zip(_COLUMNS[part_of_speech], columns, strict=True):
            misspelled = (f"{lemma}er", f"{lemma}est") if lemma.endswith("e") else ()
            listed = [form for form in column.split("/") if form and form not in misspelled]
            if prefix is None or (part_of_speech == "noun" and set(listed) <= {lemma}):
                continue
            # Adjective and adverb share their prefixes: "well" is both.
            forms.setdefault((prefix, lemma), {}).update(dict.fromkeys(listed))
    return {key: tuple(listed) for key, listed in forms.items() if listed}


def _rows(table: Mapping[tuple[str, str], tuple[str, ...]]) -> Iterator[WordPair]:
    for (prefix, lemma), listed in table.items():
        # A plural equal to the lemma is right where listed ("fish/fishes", "cruelty"), but it comes
        # first for a thousand uncountable nouns, and would teach to copy.
        changed = [form for form in listed if form != lemma] if prefix == "plural" else listed
        yield WordPair(prefix, lemma, changed[0], listed)


@functools.cache
def read_inflect() -> WordTable:
    """All splits of the table in the installed distribution `lemminflect`.

    Each lemma and prefix is a row; all rows of a lemma are in one split.

    Raises:
      FileNotFoundError: lemminflect is not installed.
    """
    path = data_file("lemminflect", "lemminflect/resources/infl_lu.csv.gz")
    with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
        table = parse_table(lines)
    return table_of((split_of(row.word), row) for row in _rows(table))


def postprocess(
    output: str, example: Mapping[str, np.ndarray], is_target: bool = False, **unused: object
) -> str | Inflection:
    """A target becomes an `Inflection` with all right forms; a prediction is stripped."""
    if not is_target:
        return output.strip()
    prefix, _, lemma = bytes(example["inputs_pretokenized"]).decode("utf-8").partition(": ")
    return Inflection(prefix, lemma, references(example))


_METRICS = [inflection_exact_match, rule_exact_match]
seqio.TaskRegistry.add_provider(NAME, word_task(NAME, read_inflect, postprocess, _METRICS))
