"""Tasks whose targets stand behind a sentinel, as those of span corruption do.

T5's SuperGLUE tasks exist in this form as well: it fits what pre-training asked for, which helps
where there are few examples.

  boolq passage: … question: … <extra_id_0>   ->   <extra_id_0> True
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping

import seqio
import tensorflow as tf

from t5jax.tasks.objectives import Features, SequenceLength, sentinels_of

_SENTINEL = "<extra_id_0>"  # how a prediction begins; byte vocabularies write nothing for it


def sentinel_name(name: str) -> str:
    """T5's name of the task's form with a sentinel: `_1_sentinel` behind it, before `_train`."""
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
    """Ids of `inputs` and `targets`, before EOS, with the first sentinel behind and before them.

    Inputs are cut so that the sentinel stays.
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
    """A postprocessor: what the task's own one makes of the text without its sentinel."""
    text = output.removeprefix(_SENTINEL).strip() if output.startswith(_SENTINEL) else output
    return text if postprocess is None else postprocess(text, **options)
