"""The objectives that T5 was compared with (arXiv:1910.10683, section 3.3), as seqio preprocessors.

Like those in `objectives`, they take data sets of tokenized documents (`targets`, without EOS).
Noise here is i.i.d.: every id is noise with the same probability, whatever the others are.

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

_RESERVED = 3  # padding, EOS and unknown, in T5's vocabularies: no random id is one of them


def mask_tokens(ids: Ids, noise: Noise, mask: int) -> Ids:
    """Every noise id becomes `mask`."""
    return tf.where(noise, tf.constant(mask, ids.dtype), ids)


def random_tokens(ids: Ids, noise: Noise, vocabulary_size: int, seed: Seed) -> Ids:
    """Every noise id becomes any id of the vocabulary but its first three, as in T5."""
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
    """Noise is masked, each id by `<extra_id_0>`, and the whole text is to be written.

    Args:
      dataset: documents, laid end to end and cut.
      sequence_length: seqio's.
      output_features: seqio's.
      density: the share of noise.
      random: the share of it that is replaced by a random id instead. T5's MASS style has 0, its
        BERT style 0.1.

    Raises ValueError for targets shorter than the inputs, a share that cannot be, or a vocabulary
    without sentinels.
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
    """Noise is left out of the inputs and is to be written, with no sentinels anywhere.

    The targets' length is not known beforehand: what is longer is cut, as T5 does.

    Raises ValueError for a density outside [0, 1).
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
    """A piece of one document with its ids in random order is to be put in order.

    Raises ValueError for targets shorter than the inputs.
    """
    length = _whole_text(sequence_length, "deshuffling")

    @seqio.map_over_dataset(num_seeds=1)
    def shuffle(example: Mapping[str, tf.Tensor], seed: Seed) -> dict[str, tf.Tensor]:
        ids = example["targets"]
        return {"inputs": seqio.stateless_shuffle(ids, seed), "targets": ids}

    return shuffle(pieces_of(chunks(dataset), length))


def _whole_text(sequence_length: SequenceLength, objective: str) -> int:
    """Ids of a text that is both inputs and targets; each is ended by EOS."""
    inputs, targets = lengths_of(sequence_length, objective)
    if targets < inputs:
        raise ValueError(
            f"{objective} of {inputs} input tokens makes {inputs} target tokens, but the targets' "
            f"length is {targets}; use {inputs} or more"
        )
    return inputs - 1
