"""Tokenizer files of a Hugging Face folder, and the tokens that they add to a model."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import pydantic

from t5jax.knobs import short
from t5jax.schema import Schema, check, read_json
from t5jax.vocabulary.added_tokens import SENTINEL, AddedToken
from t5jax.vocabulary.base import MOST_EXTRA_IDS
from t5jax.vocabulary.byte_level import FIRST_BYTE, ByteVocabulary
from t5jax.vocabulary.sentencepiece import SentencePieceVocabulary
from t5jax.vocabulary.sentencepiece_model import USER_DEFINED, has_own_sentinels, parse
from t5jax.vocabulary.tokenizer_json import EOS, PAD, TOKENIZER_JSON, UNK

CONFIG = "tokenizer_config.json"
SPECIAL = "special_tokens_map.json"
ADDED = "added_tokens.json"
SPECIAL_ROLES = ("eos_token", "unk_token", "pad_token")


class _Flags(Schema):
    lstrip: bool | None = None
    rstrip: bool | None = None
    single_word: bool | None = None
    special: bool | None = None

    def given(self) -> dict[str, bool]:
        return {name: getattr(self, name) for name in _Flags.model_fields if getattr(self, name)}


class _Token(_Flags):
    content: str


class Numbered(_Token):
    id: int


class _Special(Schema):
    """`special_tokens_map.json`; `tokenizer_config.json` has the same fields."""

    bos_token: str | _Token | None = None
    eos_token: str | _Token | None = None
    unk_token: str | _Token | None = None
    sep_token: str | _Token | None = None
    pad_token: str | _Token | None = None
    cls_token: str | _Token | None = None
    mask_token: str | _Token | None = None
    additional_special_tokens: list[str | _Token] | None = None
    # transformers 5's list; in transformers 4 a dictionary of names.
    extra_special_tokens: list[str | _Token] | dict[str, str | _Token] | None = None

    def roles(self) -> dict[str, _Token]:
        return {role: _token(t) for role in _ROLES if (t := getattr(self, role)) is not None}

    def others(self) -> list[_Token]:
        named = self.extra_special_tokens or []
        listed = list(named.values()) if isinstance(named, dict) else named
        return [_token(token) for token in [*(self.additional_special_tokens or []), *listed]]


# The order in which roles that a model lacks get ids.
_ROLES = tuple(name for name in _Special.model_fields if not name.endswith("tokens"))


class _Config(_Special):
    """`tokenizer_config.json`."""

    tokenizer_class: str | None = None
    extra_ids: Annotated[int, pydantic.Field(ge=0, le=MOST_EXTRA_IDS)] | None = None
    legacy: bool | None = None
    added_tokens_decoder: dict[str, _Token] | None = None


class _Model(Schema):
    """`config.json`."""

    tokenizer_class: str | None = None


class _Fast(Schema):
    """`tokenizer.json`."""

    added_tokens: list[Numbered] | None = None


def _token(token: str | _Token) -> _Token:
    return _Token(content=token) if isinstance(token, str) else token


class Files:
    """The content of a folder's tokenizer files; a missing file counts as empty."""

    def __init__(self, folder: Path):
        def read(name: str, schema: Any) -> Any:
            file = folder / name
            return read_json(file, schema) if file.is_file() else check(schema, {}, file)

        self.config: _Config = read(CONFIG, _Config)
        self.added: dict[str, int] = read(ADDED, dict[str, int])
        self.fast: list[Numbered] = read(TOKENIZER_JSON, _Fast).added_tokens or []
        special: _Special = read(SPECIAL, _Special)
        model: _Model = read("config.json", _Model)
        self.tokenizer_class = self.config.tokenizer_class or model.tokenizer_class
        self.numbered: dict[str, tuple[int, _Token]] = {}
        self.roles = self.config.roles()
        self.others = {token.content: token for token in self.config.others()}
        if self.config.added_tokens_decoder is not None:
            # The newest format, and complete: as in transformers, older files are ignored.
            for key, token in self.config.added_tokens_decoder.items():
                if not key.isascii() or not key.isdigit() or len(key) > 9:
                    raise ValueError(
                        f"{folder / CONFIG}: added_tokens_decoder: {short(key)}: must be an id"
                    )
                self.numbered[token.content] = (int(key), token)
        else:
            self.roles |= special.roles()
            self.others |= {token.content: token for token in special.others()}
            for text, i in self.added.items():
                self.numbered[text] = (i, self.others.get(text, _Token(content=text)))

    def sentinels(self) -> int:
        """The number of different sentinels in all files."""
        names = [*self.numbered, *self.others, *(token.content for token in self.fast)]
        return len({match[1] for match in map(SENTINEL.fullmatch, names) if match})


def tokens_of(
    files: Files, base: SentencePieceVocabulary | ByteVocabulary, sentinels: int
) -> list[AddedToken]:
    """All tokens that transformers' tokenizer splits off before the base tokenizes."""
    is_bytes = isinstance(base, ByteVocabulary)
    find = _find_byte if isinstance(base, ByteVocabulary) else _finder(base)
    around = {"lstrip": True, "rstrip": True}
    tokens: dict[str, AddedToken] = {}

    def add(text: str, i: int, flags: Mapping[str, bool] = {}, role: str = "") -> None:
        tokens[text] = AddedToken(text, i, **flags, role=role)

    for text, (i, token) in files.numbered.items():
        add(text, i, token.given() | ({"special": True} if text in files.others else {}))
    standard = dict(zip(SPECIAL_ROLES, (EOS, UNK, PAD), strict=True))
    roles = {
        role: _Token(content=text) for role, text in standard.items() if find(text) is not None
    }
    waiting: list[tuple[_Token, str]] = []
    for role, token in sorted((roles | files.roles).items(), key=lambda x: _ROLES.index(x[0])):
        waiting.append((token, role))
    others = list(files.others.values())
    unlisted = not any(SENTINEL.fullmatch(token.content) for token in others)
    own = isinstance(base, SentencePieceVocabulary) and has_own_sentinels(base.model)
    if not (is_bytes or own or (others and unlisted)):
        # T5's sentinels have descending ids, below those of added tokens.
        for n in range(sentinels):
            if (text := f"<extra_id_{n}>") not in tokens:
                add(text, base.vocab_size - 1 + sentinels - n, around | {"special": True})
    elif unlisted:
        # ByT5's sentinels are ordinary tokens, and so are T5's if the special tokens lack them.
        numbered = [_Token(content=f"<extra_id_{n}>") for n in range(sentinels)]
        others = numbered + others if is_bytes else others + numbered
    waiting += [(token, "") for token in others]
    taken = {token.id for token in tokens.values()}
    free = (i for i in itertools.count(base.vocab_size) if i not in taken)
    for token, role in waiting:
        text = token.content
        if text in tokens:
            if role:
                tokens[text] = dataclasses.replace(tokens[text], role=role, special=True)
            continue
        if own and SENTINEL.fullmatch(text):
            continue
        found = find(text)
        flags = around if is_bytes and text in (PAD, EOS, UNK) else {}
        add(
            text,
            next(free) if found is None else found,
            {**flags, **token.given(), "special": True},
            role,
        )
    return list(tokens.values())


def _find_byte(text: str) -> int | None:
    """ByT5Tokenizer's id of a text; it treats byte n as the character chr(n)."""
    if text in (PAD, EOS, UNK):
        return (PAD, EOS, UNK).index(text)
    return ord(text) + FIRST_BYTE if len(text) == 1 and ord(text) < 256 else None


def _finder(base: SentencePieceVocabulary) -> Callable[[str], int | None]:
    def find(text: str) -> int | None:
        i = base.processor.piece_to_id(text)
        return i if base.processor.id_to_piece(i) == text else None

    return find


def is_plain(
    token: AddedToken, base: SentencePieceVocabulary | ByteVocabulary, sentinels: int
) -> bool:
    """Whether the vocabulary without added tokens has the same token with the same id."""
    match = SENTINEL.fullmatch(token.text)
    if isinstance(base, ByteVocabulary):
        return match is not None or token.id < FIRST_BYTE
    if match and has_own_sentinels(base.model):
        return True
    if match:
        return token.id == base.vocab_size - 1 + sentinels - int(match[1])
    i = base.processor.piece_to_id(token.text)
    if i != token.id or base.processor.id_to_piece(i) != token.text:
        return False
    if base.processor.is_control(i) or base.processor.is_unknown(i):
        return True
    return parse(base.model).pieces[i].type == USER_DEFINED
