"""ByT5's vocabulary: bytes."""

from __future__ import annotations

from t5jax.vocabulary.base import Vocabulary

FIRST_BYTE = 3  # the id of byte 0
BYTE_EXTRA_IDS = 125  # ByT5: 3 special ids + 256 bytes + 125 sentinels = 384


class ByteVocabulary(Vocabulary):
    """UTF-8 bytes + 3, as ByT5 has it; the sentinels are ids of which no text is made.

    The ids of `seqio.ByteVocabulary(extra_ids)`, except that vocab_size counts 125 sentinels
    unless told otherwise (seqio's default is none).
    """

    kind = "bytes"
    eos_id = 1
    unk_id = 2

    def __init__(self, extra_ids: int = BYTE_EXTRA_IDS):
        super().__init__(extra_ids)

    @property
    def vocab_size(self) -> int:
        return FIRST_BYTE + 256 + self.extra_ids

    def _encode(self, text: str) -> list[int]:
        return [byte + FIRST_BYTE for byte in text.encode("utf-8")]

    def _decode(self, ids: list[int]) -> str:
        # Broken UTF-8 sequences are dropped.
        return self.decode_bytes(ids).decode("utf-8", errors="ignore")

    def decode_bytes(self, ids: list[int]) -> bytes:
        """The bytes of ids; special ids, sentinels and ids past the end have none."""
        values = (i - FIRST_BYTE for i in ids)
        return bytes(v for v in values if 0 <= v < 256)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByteVocabulary) and self.extra_ids == other.extra_ids

    def __hash__(self) -> int:
        return hash((self.kind, self.extra_ids))

    def __repr__(self) -> str:
        return f"ByteVocabulary(extra_ids={self.extra_ids})"
