"""The base class of vocabularies."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from t5jax.knobs import short

DESCRIPTION = "vocabulary.json"
# More than any model has (umT5: 300); a damaged file cannot ask for more.
MOST_EXTRA_IDS = 65_536


class Vocabulary(ABC):
    """A tokenizer: ids 0 to vocab_size - 1. Instances are immutable and hashable.

    Attributes:
      vocab_size: number of ids, sentinels included; models may pad their embedding to more rows.
      pad_id: the padding id.
      eos_id: the id that ends a sequence.
      unk_id: the id of unknown text.
      extra_ids: number of sentinels.
    """

    kind: ClassVar[str]
    vocab_size: int
    pad_id: int = 0
    eos_id: int
    unk_id: int

    def __init__(self, extra_ids: int):
        self.extra_ids = check_extra_ids(extra_ids)

    @property
    @abstractmethod
    def _key(self) -> tuple[object, ...]:
        """Vocabularies of a class are equal if their keys are."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[object, ...]:
        return (self.kind, *self._key)

    @property
    @abstractmethod
    def sentinel_ids(self) -> Sequence[int]:
        """The ids of `<extra_id_0>`, `<extra_id_1>`, …, which replace spans in objectives."""

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without EOS. A tokenizer.json may prepend a token.

        Raises:
          TypeError: `text` is not a string. ValueError: it holds a lone surrogate.
        """
        if not isinstance(text, str):
            raise TypeError(f"text={short(text)} must be a string, not {type(text).__name__}")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"text={short(text)} holds a lone surrogate at {error.start}, which is no character"
            ) from None
        return self._encode(text)

    @abstractmethod
    def _encode(self, text: str) -> list[int]:
        """`encode` of a string that UTF-8 can express."""

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of one sequence of ids, up to the first EOS. Padding gives no text.

        Raises:
          TypeError: `ids` are not integers. ValueError: a negative id, or more than one dimension.
        """
        return self._decode(_until_eos(ids, self.eos_id))

    @abstractmethod
    def _decode(self, ids: list[int]) -> str:
        """`decode` of ids that are 0 or more, of which the last may be EOS."""

    def description(self) -> dict[str, Any]:
        """The content of `vocabulary.json`."""
        return {"kind": self.kind, "extra_ids": self.extra_ids}

    def save(self, folder: str | Path) -> None:
        """Writes files for `load_vocabulary` into `folder`, which is made if missing."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.description()) + "\n"
        (folder / DESCRIPTION).write_text(text, encoding="utf-8")


def check_extra_ids(extra_ids: Any) -> int:
    """`extra_ids`; TypeError or ValueError unless it is a valid number of sentinels."""
    if not isinstance(extra_ids, int) or isinstance(extra_ids, bool):
        raise TypeError(f"extra_ids={short(extra_ids)} must be a whole number")
    if not 0 <= extra_ids <= MOST_EXTRA_IDS:
        raise ValueError(f"extra_ids={short(extra_ids)}; use 0 to {MOST_EXTRA_IDS}")
    return extra_ids


def path_of(value: Any, name: str) -> Path:
    """`value` as a path; TypeError names the argument."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name}={short(value)} must be a path, not {type(value).__name__}")
    return Path(value)


def _until_eos(ids: Sequence[int] | np.ndarray, eos_id: int) -> list[int]:
    """The ids as Python integers, up to the first EOS, included."""
    try:
        array = np.asarray(ids)
    except ValueError:  # rows of several lengths
        array = np.asarray(None)
    if array.ndim > 1:
        raise ValueError(f"decode takes one sequence of ids, not an array of shape {array.shape}")
    if array.ndim == 0 or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise TypeError(f"ids={short(ids)} must be one sequence of whole numbers")
    values: list[int] = array.tolist()
    if values and min(values) < 0:
        raise ValueError(f"ids holds {min(values)}; ids are 0 or more")
    return values[: values.index(eos_id) + 1] if eos_id in values else values
