"""Parameters that training leaves as they are, by patterns of their paths.

Paths have layers apart (`encoder/layers_0/mlp/wi`), whichever way the run lays them out; a pattern
is a regular expression that matches a whole path.
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
    """A tree with stacked layers that says what is trained: no path that a pattern matches.

    `unstack` gives that of layers apart.

    Args:
      patterns: `optimizer.freeze`.
      config: the architecture.

    Returns:
      bool[] leaves, or bool[layers, 1, …] where a pattern matches some of a parameter's layers.

    Raises:
      ValueError: a pattern is no regular expression or matches nothing, or all is matched.
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
    """Of `trained(…)` with stacked layers: the parameters that the optimizer keeps moments of.

    These are those of which any layer is trained, so that both layouts have the same ones.

    Returns:
      A tree like the parameters, with stacked layers or not, of Python's booleans.
    """
    tree = jax.tree.map(np.any, trained)
    return jax.tree.map(bool, tree if stacked else unstack(tree, config))


def select(trained: Params, new: Any, old: Any) -> Any:
    """`new` where `trained` says so, elsewhere `old`: trees like the parameters."""

    def leaf(which: np.ndarray, new: jax.Array, old: jax.Array) -> jax.Array:
        if not which.shape:
            # Decided here, so that XLA drops what it would compute of a gradient nobody needs.
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
