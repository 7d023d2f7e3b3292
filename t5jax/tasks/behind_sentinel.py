"""Tasks whose targets follow a sentinel, as in span corruption.

T5's SuperGLUE tasks exist in this form too. It is like pre-training, which helps tasks with few
examples.

  boolq passage: … question: … <extra_id_0>   ->   <extra_id_0> True
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping

import seqio
import tensorflow as tf

from t5jax.tasks.objectives import Features, SequenceLength, sentinels_of

_SENTINEL = "<extra_id_0>"  # a prediction's beginning; byte vocabularies decode it to ""


def sentinel_name(name: str) -> str:
    """T5's name of the form with a sentinel: `_1_sentinel` at the end, or before `_train`."""
    return re.sub("(?=_train|_eval|$)", "_1_sentinel", name, count=1)


def with_sentinel(name: str) -> seqio.Task:
    """Registers the task's form with a sentinel."""
    task = seqio.TaskRegistry.get(name)
    *steps, end = task.preprocessors
    return seqio.TaskRegistry.add(
        sentinel_name(name),
        source=task.source,
        preprocessors=[*steps, add_sentinel, end],
        postprocess_fn=functools.partial(without_sentinel, postprocess=task.postprocessor),
        metric_fns=task.metric_fns,
        output_features=task.output_features,
    )


def add_sentinel(
    dataset: tf.data.Dataset,
    output_features: Features,
    sequence_length: SequenceLength | None = None,
) -> tf.data.Dataset:
    """Appends the first sentinel to `inputs` and prepends it to `targets`, before EOS is added.

    Inputs are truncated before the sentinel.
    """
    first = sentinels_of(output_features["targets"].vocabulary).first
    longest = None if sequence_length is None else sequence_length.get("inputs")

    def add(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        inputs, targets = example["inputs"], example["targets"]
        kept = inputs if longest is None else inputs[: max(longest - 2, 0)]
        return {
            **example,
            "inputs": tf.concat([kept, [first]], axis=0),
            "targets": tf.concat([[first], targets], axis=0),
        }

    return dataset.map(add, num_parallel_calls=tf.data.AUTOTUNE)


def without_sentinel(
    output: str, *, postprocess: Callable[..., object] | None, **options: object
) -> object:
    """A postprocessor: applies the task's postprocessor to the text without its sentinel."""
    text = output.removeprefix(_SENTINEL).strip() if output.startswith(_SENTINEL) else output
    return text if postprocess is None else postprocess(text, **options)
