"""The sentinels of seqio's vocabularies and of ours."""

from __future__ import annotations

from collections.abc import Sequence

import seqio

from t5jax.tasks.wrapped import WrappedBytes, WrappedVocabulary
from t5jax.vocabulary import ByteVocabulary


def sentinel_ids(vocabulary: seqio.Vocabulary) -> Sequence[int]:
    """The ids of `<extra_id_0>`, `<extra_id_1>`, …; empty if the vocabulary has none.

    As in T5's `sentinel_id`, they descend from the last id: the extra ids, mT5's pieces of that
    name, or ByT5's last bytes without extra ids.
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
