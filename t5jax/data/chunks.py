"""A task's examples as seqio and TensorFlow give them: many at a time, with what was cut."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Mapping

import numpy as np
import seqio
import tensorflow as tf

from t5jax.config import LengthsConfig
from t5jax.data.packing import Example
from t5jax.tasks.faults import ids_end, tell, wrong_ids

# JAX owns the accelerators; TensorFlow would reserve their memory. It refuses once it has begun.
for _kind in ("GPU", "TPU"):
    with contextlib.suppress(RuntimeError):
        tf.config.set_visible_devices([], _kind)

CHUNK = 256  # examples that pass from TensorFlow to Python together
FEATURES = ("inputs", "targets")
# Features that are added: the lengths of these before they are cut, EOS counted.
WHOLE = {name: f"{name}_whole" for name in FEATURES}


def reading_options(threads: int) -> tf.data.Options:
    """How tf.data reads: in a fixed order, with this many threads."""
    options = tf.data.Options()
    options.deterministic = True
    # The training step needs the cores as well, and short examples are quicker without the tuner.
    options.autotune.enabled = False
    options.threading.private_threadpool_size = threads
    options.threading.max_intra_op_parallelism = 1
    return options


def noting_length(task: seqio.Task) -> seqio.Task:
    """The task, whose examples also say how long they were before seqio cut them."""

    def note(dataset: tf.data.Dataset) -> tf.data.Dataset:
        def add(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            whole = {WHOLE[k]: tf.size(example[k]) + ended[k] for k in FEATURES if k in example}
            return {**example, **whole}

        return dataset.map(add)

    steps = list(task.preprocessors)
    ends = (seqio.preprocessors.append_eos, seqio.preprocessors.append_eos_after_trim)
    place = next((i for i, step in enumerate(steps) if step in ends), len(steps))
    ended = {
        name: int(task.output_features[name].add_eos and place < len(steps)) for name in FEATURES
    }
    noting = task.replace(preprocessors=[*steps[:place], note, *steps[place:]])
    # A class that replace() loses may do what it likes; it is refused where it has to be replaced.
    return noting if type(noting) is type(task) else task


def chunks_of(dataset: tf.data.Dataset, lengths: LengthsConfig) -> tf.data.Dataset:
    """Chunks of C examples: `inputs` and `targets` int32[C, …], `sizes` and `cut` [C, 2]."""
    longest = [getattr(lengths, name) for name in FEATURES]

    def convert(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        # Saturated, so that an id too high stays one.
        inputs, targets = (tf.saturate_cast(example[name], tf.int32) for name in FEATURES)
        sizes = tf.stack([tf.size(inputs), tf.size(targets)])
        cut = tf.stack([example.get(WHOLE[name], 0) for name in FEATURES]) > longest
        return {"inputs": inputs, "targets": targets, "sizes": sizes, "cut": cut}

    return dataset.map(convert).padded_batch(CHUNK)


def usable_of(chunk: Mapping[str, np.ndarray]) -> tuple[list[Example], int, np.ndarray]:
    """The chunk's examples without the unusable ones, the number of these, and int[2] of cut ones.

    Cut are inputs, and targets.
    """
    sizes = chunk["sizes"]
    tokens = np.stack([np.count_nonzero(chunk[k], axis=1) for k in ("inputs", "targets")], axis=1)
    good = np.flatnonzero(((tokens == sizes) & (sizes > 0)).all(axis=1))
    examples = [
        (chunk["inputs"][i, : sizes[i, 0]], chunk["targets"][i, : sizes[i, 1]]) for i in good
    ]
    return examples, len(sizes) - len(good), chunk["cut"][good].sum(axis=0)


def check_ids(
    task: seqio.Task,
    split: str,
    lengths: LengthsConfig,
    chunk: Mapping[str, np.ndarray],
    vocabulary_size: int | None,
) -> None:
    """Raises ValueError for ids that are not the vocabulary's: a lookup would take others."""
    for name in ("inputs", "targets"):
        outside = (chunk[name] < 0) | (chunk[name] >= ids_end(task, name, vocabulary_size))
        if outside.any():
            row = int(outside.any(axis=1).argmax())
            example = {name: chunk[name][row] for name in ("inputs", "targets")}
            wrong = wrong_ids(task, vocabulary_size)
            tell(task, split, dataclasses.asdict(lengths), wrong, example)


def whole_task(task: seqio.Task, split: str, lengths: LengthsConfig) -> tf.data.Dataset:
    """The chunks of all examples of the split, once, in the stored order."""
    # seqio's own cache in memory would keep what is read here once.
    dataset = noting_length(task).get_dataset(
        dataclasses.asdict(lengths), split, shuffle=False, num_epochs=1, try_in_mem_cache=False
    )
    return chunks_of(dataset, lengths).with_options(reading_options(os.cpu_count() or 1))
