"""A tree of parameters in memory, checked and laid out for serving on its devices."""

from __future__ import annotations

import functools
from typing import Any

import jax
from jax.sharding import Mesh

from t5jax.formats.assembly import placements
from t5jax.model.contract import ModelConfig, Params
from t5jax.model.parameters import abstract_params, for_serving, is_serving
from t5jax.ops.quantized import Quantized, map_kernels


def check_params(config: ModelConfig, params: Params) -> None:
    """Raises ValueError, naming the first parameter that is missing, unknown or misshapen."""
    tree = abstract_params(config, serving=is_serving(params))
    expected = dict(jax.tree.leaves_with_path(tree))
    given = dict(jax.tree.leaves_with_path(params, is_leaf=lambda x: isinstance(x, Quantized)))
    for path in expected.keys() | given.keys():
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if path not in given:
            raise ValueError(f"parameter {name} {expected[path].shape} is missing")
        if path not in expected:
            raise ValueError(f"parameter {name} has no place in this configuration")
        if given[path].shape != expected[path].shape:
            raise ValueError(
                f"parameter {name} has shape {given[path].shape}; "
                f"the configuration asks for {expected[path].shape}"
            )


# One program a configuration, however many models are made.
@functools.partial(jax.jit, static_argnames=("config", "dtype"))
def _lay_out(config: ModelConfig, params: Params, dtype: Any) -> Params:
    """Cast, in the serving layout."""
    return for_serving(config, jax.tree.map(lambda x: x.astype(dtype), params))


def placed(config: ModelConfig, params: Params, dtype: Any, mesh: Mesh | None) -> Params:
    """A training or serving tree as the serving tree in `dtype`, on one device or the mesh."""
    if not is_serving(params):
        # Put where they belong first: all of them need not fit into one device.
        params = _lay_out(config, jax.device_put(params, placements(config, mesh)), dtype)

    def put(x: Any, where: jax.sharding.Sharding) -> Any:
        if isinstance(x, Quantized):
            return jax.device_put(x, x.places(where))
        return jax.device_put(x.astype(dtype), where)

    return map_kernels(put, params, placements(config, mesh, serving=True))
