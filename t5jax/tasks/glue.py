"""GLUE as text: `mnli hypothesis: … premise: …` -> `entailment`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from t5jax.tasks.metrics import (
    Metric,
    accuracy,
    f1_score_with_invalid,
    matthews_corrcoef,
    pearson_corrcoef,
    spearman_corrcoef,
)
from t5jax.tasks.postprocessors import label_index, number, referent
from t5jax.tasks.ranking import set_answers
from t5jax.tasks.source import SPLITS
from t5jax.tasks.text import Preprocessor, RawExample, add_task, each, label_text
from t5jax.tasks.winograd import resolve_hypothesis

_MNLI_SPLITS = (
    "train",
    "validation_matched",
    "validation_mismatched",
    "test_matched",
    "test_mismatched",
)


class Classification(NamedTuple):
    """A task of GLUE or SuperGLUE: its name and fields in TFDS, and T5's text for them."""

    name: str
    fields: tuple[str, ...]
    labels: tuple[str, ...]  # by class; (): the target is a number
    metrics: tuple[Metric, ...] = (accuracy,)
    prefix: str = ""  # of the inputs; default: the name
    splits: tuple[str, ...] = SPLITS


_PAIR = ("sentence1", "sentence2")
_MNLI = ("hypothesis", "premise")
_NLI = ("entailment", "neutral", "contradiction")
_ENTAILMENT = ("entailment", "not_entailment")
_F1 = (f1_score_with_invalid, accuracy)

TASKS = (
    Classification("cola", ("sentence",), ("unacceptable", "acceptable"), (matthews_corrcoef,)),
    Classification("sst2", ("sentence",), ("negative", "positive")),
    Classification("mrpc", _PAIR, ("not_equivalent", "equivalent"), _F1),
    Classification("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), _F1),
    Classification("stsb", _PAIR, (), (pearson_corrcoef, spearman_corrcoef)),
    Classification("mnli", _MNLI, _NLI, splits=_MNLI_SPLITS),
    Classification("mnli_matched", _MNLI, _NLI, prefix="mnli", splits=SPLITS[1:]),
    Classification("mnli_mismatched", _MNLI, _NLI, prefix="mnli", splits=SPLITS[1:]),
    Classification("qnli", ("question", "sentence"), _ENTAILMENT),
    Classification("rte", _PAIR, _ENTAILMENT),
    Classification("wnli", _PAIR, ("not_entailment", "entailment")),
    Classification("ax", _MNLI, _NLI, (), "mnli", ("test",)),
)


def named_fields(row: RawExample, prefix: str, fields: tuple[str, ...]) -> tf.Tensor:
    """`prefix field1: … field2: …`."""
    parts = [part for field in fields for part in (f"{field}:", row[field])]
    return tf.strings.join([prefix, *parts], separator=" ")


def classify(
    row: RawExample, prefix: str, fields: tuple[str, ...], labels: tuple[str, ...]
) -> dict[str, tf.Tensor]:
    """A row -> the text of its fields, and its label's word."""
    return {
        "inputs": named_fields(row, prefix, fields),
        "targets": label_text(row["label"], labels),
        "idx": row["idx"],
    }


def similarity(row: RawExample) -> dict[str, tf.Tensor]:
    """STS-B: the score is rounded to 0.2 and has one digit: 3.25 -> `3.2`."""
    return {
        "inputs": named_fields(row, "stsb", _PAIR),
        "targets": tf.strings.as_string(tf.round(row["label"] * 5) / 5, precision=1),
        "idx": row["idx"],
    }


def add_classification(
    name: str, dataset: str, task: Classification, first: Sequence[Preprocessor] = ()
) -> None:
    """Registers a task, after the preprocessors `first`, and declares its labels as answers."""
    labels = task.labels
    step = each(classify, prefix=task.prefix or task.name, fields=task.fields, labels=labels)
    add_task(
        name,
        dataset,
        [*first, step if labels else each(similarity)],
        splits=task.splits,
        postprocess=label_index(labels) if labels else number,
        metrics=task.metrics,
    )
    if labels:
        set_answers(name, labels)


for _task in TASKS:
    add_classification(f"glue_{_task.name}_v002", f"glue/{_task.name}:1.0.0", _task)

# For models trained on WSC and DPR: WNLI is too small to train on, and its rows mislead.
add_task(
    "glue_wnli_v002_simple_eval",
    "glue/wnli:1.0.0",
    [each(resolve_hypothesis)],
    splits=("validation", "test"),
    postprocess=referent,
    metrics=[accuracy],
)
