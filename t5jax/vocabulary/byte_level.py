"""ByT5's vocabulary: bytes."""

from __future__ import annotations

from typing import Any

from t5jax.vocabulary.base import Vocabulary

FIRST_BYTE = 3  # the id of byte 0
LAST_BYTE = FIRST_BYTE + 255
BYTE_SENTINELS = 100
BYTE_EXTRA_IDS = 125  # ByT5: 3 special ids + 256 bytes + 125 sentinels = 384


class ByteVocabulary(Vocabulary):
    """ByT5's ids: UTF-8 bytes + 3, then extra ids, which decode to no text.

    The ids of `seqio.ByteVocabulary(extra_ids)`; `extra_ids` is 125 by default (seqio's is 0).

    Args:
      extra_ids: ids after the bytes. ByT5's checkpoints have 125 such rows, all untrained.
      first_sentinel: the id of `<extra_id_0>` in objectives. ByT5 reuses the last 100 byte ids,
        258, 257, … (arXiv:2105.13626, section 3.1); UTF-8 never uses the first eleven. Folders of
        older t5jax versions have 258 + extra_ids: the extra ids, downwards.

    Raises:
      ValueError: another `first_sentinel`.
    """

    kind = "bytes"
    eos_id = 1
    unk_id = 2

    def __init__(self, extra_ids: int = BYTE_EXTRA_IDS, *, first_sentinel: int = LAST_BYTE):
        super().__init__(extra_ids)
        if first_sentinel not in (LAST_BYTE, LAST_BYTE + extra_ids):
            raise ValueError(
                f"first_sentinel={first_sentinel}; use {LAST_BYTE} or {LAST_BYTE + extra_ids}"
            )
        self.first_sentinel = first_sentinel
        self.vocab_size = FIRST_BYTE + 256 + extra_ids

    @property
    def sentinel_ids(self) -> range:
        count = BYTE_SENTINELS if self.first_sentinel == LAST_BYTE else self.extra_ids
        return range(self.first_sentinel, self.first_sentinel - count, -1)

    def _encode(self, text: str) -> list[int]:
        return [byte + FIRST_BYTE for byte in text.encode("utf-8")]

    def _decode(self, ids: list[int]) -> str:
        return self.decode_bytes(ids).decode("utf-8", errors="ignore")

    def decode_bytes(self, ids: list[int]) -> bytes:
        """The bytes of ids; special, extra and unknown ids have none."""
        values = (i - FIRST_BYTE for i in ids)
        return bytes(v for v in values if 0 <= v < 256)

    def description(self) -> dict[str, Any]:
        return super().description() | {"first_sentinel": self.first_sentinel}

    @property
    def _key(self) -> tuple[object, ...]:
        return (self.extra_ids, self.first_sentinel)

    def __repr__(self) -> str:
        return f"ByteVocabulary(extra_ids={self.extra_ids})"
