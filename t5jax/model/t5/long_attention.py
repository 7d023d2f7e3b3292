"""LongT5's encoder attention: cost and memory grow linearly with the length.

Guo et al. 2022 (arXiv:2112.07916), section 3. Local: a token sees tokens within a radius.
Transient-global: it also sees a global token for each block of tokens, made anew in every layer.
Only the products with global tokens, one for 16 tokens, are quadratic.

Letters: B batch, S tokens, N heads, H head_dim, D model; T tokens of a block (the radius plus 1), K
blocks, L = K T; G tokens summed into a global token, M = S // G places for global tokens.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from t5jax.model.t5.config import T5Config
from t5jax.model.t5.positions import buckets
from t5jax.ops.dropout import dropout
from t5jax.ops.masks import MASKED, segment_mask

# Most logits in memory together; longer inputs loop over blocks of queries.
LOGITS_AT_ONCE = 2**22


@flax.struct.dataclass
class Places:
    """The global tokens of an input.

    `blocks` int32[B, S]: the place of the global token that each token is summed into; M: none.
    `segments` int32[B, M]: the segment of each place, 0 where it is empty.
    """

    blocks: jax.Array
    segments: jax.Array


@flax.struct.dataclass
class Reach:
    """The mask of all layers: `segments` int32[B, S], 0 at padding, and `places`."""

    segments: jax.Array
    places: Places | None = None


@flax.struct.dataclass
class LongBias:
    """Relative biases: `local` float32[N, T, 3 T], of a block to itself and both neighbours.

    `side` float32[N, 2 M - 1] is indexed by the distance from a token's block to a global token, 0
    in the middle; None for local attention.
    """

    local: jax.Array
    side: jax.Array | None = None


@flax.struct.dataclass
class Side:
    """Global tokens for attention: `keys` and `values` [B, N, M, H], `LongBias.side`, `places`."""

    keys: jax.Array
    values: jax.Array
    bias: jax.Array
    places: Places


def find_reach(config: T5Config, segments: jax.Array) -> Reach:
    """The mask of segments int[B, S]; inputs shorter than a block have no global tokens."""
    size = config.global_block_size
    some = config.global_tokens and segments.shape[1] >= size
    return Reach(segments, find_places(segments, size) if some else None)


def long_bias(
    config: T5Config, length: int, table: jax.Array, side_table: jax.Array | None
) -> LongBias:
    """Biases for inputs of `length`, from tables float32[N, buckets]."""
    at = buckets(config, *local_positions(config.local_radius + 1), bidirectional=True)
    if side_table is None:
        return LongBias(jnp.take(table, at, axis=1))
    places = length // config.global_block_size
    side = buckets(config, *side_positions(places), bidirectional=True)
    return LongBias(jnp.take(table, at, axis=1), jnp.take(side_table, side, axis=1)[:, 0])


def local_positions(block: int) -> tuple[jax.Array, jax.Array]:
    """Positions of a block's queries int32[T] and of its keys int32[3 T]."""
    return jnp.arange(block) + block, jnp.arange(3 * block)


def side_positions(places: int) -> tuple[jax.Array, jax.Array]:
    """int32[1] and int32[2 M - 1]: all distances from a token's block to a global token."""
    return jnp.zeros(1, jnp.int32), jnp.arange(1 - places, places, dtype=jnp.int32)


def find_places(segments: jax.Array, global_block_size: int) -> Places:
    """Segments int[B, S] -> global tokens, section 3.2.

    Blocks begin at a segment's first token, so a packed example has the global tokens that it has
    alone. Remaining tokens join their segment's last block; a segment shorter than a block has no
    global token. A segment's tokens are contiguous.
    """
    rows, length = segments.shape
    places = length // global_block_size
    positions = jnp.arange(length)
    edge = segments[:, 1:] != segments[:, :-1]
    first = jnp.pad(edge, ((0, 0), (1, 0)), constant_values=True)
    last = jnp.pad(edge, ((0, 0), (0, 1)), constant_values=True)
    start = jax.lax.cummax(jnp.where(first, positions, 0), axis=1)
    end = jax.lax.cummin(jnp.where(last, positions + 1, length), axis=1, reverse=True)
    full = jnp.where(segments != 0, (end - start) // global_block_size, 0)
    before = jnp.cumsum(jnp.where(first, full, 0), axis=1) - full
    blocks = before + jnp.minimum((positions - start) // global_block_size, full - 1)
    blocks = jnp.where(full > 0, blocks, places)
    empty = jnp.zeros((rows, places), segments.dtype)
    return Places(blocks, jax.vmap(lambda x, i, s: x.at[i].max(s, mode="drop"))(
        empty, blocks, segments
    ))  # fmt: skip


def sum_blocks(x: jax.Array, places: Places) -> jax.Array:
    """[B, S, D] -> float32[B, M, D]: global tokens before their norm, section 3.2."""
    empty = jnp.zeros((*places.segments.shape, x.shape[-1]), jnp.float32)
    x = x.astype(jnp.float32)
    return jax.vmap(lambda y, i, x: y.at[i].add(x, mode="drop"))(empty, places.blocks, x)


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    bias: jax.Array,
    segments: jax.Array,
    side: Side | None = None,
    *,
    dropout_rate: float = 0.0,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """q, k, v [B, S, N, H] -> [B, S, N, H]; softmax in float32.

    Args:
      bias: float32[N, T, 3 T]; its shape gives T.
      segments: int[B, S]; tokens see their own segment; padding (0) is masked.
      side: the global tokens, or None.
    """
    rows, length, heads, _ = q.shape
    block = bias.shape[1]
    width = 3 * block + (0 if side is None else side.keys.shape[2])
    # Turns of equal length; padding fills the last one.
    blocks = -(-length // block)
    turns = min(blocks, -(-blocks * block * width * rows * heads // LOGITS_AT_ONCE))
    share = -(-blocks // turns)
    turns = -(-blocks // share)

    def cut(x: jax.Array) -> jax.Array:
        """[B, S] or [B, S, N, H] -> [turns, B, 1 or N, L, 1 or H], L tokens a turn."""
        # Heads are moved first once; products that transpose take twice as long on a CPU.
        x = x[:, None, :, None] if x.ndim == 2 else x.swapaxes(1, 2)
        x = jnp.pad(x, ((0, 0), (0, 0), (0, turns * share * block - length), (0, 0)))
        x = x.reshape(*x.shape[:2], turns, share * block, x.shape[-1])
        return jnp.moveaxis(x, 2, 0)

    def neighbours(x: jax.Array) -> jax.Array:
        """[turns, B, N, L, H] -> [turns, B, N, T + L + T, H], zero beyond the ends."""
        edge = jnp.zeros_like(x[:1, ..., :block, :])
        left = jnp.concatenate([edge, x[:-1, ..., -block:, :]])
        right = jnp.concatenate([x[1:, ..., :block, :], edge])
        return jnp.concatenate([left, x, right], axis=-2)

    segments = cut(segments)
    share_of_turn = (
        cut(q),
        neighbours(cut(k)),
        neighbours(cut(v)),
        segments,
        neighbours(segments),
        None if side is None else cut(side.places.blocks),
        None if dropout_key is None else jax.random.split(dropout_key, turns),
    )

    def turn(share: Any) -> jax.Array:
        return _attend_blocks(*share, bias=bias, side=side, dropout_rate=dropout_rate)

    if turns == 1:
        y = turn(jax.tree.map(lambda x: x[0], share_of_turn))[None]
    else:
        # The backward pass recomputes a turn's logits; keeping them would undo the saving.
        y = jax.lax.map(jax.checkpoint(turn, prevent_cse=False), share_of_turn)
    y = y.transpose(1, 0, 3, 2, 4)
    return y.reshape(rows, -1, *y.shape[-2:])[:, :length]


def _attend_blocks(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array,
    key_segments: jax.Array,
    own_places: jax.Array | None,
    key: jax.Array | None,
    *,
    bias: jax.Array,
    side: Side | None,
    dropout_rate: float,
) -> jax.Array:
    """q [B, N, L, H] of K blocks, k and v [B, N, T + L + T, H] -> [B, N, L, H].

    Segments and places have N and H of 1.
    """
    *rows, length, _ = q.shape
    block = bias.shape[1]
    blocks = length // block
    keys = (None, None) if key is None else jax.random.split(key)

    def windows(x: jax.Array) -> jax.Array:
        """[B, N, T + L + T, H] -> [B, N, K, 3 T, H]."""
        x = x.reshape(*x.shape[:2], blocks + 2, block, x.shape[-1])
        return jnp.concatenate([x[:, :, i : i + blocks] for i in range(3)], axis=3)

    at, meets = local_positions(block)
    own = segments.reshape(-1, 1, blocks, block, 1)
    other = windows(key_segments).swapaxes(3, 4)
    mask = (own == other) & (other != 0) & (jnp.abs(meets - at[:, None]) < block)
    logits = jnp.einsum(
        "BNKTH,BNKSH->BNKTS",
        q.reshape(*rows, blocks, block, -1),
        windows(k),
        preferred_element_type=jnp.float32,
    )
    logits = jnp.where(mask, logits + bias[:, None], MASKED)
    parts = [logits.reshape(*rows, length, -1)]
    if side is not None and own_places is not None:
        other = side.places.segments[:, None, None, :]
        mask = (segments == other) & (other != 0)
        logits = jnp.einsum("BNLH,BNMH->BNLM", q, side.keys, preferred_element_type=jnp.float32)
        logits = logits + _side_bias(side.bias, own_places[:, 0, :, 0])
        parts.append(jnp.where(mask, logits, MASKED))

    # One softmax over both parts without concatenating them; dividing by the sum after the products
    # is less work.
    top = functools.reduce(jnp.maximum, [jnp.max(x, -1, keepdims=True) for x in parts])
    parts = [jnp.exp(x - jax.lax.stop_gradient(top)) for x in parts]
    total = functools.reduce(jnp.add, [jnp.sum(x, -1, keepdims=True) for x in parts])
    parts = [
        dropout(x.astype(v.dtype), dropout_rate, key) for x, key in zip(parts, keys, strict=False)
    ]
    y = jnp.einsum(
        "BNKTS,BNKSH->BNKTH",
        parts[0].reshape(*rows, blocks, block, -1),
        windows(v),
        preferred_element_type=jnp.float32,
    ).reshape(q.shape)
    if side is not None:
        weights = parts[1]
        y += jnp.einsum("BNLM,BNMH->BNLH", weights, side.values, preferred_element_type=jnp.float32)
    return (y / total).astype(v.dtype)


def _side_bias(bias: jax.Array, own_places: jax.Array) -> jax.Array:
    """[N, 2 M - 1], int[B, L] -> [B, N, L, M]: each token's row is a slice of all distances."""
    places = (bias.shape[1] + 1) // 2

    def row(place: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(bias, places - 1 - place, places, axis=1)

    return jax.vmap(jax.vmap(row, out_axes=1))(own_places)


def dense_weights(
    q: jax.Array, k: jax.Array, bias: jax.Array, segments: jax.Array, side: Side | None = None
) -> jax.Array:
    """The attention weights of `attend`, float32[B, N, S, S]; rows sum to 1.

    A global token's weight is divided evenly among the tokens that it sums. Memory grows with the
    square of the length.
    """
    positions = jnp.arange(q.shape[1])
    distance = positions - positions[:, None]
    block = bias.shape[1]
    logits = jnp.einsum("BTNH,BSNH->BNTS", q, k, preferred_element_type=jnp.float32)
    # The block's first query, whose own position is the column `block`, has all distances.
    logits += bias[:, 0, jnp.clip(block + distance, 0, 3 * block - 1)]
    mask = segment_mask(segments, segments) & (jnp.abs(distance) < block)
    logits = jnp.where(mask, logits, MASKED)
    if side is None:
        return jax.nn.softmax(logits)
    far = jnp.einsum("BTNH,BNMH->BNTM", q, side.keys, preferred_element_type=jnp.float32)
    far += _side_bias(side.bias, side.places.blocks)
    far = jnp.where(segment_mask(segments, side.places.segments), far, MASKED)
    weights = jax.nn.softmax(jnp.concatenate([logits, far], axis=-1))
    near, far = jnp.split(weights, [len(positions)], axis=-1)
    summed = side.places.blocks[:, None] == jnp.arange(far.shape[-1])[:, None]
    share = summed / jnp.maximum(jnp.sum(summed, axis=-1, keepdims=True), 1)
    return near + jnp.einsum("BNTM,BMS->BNTS", far, share)
