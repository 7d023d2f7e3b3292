"""int8 and int4 kernels for inference: a quarter or an eighth of float32's bytes.

Kernels have their output dimensions first (`t5jax.model.layout`). A kernel is int8 integers times a
scale for each output. `Int4` stores an integer as four bits times an integer factor that a group of
weights shares (QServe: Lin et al. 2024, arXiv:2405.04532, section 4), so both are multiplied as
int8 (`t5jax.ops.quantized_products`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from t5jax.knobs import short
from t5jax.ops.int8 import int8_products

LARGEST = 127
# int4: digits from -7 to 7, factors from 1 to 16, groups of 32 weights.
LARGEST_DIGIT = 7
LARGEST_FACTOR = 16
GROUP = 32
# Bytes of int4 weights that are expanded to int8 at a time: about a core's cache.
BLOCK = 2**19

QuantizedKind = Literal["int8", "int4"]


@dataclasses.dataclass(frozen=True)
class Scheme:
    """How a model is quantized.

    Attributes:
      kind: the kernels' type.
      head: whether the output head, or the tied embedding, is quantized too.

    Raises:
      ValueError: an unknown kind.
    """

    kind: QuantizedKind
    head: bool = True

    def __str__(self) -> str:
        return f"{self.kind} {'with' if self.head else 'without'} the head"

    def __post_init__(self) -> None:
        if self.kind not in get_args(QuantizedKind):
            known = " or ".join(map(repr, get_args(QuantizedKind)))
            raise ValueError(f"quantize={short(self.kind)} must be {known}, or None")


@flax.struct.dataclass
class Quantized:
    """A kernel [*O, *C]: `integers()` int8[*O, *C] times `scale` float32[*O]."""

    digits: Any
    scale: Any

    def parts(self) -> list[jax.Array]:
        """The int8 integers, split along their last dimension into equal parts."""
        raise NotImplementedError

    def integers(self) -> jax.Array:
        """int8[*O, *C]."""
        return jnp.concatenate(self.parts(), axis=-1)

    def products(self, x: jax.Array) -> jax.Array:
        """int8[R, *C] times the integers of a kernel [O, *C] -> int32[R, O]."""
        raise NotImplementedError

    @property
    def shape(self) -> tuple[int, ...]:
        """The kernel's shape."""
        return self.digits.shape

    @property
    def ndim(self) -> int:
        """The kernel's number of dimensions."""
        return len(self.shape)

    @property
    def outputs(self) -> tuple[int, ...]:
        """*O."""
        return self.scale.shape

    @property
    def contracted(self) -> int:
        """The number of dimensions *C."""
        return self.ndim - len(self.outputs)

    def astype(self, dtype: Any) -> Quantized:
        """Itself: a product has its input's dtype."""
        del dtype
        return self

    def __getitem__(self, outputs: Any) -> Quantized:
        """Some of the outputs."""
        return jax.tree.map(lambda x: x[outputs], self)

    def take(self, ids: jax.Array, dtype: Any) -> jax.Array:
        """Rows of a table: int[...] -> [..., D]."""
        rows = jax.tree.map(lambda x: jnp.take(x, ids, axis=0), self)
        return rows.expand().astype(dtype)

    def expand(self) -> jax.Array:
        """The kernel in float32."""
        scale = self.scale[(..., *(None,) * self.contracted)]
        return self.integers().astype(np.float32) * scale

    def as_rows(self) -> Quantized:
        """The kernel as [prod(O), *C]."""
        size, first = math.prod(self.outputs), len(self.outputs)
        return jax.tree.map(lambda x: x.reshape(size, *x.shape[first:]), self)

    def places(self, where: jax.sharding.Sharding) -> Any:
        """The arrays' shardings, from the kernel's; replicates dimensions that do not divide."""

        def place(x: Any) -> jax.sharding.Sharding:
            if not isinstance(where, jax.sharding.NamedSharding):
                return where
            spec = [
                axes if size % _parts(where.mesh, axes) == 0 else None
                for size, axes in zip(x.shape, where.spec, strict=False)
            ]
            return jax.sharding.NamedSharding(where.mesh, jax.sharding.PartitionSpec(*spec))

        return jax.tree.map(place, self)


@flax.struct.dataclass
class Int8(Quantized):
    """`digits` int8[*O, *C]; an output's largest weight is 127 times its scale."""

    @classmethod
    def of(cls, kernel: Any, contracted: int = 1, xp: Any = jnp) -> Int8:
        """Rounds a kernel; `xp` is jnp, or np on the host."""
        kernel = kernel.astype(np.float32)
        scale = _scale(kernel, contracted, LARGEST, xp)
        digits = xp.round(kernel / scale[(..., *(None,) * contracted)]).astype(np.int8)
        return cls(digits, scale)

    def parts(self) -> list[jax.Array]:
        return [self.digits]

    def products(self, x: jax.Array) -> jax.Array:
        return int8_products(x.reshape(len(x), -1), self.digits.reshape(len(self.digits), -1))


@flax.struct.dataclass
class Int4(Quantized):
    """Four bits a weight, and four bits a group of up to 32 neighbours.

    `digits` uint8[*O, *C', L/2], L the kernel's last dimension: the lower four bits hold the first
    half of the weights, the upper four bits the second half, each plus 8. `factors`
    uint8[*O, *C', L/2/G] holds, in the same way, the factor minus 1 of each group of G weights.
    """

    factors: Any

    @classmethod
    def of(cls, kernel: Any, contracted: int = 1, xp: Any = jnp) -> Int4:
        """Rounds a kernel; `xp` is jnp, or np on the host.

        Raises:
          ValueError: the last dimension is odd.
        """
        if kernel.shape[-1] % 2:
            raise ValueError(f"int4 keeps weights in pairs; {kernel.shape[-1]} of them are odd")
        group = math.gcd(kernel.shape[-1] // 2, GROUP)
        kernel = kernel.astype(np.float32)
        scale = _scale(kernel, contracted, LARGEST_DIGIT * LARGEST_FACTOR, xp)
        units = kernel / scale[(..., *(None,) * contracted)]
        units = units.reshape(*kernel.shape[:-1], -1, group)
        # The smallest factor that fits the group's largest weight.
        largest = xp.max(xp.abs(units), axis=-1, keepdims=True)
        factors = xp.clip(xp.ceil(largest * np.float32(1 / LARGEST_DIGIT)), 1, LARGEST_FACTOR)
        digits = xp.clip(xp.round(units / factors), -LARGEST_DIGIT, LARGEST_DIGIT)
        digits = digits.reshape(kernel.shape)
        return cls(_pack(digits + 8), scale, _pack(factors[..., 0] - 1))

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.digits.shape[:-1], 2 * self.digits.shape[-1])

    def parts(self) -> list[jax.Array]:
        groups = self.factors.shape[-1]
        halves = []
        for digits, factors in zip(_unpack(self.digits), _unpack(self.factors), strict=True):
            digits = digits - 8
            grouped = digits.reshape(*digits.shape[:-1], groups, -1) * (factors + 1)[..., None]
            halves.append(grouped.reshape(digits.shape))
        return halves

    def products(self, x: jax.Array) -> jax.Array:
        # Block by block, so that only one block is expanded to int8 at a time.
        size = len(self.digits)
        step = min(size, max(1, BLOCK // math.prod(self.shape[1:])))
        parts = jnp.split(x, 2, axis=-1)

        def multiply_block(i: jax.Array, out: jax.Array) -> jax.Array:
            # The last block overlaps the one before if rows do not divide.
            start = jnp.minimum(i * step, size - step)
            block = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, step), self)
            y = sum(
                Int8(half, block.scale).products(part)
                for half, part in zip(block.parts(), parts, strict=True)
            )
            return jax.lax.dynamic_update_slice_in_dim(out, y, start, axis=1)

        out = jnp.zeros((len(x), size), jnp.int32)
        return jax.lax.fori_loop(0, -(-size // step), multiply_block, out)


def dequantize(params: Mapping[str, Any]) -> dict[str, Any]:
    """The tree with float32 kernels; rounding errors stay."""
    return map_kernels(lambda x: x.expand() if isinstance(x, Quantized) else x, params)


def map_kernels(function: Callable[..., Any], params: Any, *others: Any) -> Any:
    """`jax.tree.map` with each `Quantized` as a leaf."""
    return jax.tree.map(function, params, *others, is_leaf=_is_quantized)


def _is_quantized(x: Any) -> bool:
    return isinstance(x, Quantized)


def _scale(kernel: Any, contracted: int, largest: int, xp: Any) -> Any:
    """float32[*O]: each output's largest weight, divided by `largest`."""
    axes = tuple(range(kernel.ndim - contracted, kernel.ndim))
    scale = xp.max(xp.abs(kernel), axis=axes)
    # XLA turns a division by a constant into a product, which rounds differently from NumPy.
    return xp.where(scale > 0, scale, 1).astype(np.float32) * np.float32(1 / largest)


def _pack(x: Any) -> Any:
    """Integers from 0 to 15, [..., L] -> uint8[..., L/2]."""
    x, half = x.astype(np.uint8), x.shape[-1] // 2
    return x[..., :half] | (x[..., half:] << 4)


def _unpack(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The inverse of `_pack`, as two halves int8[..., L/2]."""
    return (x & 15).astype(np.int8), (x >> 4).astype(np.int8)


def _parts(mesh: Any, axes: Any) -> int:
    names = (axes,) if isinstance(axes, str) else axes or ()
    return math.prod(mesh.shape[name] for name in names)
