"""Checks of the arguments of `Text2Text`'s methods: texts, ids, dtypes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from t5jax.knobs import Range, check_value, short
from t5jax.model.contract import ModelConfig


def dtype_of(value: Any, also: str = "") -> np.dtype:
    """A dtype that models are held in, from its name or itself; `also` names one more.

    Raises:
      ValueError: it is another one, or none.
    """
    names = ("float32", "bfloat16", also)
    try:
        found = jnp.dtype(value)
    except (TypeError, ValueError, RecursionError):
        found = None
    if value is not None and found is not None and found.name in names:
        return found
    reason = ""
    if found == np.float16:
        reason = ": activations may pass float16's largest, 65,504; bfloat16 goes to 3e38"
    wanted = " or ".join(repr(name) for name in names if name)
    raise ValueError(f"dtype={short(value)} must be {wanted}{reason}")


def need_type(name: str, value: Any, kind: Any, wanted: str) -> None:
    """TypeError where `value` is of another type than `kind`, which is called `wanted`."""
    if not isinstance(value, kind):
        raise TypeError(f"{name}={short(value)} must be {wanted}")


def list_of_texts(name: str, texts: Any) -> list[str]:
    """One text or several as a list.

    Raises:
      TypeError: it is none, or one of them is no str. ValueError: one cannot be written as UTF-8.
    """
    if isinstance(texts, str):
        found = [texts]
    elif isinstance(texts, bytes | bytearray | Mapping) or not isinstance(texts, Iterable):
        raise TypeError(f"{name}={short(texts)} must be a str, or a list of them")
    else:
        found = list(texts)
    for i, text in enumerate(found):
        where = name if isinstance(texts, str) else f"{name}[{i}]"
        if not isinstance(text, str):
            raise TypeError(f"{where}={short(text)} must be a str")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{where}={short(text)} is no text: character {error.start} is half of a "
                "surrogate pair"
            ) from None
    return found


def array_of_ids(name: str, ids: Any, config: ModelConfig) -> np.ndarray:
    """Ids as int32[B, S].

    Raises:
      ValueError: they are of another shape or type, or past the model's vocabulary.
    """
    try:
        ids = np.asarray(ids)
    except ValueError:  # rows of several lengths
        raise ValueError(
            f"{name} must be int[rows, tokens] with rows of one length; pad them with "
            f"{config.pad_token_id}"
        ) from None
    if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
        if ids.size == 0:
            return np.zeros((len(ids), 0), np.int32)
        raise ValueError(f"{name} must be int[rows, tokens], not {ids.dtype}{list(ids.shape)}")
    if ids.size and not 0 <= ids.min() <= ids.max() < config.vocab_size:
        bad = ids.min() if ids.min() < 0 else ids.max()
        raise ValueError(f"{name} holds id {bad}; ids are 0 to {config.vocab_size - 1}")
    return ids.astype(np.int32)


def check_length(name: str, tokens: int, limit_name: str, limit: int | None) -> None:
    """ValueError where `tokens` are more than `limit`, the model's positions; None: no limit."""
    if limit is not None and tokens > limit:
        raise ValueError(f"{name} has {tokens} tokens; the model's {limit_name} is {limit}")


def padded(
    rows: Sequence[Sequence[int]] | np.ndarray, pad: int, shape: tuple[int, ...] | None = None
) -> np.ndarray:
    """Rows of ids as int32[B, S], or of a larger `shape`, filled up with `pad`."""
    out = np.full(shape or (len(rows), max(map(len, rows), default=0)), pad, np.int32)
    for row, ids in zip(out, rows, strict=False):
        row[: len(ids)] = ids
    return out


def trimmed(ids: np.ndarray, pad: int) -> np.ndarray:
    """Ids without the columns at the end that are padding in every row; one column at least."""
    return ids[:, : max(1, lengths_of(ids != pad).max(initial=0))]


def lengths_of(mask: np.ndarray) -> np.ndarray:
    """bool[B, S], False at padding -> int[B]: columns up to each row's last token."""
    return np.where(mask, np.arange(1, mask.shape[1] + 1), 0).max(axis=1, initial=0)


def by_length(mask: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """bool[B, S], False at padding -> row numbers in batches of like length, longest first."""
    check_value("batch_size", batch_size, int, Range(least=1))
    order = np.argsort(-lengths_of(mask), kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
