"""BLEU and chrF of a corpus, 0 to 100, with sacrebleu underneath.

A target is a text or a sequence of texts, its references; their number may vary.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from t5jax.tasks.metrics.base import Metric, Target, Values, accepted, built_in


def _metric(name: str, about: str, make: Callable[[], Any]) -> Metric:
    """`make` makes sacrebleu's metric, later: its import takes half a second."""
    scorer = functools.cache(make)

    # sacrebleu's own resampling rests on these two methods, which it documents for those who add
    # a metric; what it offers to callers scores whole corpora and keeps no statistics.

    def example(target: Target, prediction: str) -> Sequence[float]:
        references = [[reference] for reference in accepted(target)]
        return scorer()._extract_corpus_statistics([prediction], references)[0]

    def value(total: np.ndarray) -> Values:
        return {name: scorer()._compute_score_from_stats(total.astype(int).tolist()).score}

    def signature(targets: Sequence[Target]) -> str:
        described = make()
        numbers = {len(accepted(target)) for target in targets}
        described.num_refs = numbers.pop() if len(numbers) == 1 else -1  # -1: it varies
        return str(described.get_signature())

    return Metric(name, about, example, value, signature=signature)


def _bleu(name: str, tokenize: str) -> Metric:
    def make() -> Any:
        from sacrebleu.metrics import BLEU

        # It counts sentences that look tokenized, across calls, to warn of them.
        return BLEU(tokenize=tokenize, force=True)

    about = f"`{name}`: BLEU of the corpus, 0 to 100, on sacrebleu's {tokenize!r} tokens."
    return _metric(name, about, make)


def _chrf(name: str, word_order: int) -> Metric:
    def make() -> Any:
        from sacrebleu.metrics import CHRF

        return CHRF(word_order=word_order)

    with_words = f" with words' 1- to {word_order}-grams (chrF++)" if word_order else ""
    about = f"`{name}`: chrF of the corpus, 0 to 100, of characters' 1- to 6-grams{with_words}."
    return _metric(name, about, make)


# T5 splits at all of Unicode's punctuation; sacrebleu's own default, 13a, is what WMT reports.
bleu = built_in(_bleu("bleu", "intl"))
bleu_13a = built_in(_bleu("bleu_13a", "13a"))
chrf = built_in(_chrf("chrf", 0))
chrf_plus_plus = built_in(_chrf("chrf_plus_plus", 2))
