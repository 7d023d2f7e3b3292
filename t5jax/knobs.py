"""Options declared once: type, range, default, and the sentence that `--help` prints.

A frozen dataclass declares its options with `knob` and calls `check_knobs` in `__post_init__`. One
declaration serves Python, YAML, the command line and `--help`. `kind_of` knows int, float, bool,
str, dict, Literals, tuples and classes; other types bring a `Kind`: `Annotated[type, Kind(…)]`.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import operator
import os
import types
import typing
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal

REQUIRED: Any = dataclasses.MISSING  # the default of a knob that has none
LARGEST = 2**31 - 1  # JAX counts sizes, steps and seeds in int32
# float32's normal range: JAX would flush a smaller number to 0.
TINIEST, GREATEST = 2.0**-126, (2 - 2.0**-23) * 2.0**127


@dataclasses.dataclass(frozen=True)
class Range:
    """An interval: `least` and `most` are inside it, `above` and `below` are not.

    `also` lists further values, such as a -1 that means "the rest". An error ends in `remedy`.
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    also: tuple[float, ...] = ()
    remedy: str = ""

    @property
    def advice(self) -> str:
        """The end of an error message."""
        return f"; {self.remedy}" if self.remedy else ""

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


@dataclasses.dataclass(frozen=True)
class Kind:
    """How values of one type are read and described.

    Attributes:
      read: converts a value from Python or a file. Raises TypeError, ValueError or KeyError for a
        wrong value, OverflowError for a number that float32 cannot hold.
      wanted: the expected value in words, for errors.
      parse: converts a command-line word; raises ValueError.
      word: the word's name in `--help`.
      repeated: several command-line arguments make one value.
      choices: all values, where they are few.
    """

    read: Callable[[Any], Any]
    wanted: str
    parse: Callable[[str], Any] | None = None
    word: str | None = None
    repeated: bool = False
    choices: tuple[Any, ...] = ()


def knob(
    default: Any,
    help: str,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    also: tuple[float, ...] = (),
    remedy: str = "",
    word: str | None = None,
) -> Any:
    """A dataclass field with its default, meaning and range; mutable defaults are copied.

    A number needs a range; `declared` raises TypeError otherwise. `word` names the value in
    `--help` in place of its kind's word.
    """
    metadata: dict[str, Any] = {"help": help, "word": word}
    if any(bound is not None for bound in (least, most, above, below)):
        metadata["range"] = Range(least, most, above, below, also, remedy)
    if isinstance(default, dict | list | set):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def check_knobs(instance: Any) -> None:
    """Checks every field of a dataclass; scalars of NumPy and JAX become Python's.

    Raises:
      ValueError: a value has the wrong type, or is out of range.
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
    hints = typing.get_type_hints(cls, include_extras=True)
    found = {
        field.name: (hints[field.name], field.metadata.get("range"))
        for field in dataclasses.fields(cls)
    }
    for name, (kind, within) in found.items():
        kind_of(kind)
        if _plain(kind) in (int, float) and within is None:
            raise TypeError(f"{cls.__name__}.{name} is a number without a range")
    return found


def check_value(name: str, value: Any, kind: Any, within: Range | None = None) -> Any:
    """`value` as the type `kind` (see `kind_of`), in Python's own types; lists become tuples.

    "10" and True are not numbers, 1 is a float, 1.0 is not a whole number, nan is neither.

    Raises:
      ValueError: the value does not fit; one line with the name, the value and what is wanted.
    """
    if value is None and kind is not _plain(kind):
        return None
    wrong = f"{name}={short(value)} must be "
    try:
        checked = kind_of(kind).read(value)
    except OverflowError:
        raise ValueError(f"{wrong}a number that float32 can hold") from None
    except (TypeError, ValueError, KeyError):
        raise ValueError(wrong + wanted(kind, within)) from None
    if within is not None and checked not in within:
        raise ValueError(f"{wrong}{within}{within.advice}")
    if type(checked) is int and within is not None and within.most is None and checked > LARGEST:
        raise ValueError(f"{wrong}at most {LARGEST}")
    return checked


def wanted(kind: Any, within: Range | None = None) -> str:
    """The expected value in words: "a whole number, at least 1, or null"."""
    none = ", or null" if kind is not _plain(kind) else ""
    return kind_of(kind).wanted + (f", {within}" if within else "") + none


def switch(value: Any) -> bool:
    """A bool of Python, NumPy or JAX; else TypeError."""
    if not _is_switch(value):
        raise TypeError
    return bool(value)


def whole(value: Any) -> int:
    """An integer of Python, NumPy or JAX; TypeError for floats and bools."""
    if _is_switch(value):
        raise TypeError
    return operator.index(value)


def number(value: Any) -> float:
    """A finite number of Python, NumPy or JAX.

    Raises:
      TypeError, ValueError: text, a bool, or not finite. OverflowError: out of float32's range.
    """
    if _is_switch(value) or not math.isfinite(value):
        raise TypeError
    found = float(value)
    if found and not TINIEST <= abs(found) <= GREATEST:
        raise OverflowError
    return found


def text(value: Any) -> str:
    """A string, or a path as one; TypeError, or ValueError for text that no file can hold."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        raise TypeError
    value.encode()  # UnicodeEncodeError, a ValueError, for a lone surrogate
    if "\0" in value:
        raise ValueError
    return value


def names_of(text: str) -> tuple[str, ...]:
    """Splits at commas, without the spaces around names."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, list | tuple):
        return tuple(map(text, value))
    return names_of(text(value))


Names = Annotated[
    tuple[str, ...], Kind(_names, "a list of names, or names divided by commas", names_of)
]

_KINDS = {
    int: Kind(whole, "a whole number", int, "INT"),
    float: Kind(number, "a number", float, "FLOAT"),
    bool: Kind(switch, "true or false"),
    str: Kind(text, "text", str),
}


@functools.cache
def kind_of(annotation: Any) -> Kind:
    """The kind of a type; that of `X | None` is `X`'s, that of an Annotated type its own.

    Raises:
      TypeError: a union of several types; declare an Annotated type with a `Kind`.
    """
    plain = _plain(annotation)
    if _is_union(plain):
        raise TypeError(f"{annotation} is several types; annotate it with a Kind that reads them")
    if plain is Any:  # checked elsewhere
        return Kind(lambda value: value, "anything")
    args, origin = typing.get_args(plain), typing.get_origin(plain)
    if origin is Annotated:
        return next(each for each in args if isinstance(each, Kind))
    if origin is Literal:
        words = " or ".join(map(str, args))
        return Kind(lambda value: _choice(value, args), words, str, choices=args)
    if origin is tuple:
        each = kind_of(args[0])
        many = f"a list, each of it {each.wanted}"
        return Kind(lambda value: _list(value, each), many, each.parse, each.word, True)
    words = "a section of names and values" if plain is dict else f"a {plain.__name__}"
    return _KINDS.get(plain) or Kind(lambda value: _instance(value, plain), words)


def _choice(value: Any, choices: Iterable[Any]) -> Any:
    # Types are compared too, because True == 1. No set: the value may be unhashable.
    for known in choices:
        if type(value) is type(known) and value == known:
            return known
    raise ValueError


def _list(value: Any, each: Kind) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError
    return tuple(map(each.read, value))


def _instance(value: Any, cls: type) -> Any:
    if not isinstance(value, cls):
        raise TypeError
    return value


def _is_switch(value: Any) -> bool:
    return str(getattr(value, "dtype", type(value).__name__)) == "bool"


def nearest(
    name: Any,
    known: Iterable[str],
    *,
    most: int = 1,
    cutoff: float = 0.5,
    otherwise: str | None = None,
) -> str:
    """The nearest of `known` as a question, "did you mean batch?".

    Args:
      name: the unknown name.
      known: the possible names.
      most: how many to suggest.
      cutoff: least similarity, as in `difflib.get_close_matches`.
      otherwise: the answer where no name is near; None: all of `known`.
    """
    known = list(known)
    near = difflib.get_close_matches(str(name)[:100], known, n=most, cutoff=cutoff)
    if near:
        return f"did you mean {', '.join(near)}?"
    return f"known: {', '.join(known)}" if otherwise is None else otherwise


def short(value: Any, length: int = 60) -> str:
    """`repr(value)`, cut to `length` characters."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deeply; a number of 5,000 digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= length else text[:length] + "…"


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in (typing.Union, types.UnionType)


def _plain(kind: Any) -> Any:
    """`X` of `X | None`; other types unchanged."""
    if _is_union(kind):
        rest = [arg for arg in typing.get_args(kind) if arg is not types.NoneType]
        return rest[0] if len(rest) == 1 else kind
    return kind
