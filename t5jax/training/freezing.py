"""Frozen parameters, named by regular expressions that match whole paths.

Paths have unstacked layers (`encoder/layers_0/mlp/wi`), whether or not the run scans its layers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from t5jax.knobs import nearest
from t5jax.model.contract import ModelConfig, Params
from t5jax.model.parameters import abstract_params, paths, unstack


def trained(patterns: Sequence[str], config: ModelConfig) -> Params:
    """A tree with stacked layers: False for parameters that a pattern matches, else True.

    Args:
      patterns: `optimizer.freeze`.
      config: the architecture.

    Returns:
      bool[] leaves, or bool[layers, 1, …] where patterns match some layers only; `unstack` takes
      the tree.

    Raises:
      ValueError: an invalid pattern, one that matches nothing, or no parameter left to train.
    """
    names = sorted(paths(config))
    frozen = {name for pattern in patterns for name in _matched(pattern, names)}
    if len(frozen) == len(names):
        raise ValueError(f"optimizer.freeze={list(patterns)} leaves no parameter to train")

    def leaf(path: str, shape: tuple[int, ...]) -> np.ndarray:
        if "/layers/" not in path:
            return np.array(path not in frozen)
        each = [path.replace("/layers/", f"/layers_{i}/") not in frozen for i in range(shape[0])]
        if len(set(each)) == 1:
            return np.array(each[0])
        return np.array(each).reshape(-1, *[1] * (len(shape) - 1))

    shapes = flatten_dict(abstract_params(config), sep="/")
    return unflatten_dict({path: leaf(path, x.shape) for path, x in shapes.items()}, sep="/")


def with_moments(trained: Params, config: ModelConfig, *, stacked: bool) -> Params:
    """Python booleans in a tree like the parameters: whether the optimizer keeps moments.

    A stacked parameter has moments if any layer is trained, so both layouts have the same moments.
    """
    tree = jax.tree.map(np.any, trained)
    return jax.tree.map(bool, tree if stacked else unstack(tree, config))


def select(trained: Params, new: Any, old: Any) -> Any:
    """`new` where `trained`, else `old`: trees like the parameters."""

    def leaf(which: np.ndarray, new: jax.Array, old: jax.Array) -> jax.Array:
        if not which.shape:
            # Decided while tracing, so that XLA drops the unused gradient.
            return new if which else old
        return jnp.where(which, new, old)

    return jax.tree.map(leaf, trained, new, old)


def _matched(pattern: str, names: Sequence[str]) -> list[str]:
    try:
        found = [name for name in names if re.fullmatch(pattern, name)]
    except re.error as error:
        raise ValueError(
            f"optimizer.freeze: {pattern!r} is no regular expression: {error}"
        ) from None
    if not found:
        hint = nearest(
            pattern, names, most=3, cutoff=0.3, otherwise=f"there are {', '.join(names[:3])}"
        )
        raise ValueError(f"optimizer.freeze: {pattern!r} matches no parameter's whole path; {hint}")
    return found
