"""The ids that objectives put for spans, of seqio's vocabularies and of ours."""

from __future__ import annotations

from collections.abc import Sequence

import seqio

from t5jax.tasks.wrapped import WrappedBytes, WrappedVocabulary
from t5jax.vocabulary import ByteVocabulary


def sentinel_ids(vocabulary: seqio.Vocabulary) -> Sequence[int]:
    """The ids of `<extra_id_0>`, `<extra_id_1>`, …; none where the vocabulary has none.

    As T5's `sentinel_id`, from the last id of the vocabulary downwards: the extra ids, the pieces
    of that name that mT5's models hold, or of bytes without extra ids the bytes, as ByT5.
    """
    if isinstance(vocabulary, WrappedBytes | WrappedVocabulary):
        return vocabulary.wrapped.sentinel_ids
    last = vocabulary.vocab_size - 1
    if vocabulary.extra_ids:
        return range(last, last - vocabulary.extra_ids, -1)
    if isinstance(vocabulary, seqio.ByteVocabulary):
        return ByteVocabulary(0).sentinel_ids
    count = 0
    if isinstance(vocabulary, seqio.SentencePieceVocabulary):
        piece = vocabulary.tokenizer.id_to_piece
        while count <= last and piece(last - count).lstrip("▁") == f"<extra_id_{count}>":
            count += 1
    return range(last, last - count, -1)
