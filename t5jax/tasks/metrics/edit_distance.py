"""Exact match, and error rates of words, phonemes and characters.

A target is a text or a sequence of right texts. Values are fractions; an edit rate may exceed 1.
Edits and lengths are summed over examples before the division. The nearest right text counts, the
first if several are equally near.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import editdistance
import numpy as np

from t5jax.tasks.metrics.base import Metric, Target, Values, accepted, built_in, fraction


def is_right(target: Target, prediction: str) -> bool:
    """Whether the prediction is one of the accepted texts."""
    return prediction in accepted(target)


def nearest(pronunciations: Sequence[str], prediction: str) -> tuple[int, int]:
    """Edits from `prediction` to the nearest pronunciation, and its number of phonemes."""
    return _nearest([text.split() for text in pronunciations], prediction.split())


def _nearest(right: Sequence[Sequence[str]], predicted: Sequence[str]) -> tuple[int, int]:
    pairs = [(editdistance.eval(pieces, predicted), len(pieces)) for pieces in right]
    return min(pairs, key=lambda pair: pair[0])


def _pieces(target: Target, prediction: str) -> tuple[int, int]:
    return nearest(accepted(target), prediction)


def _characters(target: Target, prediction: str) -> tuple[int, int]:
    return _nearest([list(text) for text in accepted(target)], list(prediction))


def _rate(name: str, pieces: str) -> Callable[[np.ndarray], Values]:
    def value(total: np.ndarray) -> Values:
        if not total[1]:
            raise ValueError(f"the targets hold no {pieces} at all")
        return {name: total[0] / total[1]}

    return value


exact_match = built_in(
    Metric(
        "exact_match",
        "`exact_match`: the fraction of predictions that equal an accepted text.",
        lambda target, prediction: (is_right(target, prediction), 1),
        fraction("exact_match"),
    )
)
word_error_rate = built_in(
    Metric(
        "word_error_rate",
        "`wer`: the fraction of words whose prediction is not a listed pronunciation, the word "
        "error rate of grapheme-to-phoneme conversion; `word_edit_rate` is that of sentences.",
        lambda target, prediction: (not is_right(target, prediction), 1),
        fraction("wer"),
    )
)
phoneme_error_rate = built_in(
    Metric(
        "phoneme_error_rate",
        "`per`: edits of phonemes to the nearest listed pronunciations over the number of their "
        "phonemes. An empty prediction costs all phonemes of the shortest pronunciation.",
        _pieces,
        _rate("per", "phoneme"),
    )
)
word_edit_rate = built_in(
    Metric(
        "word_edit_rate",
        "`word_edit_rate`: edits of words to the nearest accepted text over the number of its "
        "words, the word error rate of speech recognition. Case and punctuation count.",
        _pieces,
        _rate("word_edit_rate", "word"),
    )
)
character_error_rate = built_in(
    Metric(
        "character_error_rate",
        "`cer`: edits of characters (Unicode code points, spaces too) to the nearest accepted text "
        "over the number of its characters.",
        _characters,
        _rate("cer", "character"),
    )
)
