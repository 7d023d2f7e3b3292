"""Corpus BLEU and chrF, 0 to 100, by sacrebleu.

A target is a reference text or a sequence of references; their number may vary.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from t5jax.tasks.metrics.base import Metric, Target, Values, accepted, built_in


def _metric(name: str, about: str, make: Callable[[], Any]) -> Metric:
    """A metric of sacrebleu's, which `make` makes on first use: its import takes half a second."""
    scorer = functools.cache(make)

    # sacrebleu documents these two methods for authors of metrics; its public functions score whole
    # corpora and keep no statistics.

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

        # force: no warnings of sentences that look tokenized, which it counts across calls.
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


# T5 splits at all Unicode punctuation; WMT reports sacrebleu's default, 13a.
bleu = built_in(_bleu("bleu", "intl"))
bleu_13a = built_in(_bleu("bleu_13a", "13a"))
chrf = built_in(_chrf("chrf", 0))
chrf_plus_plus = built_in(_chrf("chrf_plus_plus", 2))
