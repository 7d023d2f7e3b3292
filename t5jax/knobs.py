"""Options declared once: type, range, default, and the sentence that `--help` prints.

A frozen dataclass declares them with `knob` and calls `check_knobs` in `__post_init__`. The same
declaration refuses a value in Python, in YAML and on the command line, and is what `--help` shows.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import functools
import math
import operator
import os
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any, Literal

# JAX counts in int32, so no size, step or seed is larger.
LARGEST = 2**31 - 1
# Of float32, which is what is computed with: what is smaller would count as 0.
TINIEST, GREATEST = 2.0**-126, (2 - 2.0**-23) * 2.0**127


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `least` to `most`, or between `above` and `below`, which are not in it.

    `also` are values beside it, such as a -1 that means "the rest".
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    also: tuple[float, ...] = ()

    def __contains__(self, value: float) -> bool:
        return value in self.also or (
            (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        low, high = self.least, self.most
        if low is not None and high is not None:
            text = f"from {low} to {high}"
        else:
            bounds = (
                ("at least", low),
                ("more than", self.above),
                ("at most", high),
                ("less than", self.below),
            )
            text = " and ".join(f"{word} {bound}" for word, bound in bounds if bound is not None)
        return " or ".join([text, *map(str, self.also)])


def knob(
    default: Any,
    help: str,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    also: tuple[float, ...] = (),
) -> Any:
    """A dataclass field with its default, meaning and range; mutable defaults are copied.

    A number needs a range: `check_knobs` refuses a class that declares one without.
    """
    metadata: dict[str, Any] = {"help": help}
    if any(bound is not None for bound in (least, most, above, below)):
        metadata["range"] = Range(least, most, above, below, also)
    if isinstance(default, dict | list | set):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def check_knobs(instance: Any) -> None:
    """Checks every field of a dataclass, and makes other libraries' scalars Python's.

    Raises:
      ValueError: a value is of another type than declared, or out of its range.
    """
    cls: Any = type(instance)
    for name, (kind, within) in declared(cls).items():
        value = getattr(instance, name)
        checked = check_value(name, value, kind, within)
        if checked is not value:
            object.__setattr__(instance, name, checked)


@functools.cache
def declared(cls: type) -> dict[str, tuple[Any, Range | None]]:
    """Type and range of every knob of a dataclass, by name."""
    hints = typing.get_type_hints(cls)
    found = {
        field.name: (hints[field.name], field.metadata.get("range"))
        for field in dataclasses.fields(cls)
    }
    for name, (kind, within) in found.items():
        if _plain(kind) in (int, float) and within is None:
            raise TypeError(f"{cls.__name__}.{name} is a number without a range")
    return found


def check_value(name: str, value: Any, kind: Any, within: Range | None = None) -> Any:
    """`value` as `kind`, in Python's own types; lists become tuples.

    Kinds are int, float, bool, str, a Literal, a tuple of one kind, a class, and any of them or
    None. "10" and True are no numbers, 1 is a float, 1.0 is no whole number, nan is neither.

    Raises:
      ValueError: it is not; one line with the name, the value and what is wanted.
    """
    try:
        if value is None and kind is not _plain(kind):
            return None
        checked = _converted(value, _plain(kind))
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name}={short(value)} must be {wanted(kind, within)}") from None
    if type(checked) is float and checked and not TINIEST <= abs(checked) <= GREATEST:
        raise ValueError(f"{name}={short(value)} must be a number that float32 can hold")
    if within is not None and checked not in within:
        raise ValueError(f"{name}={short(value)} must be {within}")
    if type(checked) is int and within is not None and within.most is None and checked > LARGEST:
        raise ValueError(f"{name}={short(value)} must be at most {LARGEST}")
    return checked


def wanted(kind: Any, within: Range | None = None) -> str:
    """What a value must be, in words: "a whole number, at least 1, or null"."""
    none = ", or null" if kind is not _plain(kind) else ""
    plain = _plain(kind)
    if typing.get_origin(plain) is Literal:
        words = " or ".join(map(str, typing.get_args(plain)))
    elif typing.get_origin(plain) is tuple:
        words = f"a list, each of it {wanted(typing.get_args(plain)[0])}"
    else:
        words = _WORDS.get(plain, f"a {getattr(plain, '__name__', plain)}")
    return words + (f", {within}" if within else "") + none


def nearest(name: Any, known: Iterable[str]) -> str:
    """The nearest of `known`, as a question, or all of them."""
    known = list(known)
    near = difflib.get_close_matches(str(name)[:100], known, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"


def short(value: Any, length: int = 60) -> str:
    """`repr(value)`, cut to `length` characters."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deeply; a number of 5,000 digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= length else text[:length] + "…"


def add_number(
    parser: Any, name: str, kind: type[int] | type[float], help: str, **options: Any
) -> None:
    """Adds an argument of argparse that takes a number of a range, which `--help` shows.

    Args:
      parser: argparse's.
      name: with its dashes.
      kind: int or float.
      help: its meaning; `(default; range)` is added.
      options: `least`, `most`, `above`, `below` as of `knob`; all else is `add_argument`'s.
    """
    bounds = {key: options.pop(key, None) for key in ("least", "most", "above", "below")}
    within = Range(**bounds)
    default = options.get("default")
    shown = "; ".join(str(part) for part in (default, within) if part is not None)
    options.setdefault("metavar", "INT" if kind is int else "FLOAT")
    parser.add_argument(
        name, type=number(kind, within), help=f"{help} ({shown})".lstrip(), **options
    )


def number(kind: type[int] | type[float], within: Range) -> Callable[[str], Any]:
    """What reads a word of the command line as a number of a range, for argparse."""

    def read(text: str) -> Any:
        value: Any
        try:
            value = kind(text)
        except ValueError:  # also a number of 5,000 digits
            value = text
        try:
            return check_value("", value, kind, within)
        except ValueError:
            wants = wanted(kind, within)
            raise argparse.ArgumentTypeError(f"{text[:60]!r} must be {wants}") from None

    return read


_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    dict: "a section of names and values",
}


def _plain(kind: Any) -> Any:
    """A kind without its None."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        rest = [arg for arg in typing.get_args(kind) if arg is not types.NoneType]
        return rest[0] if len(rest) == 1 else kind
    return kind


def _converted(value: Any, kind: Any) -> Any:
    """Raises TypeError, ValueError or OverflowError where `value` is no `kind`."""
    switch = str(getattr(value, "dtype", type(value).__name__)) == "bool"
    if typing.get_origin(kind) is Literal:
        # By type too: True == 1. An unhashable value must not reach a set.
        for known in typing.get_args(kind):
            if type(value) is type(known) and value == known:
                return known
        raise ValueError
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise TypeError
        return tuple(_converted(each, typing.get_args(kind)[0]) for each in value)
    if kind is bool:
        if not switch:
            raise TypeError
        return bool(value)
    if kind is int:
        if switch:
            raise TypeError
        return operator.index(value)
    if kind is float:
        if switch or isinstance(value, str) or not math.isfinite(value):
            raise TypeError
        return float(value)
    if kind is str:
        return os.fspath(value) if isinstance(value, os.PathLike) else _text(value)
    if isinstance(kind, type) and not isinstance(value, kind):
        raise TypeError
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    value.encode()  # a lone surrogate can be written to no file
    if "\0" in value:
        raise ValueError
    return value
