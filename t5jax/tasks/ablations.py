"""Objectives that T5's paper compares (arXiv:1910.10683, section 3.3), as seqio preprocessors.

As in `objectives`, a data set holds tokenized documents (`targets`, without EOS). Noise is i.i.d.:
every id is noise with the same probability.

  text            Thank you for inviting me to your party
  masked          Thank <X> for inviting <X> to your party    ->  the text
  with_dropped    Thank for inviting to your party            ->  you me
  deshuffling     party me for your to . Thank inviting you   ->  the text
"""

from __future__ import annotations

from collections.abc import Mapping

import seqio
import tensorflow as tf

from t5jax.tasks.noising import Ids, Noise, Seed, check_noise, iid_noise
from t5jax.tasks.objectives import (
    Features,
    SequenceLength,
    chunks,
    end_to_end,
    lengths_of,
    pieces_of,
    sentinels_of,
)

_RESERVED = 3  # T5's ids of padding, EOS and unknown, which are never random ids


def mask_tokens(ids: Ids, noise: Noise, mask: int) -> Ids:
    """Replaces every noise id by `mask`."""
    return tf.where(noise, tf.constant(mask, ids.dtype), ids)


def random_tokens(ids: Ids, noise: Noise, vocabulary_size: int, seed: Seed) -> Ids:
    """Replaces noise ids by random ids of the vocabulary, except its first three, as in T5."""
    drawn = tf.random.stateless_uniform(
        tf.shape(ids), seed, minval=_RESERVED, maxval=vocabulary_size, dtype=ids.dtype
    )
    return tf.where(noise, drawn, ids)


def masked(
    dataset: tf.data.Dataset,
    sequence_length: SequenceLength,
    output_features: Features,
    density: float = 0.15,
    random: float = 0.0,
) -> tf.data.Dataset:
    """`<extra_id_0>` masks each noise id in the inputs; the targets are the whole text.

    Args:
      dataset: documents, concatenated and cut.
      sequence_length: seqio's.
      output_features: seqio's.
      density: the share of noise.
      random: the share of noise that is replaced by random ids instead: 0 in T5's MASS style, 0.1
        in its BERT style.

    Raises:
      ValueError: targets shorter than inputs, a share outside its range, or a vocabulary without
        sentinels.
    """
    check_noise(density)
    if not 0 <= random <= 1:
        raise ValueError(f"a share of random ids of {random!r}; use a number from 0 to 1")
    length = _whole_text(sequence_length, "masking")
    vocabulary = output_features["targets"].vocabulary
    mask = sentinels_of(vocabulary).first

    @seqio.map_over_dataset(num_seeds=1)
    def corrupt(example: Mapping[str, tf.Tensor], seed: Seed) -> dict[str, tf.Tensor]:
        ids = example["targets"]
        seeds = tf.unstack(tf.random.experimental.stateless_split(seed, 3))
        noise = iid_noise(tf.size(ids), density, seeds[0])
        inputs = mask_tokens(ids, noise, mask)
        if random:
            replaced = noise & (tf.random.stateless_uniform(tf.shape(ids), seeds[1]) < random)
            inputs = tf.where(
                replaced, random_tokens(ids, noise, vocabulary.vocab_size, seeds[2]), inputs
            )
        return {"inputs": inputs, "targets": ids}

    return corrupt(pieces_of(end_to_end(chunks(dataset)), length))


def with_dropped(
    dataset: tf.data.Dataset,
    sequence_length: SequenceLength,
    output_features: Features,
    density: float = 0.15,
) -> tf.data.Dataset:
    """The inputs drop the noise, and the targets are the noise, without sentinels.

    Targets vary in length and are truncated, as in T5.

    Raises:
      ValueError: a density outside [0, 1).
    """
    check_noise(density)
    inputs, _ = lengths_of(sequence_length, "dropping tokens")

    @seqio.map_over_dataset(num_seeds=1)
    def corrupt(example: Mapping[str, tf.Tensor], seed: Seed) -> dict[str, tf.Tensor]:
        ids = example["targets"]
        noise = iid_noise(tf.size(ids), density, seed)
        return {"inputs": tf.boolean_mask(ids, ~noise), "targets": tf.boolean_mask(ids, noise)}

    return corrupt(pieces_of(end_to_end(chunks(dataset)), inputs - 1))


def deshuffling(
    dataset: tf.data.Dataset, sequence_length: SequenceLength, output_features: Features
) -> tf.data.Dataset:
    """The inputs are a piece of a document in random order, the targets the piece.

    Raises:
      ValueError: targets shorter than inputs.
    """
    length = _whole_text(sequence_length, "deshuffling")

    @seqio.map_over_dataset(num_seeds=1)
    def shuffle(example: Mapping[str, tf.Tensor], seed: Seed) -> dict[str, tf.Tensor]:
        ids = example["targets"]
        return {"inputs": seqio.stateless_shuffle(ids, seed), "targets": ids}

    return shuffle(pieces_of(chunks(dataset), length))


def _whole_text(sequence_length: SequenceLength, objective: str) -> int:
    """The length of a text that is both inputs and targets, without EOS."""
    inputs, targets = lengths_of(sequence_length, objective)
    if targets < inputs:
        raise ValueError(
            f"{objective} of {inputs} input tokens makes {inputs} target tokens, but the targets' "
            f"length is {targets}; use {inputs} or more"
        )
    return inputs - 1
