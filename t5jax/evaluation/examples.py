"""The examples of an evaluation: its tasks, their ids and texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import seqio

from t5jax.config import LengthsConfig
from t5jax.tasks.faults import check_features, checked, reading
from t5jax.tasks.measuring import check_metrics
from t5jax.tasks.registry import evaluator, seqio_vocabulary, with_vocabulary
from t5jax.vocabulary import Vocabulary


def tasks_of(names: Sequence[str], vocabulary: Vocabulary, split: str) -> list[seqio.Task]:
    """The tasks of names of tasks and mixtures, with the vocabulary.

    Raises:
      ValueError: an unknown task, a task without the split, or two tasks of one name.
    """
    found = []
    asked: dict[str, str] = {}
    theirs = seqio_vocabulary(vocabulary)
    for name in names:
        provider = with_vocabulary(name, theirs)
        tasks = seqio.get_subtasks(provider)
        if isinstance(provider, seqio.Mixture):
            fit = [task for task in tasks if split in task.splits and task.metric_objs]
            tasks = fit or tasks
        for task in tasks:
            first = asked.setdefault(task.name, name)
            if first != name and ":" in first + name:
                # A file's task is named after the file, without its folder.
                raise ValueError(
                    f"{first} and {name} would both be called {task.name}; rename a file, or "
                    "evaluate them one after the other"
                )
            if split not in task.splits:
                raise ValueError(
                    f"task {task.name} has no split {split!r}; it has {', '.join(task.splits)}"
                )
            found.append(task)
    return found


def read_task(
    task: seqio.Task, split: str, lengths: LengthsConfig | None, examples: int | None, pad: int
) -> seqio.Evaluator:
    """seqio's evaluator of the task, with its examples read and checked; `pad` is refused in them.

    Raises:
      ValueError: the task has no metric, or a fault in its data.
    """
    check_metrics(task)
    cut = None if lengths is None else dataclasses.asdict(lengths)
    check_features(task, cut)
    with reading(task, split, cut):
        made = evaluator(
            task,
            seqio.EncDecFeatureConverter(pack=False),
            eval_split=split,
            sequence_length=cut,
            num_examples=examples,
            async_compute_metrics=False,
        )
        read = made.cached_task_datasets[task.name].as_numpy_iterator()
        for _ in checked(task, split, cut, read, pad):
            pass
    return made


def examples_of(each: seqio.Evaluator, task: seqio.Task) -> list[dict[str, Any]]:
    """The task's preprocessed examples."""
    return list(each.cached_task_datasets[task.name].as_numpy_iterator())


def ids_of(examples: Sequence[Mapping[str, Any]], name: str, pad: int) -> np.ndarray:
    """A feature of N examples as int32[N, T], padded with the model's `pad`."""
    rows = [example[name] for example in examples]
    out = np.full((len(rows), max(map(len, rows))), pad, np.int32)
    for row, ids in zip(out, rows, strict=True):
        row[: len(ids)] = ids
    return out


def text_of(example: Mapping[str, Any], name: str, vocabulary: Vocabulary) -> str:
    """A feature's text: before it was tokenized, if the task keeps that, else of its ids."""
    text = example.get(f"{name}_pretokenized")
    if isinstance(text, bytes):
        return text.decode("utf-8")
    return vocabulary.decode(np.asarray(example[name]).tolist())


def count_cut(
    examples: Sequence[Mapping[str, Any]],
    texts: Sequence[str],
    lengths: LengthsConfig | None,
    vocabulary: Vocabulary,
) -> int:
    """The number of targets longer than `lengths`, of which metrics see only a part."""
    return sum(
        1
        for example, text in zip(examples, texts, strict=True)
        # Only targets that fill the length are tokenized again.
        if lengths is not None
        and len(example["targets"]) == lengths.targets
        and "targets_pretokenized" in example
        and len(vocabulary.encode(text)) > np.count_nonzero(example["targets"] != vocabulary.eos_id)
    )
