"""Types of generation options.

Each type has a reader that makes a value of a caller, a file or the command line immutable and
hashable.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from t5jax.knobs import LARGEST, Kind, number, switch, whole


def early_stopping(value: Any) -> EarlyStopping:
    """True, False or "never"; "true" and "false" too."""
    if isinstance(value, str):
        return _STOPPING[value.lower()]
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


def ids(value: Any) -> IdList:
    """One id or several."""
    try:
        return (_id(value),)
    except TypeError:
        return tuple(map(_id, _several(value)))


def sequences(value: Any) -> Sequences:
    """Sequences of at least one id."""
    found = tuple(map(ids, _several(value)))
    if not all(found):
        raise ValueError
    return found


def _some_text(value: Any) -> str:
    """A text that is not empty and has a UTF-8 encoding."""
    if not isinstance(value, str) or not value:
        raise TypeError
    value.encode()
    return value


def texts(value: Any) -> Texts:
    """One text or several."""
    return (
        (_some_text(value),) if isinstance(value, str) else tuple(map(_some_text, _several(value)))
    )


def answers(value: Any) -> Answers:
    """One text, or texts and sequences of ids; an answer may be empty."""

    def answer(value: Any) -> str | IdList:
        if not isinstance(value, str):
            return ids(value)
        value.encode()
        return value

    return (answer(value),) if isinstance(value, str) else tuple(map(answer, _several(value)))


def decay(value: Any) -> Decay:
    """A whole number and a positive number."""
    start, factor = _several(value)
    found = whole(start), number(factor)
    if abs(found[0]) > LARGEST or found[1] <= 0:
        raise ValueError
    return found


def biases(value: Any) -> Biases:
    """A mapping of sequences to numbers, or pairs; the last of a repeated sequence counts."""
    pairs = value.items() if isinstance(value, Mapping) else map(_several, _several(value))
    found = {ids(sequence): number(bias) for sequence, bias in pairs}
    if not all(found):
        raise ValueError
    return tuple(found.items())


def phrases(value: Any) -> Phrases:
    """Phrases: each a sequence of ids, or several alternatives."""

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


def _ids_of(text: str) -> IdList:
    return tuple(int(word) for word in text.split(","))


def _decay_of(text: str) -> Any:
    return tuple(float(word) if place else int(word) for place, word in enumerate(text.split(",")))


def _bias_of(text: str) -> tuple[IdList, float]:
    sequence, bias = text.split("=")
    return _ids_of(sequence), float(bias)


def _phrase_of(text: str) -> Phrase:
    return tuple(map(_ids_of, text.split("|")))


_IDS = "whole numbers from 0"
_STOPPING: dict[str, EarlyStopping] = {"true": True, "false": False, "never": "never"}

IdList = Annotated[tuple[int, ...], Kind(ids, f"ids: {_IDS}", _ids_of, "IDS")]
EarlyStopping = Annotated[
    Literal[True, False, "never"],
    Kind(early_stopping, "true, false or never", early_stopping, "true|false|never"),
]
Sequences = Annotated[
    tuple[tuple[int, ...], ...],
    Kind(sequences, f"sequences of at least one id: {_IDS}", _ids_of, "IDS", repeated=True),
]
Texts = Annotated[
    tuple[str, ...], Kind(texts, "texts of at least one character", str, "TEXT", repeated=True)
]
Answers = Annotated[
    tuple[str | tuple[int, ...], ...],
    Kind(answers, f"texts, or sequences of ids: {_IDS}", str, "TEXT", repeated=True),
]
# The number of tokens after which it begins, and the factor of each further token.
Decay = Annotated[
    tuple[int, float],
    Kind(
        decay,
        "a whole number and a number: (start, factor), with a factor that is positive",
        _decay_of,
        "START,FACTOR",
    ),
]
# Sequences of ids, each with a bias for the logit of its last id after its other ids.
Biases = Annotated[
    tuple[tuple[tuple[int, ...], float], ...],
    Kind(
        biases,
        "a mapping of sequences of ids to numbers, or pairs of them",
        _bias_of,
        "IDS=NUMBER",
        repeated=True,
    ),
]
Phrase = tuple[tuple[int, ...], ...]  # alternatives of a phrase
Phrases = Annotated[
    tuple[Phrase, ...],
    Kind(
        phrases,
        "sequences of ids, or lists of alternatives of them",
        _phrase_of,
        "IDS|IDS|…",
        repeated=True,
    ),
]
