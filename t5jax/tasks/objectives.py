"""Pre-training objectives on token ids: T5's and UL2's mixture of denoisers, for tf.data.

Those that T5's paper compared its own with are in `ablations`.

First the mathematics, as functions of tensors; then the seqio preprocessors, from data sets of
tokenized documents (`targets`, int32[n], without EOS) to `inputs` and `targets`. All randomness
comes from seeds, int[2]: seqio's preprocessors give each example its own.

Noise is a bool[n] over the ids of a text: what the model has to restore. Sentinels stand for runs
of it, `<extra_id_0>` first, in the inputs; and for runs of what is left, in the targets. So the
n-th sentinel of the inputs stands for the n-th run of ids in the targets:

  text     Thank you for inviting me to your party last week
  inputs   Thank you <extra_id_0> me to your party <extra_id_1> week
  targets  <extra_id_0> for inviting <extra_id_1> last <extra_id_2>
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import NamedTuple, TypeAlias

import seqio
import tensorflow as tf

from t5jax.tasks.sentinels import sentinel_ids

Ids: TypeAlias = tf.Tensor  # int32[n]
Noise: TypeAlias = tf.Tensor  # bool[n]
Seed: TypeAlias = tf.Tensor  # int[2]
Number: TypeAlias = float | tf.Tensor  # float64

_LONGEST = 65_536  # ids of one document that are used, as in T5
_TOGETHER = 128  # documents laid end to end before they are cut, as in T5


class Lengths(NamedTuple):
    """Of a text and of the example made of it; the last two count their EOS."""

    text: int
    inputs: int
    targets: int
    spans: int


def check_noise(density: Number, span: Number | None = None, *, most: float = 1.0) -> None:
    """Raises ValueError for a share of noise outside [0, 1), or a mean span below 1.

    Args:
      density: refused above `most` too, if that is less than 1; tensors are not looked at.
      span: likewise; None: there are no spans.
    """
    if not isinstance(density, tf.Tensor) and not (
        isinstance(density, Real) and 0 <= float(density) <= most and density < 1
    ):
        upper = "less than 1" if most >= 1 else f"at most {most:g}"
        raise ValueError(f"a noise density of {density!r}; use a number from 0 on, {upper}")
    if not (
        span is None
        or isinstance(span, tf.Tensor)
        or (isinstance(span, Real) and 1 <= float(span) < math.inf)
    ):
        raise ValueError(f"noise spans of {span!r} ids on average; use a number from 1 on")


def span_lengths(text: int, density: float, span: float) -> Lengths:
    """What span corruption makes of `text` ids: T5's formula.

    round(text · density) ids are noise, in round(noise / span) spans, but never less than one; each
    span leaves one sentinel in the inputs and has one in the targets. Halves are rounded to even.
    At density 0 nothing is noise, and the targets are one sentinel, which stands for all the text.

    Raises ValueError for a density or a span that cannot be.
    """
    check_noise(density, span)
    if density == 0:
        return Lengths(text, text + 1, 2, 0)
    noise = max(1, round(text * density))
    spans = max(1, round(noise / span))
    return Lengths(text, text - noise + spans + 1, noise + spans + 1, spans)


def text_length(inputs: int, density: float, span: float) -> Lengths:
    """The longest text whose inputs, with EOS, have at most `inputs` ids: 512 -> 568, targets 114.

    T5's rule: it looks no further than the first length that does not fit, and at density 0.5 it
    takes one id less where the targets would be longer than the inputs.
    """
    lengths = span_lengths(inputs - 1, density, span)
    while (longer := span_lengths(lengths.text + 1, density, span)).inputs <= inputs:
        lengths = longer
    if density == 0.5 and lengths.targets > lengths.inputs:
        lengths = lengths._replace(text=lengths.text - 1, targets=lengths.targets - 1)
    return lengths


def spans_noise(length: tf.Tensor, density: Number, span: Number, seed: Seed) -> Noise:
    """Noise in spans of mean length `span`, all such choices being equally likely.

    Kept text and noise take turns, text first and noise last, so that the number of noise ids and
    of spans is that of `span_lengths`, but never less than one each; at density 0 nothing is noise.

    Raises ValueError for a density or a span that cannot be.
    """
    check_noise(density, span)
    # In float64, as `span_lengths`. T5's float32 has one noise id more than its formula for some
    # lengths (text 190), whose targets are then cut.
    size = tf.cast(tf.maximum(length, 2), tf.float64)
    noise = tf.cast(tf.clip_by_value(tf.round(size * density), 1, size - 1), tf.int32)
    kept = tf.cast(size, tf.int32) - noise
    spans = tf.cast(tf.maximum(tf.round(tf.cast(noise, tf.float64) / span), 1), tf.int32)
    spans = tf.minimum(spans, kept)
    first, second = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
    pieces = tf.stack([_pieces(kept, spans, first), _pieces(noise, spans, second)], axis=1)
    starts = tf.cumsum(tf.reshape(pieces, [-1]))[:-1]
    turns = tf.math.unsorted_segment_sum(tf.ones_like(starts), starts, kept + noise)
    return (tf.cumsum(turns) % 2 == 1)[:length] & (density > 0)


def rolled(noise: Noise, seed: Seed) -> Noise:
    """The noise moved round by a random number of ids, so that its ends may be noise or text.

    A span across the end is cut in two: inputs or targets get one sentinel more.
    """
    seed = tf.random.experimental.stateless_fold_in(seed, 1)  # not the one that placed the spans
    size = tf.maximum(tf.size(noise), 1)
    return tf.roll(noise, tf.random.stateless_uniform([], seed, 0, size, tf.int32), axis=0)


def _pieces(size: tf.Tensor, count: tf.Tensor, seed: Seed) -> tf.Tensor:
    """int32[count], positive, that add up to `size`: any such numbers are equally likely."""
    places = tf.argsort(tf.random.stateless_uniform([size - 1], seed))[: count - 1]
    cuts = tf.concat([[0], tf.sort(places) + 1, [size]], axis=0)
    return cuts[1:] - cuts[:-1]


def iid_noise(length: tf.Tensor, density: float, seed: Seed) -> Noise:
    """Each id is noise with probability `density`, whatever the others are.

    Raises ValueError for a density outside [0, 1).
    """
    check_noise(density)
    return tf.random.stateless_uniform([length], seed) < density


def suffix_noise(length: tf.Tensor, density: Number, seed: Seed) -> Noise:
    """The end of the text is noise: 1 to about 2 · density · length ids, equally likely.

    The mean is density · length, at most half of it; at 0.5 (T5's prefix LM) only the first id is
    sure to be kept. A text of one id is noise. At density 0 nothing is.

    Raises ValueError for a density above 0.5.
    """
    check_noise(density, most=0.5)
    longest = tf.cast(length - 1, tf.float64)
    fewest = tf.cast(tf.round(longest * (1 - 2 * density)), tf.int32)
    fewest = tf.minimum(tf.maximum(fewest, 1), length - 1)
    start = tf.random.stateless_uniform([], seed, fewest, length, tf.int32)
    return (tf.range(length) >= start) & (density > 0)


def with_sentinels(ids: Ids, noise: Noise, first: int) -> Ids:
    """Each run of noise becomes one sentinel: `first`, `first` - 1, …"""
    begins = noise & ~tf.concat([[False], noise[:-1]], axis=0)
    sentinels = first + 1 - tf.cumsum(tf.cast(begins, ids.dtype))
    return tf.boolean_mask(tf.where(begins, sentinels, ids), begins | ~noise)


def at_most(noise: Noise, spans: int) -> Noise:
    """The noise without its runs beyond the first `spans`, which have no sentinels left."""
    begins = noise & ~tf.concat([[False], noise[:-1]], axis=0)
    return noise & (tf.cumsum(tf.cast(begins, tf.int32)) <= spans)


@dataclasses.dataclass(frozen=True)
class Sentinels:
    """A vocabulary's sentinels: `first`, which is `<extra_id_0>`, and the ids below it."""

    first: int
    count: int


def sentinels_of(vocabulary: seqio.Vocabulary) -> Sentinels:
    """The vocabulary's sentinels: `sentinel_ids`, as far as they go down by one.

    Raises ValueError if there are none.
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
    """One way to corrupt text: UL2's SpanCorrupt(µ, r, n).

    The number of spans is noise / µ, rounded up or down at random: that µ is their mean length also
    where a text holds one or two.

    Args:
      mode: text before the inputs; "" for none.
      density: r, the share of the ids that are noise.
      span: µ, the mean length of a span; None: n = 1, a span that reaches the end of the text, of
        density · length ids on average.

    Raises ValueError for a density or a span that cannot be.
    """

    mode: str
    density: float
    span: float | None

    def __post_init__(self) -> None:
        check_noise(self.density, self.span, most=0.5 if self.span is None else 1.0)

    def text(self, inputs: int, targets: int, sentinels: int) -> int:
        """Ids of the longest text for inputs and targets of these lengths, EOS counted.

        Raises ValueError if there is none.
        """
        if self.span is None:
            # All but one id may be kept, and all but `fewest` of suffix_noise be noise; a sentinel
            # and EOS are added to both.
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


# UL2 (arXiv:2205.05131): Table 1 has µ, r and n of the seven, and section 3.1.2 their sorts: R is
# T5's span corruption, S a prefix language model, X extreme in rate or length. The paper writes the
# modes [R], [S] and [X]; its released checkpoints know them by these names.
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
    """An example's `inputs` (behind `prefix`) and `targets`, both without EOS."""
    inputs = with_sentinels(ids, noise, sentinels.first)
    return {
        "inputs": tf.concat([tf.cast(prefix, ids.dtype), inputs], axis=0),
        "targets": with_sentinels(ids, ~noise, sentinels.first),
    }


# Preprocessors. seqio fills in `sequence_length` and `output_features`.

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
    """T5's objective: documents laid end to end, in pieces that fill the inputs exactly.

    With `roll` the noise is moved round by a random number of ids (T5's `random_roll`): without it
    a text begins with what is kept and ends with noise. One sentinel more may be needed then, which
    the lengths leave room for.

    Raises ValueError for a density or a span that cannot be, inputs or targets too short, or a
    vocabulary with too few sentinels.
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
    """T5's baseline: every id is noise with probability `density`, runs of it share a sentinel.

    Text is kept once the sentinels have run out. The targets' length is not known beforehand: what
    is longer is cut, as T5 does.
    """
    check_noise(density)
    inputs, _ = lengths_of(sequence_length, "i.i.d. denoising")
    sentinels = sentinels_of(output_features["targets"].vocabulary)

    @seqio.map_over_dataset(num_seeds=1)
    def corrupt(example: Mapping[str, tf.Tensor], seed: Seed) -> dict[str, tf.Tensor]:
        ids = example["targets"]
        # The targets may have one run more than the inputs.
        noise = at_most(iid_noise(tf.size(ids), density, seed), sentinels.count - 1)
        return denoised(ids, noise, sentinels)

    return corrupt(pieces_of(end_to_end(chunks(dataset)), inputs - 1))


def prefix_lm(
    dataset: tf.data.Dataset, sequence_length: SequenceLength, output_features: Features
) -> tf.data.Dataset:
    """A piece of a document is cut in two at a random place, without sentinels."""
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
    """Documents, each ended by EOS, laid end to end and cut to the targets' length.

    T5's has no inputs, for decoders alone; these are a lone EOS, which an encoder can read.
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
    """UL2's objective: each example is made by one of the denoisers, all equally likely.

    Documents are laid end to end; a denoiser is drawn, takes as many ids as fill its inputs or
    targets (or use up the sentinels), and the next one goes on behind them.

    Raises ValueError for lengths too short for a denoiser, or a vocabulary without sentinels.
    """
    inputs, targets = lengths_of(sequence_length, "the mixture of denoisers")
    vocabulary = output_features["targets"].vocabulary
    sentinels = sentinels_of(vocabulary)
    # The blank is part of byte vocabularies' texts; SentencePiece drops it.
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
        # A single id has nothing that could be kept and noise.
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
        size = tf.size(ids)
        first, second = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
        noisy = tf.maximum(tf.round(tf.cast(size, tf.float64) * density), 1)
        chance = tf.random.stateless_uniform([], first, dtype=tf.float64)
        spans = tf.maximum(tf.floor(noisy / tf.maximum(span, 1) + chance), 1)
        noise = tf.where(
            span > 0,
            spans_noise(size, density, noisy / spans, second),
            suffix_noise(size, density, second),
        )
        return denoised(ids, noise, sentinels, tf.ragged.constant(prefixes, tf.int32)[choice])

    return corrupt(draw(end_to_end(chunks(dataset))).flat_map(cut))


def lengths_of(
    sequence_length: SequenceLength | None, objective: str, inputs: int = 2
) -> tuple[int, int]:
    """Of inputs and targets, EOS counted.

    Raises ValueError where one is missing, or leaves no room for an id: fewer than `inputs`, or
    than 2 targets.
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
    """Documents that are not empty; of each longer than 65,536 ids one such part, at random."""

    @seqio.map_over_dataset(num_seeds=1)
    def choose(example: Mapping[str, tf.Tensor], seed: Seed) -> dict[str, tf.Tensor]:
        ids = example["targets"]
        parts = (tf.size(ids) - 1) // _LONGEST + 1
        start = _LONGEST * tf.random.stateless_uniform([], seed, 0, parts, tf.int32)
        return {"targets": ids[start : start + _LONGEST]}

    return choose(dataset.filter(lambda example: tf.size(example["targets"]) > 0))


def end_to_end(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """128 documents at a time, as one."""

    def join(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        ids = tf.reshape(example["targets"], [-1])
        return {"targets": tf.boolean_mask(ids, ids != 0)}

    return dataset.padded_batch(_TOGETHER).map(join, num_parallel_calls=tf.data.AUTOTUNE)


def pieces_of(dataset: tf.data.Dataset, length: int) -> tf.data.Dataset:
    """Texts cut into pieces of `length` ids; a text's last one may be shorter."""

    def cut(example: Mapping[str, tf.Tensor]) -> tf.data.Dataset:
        ids = example["targets"]
        starts = tf.data.Dataset.range(0, tf.size(ids, tf.int64), length)
        return starts.map(lambda start: {"targets": ids[start : start + length]})

    return dataset.flat_map(cut)
