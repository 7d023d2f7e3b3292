"""Exact match of inflected forms, by whether English spelling rules give them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from t5jax.tasks.metrics.base import Metric, Values, built_in
from t5jax.tasks.metrics.edit_distance import is_right


class Inflection(NamedTuple):
    """What an example of the task `inflect` asks, and every form that is right."""

    prefix: str
    lemma: str
    forms: Sequence[str]


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


def _by_regularity(target: Inflection, right: bool) -> tuple[bool, bool, bool, bool]:
    """A row: right and regular, regular, right and irregular, irregular."""
    regular = _is_regular(target)
    return right and regular, regular, right and not regular, not regular


def _right(target: Sequence, prediction: str) -> tuple[bool, ...]:
    # From a file of predictions it comes as a bare list.
    asked = Inflection(*target)
    return _by_regularity(asked, is_right(asked.forms, prediction))


def _right_by_rule(target: Sequence, prediction: str) -> tuple[bool, ...]:
    asked = Inflection(*target)
    return _by_regularity(asked, _is_regular(asked))


def _means(key: str) -> Callable[[np.ndarray], Values]:
    """The mean over all, regular and irregular words; of nothing there is no mean."""

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
        "`exact_match`, and the same over regular and irregular words, where there are any: "
        "`exact_match_irregular` is over the words for which the rule (see `by_rule`) gives none "
        "of the listed forms, `exact_match_regular` over all others. Fractions.",
        _right,
        _means("exact_match"),
    )
)
rule_exact_match = built_in(
    Metric(
        "rule_exact_match",
        "The baseline that adds a suffix, without a look at the predictions: `rule_exact_match`, "
        "and `rule_exact_match_irregular`, which is 0 by definition: the line that a model is "
        "above as soon as it knows one irregular word. Fractions.",
        _right_by_rule,
        _rule_means,
    )
)
