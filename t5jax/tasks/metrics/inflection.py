"""Exact match of inflected forms, split into regular and irregular words."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from t5jax.tasks.metrics.base import Metric, Values, built_in
from t5jax.tasks.metrics.edit_distance import is_right


class Inflection(NamedTuple):
    """A question of the task `inflect`, and all right forms."""

    prefix: str
    lemma: str
    forms: Sequence[str]


def by_rule(prefix: str, lemma: str) -> str:
    """The regular form by English spelling rules: the lemma with s, ed, ing, er or est.

    -es follows s, x, z, ch and sh. A y after a consonant becomes i, except before ing. A silent e
    is dropped before e, and before i except in ee, oe and ye; ie becomes y before ing. A word of
    one syllable with one vowel letter before one final consonant other than w, x and y doubles it
    (stop, quit, but not rain or fix). Longer words do not, because it depends on stress, which the
    spelling does not show (visit, permit).

    Raises:
      ValueError: an unknown prefix.
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


def _by_regularity(target: Inflection, right: bool) -> tuple[bool, bool, bool, bool]:
    """A row: right and regular, regular, right and irregular, irregular."""
    regular = _is_regular(target)
    return right and regular, regular, right and not regular, not regular


def _right(target: Sequence, prediction: str) -> tuple[bool, ...]:
    # A target from a file of predictions is a list.
    asked = Inflection(*target)
    return _by_regularity(asked, is_right(asked.forms, prediction))


def _right_by_rule(target: Sequence, prediction: str) -> tuple[bool, ...]:
    asked = Inflection(*target)
    return _by_regularity(asked, _is_regular(asked))


def _means(key: str) -> Callable[[np.ndarray], Values]:
    """The means over all, regular and irregular words; empty groups have no value."""

    def value(total: np.ndarray) -> Values:
        right_regular, regular, right_irregular, irregular = total
        groups = {
            key: (right_regular + right_irregular, regular + irregular),
            f"{key}_regular": (right_regular, regular),
            f"{key}_irregular": (right_irregular, irregular),
        }
        return {name: right / number for name, (right, number) in groups.items() if number}

    return value


def _rule_means(total: np.ndarray) -> Values:
    values = dict(_means("rule_exact_match")(total))
    values.pop("rule_exact_match_regular", None)  # always 1
    return values


inflection_exact_match = built_in(
    Metric(
        "inflection_exact_match",
        "`exact_match`, and `exact_match_regular` and `exact_match_irregular` if there are such "
        "words. A word is irregular if the rule (`by_rule`) gives none of its listed forms. 0-1.",
        _right,
        _means("exact_match"),
    )
)
rule_exact_match = built_in(
    Metric(
        "rule_exact_match",
        "The baseline that adds a suffix; predictions are ignored: `rule_exact_match`, and "
        "`rule_exact_match_irregular`, which is 0 by definition: a model that knows one irregular "
        "word exceeds it. 0-1.",
        _right_by_rule,
        _rule_means,
    )
)
