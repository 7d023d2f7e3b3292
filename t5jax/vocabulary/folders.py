"""Vocabularies in folders and files, and by the name that a config gives."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pydantic

from t5jax.paths import user_path
from t5jax.schema import Schema, read_json
from t5jax.vocabulary.added_tokens import AddedToken, AddedTokensVocabulary
from t5jax.vocabulary.base import DESCRIPTION, MOST_EXTRA_IDS, Vocabulary, path_of
from t5jax.vocabulary.byte_level import BYTE_EXTRA_IDS, LAST_BYTE, ByteVocabulary
from t5jax.vocabulary.huggingface import from_huggingface
from t5jax.vocabulary.sentencepiece import SENTENCEPIECE_MODEL, SentencePieceVocabulary
from t5jax.vocabulary.tokenizer_json import TOKENIZER_JSON, TokenizerJsonVocabulary


def save_vocabulary(vocabulary: Vocabulary, folder: str | Path) -> None:
    """Writes `vocabulary.json` into `folder`, with `spiece.model` or `tokenizer.json` if used."""
    vocabulary.save(path_of(folder, "folder"))


def load_vocabulary(folder: str | Path, extra_ids: int | None = None) -> Vocabulary:
    """Reads a folder of `save_vocabulary`. `extra_ids`, if given, replaces the saved number.

    A tokenizer.json and added tokens accept only their own number.

    Raises:
      FileNotFoundError: a file is missing. ValueError: a file is invalid.
    """
    folder = path_of(folder, "folder")
    path = folder / DESCRIPTION
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; save_vocabulary writes it")
    saved = read_json(path, _Description)
    n = saved.extra_ids if extra_ids is None else extra_ids
    if saved.kind == ByteVocabulary.kind:
        # Older versions saved no first_sentinel and used the extra ids; their runs still do.
        first = LAST_BYTE if saved.first_sentinel == LAST_BYTE else LAST_BYTE + n
        return ByteVocabulary(n, first_sentinel=first)
    if saved.kind == SentencePieceVocabulary.kind:
        return SentencePieceVocabulary(folder / SENTENCEPIECE_MODEL, n)
    if saved.kind == TokenizerJsonVocabulary.kind:
        names = dict(read_json(path, _Names))
        return _checked(TokenizerJsonVocabulary(folder / TOKENIZER_JSON, **names), n)
    added = read_json(path, _WithTokens)
    base: SentencePieceVocabulary | ByteVocabulary
    if added.base == ByteVocabulary.kind:
        base = ByteVocabulary(0)
    else:
        base = SentencePieceVocabulary(folder / SENTENCEPIECE_MODEL, 0)
    tokens = [AddedToken(**dict(token)) for token in added.tokens]
    try:
        return _checked(AddedTokensVocabulary(base, tokens, legacy=added.legacy), n)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


class _Description(Schema):
    kind: Literal["bytes", "sentencepiece", "tokenizer_json", "added_tokens"]
    extra_ids: Annotated[int, pydantic.Field(ge=0, le=MOST_EXTRA_IDS)]
    first_sentinel: int | None = None


class _Names(Schema):
    eos_token: str | None = None
    unk_token: str | None = None
    pad_token: str | None = None


class _Token(Schema):
    text: str
    id: Annotated[int, pydantic.Field(ge=0)]
    lstrip: bool
    rstrip: bool
    single_word: bool
    special: bool
    role: str


class _WithTokens(Schema):
    base: Literal["bytes", "sentencepiece"]
    legacy: bool
    tokens: list[_Token]


def make_vocabulary(spec: str | Path, extra_ids: int | None = None) -> Vocabulary:
    """The vocabulary that a config names.

    Args:
      spec: "bytes", a SentencePiece model file, a tokenizer.json, a folder of `save_vocabulary`, or
        a Hugging Face folder.
      extra_ids: sentinels to add. Default: 125 for bytes, 100 for a model file (0 if it holds
        sentinels), the saved number for a folder. A tokenizer.json and a Hugging Face folder accept
        only their own number.

    Raises:
      FileNotFoundError: `spec` is none of these.
      ValueError: an invalid file or folder, or another number of sentinels.
    """
    if str(spec) == ByteVocabulary.kind:
        return ByteVocabulary(BYTE_EXTRA_IDS if extra_ids is None else extra_ids)
    path = user_path(path_of(spec, "vocabulary"))
    if (path / DESCRIPTION).is_file():
        return load_vocabulary(path, extra_ids)
    if path.is_dir():
        try:
            return _checked(from_huggingface(path), extra_ids)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}; or {DESCRIPTION}, of t5jax's own") from None
    if path.is_file() and path.suffix == ".json":
        return _checked(TokenizerJsonVocabulary(path), extra_ids)
    if path.is_file():
        return SentencePieceVocabulary(path, extra_ids)
    raise FileNotFoundError(
        f"vocabulary {str(spec)!r} not found; use 'bytes', a SentencePiece .model file, a "
        f"{TOKENIZER_JSON}, or a folder with {DESCRIPTION} or Hugging Face's tokenizer files"
    )


def _checked(vocabulary: Vocabulary, extra_ids: int | None) -> Vocabulary:
    if extra_ids not in (None, vocabulary.extra_ids):
        raise ValueError(
            f"extra_ids={extra_ids}, but {vocabulary!r} has {vocabulary.extra_ids} of its own"
        )
    return vocabulary
