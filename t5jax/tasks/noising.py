"""Noise of the pre-training objectives: the ids of a text that a model has to restore.

Noise is a bool[n] over the ids of a text. In the inputs, sentinels replace runs of noise,
`<extra_id_0>` first; in the targets, they replace runs of text. So the n-th sentinel of the inputs
stands for the n-th run of ids in the targets:

  text     Thank you for inviting me to your party last week
  inputs   Thank you <extra_id_0> me to your party <extra_id_1> week
  targets  <extra_id_0> for inviting <extra_id_1> last <extra_id_2>

All randomness comes from seeds, int[2].
"""

from __future__ import annotations

import math
from numbers import Real
from typing import NamedTuple, TypeAlias

import tensorflow as tf

Ids: TypeAlias = tf.Tensor  # int32[n]
Noise: TypeAlias = tf.Tensor  # bool[n]
Seed: TypeAlias = tf.Tensor  # int[2]
Number: TypeAlias = float | tf.Tensor  # float64


class Lengths(NamedTuple):
    """Lengths of a text and of its example; inputs and targets include EOS."""

    text: int
    inputs: int
    targets: int
    spans: int


def check_noise(density: Number, span: Number | None = None, *, most: float = 1.0) -> None:
    """Raises ValueError for a density outside [0, 1) or above `most`, or a mean span below 1.

    Tensors are not checked. `span` None: there are no spans.
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
    """The lengths of span corruption of `text` ids, by T5's formula.

    round(text · density) ids are noise, in round(noise / span) spans, at least one each; a span has
    one sentinel in the inputs and one in the targets. Halves are rounded to even. At density 0
    nothing is noise, and the targets are one sentinel for the whole text.

    Raises:
      ValueError: a density or span outside its range.
    """
    check_noise(density, span)
    if density == 0:
        return Lengths(text, text + 1, 2, 0)
    noise = max(1, round(text * density))
    spans = max(1, round(noise / span))
    return Lengths(text, text - noise + spans + 1, noise + spans + 1, spans)


def text_length(inputs: int, density: float, span: float) -> Lengths:
    """The longest text whose inputs, with EOS, have at most `inputs` ids: 512 -> 568, targets 114.

    T5's rule: the search stops at the first length that does not fit, and at density 0.5 the text
    is one id shorter if the targets would be longer than the inputs.
    """
    lengths = span_lengths(inputs - 1, density, span)
    while (longer := span_lengths(lengths.text + 1, density, span)).inputs <= inputs:
        lengths = longer
    if density == 0.5 and lengths.targets > lengths.inputs:
        lengths = lengths._replace(text=lengths.text - 1, targets=lengths.targets - 1)
    return lengths


def spans_noise(length: tf.Tensor, density: Number, span: Number, seed: Seed) -> Noise:
    """Noise in spans of mean length `span`; all placements are equally likely.

    Text and noise alternate, text first and noise last, with the numbers of noise ids and spans of
    `span_lengths`, at least one each. At density 0 nothing is noise.

    Raises:
      ValueError: a density or span outside its range.
    """
    check_noise(density, span)
    # float64, as in `span_lengths`. T5's float32 gives one noise id more than its formula for some
    # lengths (text 190), whose targets are then truncated.
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
    """The noise rotated by a random number of ids, so that either end may be noise or text.

    A span across the end becomes two: inputs or targets get one sentinel more.
    """
    seed = tf.random.experimental.stateless_fold_in(seed, 1)  # independent of the spans' seed
    size = tf.maximum(tf.size(noise), 1)
    return tf.roll(noise, tf.random.stateless_uniform([], seed, 0, size, tf.int32), axis=0)


def _pieces(size: tf.Tensor, count: tf.Tensor, seed: Seed) -> tf.Tensor:
    """int32[count], positive, with sum `size`; all such lists are equally likely."""
    places = tf.argsort(tf.random.stateless_uniform([size - 1], seed))[: count - 1]
    cuts = tf.concat([[0], tf.sort(places) + 1, [size]], axis=0)
    return cuts[1:] - cuts[:-1]


def iid_noise(length: tf.Tensor, density: float, seed: Seed) -> Noise:
    """Each id is noise with probability `density`, independently.

    Raises:
      ValueError: a density outside [0, 1).
    """
    check_noise(density)
    return tf.random.stateless_uniform([length], seed) < density


def suffix_noise(length: tf.Tensor, density: Number, seed: Seed) -> Noise:
    """The end of the text is noise: 1 to about 2 · density · length ids, equally likely.

    The mean is density · length. At density 0.5 (T5's prefix LM) only the first id is always kept.
    A text of one id is noise. At density 0 nothing is noise.

    Raises:
      ValueError: a density above 0.5.
    """
    check_noise(density, most=0.5)
    longest = tf.cast(length - 1, tf.float64)
    fewest = tf.cast(tf.round(longest * (1 - 2 * density)), tf.int32)
    fewest = tf.minimum(tf.maximum(fewest, 1), length - 1)
    start = tf.random.stateless_uniform([], seed, fewest, length, tf.int32)
    return (tf.range(length) >= start) & (density > 0)


def with_sentinels(ids: Ids, noise: Noise, first: int) -> Ids:
    """Replaces runs of noise by the sentinels `first`, `first` - 1, …"""
    begins = noise & ~tf.concat([[False], noise[:-1]], axis=0)
    sentinels = first + 1 - tf.cumsum(tf.cast(begins, ids.dtype))
    return tf.boolean_mask(tf.where(begins, sentinels, ids), begins | ~noise)


def at_most(noise: Noise, spans: int) -> Noise:
    """The first `spans` runs of the noise, for which there are sentinels."""
    begins = noise & ~tf.concat([[False], noise[:-1]], axis=0)
    return noise & (tf.cumsum(tf.cast(begins, tf.int32)) <= spans)
