"""The text of each id, and streaming of text from ids."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence

from t5jax.vocabulary.added_tokens import AddedTokensVocabulary
from t5jax.vocabulary.base import Vocabulary
from t5jax.vocabulary.byte_level import ByteVocabulary
from t5jax.vocabulary.sentencepiece import SentencePieceVocabulary
from t5jax.vocabulary.tokenizer_json import TokenizerJsonVocabulary

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
# Decoded before each id, because decoders drop a leading space.
_BEFORE = "a"


@functools.lru_cache(maxsize=4)
def token_texts(vocabulary: Vocabulary) -> tuple[bytes, ...]:
    """Each id's UTF-8 text inside a text, with the space that begins a word.

    Padding and EOS have no text; a byte token is its byte.
    """
    if isinstance(vocabulary, ByteVocabulary):
        return tuple(vocabulary.decode_bytes([i]) for i in range(vocabulary.vocab_size))
    if isinstance(vocabulary, AddedTokensVocabulary) and isinstance(
        vocabulary.base, ByteVocabulary
    ):
        added = {token.id: token.text.encode() for token in vocabulary.tokens if token.id > 1}
        return tuple(
            added.get(i, vocabulary.base.decode_bytes([i])) for i in range(vocabulary.vocab_size)
        )
    before = vocabulary.encode(_BEFORE)
    start = len(vocabulary.decode(before))
    silent = (vocabulary.pad_id, vocabulary.eos_id)
    texts = []
    for i in range(vocabulary.vocab_size):
        byte = _BYTE.fullmatch(_piece(vocabulary, i))
        if i in silent:
            texts.append(b"")
        elif byte:
            texts.append(bytes.fromhex(byte[1]))
        else:
            texts.append(vocabulary.decode([*before, i])[start:].encode())
    return tuple(texts)


def _piece(vocabulary: Vocabulary, i: int) -> str:
    if isinstance(vocabulary, AddedTokensVocabulary):
        vocabulary = vocabulary.base
    if isinstance(vocabulary, SentencePieceVocabulary) and i < vocabulary.vocab_size:
        return vocabulary.processor.id_to_piece(i)
    if isinstance(vocabulary, TokenizerJsonVocabulary):
        return vocabulary.tokenizer.id_to_token(i) or ""
    return ""


def pieces(vocabulary: Vocabulary, ids: Iterator[Sequence[int]]) -> Iterator[str]:
    """Streams the text of ids; the pieces join to `decode` of all ids.

    A piece is yielded once no later id can change it: trailing spaces and incomplete UTF-8
    characters wait.
    """
    so_far: list[int] = []
    given = ""
    for some in ids:
        so_far += some
        text = vocabulary.decode(so_far)
        sure = text.rstrip("\N{REPLACEMENT CHARACTER}").rstrip()
        if len(sure) > len(given) and sure.startswith(given):
            yield sure[len(given) :]
            given = sure
    rest = vocabulary.decode(so_far)[len(given) :]
    if rest:
        yield rest
