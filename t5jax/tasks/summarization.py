"""Summarization as text: `summarize: …` -> the summary."""

from __future__ import annotations

import tensorflow as tf

from t5jax.tasks.metrics import rouge
from t5jax.tasks.text import RawExample, add_task, each

# Task, data set, and the fields of the text and its summary. The first is T5's; the others use its
# format and are named after their data set's version.
TASKS = (
    ("cnn_dailymail_v002", "cnn_dailymail:3.4.0", "article", "highlights"),
    ("xsum_v110", "xsum:1.1.0", "document", "summary"),
    ("gigaword_v120", "gigaword:1.2.0", "document", "summary"),
    ("samsum_v100", "samsum:1.0.0", "dialogue", "summary"),
)


def summarize(row: RawExample, text: str, summary: str) -> dict[str, tf.Tensor]:
    """A row -> `summarize: ` and its field `text`; the target is its field `summary`."""
    return {
        "inputs": tf.strings.join(["summarize:", row[text]], separator=" "),
        "targets": row[summary],
    }


for _name, _dataset, _text, _summary in TASKS:
    add_task(_name, _dataset, [each(summarize, text=_text, summary=_summary)], metrics=[rouge])
