"""Parameter trees: making one, its shapes and logical axes, stacked and unrolled layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5jax.model.config import T5Config
from t5jax.model.network import T5

Params = Mapping[str, Any]


def _boxed(config: T5Config, key: jax.Array) -> Any:
    ids = jnp.ones((1, 1), jnp.int32)
    return T5(config).init(key, ids, ids)["params"]


def init_params(config: T5Config, key: jax.Array) -> Params:
    """A fresh float32 tree with stacked layers; jit it with out_shardings to make it in place."""
    return nn.unbox(_boxed(config, key))


def abstract_params(config: T5Config) -> Params:
    """`init_params` as jax.ShapeDtypeStruct leaves; computes and holds nothing."""
    # Unboxing constrains the values where a mesh is in use, so they must be traced ones.
    return jax.eval_shape(lambda: init_params(config, jax.random.key(0)))


def logical_axes(config: T5Config) -> Params:
    """The tree of `init_params` with a PartitionSpec of logical axis names at each leaf.

    Names: vocab, embed, heads, kv, mlp, relpos_buckets, layers.
    """
    boxed = jax.eval_shape(lambda: _boxed(config, jax.random.key(0)))
    return nn.get_partition_spec(boxed)


def count_parameters(params: Params) -> int:
    """Number of parameters in a real or abstract tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def unstack(params: Params) -> Params:
    """Stacked layers -> one subtree a layer (`layers_0`, …), as `T5(config, scan=False)` has it."""

    def stack(tree: Params) -> Params:
        depth = jax.tree.leaves(tree["layers"])[0].shape[0]
        layers = {
            f"layers_{i}": jax.tree.map(lambda x, i=i: x[i], tree["layers"]) for i in range(depth)
        }
        return {k: v for k, v in tree.items() if k != "layers"} | layers

    return {**params, "encoder": stack(params["encoder"]), "decoder": stack(params["decoder"])}


def stack(params: Params) -> Params:
    """The inverse of `unstack`."""

    def one(tree: Params) -> Params:
        depth = sum(k.startswith("layers_") for k in tree)
        layers = [tree[f"layers_{i}"] for i in range(depth)]
        rest = {k: v for k, v in tree.items() if not k.startswith("layers_")}
        return rest | {"layers": jax.tree.map(lambda *x: jnp.stack(x), *layers)}

    return {**params, "encoder": one(params["encoder"]), "decoder": one(params["decoder"])}
