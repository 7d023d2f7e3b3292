"""What every vocabulary offers."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

DESCRIPTION = "vocabulary.json"


class Vocabulary(ABC):
    """A tokenizer: ids 0 (padding) to vocab_size - 1. Instances are immutable and hashable."""

    kind: ClassVar[str]
    pad_id: ClassVar[int] = 0

    def __init__(self, extra_ids: int):
        if extra_ids < 0:
            raise ValueError(f"extra_ids={extra_ids}; use 0 or more")
        self.extra_ids = extra_ids

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

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without EOS."""

    @abstractmethod
    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of one sequence of ids, up to the first EOS. Padding gives no text.

        Raises ValueError if `ids` has more than one dimension.
        """

    def save(self, folder: str | Path) -> None:
        """Writes the files that load_vocabulary reads into `folder`, which is made if missing."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        description = {"kind": self.kind, "extra_ids": self.extra_ids}
        (folder / DESCRIPTION).write_text(json.dumps(description) + "\n", encoding="utf-8")


def until_eos(ids: Sequence[int] | np.ndarray, eos_id: int) -> list[int]:
    """The ids as Python integers, up to and with the first EOS."""
    array = np.asarray(ids, dtype=np.int64)
    if array.ndim != 1:
        raise ValueError(f"decode takes one sequence of ids, not an array of shape {array.shape}")
    values: list[int] = array.tolist()
    return values[: values.index(eos_id) + 1] if eos_id in values else values
