"""seqio tasks and mixtures, registered by importing this package; none is downloaded by it.

Of words: `pronounce`, `inflect` and the mixture `words`; `pronounce:FILE` of any file of
pronunciations. T5's own, under T5's names: GLUE, SuperGLUE, question answering, summarization,
translation, pre-training on C4, and mixtures of them.
"""

import seqio

from t5jax.tasks import (
    ablations,
    docstrings,
    glue,
    inflect,
    language_modeling,
    mixtures,
    pronounce,
    pronunciations,
    question_answering,
    summarization,
    super_glue,
    translation,
)

__all__ = [
    "ablations",
    "docstrings",
    "glue",
    "inflect",
    "language_modeling",
    "mixtures",
    "pronounce",
    "pronunciations",
    "question_answering",
    "summarization",
    "super_glue",
    "translation",
]

seqio.MixtureRegistry.add("words", [(pronounce.NAME, 0.7), (inflect.NAME, 0.3)])
