"""The tokenizer files of Hugging Face's T5 folders, of transformers 4 and 5."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken

from t5jax.vocabulary.base import Vocabulary
from t5jax.vocabulary.byte_level import BYTE_EXTRA_IDS, ByteVocabulary
from t5jax.vocabulary.conversion import fits_t5_tokenizer, padding, to_tokenizer_json
from t5jax.vocabulary.sentencepiece import SENTENCEPIECE_MODEL, SentencePieceVocabulary
from t5jax.vocabulary.sentencepiece_model import has_own_sentinels
from t5jax.vocabulary.tokenizer_json import (
    EOS,
    PAD,
    SENTINEL,
    TOKENIZER_JSON,
    UNK,
    TokenizerJsonVocabulary,
)

_CONFIG = "tokenizer_config.json"
_SPECIAL = "special_tokens_map.json"
_ADDED = "added_tokens.json"
_BYTE_CLASS = "ByT5Tokenizer"
# Takes a tokenizer.json as it is; both versions of transformers know the name.
_FAST_CLASS = "PreTrainedTokenizerFast"


def from_huggingface(folder: str | Path, *, byte_level: bool = False) -> Vocabulary:
    """The vocabulary of a folder that holds a Hugging Face model or tokenizer of the T5 family.

    - Bytes where its configuration names ByT5's tokenizer.
    - Else `spiece.model`, whose ids are exactly those of pre-training, with as many sentinels as
      the files beside it say: by default 100, and none more where the model holds its own. Where
      tokens were added that it lacks, `tokenizer.json`, or one made of both.
    - Else `tokenizer.json`, which is all that transformers 5 writes.
    - Else bytes if `byte_level`.

    Args:
      folder: where the files are.
      byte_level: the model works on bytes, as its config says; used where no file tells.

    Raises:
      FileNotFoundError: there is none of these.
      ValueError: a file is damaged; the message names it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    config = _json(folder / _CONFIG)
    model = _json(folder / "config.json")
    name = config.get("tokenizer_class") or model.get("tokenizer_class")
    tokens = _tokens(folder)
    sentinels = len({match[1] for match in map(SENTINEL.fullmatch, tokens) if match})
    # transformers writes extra_ids=0 for ByT5 whatever there is, so the tokens come first.
    extra_ids = sentinels or config.get("extra_ids")
    if not (extra_ids is None or (isinstance(extra_ids, int) and extra_ids >= 0)):
        raise ValueError(f"{folder / _CONFIG}: extra_ids={extra_ids!r}; expected a number")
    pieces, fast = folder / SENTENCEPIECE_MODEL, folder / TOKENIZER_JSON
    if name == _BYTE_CLASS:
        return _bytes(extra_ids)
    if pieces.is_file():
        own = has_own_sentinels(pieces.read_bytes())
        vocabulary = SentencePieceVocabulary(pieces, 0 if own else extra_ids)
        lacking = _lacking(vocabulary, tokens)
        if not lacking:
            return vocabulary
        return TokenizerJsonVocabulary(fast) if fast.is_file() else _extended(vocabulary, lacking)
    if fast.is_file():
        return TokenizerJsonVocabulary(fast)
    if byte_level:
        return _bytes(extra_ids)
    raise FileNotFoundError(
        f"{folder}: no tokenizer; expected {SENTENCEPIECE_MODEL}, {TOKENIZER_JSON}, or a {_CONFIG} "
        f"that names {_BYTE_CLASS}"
    )


def write_huggingface(vocabulary: Vocabulary, folder: str | Path) -> None:
    """Writes tokenizer files from which transformers' AutoTokenizer gives the same ids and EOS.

    `from_huggingface` gives an equal vocabulary back. In texts with special tokens Hugging Face's
    tokenizers differ from SentencePiece and from bytes: see TokenizerJsonVocabulary.

    Args:
      vocabulary: bytes, SentencePiece or tokenizer.json.
      folder: made if missing.

    Raises:
      ValueError: Hugging Face has no tokenizer for such a SentencePiece model; nothing is written.
      TypeError: nor for a vocabulary of another kind.
    """
    folder = Path(folder)
    files: dict[str, bytes] = {}
    sentinels = [f"<extra_id_{i}>" for i in range(vocabulary.extra_ids)]
    pad = PAD
    config: dict[str, Any] = {
        "extra_ids": vocabulary.extra_ids,
        # Else transformers 4 makes token_type_ids, which T5 refuses, and takes spaces out of texts.
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
    }
    match vocabulary:
        case ByteVocabulary():
            config["tokenizer_class"] = _BYTE_CLASS
            sentinels.reverse()  # ids are given in this order, and <extra_id_0> is the highest
        case SentencePieceVocabulary():
            t5 = fits_t5_tokenizer(vocabulary)
            config["tokenizer_class"] = "T5Tokenizer" if t5 else _FAST_CLASS
            # Else transformers 4 puts a space after every sentinel.
            config["legacy"] = False
            pad = padding(vocabulary)
            files[SENTENCEPIECE_MODEL] = vocabulary.model
            files[TOKENIZER_JSON] = to_tokenizer_json(vocabulary)
        case TokenizerJsonVocabulary():
            config["tokenizer_class"] = _FAST_CLASS
            # Not those that hold the mark of a word's beginning: they are pieces like others.
            present = vocabulary.tokenizer.get_vocab()
            sentinels = [token for token in sentinels if token in present]
            files[TOKENIZER_JSON] = vocabulary.json
        case _:
            raise TypeError(f"Hugging Face has no tokenizer like {vocabulary!r}")
    special: dict[str, Any] = {"eos_token": EOS, "pad_token": pad, "unk_token": UNK}
    special["additional_special_tokens"] = sentinels
    files[_CONFIG] = _dump(special | config)
    files[_SPECIAL] = _dump(special)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _bytes(extra_ids: int | None) -> ByteVocabulary:
    return ByteVocabulary(BYTE_EXTRA_IDS if extra_ids is None else extra_ids)


def _dump(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode("utf-8")


def _json(path: Path) -> dict[str, Any]:
    """The object in a file, empty where there is no file."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of JSON or of UTF-8
        raise ValueError(f"{path}: damaged: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: damaged: expected an object, not a {type(content).__name__}")
    return content


class _Token(NamedTuple):
    """A token that the files name, with its id and its options where they say."""

    id: int | None
    options: dict[str, bool]


def _tokens(folder: Path) -> dict[str, _Token]:
    """The tokens by text, of all four files; a later one says more than those before it."""
    tokens: dict[str, _Token] = {}
    for name in (TOKENIZER_JSON, _SPECIAL, _ADDED, _CONFIG):
        content = _json(folder / name)
        try:
            if name == TOKENIZER_JSON:
                for token in content.get("added_tokens") or []:
                    tokens[token["content"]] = _Token(int(token["id"]), _options(token))
                continue
            if name == _ADDED:
                for text, i in content.items():
                    tokens[text] = _Token(int(i), tokens[text].options if text in tokens else {})
                continue
            for field in ("additional_special_tokens", "extra_special_tokens"):
                listed = content.get(field) or []
                for token in listed.values() if isinstance(listed, dict) else listed:
                    text = token["content"] if isinstance(token, dict) else str(token)
                    tokens.setdefault(text, _Token(None, {"special": True}))
            for i, token in (content.get("added_tokens_decoder") or {}).items():
                tokens[token["content"]] = _Token(int(i), _options(token))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{folder / name}: not a list of tokens: {error!r}") from error
    return tokens


def _options(token: Mapping[str, Any]) -> dict[str, bool]:
    """Of a token in the words of both libraries."""
    names = ("lstrip", "rstrip", "single_word", "normalized", "special")
    return {name: bool(token[name]) for name in names if name in token}


def _lacking(
    vocabulary: SentencePieceVocabulary, tokens: Mapping[str, _Token]
) -> dict[str, _Token]:
    """Those of the tokens that the vocabulary lacks, by ascending id."""
    find, unk = vocabulary.processor.piece_to_id, vocabulary.unk_id
    found = {
        text: token
        for text, token in tokens.items()
        if not SENTINEL.fullmatch(text) and text != UNK and find(text) == unk
    }
    # Those without an id get one after those that have theirs, in their order.
    return dict(sorted(found.items(), key=lambda item: (item[1].id is None, item[1].id or 0)))


def _extended(
    vocabulary: SentencePieceVocabulary, tokens: Mapping[str, _Token]
) -> TokenizerJsonVocabulary:
    content = to_tokenizer_json(
        vocabulary,
        [AddedToken(text, **{"normalized": False} | t.options) for text, t in tokens.items()],
    )
    extended = TokenizerJsonVocabulary(content)
    for text, token in tokens.items():
        given = extended.tokenizer.token_to_id(text)
        if token.id is not None and token.id != given:
            raise ValueError(
                f"{vocabulary.path}: {text!r} was added to it as id {token.id}, but "
                f"{vocabulary.vocab_size} pieces and sentinels leave {given}; the files beside it "
                "do not belong to it"
            )
    return extended
