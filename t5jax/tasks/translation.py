"""Translation as text: `translate English to German: …` -> the translation."""

from __future__ import annotations

import tensorflow as tf

from t5jax.tasks.metrics import bleu
from t5jax.tasks.source import SPLITS
from t5jax.tasks.text import RawExample, add_task, each

LANGUAGES = {"de": "German", "en": "English", "fr": "French", "ro": "Romanian"}

# Task, data set, target language, splits; the source is English.
TASKS = (
    ("wmt_t2t_ende_v003", "wmt_t2t_translate/de-en:1.0.0", "de", SPLITS),
    ("wmt14_ende_v003", "wmt14_translate/de-en:1.0.0", "de", SPLITS),
    ("wmt14_enfr_v003", "wmt14_translate/fr-en:1.0.0", "fr", SPLITS),
    ("wmt15_enfr_v003", "wmt15_translate/fr-en:1.0.0", "fr", SPLITS),
    ("wmt16_enro_v003", "wmt16_translate/ro-en:1.0.0", "ro", SPLITS),
    ("wmt19_ende_v003", "wmt19_translate/de-en:1.0.0", "de", ("train", "validation")),
)


def translate(row: RawExample, source: str, target: str) -> dict[str, tf.Tensor]:
    """A row of texts by language code -> the source with T5's prefix, and the target."""
    prefix = f"translate {LANGUAGES[source]} to {LANGUAGES[target]}: "
    return {"inputs": tf.strings.join([prefix, row[source]]), "targets": row[target]}


for _name, _dataset, _target, _splits in TASKS:
    add_task(
        _name,
        _dataset,
        [each(translate, source="en", target=_target)],
        splits=_splits,
        metrics=[bleu],
    )
