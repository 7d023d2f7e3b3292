"""seqio tasks and mixtures, registered by importing this package. Nothing is downloaded.

Tasks of words are `pronounce`, `inflect`, their mixture `words`, and `pronounce:FILE` for a file of
pronunciations. T5's tasks, under T5's names, are GLUE, SuperGLUE, question answering,
summarization, translation, pre-training on C4, and mixtures of these.
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
