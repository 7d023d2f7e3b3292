"""Parameter trees: making one, its shapes and logical axes, layers stacked and apart."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from t5jax.model.t5.config import T5Config
from t5jax.model.t5.layers import CROSS, SELF
from t5jax.model.t5.network import T5

Params = Mapping[str, Any]


def _boxed(config: T5Config, key: jax.Array) -> Any:
    model, ids = T5(config), jnp.ones((1, 1), jnp.int32)
    if config.encoder_only:
        return model.init(key, ids, method="encode")["params"]
    return model.init(key, ids, ids)["params"]


def init_params(config: T5Config, key: jax.Array) -> Params:
    """A fresh float32 tree with stacked layers; jit it with out_shardings to make it in place."""
    return nn.unbox(_boxed(config, key))


def abstract_params(config: T5Config, *, inference: bool = False) -> Params:
    """The tree of `init_params`, or of `for_inference`, as float32 jax.ShapeDtypeStruct leaves.

    Computes and holds nothing.
    """
    # Not `nn.unbox`, which constrains values where a mesh is in use; here there are none.
    return jax.tree.map(lambda box: box.value, _abstract(config, inference), is_leaf=_is_box)


def logical_axes(config: T5Config, *, inference: bool = False) -> Params:
    """The tree of `abstract_params` with a PartitionSpec of logical axis names at each leaf.

    Names: vocab, embed, heads, kv, mlp, relpos_buckets, layers.
    """
    return nn.get_partition_spec(_abstract(config, inference))


@functools.lru_cache(maxsize=16)
def _abstract(config: T5Config, inference: bool) -> Any:
    # Kept, for tracing a network costs a good part of a second; of unrolled layers one will do.
    if not inference:
        return jax.eval_shape(lambda: _boxed(config, jax.random.key(0)))
    shallow = config.replace(num_layers=1, num_decoder_layers=min(1, config.num_decoder_layers))
    model = T5(shallow, inference=True)
    # Without computing anything with them, which is most of the tracing.
    boxed = dict(jax.eval_shape(lambda: model.init(jax.random.key(0), method=_define)["params"]))
    for name, depth in depths(config).items():
        if name not in boxed:
            continue
        rest = {k: v for k, v in boxed[name].items() if k != "layers_0"}
        layers = {f"layers_{i}": boxed[name]["layers_0"] for i in range(depth)}
        boxed[name] = rest | layers
    return boxed


def _define(module: nn.Module) -> None:
    """Has a module and all in it define their parameters, which every one does in `setup`."""
    getattr(module, "any", None)  # Flax runs `setup` when it is first asked for an attribute
    for name, value in list(vars(module).items()):
        parts = value if isinstance(value, (list, tuple)) else (value,)
        for part in parts if name != "parent" else ():
            if isinstance(part, nn.Module):
                _define(part)


def _is_box(x: Any) -> bool:
    return isinstance(x, nn.meta.AxisMetadata)


def count_parameters(params: Params) -> int:
    """Number of parameters in a real or abstract tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def unstack(params: Params, config: T5Config | None = None) -> Params:
    """Stacked layers -> one subtree a layer (`layers_0`, …).

    Also of a tree like the parameters, such as an optimizer's moments: a scalar among them stands
    for all layers, and each of them gets it. A tree of nothing else needs `config`.
    """

    def apart(name: str, tree: Params) -> Params:
        depth = depths(config)[name] if config else jax.tree.leaves(tree["layers"])[0].shape[0]

        def layer(i: int) -> Params:
            return jax.tree.map(lambda x: x[i] if x.ndim else x, tree["layers"])

        layers = {f"layers_{i}": layer(i) for i in range(depth)}
        return {k: v for k, v in tree.items() if k != "layers"} | layers

    return _map_stacks(apart, params)


def stack(params: Params) -> Params:
    """The inverse of `unstack`."""

    def together(name: str, tree: Params) -> Params:
        del name
        depth = sum(k.startswith("layers_") for k in tree)
        layers = [tree[f"layers_{i}"] for i in range(depth)]
        rest = {k: v for k, v in tree.items() if not k.startswith("layers_")}
        joined = jax.tree.map(lambda *x: jnp.stack(x) if x[0].ndim else x[0], *layers)
        return rest | {"layers": joined}

    return _map_stacks(together, params)


def unstack_axes(axes: Params, config: T5Config) -> Params:
    """`logical_axes` of stacked layers -> those of what `unstack` makes of the parameters."""

    def apart(name: str, tree: Params) -> Params:
        layer = jax.tree.map(lambda spec: PartitionSpec(*spec[1:]), tree["layers"])
        layers = {f"layers_{i}": layer for i in range(depths(config)[name])}
        return {k: v for k, v in tree.items() if k != "layers"} | layers

    return _map_stacks(apart, axes)


def depths(config: T5Config) -> dict[str, int]:
    """Layers by stack."""
    return {"encoder": config.num_layers, "decoder": config.num_decoder_layers}


def for_inference(params: Params) -> Params:
    """Stacked layers -> the tree of `T5(config, inference=True)`.

    Layers apart, kernels with their output dimensions first, and those fused that are multiplied
    with one input: attention's `query_key_value` [N, 3, H, D] or `key_value` [N, 2, H, D], the
    MLP's `wi` [F, 2, D]. The dimension that may be cut over a mesh (N, F) comes before the fused
    one, so that kernels can be seen as matrices where they lie.
    """
    return _map_modules(fuse, unstack(params))


def from_inference(params: Params) -> Params:
    """The inverse of `for_inference`."""
    return stack(unfuse(params))


def unfuse(params: Params, xp: Any = jnp) -> Params:
    """The tree for inference -> layers apart still, kernels as training has them."""
    return _map_modules(functools.partial(_split, xp=xp), params)


def _map_stacks(convert: Callable[[str, Params], Params], params: Params) -> Params:
    """`params` with `convert(name, stack)` in place of its encoder and its decoder."""
    stacks = ("encoder", "decoder")
    return {name: convert(name, v) if name in stacks else v for name, v in params.items()}


def _map_modules(convert: Callable[..., Params], params: Params) -> Params:
    """`params` with `convert(name, module)` in place of the head and of each layer's modules."""

    def layers(stack: str, tree: Params) -> Params:
        del stack
        return {
            name: {k: convert(k, v) for k, v in part.items()}
            if name.startswith("layers_")
            else part
            for name, part in tree.items()
        }

    params = dict(_map_stacks(layers, params))
    if "head" in params:
        params["head"] = convert("head", params["head"])
    return params


def fuse(name: str, module: Mapping[str, Any], xp: Any = jnp) -> dict[str, Any]:
    """A module's parameters in training -> those for inference; `xp` is jnp, or np on the host."""
    if name == "head":
        return {"kernel": module["kernel"].T}
    if name == "mlp":
        wi = [module[k].T for k in ("wi", "wi_0", "wi_1") if k in module]
        # One alone is a view on the host, where a stack would be a copy.
        return {"wi": xp.stack(wi, 1) if wi[1:] else wi[0][:, None], "wo": module["wo"].T}
    if name in _GROUPS:
        fused = {
            "_".join(group): xp.stack([xp.moveaxis(module[k], 0, -1) for k in group], 1)
            for group in _GROUPS[name]
        }
        return _norms(module) | fused | {"out": xp.moveaxis(module["out"], -1, 0)}
    return dict(module)


def _split(name: str, module: Mapping[str, Any], xp: Any = jnp) -> dict[str, Any]:
    """The inverse of `fuse`."""
    if name == "head":
        return {"kernel": module["kernel"].T}
    if name == "mlp":
        wi = xp.moveaxis(module["wi"], 1, 0)
        names = ("wi",) if len(wi) == 1 else ("wi_0", "wi_1")
        return {k: w.T for k, w in zip(names, wi, strict=True)} | {"wo": module["wo"].T}
    if name in _GROUPS:
        apart = {
            k: xp.moveaxis(w, -1, 0)
            for group in _GROUPS[name]
            for k, w in zip(group, xp.moveaxis(module["_".join(group)], 1, 0), strict=True)
        }
        return _norms(module) | apart | {"out": xp.moveaxis(module["out"], 0, -1)}
    return dict(module)


def _norms(module: Params) -> dict[str, Any]:
    """What an attention has beside its kernels: LongT5's norm of global tokens."""
    return {k: v for k, v in module.items() if isinstance(v, Mapping)}


_GROUPS = {"self_attention": SELF, "encoder_decoder_attention": CROSS}
