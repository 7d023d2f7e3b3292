"""The operations of a compiled program: their shapes, products and bytes, read from its text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

BYTES = {
    "pred": 1, "s8": 1, "u8": 1, "s4": 0.5, "u4": 0.5, "s16": 2, "u16": 2, "bf16": 2, "f16": 2,
    "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8,
}  # fmt: skip
# Their own time is that of the operations in them.
CONTROL = ("while", "call", "conditional")

_LINE = re.compile(r"\s*(?:ROOT )?%(?P<name>[\w.-]+) = (?P<rest>.+)")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")
_CALL = re.compile(r"(?P<shape>\(.*?\)|\S+) (?P<opcode>[\w-]+)\((?P<arguments>[^)]*)\)(?P<more>.*)")


@dataclass(frozen=True)
class Operation:
    """An instruction.

    Attributes:
      opcode: such as "fusion".
      shape: of its result, as in f32[8,512].
      source: the operation of JAX that it comes from, without numbers of layers; may be empty.
      flops: of the products in it.
      bytes: of its operands and its result, each counted whole.
    """

    opcode: str
    shape: str
    source: str
    flops: float
    bytes: float


def read(file: Path) -> dict[str, Operation]:
    """All instructions of a module's text, by name."""
    computations: dict[str, dict[str, re.Match]] = {}
    current: dict[str, re.Match] = {}
    for line in file.read_text().splitlines():
        # A computation's head is a line such as %name (parameters) -> shape {.
        if head := re.match(r"(?:ENTRY )?%([\w.-]+) \(.*\{$", line):
            current = computations.setdefault(head[1], {})
        elif (found := _LINE.match(line)) and (call := _CALL.match(found["rest"])):
            current[found["name"]] = call
    return {
        name: _operation(call, instructions, computations)
        for instructions in computations.values()
        for name, call in instructions.items()
    }


def _operation(
    call: re.Match,
    around: dict[str, re.Match],
    computations: dict[str, dict[str, re.Match]],
) -> Operation:
    source = re.search(r'op_name="([^"]*)"', call["more"])
    shapes = [call["shape"], *(around[name]["shape"] for name in _operands(call, around))]
    return Operation(
        call["opcode"],
        re.sub(r"\{[\d,:]*\}", "", call["shape"]),
        re.sub(r"layers_\d+", "layers_i", source[1]) if source else "",
        _flops(call, around, computations),
        sum(map(_bytes, shapes)),
    )


def _flops(
    call: re.Match,
    around: dict[str, re.Match],
    computations: dict[str, dict[str, re.Match]],
) -> float:
    """Two for each multiplication and addition of the products in an instruction."""
    if call["opcode"] == "fusion" and (inner := re.search(r"calls=%([\w.-]+)", call["more"])):
        body = computations.get(inner[1], {})
        return sum(_flops(each, body, computations) for each in body.values())
    if call["opcode"] != "dot":
        return 0
    axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", call["more"])
    left = next(iter(_operands(call, around)), None)
    if axes is None or left is None:
        return 0
    sizes = _dimensions(around[left]["shape"])
    summed = math.prod(sizes[int(axis)] for axis in axes[1].split(",") if axis)
    return 2 * math.prod(_dimensions(call["shape"])) * summed


def _operands(call: re.Match, around: dict[str, re.Match]) -> Iterable[str]:
    return (name for name in re.findall(r"%([\w.-]+)", call["arguments"]) if name in around)


def _dimensions(shape: str) -> list[int]:
    found = _ARRAY.match(shape)
    return [int(size) for size in found[2].split(",") if size] if found else []


def _bytes(shape: str) -> float:
    return sum(
        BYTES.get(kind, 0) * math.prod(int(size) for size in sizes.split(",") if size)
        for kind, sizes in _ARRAY.findall(shape)
    )
