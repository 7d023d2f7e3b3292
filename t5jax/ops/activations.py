"""Non-linearities of MLPs, by transformers' names."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    # The tanh form (Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2).
    "gelu_new": jax.nn.gelu,
    "silu": jax.nn.silu,
}
