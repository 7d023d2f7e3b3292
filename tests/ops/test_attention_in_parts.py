"""Attention in parts is attention: the plain formula, its gradients, whatever the mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5jax.model.t5.network import T5
from t5jax.ops import attention
from t5jax.ops.attention import attention_weights, mix
from t5jax.ops.chunked_attention import attend_in_chunks
from t5jax.ops.grouped_attention import attend_in_groups
from t5jax.ops.masks import SegmentMask
from tests.support.models import TINY, lively_params, random_ids, serving, serving_params

ROWS, HEADS, WIDTH = 4, 2, 8


def packed(rng, length: int) -> np.ndarray:
    """Segments 1, 2, ... one behind the other, and padding."""
    lengths = rng.integers(0, length // 2, (ROWS, 4))
    ends = np.cumsum(lengths, axis=1)
    at = np.arange(length)
    segments = (at >= ends[:, :, None]).sum(axis=1) + 1
    return np.where(at < ends[:, -1:], segments, 0).astype(np.int32)


def mixed(rng, length: int) -> np.ndarray:
    """Segments in any order, and padding between them."""
    return rng.integers(0, 4, (ROWS, length)).astype(np.int32)


def whole(rng, length: int) -> np.ndarray:
    return np.ones((ROWS, length), np.int32)


@pytest.mark.parametrize("together", [1, 2])
@pytest.mark.parametrize("segments", [packed, mixed, whole])
@pytest.mark.parametrize(
    ("queries", "keys", "chunk", "causal", "biased"),
    [
        (24, 24, 8, False, True),
        (24, 24, 8, True, True),
        (21, 21, 8, True, True),  # the last chunk is filled up
        (13, 40, 5, False, False),
        (16, 16, 16, True, False),
    ],
)
def test_states_and_gradients_of_chunks_are_those_of_the_formula(
    queries, keys, chunk, causal, biased, segments, together
):
    def attend(q, k, v, bias, mask):
        band = bias(np.arange(chunk), np.arange(-queries, keys))
        return attend_in_chunks(q, k, v, band, mask, chunk=chunk, together=together)

    check(attend, queries, keys, causal, biased, segments)


@pytest.mark.parametrize("group", [3, 8])
@pytest.mark.parametrize("segments", [packed, mixed])
@pytest.mark.parametrize(
    ("queries", "keys", "causal", "biased"),
    [(24, 24, False, True), (24, 24, True, True), (13, 40, False, False)],
)
def test_states_and_gradients_of_groups_of_rows_are_those_of_the_formula(
    queries, keys, causal, biased, segments, group
):
    def attend(q, k, v, bias, mask):
        whole = bias(np.arange(queries), np.arange(keys))
        return attend_in_groups(q, k, v, whole, mask, group=group)

    check(attend, queries, keys, causal, biased, segments)


def check(attend, queries, keys, causal, biased, segments):
    """Compares `attend(q, k, v, bias of positions, mask)` with the plain formula."""
    rng = np.random.default_rng(queries + keys)
    q, k, v, ct = (
        rng.normal(size=(ROWS, n, HEADS, WIDTH)).astype(np.float32)
        for n in (queries, keys, keys, queries)
    )
    own = segments(rng, queries)
    other = own if queries == keys else segments(rng, keys)
    mask = SegmentMask(jnp.asarray(own), jnp.asarray(other), causal)
    # A query that sees nothing has no meaning, in the formula and here.
    ct = ct * np.asarray(mask.dense().any(axis=-1)[:, 0, :, None, None])
    distances = rng.normal(size=(HEADS, queries + keys)).astype(np.float32) if biased else None

    def of(distances):
        def bias(at, to):
            # Below 0: of queries that fill up the last chunk.
            return None if distances is None else distances[:, (to - at[:, None] + queries).clip(0)]

        return bias

    def plain(q, k, v, distances):
        dense = of(distances)(np.arange(queries), np.arange(keys))
        return mix(attention_weights(q, k, dense, mask.dense()), v)

    def ours(q, k, v, distances):
        return attend(q, k, v, of(distances), mask)

    args = q, k, v, distances
    (expected, back), (found, turned) = (jax.vjp(jax.jit(f), *args) for f in (plain, ours))
    np.testing.assert_allclose(found * (ct != 0), expected * (ct != 0), atol=1e-5)
    for mine, theirs in zip(turned(ct), back(ct), strict=True):
        if mine is not None:
            np.testing.assert_allclose(mine, theirs, atol=1e-5 * float(np.abs(theirs).max() + 1))


@pytest.mark.parametrize("relative_bias", ["shared", "per_layer"])
def test_a_model_whose_attention_is_in_chunks_is_the_same_model(relative_bias, monkeypatch):
    config = TINY.replace(relative_bias=relative_bias)
    params, ids, prefix = lively_params(config), random_ids(0, 2, 21), random_ids(1, 2, 13)
    segments = (np.arange(21) >= 9).astype(np.int32)[None] + np.ones((2, 1), np.int32)
    decoder_segments = (np.arange(13) >= 6).astype(np.int32)[None] + np.ones((2, 1), np.int32)

    def found():
        def loss(params):
            logits = T5(config).apply({"params": params}, ids, prefix, segments, decoder_segments)
            return jnp.mean(logits**2), logits

        (_, logits), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        network, served = serving(config), serving_params(config)
        hidden = jax.jit(network.encode)(served, ids, segments)
        return logits, gradient, jax.jit(network.decode)(served, hidden, segments, prefix)

    expected = found()
    monkeypatch.setattr(attention, "SCORES", 1)
    monkeypatch.setattr(attention, "CPU_CHUNK", 8)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max() + 1)),
        found(), expected,
    )  # fmt: skip
