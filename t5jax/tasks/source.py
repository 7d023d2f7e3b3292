"""Common parts of the word tasks: a seqio source over rows in memory, and splits by word."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np
import seqio
import tensorflow as tf

from t5jax.tasks.wrapped import WrappedBytes
from t5jax.vocabulary import ByteVocabulary

SPLITS = ("train", "validation", "test")
_SEPARATOR = "\t"  # between a row's answers, which hold no tab


class WordPair(NamedTuple):
    """An example: inputs `{prefix}: {word}`, target `answer`, and all right `answers`."""

    prefix: str
    word: str
    answer: str
    answers: tuple[str, ...]


WordTable = Mapping[str, Sequence[WordPair]]  # split -> rows


def split_of(word: str) -> str:
    """A word's split, the same in all tasks and processes: 5 % validation, 5 % test."""
    place = _place(word)
    return "train" if place >= 0.10 else "validation" if place < 0.05 else "test"


def shuffled(rows: Iterable[WordPair]) -> list[WordPair]:
    """The rows in a fixed pseudo-random order.

    Dictionaries are sorted: with a shuffle buffer smaller than the data, batches would have words
    of one letter, and the first examples of a split would not be a sample.
    """
    return sorted(rows, key=lambda row: (_place(f"{row.prefix}: {row.word}"), row))


def table_of(rows: Iterable[tuple[str, WordPair]], splits: Sequence[str] = SPLITS) -> WordTable:
    """Pairs of a split and a row -> the shuffled rows of each split."""
    table: dict[str, list[WordPair]] = {split: [] for split in splits}
    for split, row in rows:
        table[split].append(row)
    return {split: shuffled(of_split) for split, of_split in table.items()}


def _place(text: str) -> float:
    """A fixed pseudo-random number in [0, 1)."""
    # hash() differs from process to process.
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48


def data_file(distribution: str, name: str) -> Path:
    """The path of a data file in an installed distribution, without importing it.

    Raises:
      FileNotFoundError: it is missing; the message says what to install.
    """
    try:
        path = Path(str(metadata.distribution(distribution).locate_file(name)))
    except metadata.PackageNotFoundError:
        path = None
    if path is None or not path.is_file():
        raise FileNotFoundError(
            f"{name} of the package {distribution} is missing; pip install 't5jax[examples]'"
        )
    return path


class TableSource(seqio.DataSource):
    """A seqio source of rows in memory, in a fixed order, with any number of shards.

    Examples are strings: `prefix`, `word`, `answer`, and `answers`, joined by tabs.

    Args:
      read: returns the rows of every split; called on first use.
      splits: the splits' names.
    """

    def __init__(self, read: Callable[[], WordTable], splits: Sequence[str] = SPLITS):
        super().__init__(splits=splits)
        self._read = read

    @property
    def supports_arbitrary_sharding(self) -> bool:
        return True

    def list_shards(self, split: str) -> Sequence[str]:
        return [split]

    def num_input_examples(self, split: str) -> int:
        return len(self._read()[split])

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        **unused: object,
    ) -> tf.data.Dataset:
        """Every num_shards-th row of the split, from shard_info.index on.

        `shuffle` and `seed` are ignored: rows are in random order already, and the task's shuffle
        buffer shuffles each epoch.
        """
        rows = self._read()[split]
        if shard_info is not None:
            rows = rows[shard_info.index :: shard_info.num_shards]
        columns = {
            "prefix": [row.prefix for row in rows],
            "word": [row.word for row in rows],
            "answer": [row.answer for row in rows],
            "answers": [_SEPARATOR.join(row.answers) for row in rows],
        }
        # Columns of tensors: a Python generator would run for every row of every epoch.
        return tf.data.Dataset.from_tensor_slices(
            {name: tf.constant(column, tf.string, [len(rows)]) for name, column in columns.items()}
        )


def text_to_text(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """seqio preprocessor: rows -> `inputs`, `targets` (strings) and `references` (string [n]).

    `references` are all right answers, which seqio passes to the metrics.
    """

    def convert(row: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {
            "inputs": tf.strings.join([row["prefix"], ": ", row["word"]]),
            "targets": row["answer"],
            "references": tf.strings.split(row["answers"], _SEPARATOR),
        }

    return dataset.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


def references(example: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """The right answers of an example of `text_to_text`, as numpy."""
    return tuple(answer.decode("utf-8") for answer in example["references"])


def word_task(
    name: str,
    read: Callable[[], WordTable],
    postprocess: Callable[..., object],
    metrics: Sequence[Callable[..., Mapping[str, float]]],
    splits: Sequence[str] = SPLITS,
) -> seqio.Task:
    """A task over rows in memory, not registered; arguments as for `TableSource` and seqio."""
    return seqio.Task(
        name,
        source=TableSource(read, splits),
        preprocessors=[text_to_text, seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        postprocess_fn=postprocess,
        metric_fns=metrics,
        output_features=output_features(),
    )


def output_features() -> dict[str, seqio.Feature]:
    """`inputs` and `targets` in bytes, both with EOS; a run replaces the vocabulary."""
    vocabulary = WrappedBytes(ByteVocabulary())
    return {name: seqio.Feature(vocabulary, add_eos=True) for name in ("inputs", "targets")}
