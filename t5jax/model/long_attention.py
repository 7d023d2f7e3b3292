"""LongT5's encoder attention as free functions: cost and memory grow with the length, not its square.

Guo et al. 2022 (arXiv:2112.07916), section 3. Local: a token sees those up to a radius away.
Transient-global: it also sees one global token for each block of tokens, made anew in every layer.

Letters: B batch, S tokens, N heads, H head_dim, D model; T tokens of a block (the radius and 1), K
blocks, G tokens that a global token sums, M = S // G places for global tokens.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from t5jax.model.attention import MASKED, dropout

# Logits that are in memory together; where there are more, blocks of queries take turns.
LOGITS_AT_ONCE = 2**22


@flax.struct.dataclass
class Layout:
    """Who may see whom, for all layers.

    `segments` int32[B, S], 0 at padding. Transient-global also has `blocks` int32[B, S], the place
    of the global token that a token is summed into (M where there is none), and `global_segments`
    int32[B, M], the segment that a global token stands for (0 where the place is empty).
    """

    segments: jax.Array
    blocks: jax.Array | None = None
    global_segments: jax.Array | None = None


@flax.struct.dataclass
class LongBias:
    """Relative biases: `local` float32[N, T, 3 T] of a block to itself and both neighbours.

    `side` float32[N, 2 M - 1] by distance to a global token, that of the token's own block in the
    middle; None where attention is local.
    """

    local: jax.Array
    side: jax.Array | None = None


def local_positions(block: int) -> tuple[jax.Array, jax.Array]:
    """int32[T] of a block's queries, int32[3 T] of the keys that they meet."""
    return jnp.arange(block) + block, jnp.arange(3 * block)


def side_positions(places: int) -> tuple[jax.Array, jax.Array]:
    """int32[1] and int32[2 M - 1]: every distance between a token's block and a global token."""
    return jnp.zeros(1, jnp.int32), jnp.arange(1 - places, places, dtype=jnp.int32)


def make_layout(segments: jax.Array, global_block_size: int | None) -> Layout:
    """int[B, S] -> `Layout`, with global tokens where a `global_block_size` is given.

    Each segment is cut into blocks from its own first token on, so packed examples have the global
    tokens that each has alone. Tokens left over join their segment's last block; a segment shorter
    than a block has no global token.
    """
    if global_block_size is None:
        return Layout(segments)
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
    return Layout(
        segments,
        blocks,
        jax.vmap(lambda x, i, s: x.at[i].max(s, mode="drop"))(empty, blocks, segments),
    )


def sum_blocks(x: jax.Array, layout: Layout) -> jax.Array:
    """[B, S, D] -> float32[B, M, D]: the sum of each block's tokens, section 3.2."""
    assert layout.blocks is not None and layout.global_segments is not None
    empty = jnp.zeros((*layout.global_segments.shape, x.shape[-1]), jnp.float32)
    x = x.astype(jnp.float32)
    return jax.vmap(lambda y, i, x: y.at[i].add(x, mode="drop"))(empty, layout.blocks, x)


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    side: tuple[jax.Array, jax.Array] | None,
    bias: LongBias,
    layout: Layout,
    *,
    dropout_rate: float = 0.0,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """q, k, v [B, S, N, H] -> [B, S, N, H]; softmax in float32.

    Args:
      side: keys and values [B, M, N, H] of the global tokens, or None.
      bias: sets the block's length T.
      layout: of the same B and S.
    """
    rows, length, heads, _ = q.shape
    block = bias.local.shape[1]
    width = 3 * block + (0 if side is None else side[0].shape[1])
    blocks = -(-length // block)
    turns = -(-blocks * block * width * rows * heads // LOGITS_AT_ONCE)
    turns = max(1, min(turns, blocks))
    share = -(-blocks // turns)
    turns = -(-blocks // share)

    def cut(x: jax.Array, fill: int = 0) -> jax.Array:
        """[B, S, …] -> [turns, B, share * T, …]."""
        end = turns * share * block - length
        x = jnp.pad(x, ((0, 0), (0, end)) + ((0, 0),) * (x.ndim - 2), constant_values=fill)
        return jnp.moveaxis(x.reshape(rows, turns, share * block, *x.shape[2:]), 1, 0)

    def neighbours(x: jax.Array) -> jax.Array:
        """[turns, B, share * T, …] -> [turns, B, (share + 2) * T, …], zero beyond the ends."""
        edge = jnp.zeros_like(x[:1, :, :block])
        left = jnp.concatenate([edge, x[:-1, :, -block:]])
        right = jnp.concatenate([x[1:, :, :block], edge])
        return jnp.concatenate([left, x, right], axis=2)

    segments = cut(layout.segments)
    keys = None if dropout_key is None else jax.random.split(dropout_key, turns)
    turn = {
        "q": cut(q),
        "k": neighbours(cut(k)),
        "v": neighbours(cut(v)),
        "segments": segments,
        "key_segments": neighbours(segments),
        "blocks": None if side is None else cut(layout.blocks),
        "key": keys,
    }

    def one(turn: dict[str, Any]) -> jax.Array:
        return _attend_blocks(turn, side, bias, layout.global_segments, dropout_rate)

    if turns == 1:
        y = one(jax.tree.map(lambda x: x[0], turn))
    else:
        # The backward pass makes a turn's logits again: kept, they would be the memory that taking
        # turns saves.
        y = jax.lax.map(jax.checkpoint(one, prevent_cse=False), turn)
        y = jnp.moveaxis(y, 0, 1)
    return y.reshape(rows, -1, *y.shape[-2:])[:, :length]


def _attend_blocks(
    turn: dict[str, Any],
    side: tuple[jax.Array, jax.Array] | None,
    bias: LongBias,
    global_segments: jax.Array | None,
    dropout_rate: float,
) -> jax.Array:
    """K blocks of queries [B, K T, N, H] and their keys, a block longer at both ends."""
    q, v, segments = turn["q"], turn["v"], turn["segments"]
    rows, queries, heads, _ = q.shape
    block = bias.local.shape[1]
    blocks = queries // block
    keys = _split(turn["key"])

    def windows(x: jax.Array) -> jax.Array:
        """[B, (K + 2) T, …] -> [B, K, 3 T, …]."""
        x = x.reshape(rows, blocks + 2, block, *x.shape[2:])
        return jnp.concatenate([x[:, i : i + blocks] for i in range(3)], axis=2)

    in_blocks = q.reshape(rows, blocks, block, *q.shape[2:])
    logits = jnp.einsum(
        "BKTNH,BKSNH->BNKTS", in_blocks, windows(turn["k"]), preferred_element_type=jnp.float32
    )
    own, other = segments.reshape(rows, blocks, block, 1), windows(turn["key_segments"])[:, :, None]
    at, meets = local_positions(block)
    near = jnp.abs(meets[None, :] - at[:, None]) < block
    mask = ((own == other) & (other != 0) & near)[:, None]
    logits = jnp.where(mask, logits + bias.local[:, None], MASKED)
    parts = [logits.reshape(rows, heads, queries, -1)]
    if side is not None:
        logits = jnp.einsum("BTNH,BMNH->BNTM", q, side[0], preferred_element_type=jnp.float32)
        mask = segments[:, :, None] == global_segments[:, None, :]
        mask &= (global_segments != 0)[:, None, :]
        logits += _side_bias(bias.side, turn["blocks"])
        parts.append(jnp.where(mask[:, None], logits, MASKED))

    # One softmax over both parts, without putting them together first.
    top = functools.reduce(jnp.maximum, [jnp.max(x, -1, keepdims=True) for x in parts])
    parts = [jnp.exp(x - jax.lax.stop_gradient(top)) for x in parts]
    total = sum(jnp.sum(x, -1) for x in parts)
    parts = [
        dropout(x.astype(v.dtype), dropout_rate, key) for x, key in zip(parts, keys, strict=False)
    ]
    weights = parts[0].reshape(rows, heads, blocks, block, -1)
    y = jnp.einsum("BNKTS,BKSNH->BKTNH", weights, windows(v), preferred_element_type=jnp.float32)
    y = y.reshape(q.shape)
    if side is not None:
        y += jnp.einsum("BNTM,BMNH->BTNH", parts[1], side[1], preferred_element_type=jnp.float32)
    return (y / total.transpose(0, 2, 1)[..., None]).astype(v.dtype)


def _side_bias(side: jax.Array, blocks: jax.Array) -> jax.Array:
    """[N, 2 M - 1], int[B, L] -> [B, N, L, M]: a token's row begins at its block's own distance."""
    places = (side.shape[1] + 1) // 2

    def row(block: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(side, places - 1 - block, places, axis=1)

    return jax.vmap(jax.vmap(row, out_axes=1))(blocks)


def _split(key: jax.Array | None) -> Any:
    return (None, None) if key is None else jax.random.split(key)
