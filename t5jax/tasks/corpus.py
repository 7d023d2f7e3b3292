"""The text of tasks' examples, to train a vocabulary on."""

from __future__ import annotations

from collections.abc import Iterator

import seqio

from t5jax.tasks.faults import DataError, reading


def texts_of(task: seqio.Task, split: str, examples: int) -> Iterator[str]:
    """The inputs and targets of the first examples, before tokenization.

    Raises:
      ValueError: the examples have no text, or text that is not UTF-8; names task and example.
    """
    with reading(task, split):
        dataset = task.get_dataset(
            None, split, shuffle=False, num_epochs=1, try_in_mem_cache=False
        ).take(examples)
        names = [f"{name}_pretokenized" for name in ("inputs", "targets")]
        if missing := [name for name in names if name not in dataset.element_spec]:
            raise DataError(
                f"task {task.name} has no text to learn from, only ids: its examples lack "
                f"{', '.join(missing)}, which seqio.preprocessors.tokenize adds; name a task that "
                "tokenizes inputs and targets and keeps both"
            )
        texts = dataset.map(lambda example: tuple(example[name] for name in names))
        for number, pair in enumerate(texts.as_numpy_iterator(), start=1):
            for name, text in zip(names, pair, strict=True):
                try:
                    yield text.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise DataError(
                        f"task {task.name}, split {split}, example {number}: its "
                        f"{name.removesuffix('_pretokenized')} are not UTF-8: byte "
                        f"{text[error.start]:#04x} at {error.start}"
                    ) from error
