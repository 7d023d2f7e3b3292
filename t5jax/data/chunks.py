"""A task's examples from seqio and TensorFlow, in chunks, with flags of cut examples."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Mapping

import numpy as np
import seqio
import tensorflow as tf

from t5jax.config import LengthsConfig
from t5jax.data.packing import TokenPair
from t5jax.tasks.faults import ids_end, tell, wrong_ids

# TensorFlow would reserve accelerators' memory. RuntimeError: it is already initialized.
for _kind in ("GPU", "TPU"):
    with contextlib.suppress(RuntimeError):
        tf.config.set_visible_devices([], _kind)

CHUNK = 256  # examples passed from TensorFlow to Python together
FEATURES = ("inputs", "targets")
# Added features: the lengths before truncation, EOS included.
WHOLE = {name: f"{name}_whole" for name in FEATURES}


def reading_options(threads: int) -> tf.data.Options:
    """tf.data options: a fixed order and this many threads."""
    options = tf.data.Options()
    options.deterministic = True
    # Autotuning would take cores from the training step, and slows short examples.
    options.autotune.enabled = False
    options.threading.private_threadpool_size = threads
    options.threading.max_intra_op_parallelism = 1
    return options


def noting_length(task: seqio.Task) -> seqio.Task:
    """The task with the features `WHOLE` added: lengths before seqio truncates."""

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
    # replace() may lose a subclass; `ReadSource` refuses such a task.
    return noting if type(noting) is type(task) else task


def chunks_of(dataset: tf.data.Dataset, lengths: LengthsConfig) -> tf.data.Dataset:
    """Chunks of C examples: `inputs` and `targets` int32[C, …], `sizes` and `cut` [C, 2]."""
    longest = [getattr(lengths, name) for name in FEATURES]

    def convert(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        # Saturating, so that an id past int32 stays invalid.
        inputs, targets = (tf.saturate_cast(example[name], tf.int32) for name in FEATURES)
        sizes = tf.stack([tf.size(inputs), tf.size(targets)])
        cut = tf.stack([example.get(WHOLE[name], 0) for name in FEATURES]) > longest
        return {"inputs": inputs, "targets": targets, "sizes": sizes, "cut": cut}

    return dataset.map(convert).padded_batch(CHUNK)


def usable_of(chunk: Mapping[str, np.ndarray], pad: int) -> tuple[list[TokenPair], int, np.ndarray]:
    """The chunk's usable examples, the number of unusable ones, and int[2] truncated sequences.

    An example is unusable if its inputs or targets are empty or contain the padding id `pad`.
    """
    sizes = chunk["sizes"]
    bad = (sizes == 0).any(axis=1)
    for name, size in zip(FEATURES, sizes.T, strict=True):
        within = np.arange(chunk[name].shape[1]) < size[:, None]
        bad |= ((chunk[name] == pad) & within).any(axis=1)
    good = np.flatnonzero(~bad)
    examples = [
        (chunk["inputs"][i, : sizes[i, 0]], chunk["targets"][i, : sizes[i, 1]]) for i in good
    ]
    return examples, len(sizes) - len(good), chunk["cut"][good].sum(axis=0)


def check_ids(
    task: seqio.Task,
    split: str,
    lengths: LengthsConfig,
    chunk: Mapping[str, np.ndarray],
    end: int | None,
) -> None:
    """Raises ValueError for ids outside the vocabulary, or from `end` on.

    An embedding lookup would not notice.
    """
    for name in ("inputs", "targets"):
        outside = (chunk[name] < 0) | (chunk[name] >= ids_end(task, name, end))
        if outside.any():
            row = int(outside.any(axis=1).argmax())
            example = {name: chunk[name][row] for name in ("inputs", "targets")}
            wrong = wrong_ids(task, end)
            tell(task, split, dataclasses.asdict(lengths), wrong, example)


def whole_task(task: seqio.Task, split: str, lengths: LengthsConfig) -> tf.data.Dataset:
    """Chunks of all examples of the split, one epoch, in the stored order."""
    # seqio's memory cache would keep examples that are read once.
    dataset = noting_length(task).get_dataset(
        dataclasses.asdict(lengths), split, shuffle=False, num_epochs=1, try_in_mem_cache=False
    )
    return chunks_of(dataset, lengths).with_options(reading_options(os.cpu_count() or 1))
