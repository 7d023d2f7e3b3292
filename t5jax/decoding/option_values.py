"""Values of generation options, as callers, files and the command line give them.

Each reader makes one value Python's own, immutable and hashable, or raises TypeError, ValueError or
OverflowError.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import numpy as np

Ids = tuple[int, ...]
EarlyStopping = Literal[True, False, "never"]
Decay = tuple[int, float]  # from which new id on, and the factor of each further one
Bias = tuple[Ids, float]  # of the last of these ids where the others stand before it
Phrase = tuple[Ids, ...]  # alternatives of a phrase

# Numbers of a compiled program are float32.
# Python's floats: to compare a larger number with numpy's would overflow, with a warning.
_SMALLEST, _LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


def _is_switch(value: Any) -> bool:
    return str(getattr(value, "dtype", type(value).__name__)) == "bool"


def switch(value: Any) -> bool:
    """True or False, numpy's too."""
    if not _is_switch(value):
        raise TypeError
    return bool(value)


def whole(value: Any) -> int:
    """An integer of any library; no float, and no True."""
    if _is_switch(value):
        raise TypeError
    return operator.index(value)


def number(value: Any) -> float:
    """A finite number that float32 can hold."""
    if _is_switch(value) or isinstance(value, str | bytes | complex):
        raise TypeError
    found = float(value)
    if not math.isfinite(found) or (found and not _SMALLEST <= abs(found) <= _LARGEST):
        raise ValueError
    return found


def early_stopping(value: Any) -> EarlyStopping:
    """True, False or "never"; "true" and "false" too."""
    if isinstance(value, str):
        return {"true": True, "false": False, "never": "never"}[value]  # type: ignore[return-value]
    return switch(value)


def _several(value: Any) -> tuple[Any, ...]:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise TypeError
    return tuple(value)


def _id(value: Any) -> int:
    found = whole(value)
    if found < 0:
        raise ValueError
    return found


def ids(value: Any) -> Ids:
    """One id or several."""
    try:
        return (_id(value),)
    except TypeError:
        return tuple(map(_id, _several(value)))


def sequences(value: Any) -> tuple[Ids, ...]:
    """Sequences of at least one id."""
    found = tuple(map(ids, _several(value)))
    if not all(found):
        raise ValueError
    return found


def text(value: Any) -> str:
    """At least one character, and none that UTF-8 does not have."""
    if not isinstance(value, str) or not value:
        raise TypeError
    value.encode()
    return value


def texts(value: Any) -> tuple[str, ...]:
    """One text or several."""
    return (text(value),) if isinstance(value, str) else tuple(map(text, _several(value)))


def answers(value: Any) -> tuple[str | Ids, ...]:
    """One text, or texts and sequences of ids; an answer may be empty."""

    def answer(value: Any) -> str | Ids:
        if not isinstance(value, str):
            return ids(value)
        value.encode()
        return value

    return (answer(value),) if isinstance(value, str) else tuple(map(answer, _several(value)))


def decay(value: Any) -> Decay:
    """A whole number and a number."""
    start, factor = _several(value)
    return whole(start), number(factor)


def biases(value: Any) -> tuple[Bias, ...]:
    """A mapping of sequences to numbers, or pairs of them; of a sequence's, the last counts."""
    pairs = value.items() if isinstance(value, Mapping) else map(_several, _several(value))
    found = {ids(sequence): number(bias) for sequence, bias in pairs}
    if not all(found):
        raise ValueError
    return tuple(found.items())


def phrases(value: Any) -> tuple[Phrase, ...]:
    """Phrases, each a sequence of ids or several of which any will do."""

    def phrase(value: Any) -> Phrase:
        parts = _several(value)
        found: Phrase
        try:
            found = (tuple(map(_id, parts)),)
        except TypeError:
            found = tuple(tuple(map(_id, _several(part))) for part in parts)
        if not found or not all(found):
            raise ValueError
        return found

    return tuple(dict.fromkeys(map(phrase, _several(value))))


_WHOLE = (whole, "a whole number")
_NUMBER = (number, "a number")
_IDS = "whole numbers from 0"
# By an option's type: its reader, and what the reader wants.
READERS: dict[Any, tuple[Callable[[Any], Any], str]] = {
    bool: (switch, "True or False"),
    int: _WHOLE,
    int | None: _WHOLE,
    float: _NUMBER,
    float | None: _NUMBER,
    EarlyStopping: (early_stopping, "True, False or 'never'"),
    Ids: (ids, f"ids: {_IDS}"),
    tuple[Ids, ...]: (sequences, f"sequences of at least one id: {_IDS}"),
    tuple[str, ...]: (texts, "texts of at least one character"),
    tuple[str | Ids, ...]: (answers, f"texts, or sequences of ids: {_IDS}"),
    Decay | None: (decay, "a whole number and a number: (start, factor)"),
    tuple[Bias, ...]: (biases, "a mapping of sequences of ids to numbers, or pairs of them"),
    tuple[Phrase, ...]: (phrases, "sequences of ids, or lists of alternatives of them"),
}
