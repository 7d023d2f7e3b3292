"""Our vocabularies as seqio's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import seqio
import tensorflow as tf

from t5jax.vocabulary import ByteVocabulary, Vocabulary


class WrappedBytes(seqio.ByteVocabulary):
    """seqio's byte vocabulary with our sentinels; equal to one with as many extra ids."""

    def __init__(self, vocabulary: ByteVocabulary):
        super().__init__(extra_ids=vocabulary.extra_ids)
        self.wrapped = vocabulary


class WrappedVocabulary(seqio.Vocabulary):
    """Our vocabulary as a seqio vocabulary. Wrappers of equal vocabularies are equal.

    tf.data tokenizes in Python: one text at a time in a process, and not in a saved graph or on
    another machine.
    """

    def __init__(self, vocabulary: Vocabulary):
        super().__init__(extra_ids=vocabulary.extra_ids)
        self.wrapped = vocabulary

    @property
    def bos_id(self) -> None:
        return None

    @property
    def eos_id(self) -> int:
        return self.wrapped.eos_id

    @property
    def unk_id(self) -> int:
        return self.wrapped.unk_id

    @property
    def vocab_size(self) -> int:
        return self.wrapped.vocab_size

    @property
    def _base_vocab_size(self) -> int:
        # Includes sentinels, as in seqio's SentencePiece; ids beyond it decode as unknown.
        return self.wrapped.vocab_size

    def _encode(self, s: str) -> Sequence[int]:
        return self.wrapped.encode(s)

    def _decode(self, ids: Iterable[int]) -> str:
        return self.wrapped.decode(list(ids))

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor | tf.RaggedTensor:
        """Texts of any rank up to 1 -> ids, int32, of one rank more."""
        if s.shape.rank == 1:
            rows = tf.RaggedTensorSpec([None], tf.int32, ragged_rank=0)
            return tf.map_fn(self._encode_tf, s, fn_output_signature=rows)
        ids = tf.numpy_function(self._encode_bytes, [s], tf.int32)
        ids.set_shape([None])
        return ids

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        """Ids of rank 1 or 2 -> texts of one rank less."""
        if ids.shape.rank == 2:
            return tf.map_fn(self._decode_tf, ids, fn_output_signature=tf.string)
        text = tf.numpy_function(lambda row: self._decode(row).encode("utf-8"), [ids], tf.string)
        text.set_shape([])
        return text

    def _encode_bytes(self, text: bytes | np.ndarray) -> np.ndarray:
        # A graph passes bytes, an eager call an array of rank 0.
        utf8 = text if isinstance(text, bytes) else text.item()
        return np.array(self.wrapped.encode(utf8.decode("utf-8", errors="replace")), np.int32)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WrappedVocabulary) and self.wrapped == other.wrapped

    def __hash__(self) -> int:
        return hash(self.wrapped)

    def __str__(self) -> str:
        return f"WrappedVocabulary({self.wrapped!r})"
