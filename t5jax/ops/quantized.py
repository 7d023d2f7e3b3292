"""Kernels in eight or four bits, for inference: a quarter or an eighth of float32's bytes.

Kernels have their output dimensions first (`t5jax.model.layout`). A kernel is integers of eight
bits times a scale for each output. `Int4` stores each integer as four bits times a factor that a
group of weights shares, so both kinds are multiplied alike (`t5jax.ops.quantized_products`). The
factors are integers as in QServe (Lin et al. 2024, arXiv:2405.04532, section 4).
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
# Of four bits: digits from -7 to 7, factors from 1 to 16, for groups of so many weights.
LARGEST_DIGIT = 7
LARGEST_FACTOR = 16
GROUP = 32
# Bytes of the whole numbers that are made of four bits at a time, about what a core's cache holds.
BLOCK = 2**19

QuantizedKind = Literal["int8", "int4"]


@dataclasses.dataclass(frozen=True)
class Scheme:
    """How a model is quantized.

    Attributes:
      kind: of its kernels.
      head: whether the output head is quantized too, the embedding where that is the head.

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
        """The integers, cut along their last dimension into equal parts, int8."""
        raise NotImplementedError

    def integers(self) -> jax.Array:
        """int8[*O, *C]."""
        return jnp.concatenate(self.parts(), axis=-1)

    def products(self, x: jax.Array) -> jax.Array:
        """Of a kernel [O, *C]: int8[R, *C] with its integers -> int32[R, O]."""
        raise NotImplementedError

    @property
    def shape(self) -> tuple[int, ...]:
        """The kernel's."""
        return self.digits.shape

    @property
    def ndim(self) -> int:
        """The kernel's dimensions."""
        return len(self.shape)

    @property
    def outputs(self) -> tuple[int, ...]:
        """*O."""
        return self.scale.shape

    @property
    def contracted(self) -> int:
        """How many dimensions *C are."""
        return self.ndim - len(self.outputs)

    def astype(self, dtype: Any) -> Quantized:
        """Itself: a product has its input's type."""
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
        """With one dimension of outputs: [prod(O), *C]."""
        size, first = math.prod(self.outputs), len(self.outputs)
        return jax.tree.map(lambda x: x.reshape(size, *x.shape[first:]), self)

    def places(self, where: jax.sharding.Sharding) -> Any:
        """The shardings of its parts, given the kernel's; a dimension that does not divide is
        whole everywhere."""

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
    """`digits` int8[*O, *C]; an output's largest weight is 127 of its scale."""

    @classmethod
    def of(cls, kernel: Any, contracted: int = 1, xp: Any = jnp) -> Int8:
        """The nearest there is to a kernel; `xp` is jnp, or np on the host."""
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
    """Four bits a weight, and four for each group of up to 32 neighbours.

    `digits` uint8[*O, *C', L/2], where L is the kernel's last dimension: the lower four bits are of
    the weights of its first half, the upper ones of the second, each 8 more than it stands for.
    `factors` uint8[*O, *C', L/2/G] likewise for each G of those, each 1 less.
    """

    factors: Any

    @classmethod
    def of(cls, kernel: Any, contracted: int = 1, xp: Any = jnp) -> Int4:
        """A kernel in four bits; `xp` is jnp, or np on the host.

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
        # The least factor with which the group's largest weight fits.
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
        # Some rows at a time, so that no more than those are ever written down in eight bits.
        size = len(self.digits)
        step = min(size, max(1, BLOCK // math.prod(self.shape[1:])))
        parts = jnp.split(x, 2, axis=-1)

        def multiply_block(i: jax.Array, out: jax.Array) -> jax.Array:
            # The last block begins earlier where rows do not divide, and repeats some.
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
    """The tree with kernels in float32 again; what rounding took stays lost."""
    return map_kernels(lambda x: x.expand() if isinstance(x, Quantized) else x, params)


def map_kernels(function: Callable[..., Any], params: Any, *others: Any) -> Any:
    """`jax.tree.map` that takes a `Quantized` for one parameter."""
    return jax.tree.map(function, params, *others, is_leaf=_is_quantized)


def _is_quantized(x: Any) -> bool:
    return isinstance(x, Quantized)


def _scale(kernel: Any, contracted: int, largest: int, xp: Any) -> Any:
    """float32[*O]: what an output's largest weight is `largest` of."""
    axes = tuple(range(kernel.ndim - contracted, kernel.ndim))
    scale = xp.max(xp.abs(kernel), axis=axes)
    # A product: XLA would make one of a division by a constant, and round otherwise than NumPy.
    return xp.where(scale > 0, scale, 1).astype(np.float32) * np.float32(1 / largest)


def _pack(x: Any) -> Any:
    """Numbers from 0 to 15, [..., L] -> uint8[..., L/2]."""
    x, half = x.astype(np.uint8), x.shape[-1] // 2
    return x[..., :half] | (x[..., half:] << 4)


def _unpack(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The two halves of what was packed, int8[..., L/2] each."""
    return (x & 15).astype(np.int8), (x >> 4).astype(np.int8)


def _parts(mesh: Any, axes: Any) -> int:
    names = (axes,) if isinstance(axes, str) else axes or ()
    return math.prod(mesh.shape[name] for name in names)
