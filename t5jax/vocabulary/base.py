"""What every vocabulary offers."""

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
# More than any model has (umT5: 300), and few enough to make.
MOST_EXTRA_IDS = 65_536


class Vocabulary(ABC):
    """A tokenizer: ids 0 to vocab_size - 1. Instances are immutable and hashable."""

    kind: ClassVar[str]
    pad_id: int = 0

    def __init__(self, extra_ids: int):
        self.extra_ids = check_extra_ids(extra_ids)

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of ids, sentinels included, without padding to a multiple of anything."""

    @property
    @abstractmethod
    def eos_id(self) -> int:
        """The id that ends a sequence."""

    @property
    @abstractmethod
    def unk_id(self) -> int:
        """The id of what the vocabulary cannot express."""

    @property
    @abstractmethod
    def sentinel_ids(self) -> Sequence[int]:
        """The ids that objectives put for spans: `<extra_id_0>`'s, `<extra_id_1>`'s, …"""

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without EOS. A tokenizer.json may begin every text with a token.

        Raises:
          TypeError: `text` is no string. ValueError: it holds half of a surrogate pair, which has
            no UTF-8.
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
          TypeError: `ids` are no whole numbers. ValueError: one is negative, or they have more than
            one dimension.
        """
        return self._decode(_until_eos(ids, self.eos_id))

    @abstractmethod
    def _decode(self, ids: list[int]) -> str:
        """The text of ids from 0 on, of which the last may be EOS."""

    def description(self) -> dict[str, Any]:
        """What `vocabulary.json` says."""
        return {"kind": self.kind, "extra_ids": self.extra_ids}

    def save(self, folder: str | Path) -> None:
        """Writes the files that load_vocabulary reads into `folder`, which is made if missing."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.description()) + "\n"
        (folder / DESCRIPTION).write_text(text, encoding="utf-8")


def check_extra_ids(extra_ids: Any) -> int:
    """`extra_ids`, if it is a number of sentinels. TypeError or ValueError otherwise."""
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
    """The ids as Python integers, up to and with the first EOS."""
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
