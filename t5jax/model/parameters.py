"""Parameter trees: making one, its shapes and logical axes, stacked and unrolled layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5jax.model.config import T5Config
from t5jax.model.layers import CROSS, SELF
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
    """Stacked layers -> one subtree a layer (`layers_0`, …)."""

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


def for_inference(params: Params) -> Params:
    """Stacked layers -> the tree of `T5(config, inference=True)`.

    Layers apart, kernels with their output dimensions first, and those fused that are multiplied
    with one input: attention's `query_key_value` [N, 3, H, D] or `key_value` [N, 2, H, D], the
    MLP's `wi` [F, 2, D]. The dimension that may be cut over a mesh (N, F) comes before the fused
    one, so that kernels can be seen as matrices where they lie.
    """
    return _convert_layers(_fuse, _transpose_head(unstack(params)))


def from_inference(params: Params) -> Params:
    """The inverse of `for_inference`."""
    return stack(_convert_layers(_split, _transpose_head(params)))


def _transpose_head(params: Params) -> Params:
    return {k: {"kernel": v["kernel"].T} if k == "head" else v for k, v in params.items()}


def _convert_layers(convert: Callable[[str, Params], Params], params: Params) -> Params:
    def one(tree: Params) -> Params:
        return {
            name: {k: convert(k, v) for k, v in part.items()}
            if name.startswith("layers_")
            else part
            for name, part in tree.items()
        }

    return {**params, "encoder": one(params["encoder"]), "decoder": one(params["decoder"])}


def _fuse(name: str, module: Params) -> Params:
    if name == "mlp":
        wi = [module[k].T for k in ("wi", "wi_0", "wi_1") if k in module]
        return {"wi": jnp.stack(wi, 1), "wo": module["wo"].T}
    if name in _GROUPS:
        fused = {
            "_".join(group): jnp.stack([jnp.moveaxis(module[k], 0, -1) for k in group], 1)
            for group in _GROUPS[name]
        }
        return _norms(module) | fused | {"out": jnp.moveaxis(module["out"], -1, 0)}
    return module


def _split(name: str, module: Params) -> Params:
    if name == "mlp":
        wi = jnp.moveaxis(module["wi"], 1, 0)
        names = ("wi",) if len(wi) == 1 else ("wi_0", "wi_1")
        return {k: w.T for k, w in zip(names, wi, strict=True)} | {"wo": module["wo"].T}
    if name in _GROUPS:
        apart = {
            k: jnp.moveaxis(w, -1, 0)
            for group in _GROUPS[name]
            for k, w in zip(group, jnp.moveaxis(module["_".join(group)], 1, 0), strict=True)
        }
        return _norms(module) | apart | {"out": jnp.moveaxis(module["out"], 0, -1)}
    return module


def _norms(module: Params) -> dict[str, Any]:
    """What an attention has beside its kernels: LongT5's norm of global tokens."""
    return {k: v for k, v in module.items() if isinstance(v, Mapping)}


_GROUPS = {"self_attention": SELF, "encoder_decoder_attention": CROSS}
