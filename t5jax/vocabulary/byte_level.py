"""ByT5's vocabulary: bytes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from t5jax.vocabulary.base import Vocabulary, until_eos

BYTE_EXTRA_IDS = 125  # ByT5: 3 special ids + 256 bytes + 125 sentinels = 384


class ByteVocabulary(Vocabulary):
    """UTF-8 bytes + 3, as ByT5 has it; the sentinels are ids of which no text is made.

    The ids of `seqio.ByteVocabulary(extra_ids)`, except that vocab_size counts 125 sentinels
    unless told otherwise (seqio's default is none).
    """

    kind = "bytes"
    eos_id = 1
    unk_id = 2

    _FIRST_BYTE = 3

    def __init__(self, extra_ids: int = BYTE_EXTRA_IDS):
        super().__init__(extra_ids)

    @property
    def vocab_size(self) -> int:
        return self._FIRST_BYTE + 256 + self.extra_ids

    def encode(self, text: str) -> list[int]:
        return [byte + self._FIRST_BYTE for byte in text.encode("utf-8")]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        # Special ids, sentinels and ids past the end are dropped, as are broken UTF-8 sequences.
        values = (i - self._FIRST_BYTE for i in until_eos(ids, self.eos_id))
        return bytes(v for v in values if 0 <= v < 256).decode("utf-8", errors="ignore")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByteVocabulary) and self.extra_ids == other.extra_ids

    def __hash__(self) -> int:
        return hash((self.kind, self.extra_ids))

    def __repr__(self) -> str:
        return f"ByteVocabulary(extra_ids={self.extra_ids})"
