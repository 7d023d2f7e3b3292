"""Dropout, and attention with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5jax.ops.attention import attend
from t5jax.ops.dropout import dropout
from t5jax.ops.masks import SegmentMask

KEY = jax.random.key(0, impl="rbg")


@pytest.mark.parametrize("rate", [0.1, 0.75])
def test_dropout_zeroes_a_share_and_scales_the_rest_so_that_the_mean_stays(rate):
    x = np.random.default_rng(0).uniform(1, 2, (64, 3, 512)).astype(np.float32)
    y = np.asarray(dropout(x, rate, KEY))
    kept = y != 0
    np.testing.assert_allclose(y[kept], (x / (1 - rate))[kept], rtol=1e-6)
    # 32,768 draws: five standard deviations of a share are below 0.014.
    assert abs(kept.mean() - (1 - rate)) < 0.014
    assert (kept == kept[:, :1]).all()  # one mask for the whole axis -2


def test_dropout_without_a_key_or_a_rate_changes_nothing():
    x = jnp.arange(6.0).reshape(2, 3)
    assert dropout(x, 0.5, None) is x and dropout(x, 0.0, KEY) is x


def test_attention_drops_weights_and_scales_those_that_stay():
    rng = np.random.default_rng(1)
    q, k = (rng.normal(size=(2, length, 4, 8)).astype(np.float32) for length in (5, 64))
    # Values that pick a key each: what comes out are the weights.
    v = np.broadcast_to(np.eye(64, dtype=np.float32)[None, :, None], (2, 64, 4, 64))
    mask = SegmentMask(jnp.ones((2, 5), int), jnp.ones((2, 64), int))
    weights = attend(q, k, v, None, mask)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    dropped = np.asarray(attend(q, k, v, None, mask, dropout_rate=0.25, dropout_key=KEY))
    kept = dropped != 0
    assert 0.6 < kept.mean() < 0.9
    np.testing.assert_allclose(dropped[kept], (weights / 0.75)[kept], rtol=1e-5)


@pytest.mark.parametrize(("rows", "queries", "keys"), [(0, 3, 3), (2, 0, 3), (2, 3, 0)])
def test_attention_of_nothing_is_empty_or_zero(rows, queries, keys):
    q, k = jnp.ones((rows, queries, 2, 4)), jnp.ones((rows, keys, 2, 4))
    mask = SegmentMask(jnp.ones((rows, queries), int), jnp.ones((rows, keys), int))
    y = attend(q, k, k, None, mask)
    assert y.shape == q.shape and not y.any()
