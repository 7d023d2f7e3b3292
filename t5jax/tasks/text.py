"""Common parts of T5's text-to-text tasks: TFDS data sets, and preprocessing to ids."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import seqio
import tensorflow as tf

from t5jax.tasks.source import SPLITS, output_features

RawExample = Mapping[str, tf.Tensor]
Preprocessor = Callable[..., tf.data.Dataset]

UNKNOWN = "<unk>"  # T5's target if the label is not published


class TfdsSource(seqio.TfdsDataSource):
    """A prepared TFDS data set; nothing is downloaded.

    Args:
      name: its name, config and version: `glue/cola:1.0.0`.
      splits: its splits, which are then known without the data.
    """

    def __init__(self, name: str, splits: Sequence[str] = SPLITS):
        super().__init__(name, splits=splits, read_only=True)
        self.name = name

    def get_dataset(self, *args: object, **options: object) -> tf.data.Dataset:
        """The rows of a split. Raises ValueError, with the remedy, if they are not prepared."""
        try:
            return super().get_dataset(*args, **options)
        except AssertionError as missing:  # TFDS's error
            raise ValueError(
                f"the TFDS data set {self.name} is not prepared in "
                f"{self.tfds_dataset.builder.data_dir}; set TFDS_DATA_DIR to where it is, or "
                f"download and prepare it: tensorflow_datasets.load({self.name!r})"
            ) from missing

    def num_input_examples(self, split: str) -> int | None:
        """The number of rows of a split; None if they are not prepared."""
        known = self.tfds_dataset.info.splits
        return known[split].num_examples if split in known else None

    def list_shards(self, split: str) -> Sequence[str]:
        return super().list_shards(split) if split in self.tfds_dataset.info.splits else [split]


def each(convert: Callable[..., Mapping[str, tf.Tensor]], **options: object) -> Preprocessor:
    """A seqio preprocessor that makes one example of each row: `convert(row, **options)`."""

    def preprocess(dataset: tf.data.Dataset) -> tf.data.Dataset:
        return dataset.map(
            functools.partial(convert, **options), num_parallel_calls=tf.data.AUTOTUNE
        )

    return preprocess


def add_task(
    name: str,
    dataset: str,
    steps: Sequence[Preprocessor],
    *,
    splits: Sequence[str] = SPLITS,
    postprocess: Callable[..., object] | None = None,
    metrics: Sequence[Callable[..., Mapping[str, float]]] = (),
    on_ids: Sequence[Preprocessor] = (),
    end: Sequence[Preprocessor] = (seqio.preprocessors.append_eos_after_trim,),
) -> seqio.Task:
    """Registers a task over a TFDS data set.

    Args:
      name: the task's name.
      dataset: the data set's name in TFDS.
      steps: preprocessors from rows to `inputs` and `targets` as text.
      splits: the data set's splits.
      postprocess: a seqio postprocessor, from a text to the values that metrics compare.
      metrics: functions of targets and predictions.
      on_ids: preprocessors after tokenization and an offline cache.
      end: preprocessors that end the sequences.
    """
    return seqio.TaskRegistry.add(
        name,
        source=TfdsSource(dataset, splits),
        preprocessors=[
            *steps,
            seqio.preprocessors.tokenize,
            seqio.CacheDatasetPlaceholder(),
            *on_ids,
            *end,
        ],
        postprocess_fn=postprocess,
        metric_fns=list(metrics),
        output_features=output_features(),
    )


def label_text(label: tf.Tensor, labels: Sequence[str]) -> tf.Tensor:
    """The label's word, or `<unk>` for -1."""
    return tf.gather(tf.constant([UNKNOWN, *labels]), label + 1)


def spaced(text: tf.Tensor) -> tf.Tensor:
    """Spaces around ASCII punctuation, and white space as single spaces; T5's for questions."""
    return one_blank(tf.strings.regex_replace(text, r"([[:punct:]])", r" \1 "))


def one_blank(text: tf.Tensor) -> tf.Tensor:
    """Every run of white space as one space, also at the ends."""
    return tf.strings.regex_replace(text, r"\s+", " ")


def escaped(text: tf.Tensor) -> tf.Tensor:
    """A regular expression that matches exactly the text."""
    return tf.strings.regex_replace(text, r"([[:punct:]])", r"\\\1")
