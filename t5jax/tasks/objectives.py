"""Pre-training objectives as seqio preprocessors: T5's, and UL2's mixture of denoisers.

They map data sets of tokenized documents (`targets`, int32[n], without EOS) to `inputs` and
`targets`. seqio gives each example a seed, and fills in `sequence_length` and `output_features`.
Noise is in `noising`; objectives of T5's ablations are in `ablations`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import seqio
import tensorflow as tf

from t5jax.tasks.noising import (
    Ids,
    Noise,
    Seed,
    at_most,
    check_noise,
    iid_noise,
    rolled,
    spans_noise,
    suffix_noise,
    text_length,
    with_sentinels,
)
from t5jax.tasks.sentinels import sentinel_ids

_LONGEST = 65_536  # most ids used of a document, as in T5
_TOGETHER = 128  # documents concatenated before they are cut, as in T5


@dataclasses.dataclass(frozen=True)
class Sentinels:
    """A vocabulary's sentinels: `first`, which is `<extra_id_0>`, and the ids below it."""

    first: int
    count: int


def sentinels_of(vocabulary: seqio.Vocabulary) -> Sentinels:
    """The vocabulary's sentinels: `sentinel_ids` up to the first gap.

    Raises:
      ValueError: there are none.
    """
    ids = sentinel_ids(vocabulary)
    if not ids:
        raise ValueError(
            f"the vocabulary has {vocabulary.vocab_size} ids and no sentinels, which denoising "
            "needs; use one with extra_ids (T5's has 100)"
        )
    count = 1
    while count < len(ids) and ids[count] == ids[0] - count:
        count += 1
    return Sentinels(ids[0], count)


@dataclasses.dataclass(frozen=True)
class Denoiser:
    """UL2's SpanCorrupt(µ, r, n).

    The number of spans is noise / µ, randomly rounded, so that µ is the spans' mean length even if
    a text holds one or two.

    Args:
      mode: text before the inputs; "" for none.
      density: r, the share of noise.
      span: µ, the mean length of a span; None: n = 1, a span at the text's end with density ·
        length ids on average.

    Raises:
      ValueError: a density or span outside its range.
    """

    mode: str
    density: float
    span: float | None

    def __post_init__(self) -> None:
        check_noise(self.density, self.span, most=0.5 if self.span is None else 1.0)

    def text(self, inputs: int, targets: int, sentinels: int) -> int:
        """Ids of the longest text for inputs and targets of these lengths, EOS included.

        Raises:
          ValueError: there is none.
        """
        if self.span is None:
            # At most all ids but one are kept, and all but `fewest` of suffix_noise are noise; both
            # get a sentinel and EOS.
            longest = inputs - 1
            if self.density:
                longest = min(longest, int((targets - 3.5) / (2 * self.density) + 1))
        else:
            longest = 1
            while True:
                noise = max(1, round((longest + 1) * self.density))
                spans = math.ceil(noise / self.span)
                kept = longest + 1 - noise
                if (
                    max(kept + spans + 1 - inputs, noise + spans + 1 - targets, spans - sentinels)
                    > 0
                ):
                    break
                longest += 1
        if longest < 2:
            raise ValueError(
                f"inputs of {inputs} and targets of {targets} tokens are too short for the "
                f"denoiser {self}; use longer ones"
            )
        return longest


# UL2 (arXiv:2205.05131): Table 1 has µ, r and n, section 3.1.2 the kinds: R is T5's span
# corruption, S a prefix language model, X extreme in rate or length. The paper writes the modes
# [R], [S] and [X]; its released checkpoints use [NLU], [S2S] and [NLG].
UL2 = (
    Denoiser("[NLU]", 0.15, 3),
    Denoiser("[NLU]", 0.15, 8),
    Denoiser("[S2S]", 0.25, None),
    Denoiser("[NLG]", 0.5, 3),
    Denoiser("[NLG]", 0.5, 8),
    Denoiser("[NLG]", 0.15, 64),
    Denoiser("[NLG]", 0.5, 64),
)


def denoised(
    ids: Ids, noise: Noise, sentinels: Sentinels, prefix: Ids | tuple[int, ...] = ()
) -> dict[str, Ids]:
    """An example's `inputs` (after `prefix`) and `targets`, both without EOS."""
    inputs = with_sentinels(ids, noise, sentinels.first)
    return {
        "inputs": tf.concat([tf.cast(prefix, ids.dtype), inputs], axis=0),
        "targets": with_sentinels(ids, ~noise, sentinels.first),
    }


Features = Mapping[str, seqio.Feature]
SequenceLength = Mapping[str, int]


def span_corruption(
    dataset: tf.data.Dataset,
    sequence_length: SequenceLength,
    output_features: Features,
    density: float = 0.15,
    span: float = 3.0,
    roll: bool = False,
) -> tf.data.Dataset:
    """T5's objective on concatenated documents, cut so that inputs are full.

    `roll` rotates the noise by a random number of ids (T5's `random_roll`); otherwise an example
    begins with text and ends with noise. The lengths leave room for the extra sentinel.

    Raises:
      ValueError: a density or span outside its range, inputs or targets too short, or too few
        sentinels.
    """
    inputs, targets = lengths_of(sequence_length, "span corruption", inputs=3 + roll)
    sentinels = sentinels_of(output_features["targets"].vocabulary)
    lengths = text_length(inputs - roll, density, span)
    if roll:
        lengths = lengths._replace(targets=lengths.targets + 1, spans=lengths.spans + 1)
    if targets < lengths.targets:
        raise ValueError(
            f"span corruption of {inputs} input tokens makes {lengths.targets} target tokens, but "
            f"the targets' length is {targets}; use {lengths.targets} or more"
        )
    if sentinels.count < lengths.spans:
        raise ValueError(
            f"span corruption of {inputs} input tokens needs {lengths.spans} sentinels, but the "
            f"vocabulary has {sentinels.count}; use shorter inputs or more extra_ids"
        )

    @seqio.map_over_dataset(num_seeds=1)
    def corrupt(example: Mapping[str, tf.Tensor], seed: Seed) -> dict[str, tf.Tensor]:
        ids = example["targets"]
        noise = spans_noise(tf.size(ids), density, span, seed)
        return denoised(ids, rolled(noise, seed) if roll else noise, sentinels)

    return corrupt(pieces_of(end_to_end(chunks(dataset)), lengths.text))


def iid_denoising(
    dataset: tf.data.Dataset,
    sequence_length: SequenceLength,
    output_features: Features,
    density: float = 0.15,
) -> tf.data.Dataset:
    """T5's baseline: every id is noise with probability `density`; a run shares a sentinel.

    Text is kept once sentinels run out. Targets vary in length and are truncated, as in T5.
    """
    check_noise(density)
    inputs, _ = lengths_of(sequence_length, "i.i.d. denoising")
    sentinels = sentinels_of(output_features["targets"].vocabulary)

    @seqio.map_over_dataset(num_seeds=1)
    def corrupt(example: Mapping[str, tf.Tensor], seed: Seed) -> dict[str, tf.Tensor]:
        ids = example["targets"]
        # The targets may have one sentinel more than the inputs.
        noise = at_most(iid_noise(tf.size(ids), density, seed), sentinels.count - 1)
        return denoised(ids, noise, sentinels)

    return corrupt(pieces_of(end_to_end(chunks(dataset)), inputs - 1))


def prefix_lm(
    dataset: tf.data.Dataset, sequence_length: SequenceLength, output_features: Features
) -> tf.data.Dataset:
    """Cuts a piece of a document in two at a random place, without sentinels."""
    inputs, _ = lengths_of(sequence_length, "the prefix language model", inputs=3)

    @seqio.map_over_dataset(num_seeds=1)
    def divide(example: Mapping[str, tf.Tensor], seed: Seed) -> dict[str, tf.Tensor]:
        ids = example["targets"]
        noise = suffix_noise(tf.size(ids), 0.5, seed)
        return {"inputs": tf.boolean_mask(ids, ~noise), "targets": tf.boolean_mask(ids, noise)}

    return divide(pieces_of(chunks(dataset), inputs - 1))


def full_lm(
    dataset: tf.data.Dataset, sequence_length: SequenceLength, output_features: Features
) -> tf.data.Dataset:
    """Documents that end with EOS, concatenated and cut to the targets' length.

    T5's objective has no inputs; here they are a lone EOS, so that an encoder can read them.
    """
    _, targets = lengths_of(sequence_length, "the language model", inputs=1)
    eos = output_features["targets"].vocabulary.eos_id

    def end(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {"targets": tf.concat([example["targets"], [eos]], axis=0)}

    def add_inputs(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {"inputs": tf.constant([eos], tf.int32), "targets": example["targets"]}

    ended = chunks(dataset).map(end, num_parallel_calls=tf.data.AUTOTUNE)
    return pieces_of(end_to_end(ended), targets).map(add_inputs)


def mixture_of_denoisers(
    dataset: tf.data.Dataset,
    sequence_length: SequenceLength,
    output_features: Features,
    denoisers: Sequence[Denoiser] = UL2,
) -> tf.data.Dataset:
    """UL2's objective: each example is made by a random denoiser.

    Documents are concatenated. A denoiser takes as many ids as fill its inputs or targets, or use
    up the sentinels; the next one continues after them.

    Raises:
      ValueError: lengths too short for a denoiser, or a vocabulary without sentinels.
    """
    inputs, targets = lengths_of(sequence_length, "the mixture of denoisers")
    vocabulary = output_features["targets"].vocabulary
    sentinels = sentinels_of(vocabulary)
    # Byte vocabularies keep the space; SentencePiece drops it.
    prefixes = [vocabulary.encode(f"{d.mode} ") if d.mode else [] for d in denoisers]
    sizes = [
        denoiser.text(inputs - len(prefix), targets, sentinels.count)
        for denoiser, prefix in zip(denoisers, prefixes, strict=True)
    ]

    @seqio.map_over_dataset(num_seeds=1)
    def draw(example: Mapping[str, tf.Tensor], seed: Seed) -> dict[str, tf.Tensor]:
        ids = example["targets"]
        most = tf.size(ids) // min(sizes) + 1
        choices = tf.random.stateless_uniform([most], seed, 0, len(denoisers), tf.int32)
        ends = tf.cumsum(tf.gather(tf.constant(sizes), choices))
        return {"targets": ids, "choices": choices, "ends": ends}

    def cut(example: Mapping[str, tf.Tensor]) -> tf.data.Dataset:
        ids, ends = example["targets"], example["ends"]
        starts = tf.concat([[0], ends[:-1]], axis=0)
        # A single id cannot be both text and noise.
        used = starts < tf.size(ids) - 1
        pieces = {"choice": example["choices"], "start": starts, "end": ends}
        return tf.data.Dataset.from_tensor_slices(
            {name: tf.boolean_mask(value, used) for name, value in pieces.items()}
        ).map(lambda piece: {"choice": piece["choice"], "ids": ids[piece["start"] : piece["end"]]})

    @seqio.map_over_dataset(num_seeds=1)
    def corrupt(piece: Mapping[str, tf.Tensor], seed: Seed) -> dict[str, tf.Tensor]:
        ids, choice = piece["ids"], piece["choice"]
        density, span = (
            tf.constant(values, tf.float64)[choice]
            for values in ([d.density for d in denoisers], [d.span or 0 for d in denoisers])
        )
        noise = _drawn_noise(tf.size(ids), density, span, seed)
        return denoised(ids, noise, sentinels, tf.ragged.constant(prefixes, tf.int32)[choice])

    return corrupt(draw(end_to_end(chunks(dataset))).flat_map(cut))


def _drawn_noise(length: tf.Tensor, density: tf.Tensor, span: tf.Tensor, seed: Seed) -> Noise:
    """A denoiser's noise, in spans of mean length `span`; 0: one span at the text's end."""
    first, second = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
    noisy = tf.maximum(tf.round(tf.cast(length, tf.float64) * density), 1)
    chance = tf.random.stateless_uniform([], first, dtype=tf.float64)
    spans = tf.maximum(tf.floor(noisy / tf.maximum(span, 1) + chance), 1)
    return tf.where(
        span > 0,
        spans_noise(length, density, noisy / spans, second),
        suffix_noise(length, density, second),
    )


def lengths_of(
    sequence_length: SequenceLength | None, objective: str, inputs: int = 2
) -> tuple[int, int]:
    """The lengths of inputs and targets, EOS included.

    Raises:
      ValueError: a length is missing, or too short: less than `inputs`, or 2 for targets.
    """
    if sequence_length is None or None in (
        sequence_length.get("inputs"),
        sequence_length.get("targets"),
    ):
        raise ValueError(f"{objective} cuts text to lengths; give inputs and targets a length")
    for name, fewest in (("inputs", inputs), ("targets", 2)):
        length = sequence_length[name]
        if length < fewest:
            raise ValueError(
                f"{objective} cannot make {name} of {length} tokens; use {fewest} or more"
            )
    return sequence_length["inputs"], sequence_length["targets"]


def chunks(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Documents that are not empty; of longer ones a random chunk of 65,536 ids."""

    @seqio.map_over_dataset(num_seeds=1)
    def choose(example: Mapping[str, tf.Tensor], seed: Seed) -> dict[str, tf.Tensor]:
        ids = example["targets"]
        parts = (tf.size(ids) - 1) // _LONGEST + 1
        start = _LONGEST * tf.random.stateless_uniform([], seed, 0, parts, tf.int32)
        return {"targets": ids[start : start + _LONGEST]}

    return choose(dataset.filter(lambda example: tf.size(example["targets"]) > 0))


def end_to_end(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Concatenates 128 documents at a time."""

    def join(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        ids = tf.reshape(example["targets"], [-1])
        return {"targets": tf.boolean_mask(ids, ids != 0)}

    return dataset.padded_batch(_TOGETHER).map(join, num_parallel_calls=tf.data.AUTOTUNE)


def pieces_of(dataset: tf.data.Dataset, length: int) -> tf.data.Dataset:
    """Cuts texts into pieces of `length` ids; a text's last piece may be shorter."""

    def cut(example: Mapping[str, tf.Tensor]) -> tf.data.Dataset:
        ids = example["targets"]
        starts = tf.data.Dataset.range(0, tf.size(ids, tf.int64), length)
        return starts.map(lambda start: {"targets": ids[start : start + length]})

    return dataset.flat_map(cut)
