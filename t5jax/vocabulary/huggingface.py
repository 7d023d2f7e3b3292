"""Tokenizer files of Hugging Face's T5 folders, for transformers 4 and 5."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from t5jax.vocabulary.added_tokens import SENTINEL, AddedToken, AddedTokensVocabulary
from t5jax.vocabulary.base import Vocabulary, path_of
from t5jax.vocabulary.byte_level import BYTE_EXTRA_IDS, ByteVocabulary
from t5jax.vocabulary.conversion import fits_t5_tokenizer, padding, to_tokenizer_json
from t5jax.vocabulary.huggingface_files import (
    ADDED,
    CONFIG,
    SPECIAL,
    SPECIAL_ROLES,
    Files,
    Numbered,
    is_plain,
    tokens_of,
)
from t5jax.vocabulary.sentencepiece import SENTENCEPIECE_MODEL, SentencePieceVocabulary
from t5jax.vocabulary.sentencepiece_model import has_own_sentinels
from t5jax.vocabulary.tokenizer_json import (
    EOS,
    PAD,
    TOKENIZER_JSON,
    UNK,
    OtherSuffix,
    TokenizerJsonVocabulary,
    without_ids_past,
)

_BYTE_CLASS = "ByT5Tokenizer"
# Reads a tokenizer.json unchanged; a class of transformers 4 and 5.
_FAST_CLASS = "PreTrainedTokenizerFast"


def from_tokenizer_json(folder: Path, rows: int) -> Vocabulary | None:
    """The vocabulary of a folder whose ids only its `tokenizer.json` tells.

    Of PEGASUS and others the ids of the SentencePiece model, if there is one, are not the model's.

    Args:
      folder: the folder.
      rows: of the embedding. Special tokens past them are left out.

    Returns:
      None if the folder has no tokenizer.json, or one that ends texts with more than EOS, as
      mBART's does; the latter is said on stderr.

    Raises:
      ValueError: a damaged file; the message names it.
    """
    path = folder / TOKENIZER_JSON
    if not path.is_file():
        return None
    files = Files(folder)
    names = {role: files.roles[role].content for role in SPECIAL_ROLES if role in files.roles}
    content = without_ids_past(path.read_bytes(), rows)
    source: bytes | Path = path if content == path.read_bytes() else content
    try:
        return TokenizerJsonVocabulary(source, **names)
    except OtherSuffix as error:
        print(f"warning: no text, only ids: {error}", file=sys.stderr)
        return None


def from_huggingface(folder: str | Path, *, byte_level: bool = False) -> Vocabulary:
    """The vocabulary of a Hugging Face folder of the T5 family.

    - Bytes, if its configuration names ByT5's tokenizer.
    - Else `spiece.model`, which gives exactly the ids of pre-training, with the number of sentinels
      that the other files say (default 100, or 0 if the model holds sentinels). If tokens were
      added to it: `tokenizer.json`, or without that file the ids of transformers 4's tokenizer in
      Python (`AddedTokensVocabulary`).
    - Else `tokenizer.json`, the only vocabulary file that transformers 5 writes.
    - Else bytes, if `byte_level`.

    Args:
      folder: the folder.
      byte_level: whether the model is byte-level by its config; used if no tokenizer file exists.

    Raises:
      FileNotFoundError: no tokenizer.
      ValueError: a damaged file; the message names it.
    """
    folder = path_of(folder, "folder")
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    files = Files(folder)
    # transformers always writes extra_ids=0 for ByT5, so count the tokens first.
    extra_ids = files.sentinels() or files.config.extra_ids
    pieces, fast = folder / SENTENCEPIECE_MODEL, folder / TOKENIZER_JSON
    if files.tokenizer_class == _BYTE_CLASS:
        return _with_tokens(files, ByteVocabulary(0), _bytes(extra_ids), folder)
    if pieces.is_file():
        own = has_own_sentinels(pieces.read_bytes())
        plain = SentencePieceVocabulary(pieces, 0 if own else extra_ids)
        vocabulary = _with_tokens(files, SentencePieceVocabulary(pieces, 0), plain, folder)
        if fast.is_file() and (vocabulary != plain or _lacks(plain, files.fast)):
            return _fast(files, fast)
        return vocabulary
    if fast.is_file():
        return _fast(files, fast)
    if byte_level:
        return _with_tokens(files, ByteVocabulary(0), _bytes(extra_ids), folder)
    raise FileNotFoundError(
        f"{folder}: no tokenizer; expected {SENTENCEPIECE_MODEL}, {TOKENIZER_JSON}, or a {CONFIG} "
        f"that names {_BYTE_CLASS}"
    )


def write_huggingface(vocabulary: Vocabulary, folder: str | Path) -> None:
    """Writes tokenizer files with which transformers' AutoTokenizer gives the same ids and EOS.

    `from_huggingface` reads an equal vocabulary back. In texts with special tokens Hugging Face's
    tokenizers differ from SentencePiece and from bytes: see `TokenizerJsonVocabulary`.

    Args:
      vocabulary: the vocabulary.
      folder: made if missing.

    Raises:
      ValueError: Hugging Face has no tokenizer for the SentencePiece model; nothing is written.
      TypeError: an unknown class of vocabulary.
    """
    folder, pad = Path(folder), PAD
    files: dict[str, bytes] = {}
    sentinels = [f"<extra_id_{i}>" for i in range(vocabulary.extra_ids)]
    config: dict[str, Any] = {
        "extra_ids": vocabulary.extra_ids,
        # transformers 4's defaults add token_type_ids, which T5 refuses, and remove spaces.
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
    }
    match vocabulary:
        case ByteVocabulary():
            config["tokenizer_class"] = _BYTE_CLASS
            sentinels.reverse()  # ids ascend in this order, and <extra_id_0> is the highest
        case SentencePieceVocabulary():
            t5 = fits_t5_tokenizer(vocabulary)
            config["tokenizer_class"] = "T5Tokenizer" if t5 else _FAST_CLASS
            # By default, transformers 4 puts a space after every sentinel.
            config["legacy"] = False
            pad = padding(vocabulary)
            files[SENTENCEPIECE_MODEL] = vocabulary.model
            files[TOKENIZER_JSON] = to_tokenizer_json(vocabulary)
        case TokenizerJsonVocabulary():
            config["tokenizer_class"] = _FAST_CLASS
            # Sentinels that begin with SentencePiece's space are ordinary pieces.
            present = vocabulary.tokenizer.get_vocab()
            sentinels = [token for token in sentinels if token in present]
            files[TOKENIZER_JSON] = vocabulary.json
        case AddedTokensVocabulary(base=base):
            # No tokenizer.json: transformers 4 would prefer it, and decode with other spaces.
            if isinstance(base, SentencePieceVocabulary):
                files[SENTENCEPIECE_MODEL] = base.model
            else:
                config["extra_ids"] = 0  # ByT5Tokenizer refuses numbers other than 0 and its own
            is_bytes = isinstance(base, ByteVocabulary)
            config["tokenizer_class"] = _BYTE_CLASS if is_bytes else "T5Tokenizer"
            config["legacy"] = vocabulary.legacy
            config["added_tokens_decoder"] = {str(t.id): _written(t) for t in vocabulary.tokens}
            added = {t.text: t.id for t in vocabulary.tokens if t.id >= base.vocab_size}
            files[ADDED] = _dump(added)
        case _:
            raise TypeError(f"Hugging Face has no tokenizer like {vocabulary!r}")
    special = _special(vocabulary, pad, sentinels)
    files |= {CONFIG: _dump(special | config), SPECIAL: _dump(special)}
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _special(vocabulary: Vocabulary, pad: str, sentinels: list[str]) -> dict[str, Any]:
    """The special tokens by role, in the files' format."""
    if isinstance(vocabulary, AddedTokensVocabulary):
        return _written_special(vocabulary)
    special: dict[str, Any] = {"eos_token": EOS, "pad_token": pad, "unk_token": UNK}
    special["additional_special_tokens"] = sentinels
    if isinstance(vocabulary, TokenizerJsonVocabulary):
        special |= {role: getattr(vocabulary, role) for role in SPECIAL_ROLES}
    return special


def _written(token: AddedToken) -> dict[str, Any]:
    flags = dataclasses.asdict(token)
    del flags["id"], flags["role"]
    return flags | {"content": flags.pop("text"), "normalized": not token.special}


def _written_special(vocabulary: AddedTokensVocabulary) -> dict[str, Any]:
    special: dict[str, Any] = {t.role: t.text for t in vocabulary.tokens if t.role}
    special["additional_special_tokens"] = [
        token.text for token in vocabulary.tokens if token.special and not token.role
    ]
    return special


def _with_tokens(
    files: Files,
    base: SentencePieceVocabulary | ByteVocabulary,
    plain: Vocabulary,
    folder: Path,
) -> Vocabulary:
    """`plain`, or the base with all tokens if `plain` lacks some."""
    tokens = tokens_of(files, base, plain.extra_ids)
    lacking = [t for t in tokens if not is_plain(t, base, plain.extra_ids)]
    if not lacking:
        return plain
    # transformers' default is True.
    legacy = files.config.legacy is not False or isinstance(base, ByteVocabulary)
    try:
        return AddedTokensVocabulary(base, tokens, legacy=legacy)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None


def _fast(files: Files, path: Path) -> TokenizerJsonVocabulary:
    names = {role: files.roles[role].content for role in SPECIAL_ROLES if role in files.roles}
    return TokenizerJsonVocabulary(path, **names)


def _lacks(plain: SentencePieceVocabulary, tokens: Iterable[Numbered]) -> bool:
    find, unk = plain.processor.piece_to_id, plain.unk_id
    names = [token.content for token in tokens if not SENTINEL.fullmatch(token.content)]
    return any(find(name) == unk for name in names if name != UNK)


def _bytes(extra_ids: int | None) -> ByteVocabulary:
    return ByteVocabulary(BYTE_EXTRA_IDS if extra_ids is None else extra_ids)


def _dump(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode("utf-8")
