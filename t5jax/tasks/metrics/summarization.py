"""ROUGE in percent, by rouge-score."""

from __future__ import annotations

import functools
from typing import Any

from t5jax.tasks.metrics.base import Metric, Row, Target, accepted, built_in, percentages

NAMES = ("rouge1", "rouge2", "rougeL", "rougeLsum")


@functools.cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # with nltk, a second

    return RougeScorer(NAMES)  # without a stemmer, as in T5


def _sentences(text: str) -> str:
    """One sentence a line, for rougeLsum; as in T5, a period between spaces ends a sentence."""
    return text.replace(" . ", " .\n")


def _scores(target: Target, prediction: str) -> Row:
    references = [_sentences(text) for text in accepted(target)]
    scores = _scorer().score_multi(references, _sentences(prediction))
    return *(scores[name].fmeasure for name in NAMES), 1


rouge = built_in(
    Metric(
        "rouge",
        "`rouge1`, `rouge2`, `rougeL`, `rougeLsum`: the mean F-measures of words, pairs of "
        "words, and longest common subsequences of text and of sentences, in percent, without "
        "stemming; of several references the best by each. T5 reports the median of a random "
        "bootstrap of the mean, which differs by hundredths.",
        _scores,
        percentages(*NAMES),
    )
)
