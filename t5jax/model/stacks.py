"""What training networks have in common: dropout keys, remat, and stacks of layers."""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax

Key = jax.Array | None  # of dropout
Remat = Literal["none", "full", "dots"]


def split(key: Key, num: int) -> Any:
    """`num` dropout keys, or Nones without a key."""
    return (None,) * num if key is None else jax.random.split(key, num)


def constrain(x: jax.Array) -> jax.Array:
    """Shards [B, T, D] between layers."""
    return nn.with_logical_constraint(x, ("batch", "length", "embed"))


def normal(std: float, *axes: str) -> Any:
    """An initializer of a parameter with these logical axes."""
    return nn.with_logical_partitioning(nn.initializers.normal(std), axes)


def fold(step: Any, layers: Any, x: Any, keys: Any, *, depth: int, scan: bool, remat: Remat) -> Any:
    """Applies `x, _ = step(layer, x, key)` in turn.

    Args:
      step: as above.
      layers: one module, whose parameters get a layer axis; with `scan=False`, `depth` modules.
      x: what the first layer takes.
      keys: `depth` dropout keys, a tree of arrays with that first axis, or None.
      depth: number of layers.
      scan: whether layers are scanned or unrolled.
      remat: what the backward pass recomputes: "none", "full" layers, or all but "dots".
    """
    if remat != "none":
        saved = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
        step = nn.remat(
            step,
            policy=saved if remat == "dots" else None,
            # A scan already keeps XLA from merging the recomputation with the forward pass;
            # unrolled layers need a barrier, which costs a little.
            prevent_cse=not scan,
        )
    if scan:
        scanned = nn.scan(
            step,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=depth,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        return scanned(layers, x, keys)[0]
    for i, layer in enumerate(layers):
        x, _ = step(layer, x, jax.tree.map(lambda key, i=i: key[i], keys))
    return x
