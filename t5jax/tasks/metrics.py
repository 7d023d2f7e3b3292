"""Metrics: plain functions of targets and predictions, as seqio's `metric_fns` want them.

A target is a text or a sequence of texts any of which is right; a prediction is a text. Values
are fractions, 0 to 1 (a phoneme error rate may exceed 1). All raise ValueError for no targets at
all and for lists of different lengths.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import editdistance

Target = str | Sequence[str]


class Inflection(NamedTuple):
    """What an example of the task `inflect` asks, and every form that is right."""

    prefix: str
    lemma: str
    forms: tuple[str, ...]


def exact_match(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
    """`exact_match`: the fraction of predictions that equal an accepted text."""
    _check(targets, predictions)
    return {"exact_match": _mean(map(_is_right, targets, predictions))}


def word_error_rate(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
    """`wer`: the fraction of words whose prediction is none of the listed pronunciations."""
    _check(targets, predictions)
    wrong = (not _is_right(t, p) for t, p in zip(targets, predictions, strict=True))
    return {"wer": _mean(wrong)}


def phoneme_error_rate(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
    """`per`: edits to the nearest listed pronunciations over the number of their phonemes.

    Edits and phonemes are summed over the words before the division. Phonemes are divided by
    blanks; an empty prediction costs all phonemes of the shortest pronunciation. Of two equally
    near pronunciations the first one listed counts.
    """
    _check(targets, predictions)
    edits, phonemes = 0, 0
    for target, prediction in zip(targets, predictions, strict=True):
        distance, length = nearest(_accepted(target), prediction)
        edits += distance
        phonemes += length
    if not phonemes:
        raise ValueError("the targets hold no phoneme at all")
    return {"per": edits / phonemes}


def nearest(pronunciations: Sequence[str], prediction: str) -> tuple[int, int]:
    """Edits from `prediction` to the nearest pronunciation, and that one's phonemes."""
    predicted = prediction.split()
    listed = [pronunciation.split() for pronunciation in pronunciations]
    pairs = [(editdistance.eval(phonemes, predicted), len(phonemes)) for phonemes in listed]
    return min(pairs, key=lambda pair: pair[0])


def inflection_exact_match(
    targets: Sequence[Inflection], predictions: Sequence[str]
) -> dict[str, float]:
    """`exact_match`, and the same over regular and irregular words, where there are any.

    `exact_match_irregular` is over the words for which the rule (see `by_rule`) gives none of the
    listed forms, `exact_match_regular` over all others.
    """
    _check(targets, predictions)
    right = [_is_right(t.forms, p) for t, p in zip(targets, predictions, strict=True)]
    return _by_regularity("exact_match", targets, right)


def rule_exact_match(targets: Sequence[Inflection], predictions: Sequence[str]) -> dict[str, float]:
    """The baseline that adds a suffix: `rule_exact_match`, `rule_exact_match_irregular`.

    It does not look at the predictions. Over irregular words it is 0, by their definition: the
    line that a model is above as soon as it knows one of them.
    """
    _check(targets, predictions)
    values = _by_regularity("rule_exact_match", targets, [_is_regular(t) for t in targets])
    values.pop("rule_exact_match_regular", None)  # always 1
    return values


def by_rule(prefix: str, lemma: str) -> str:
    """The form that English spelling rules give: the lemma with s, ed, ing, er or est.

    -es follows s, x, z, ch and sh. A y behind a consonant becomes i, except before ing. A silent
    e is dropped before e, and before i except in ee, oe and ye; ie becomes y before ing. The last
    consonant is doubled where the word is one syllable with one vowel letter before one consonant
    other than w, x and y (stop, quit, but not rain or fix). Longer words would need their stress,
    which the spelling does not show (visit, permit): theirs is not doubled.

    Raises ValueError for a prefix that is none of the task's.
    """
    if prefix not in _SUFFIXES:
        raise ValueError(f"prefix {prefix!r}; use one of {', '.join(_SUFFIXES)}")
    suffix = _SUFFIXES[prefix]
    after_consonant = re.search(r"(?:[^aeiou]|qu)y$", lemma) is not None
    if suffix == "s":
        if after_consonant:
            return lemma[:-1] + "ies"
        return lemma + ("es" if re.search(r"(?:[sxz]|[cs]h)$", lemma) else "s")
    if suffix == "ing":
        if lemma.endswith("ie"):
            return lemma[:-2] + "ying"
        # "be" keeps its only vowel.
        if re.search(r"[^eoy]e$", lemma) and len(lemma) > 2:
            return lemma[:-1] + suffix
    elif after_consonant:
        return lemma[:-1] + "i" + suffix
    elif lemma.endswith("e"):
        return lemma + suffix[1:]
    if re.fullmatch(r"y?(?:qu|[^aeiouy])*[aeiouy][^aeiouwxy]", lemma):
        return lemma + lemma[-1] + suffix
    return lemma + suffix


_SUFFIXES = {
    "plural": "s",
    "past": "ed",
    "participle": "ed",
    "present participle": "ing",
    "comparative": "er",
    "superlative": "est",
}


def _is_regular(target: Inflection) -> bool:
    return by_rule(target.prefix, target.lemma) in target.forms


def _by_regularity(
    key: str, targets: Sequence[Inflection], right: Sequence[bool]
) -> dict[str, float]:
    """The mean of `right` over all, regular and irregular words; of nothing there is no mean."""
    regular = [_is_regular(target) for target in targets]
    groups = {
        key: right,
        f"{key}_regular": [r for r, is_regular in zip(right, regular, strict=True) if is_regular],
        f"{key}_irregular": [
            r for r, is_regular in zip(right, regular, strict=True) if not is_regular
        ],
    }
    return {name: _mean(group) for name, group in groups.items() if group}


def _accepted(target: Target) -> Sequence[str]:
    return (target,) if isinstance(target, str) else target


def _is_right(target: Target, prediction: str) -> bool:
    return prediction in _accepted(target)


def _mean(values: Iterable[bool]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)


def _check(targets: Sequence[object], predictions: Sequence[object]) -> None:
    if len(targets) != len(predictions):
        raise ValueError(f"{len(targets)} targets but {len(predictions)} predictions")
    if not len(targets):
        raise ValueError("no targets: a metric over nothing is not defined")
