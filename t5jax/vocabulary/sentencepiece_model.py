"""SentencePiece's model file, read and extended without a protobuf library.

The file is a protobuf message: field 1, repeated, is a piece {1: text, 2: float score, 3: type},
field 2 the trainer's options, field 3 the normalizer's. Concatenated messages merge and repeated
fields append, so sentinels are added by appending bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

_PIECE, _TRAINER, _NORMALIZER = 1, 2, 3
USER_DEFINED = 4  # type of a piece that is never split
UNIGRAM, BPE = 1, 2


class Piece(NamedTuple):
    """One id's text, its log probability or rank, and its type."""

    text: str
    score: float
    type: int


class Model(NamedTuple):
    """The parts of a model file that another library needs to tokenize alike."""

    pieces: list[Piece]
    model_type: int
    byte_fallback: bool
    charsmap: bytes  # compiled normalization rules; may be empty
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool


def is_complete(model: bytes) -> bool:
    """Whether the bytes are whole protobuf fields and include the normalizer.

    SentencePiece loads a file truncated between two pieces as a smaller model, without an error.
    """
    try:
        return _NORMALIZER in {number for number, _ in _fields(model)}
    except ValueError:
        return False


def has_own_sentinels(model: bytes) -> bool:
    """Whether the model's pieces include sentinels, as mT5's and umT5's do."""
    return b"<extra_id_0>" in model


def sentinel_pieces(extra_ids: int) -> bytes:
    """Serialized pieces `▁<extra_id_{n-1}>` … `▁<extra_id_0>`, of the type "user defined"."""

    def piece(text: str) -> bytes:
        utf8 = text.encode("utf-8")
        body = b"\x0a" + bytes([len(utf8)]) + utf8 + b"\x15\0\0\0\0" + bytes([0x18, USER_DEFINED])
        return b"\x0a" + bytes([len(body)]) + body

    # They begin with "▁", as in seqio, so a sentinel inside a word is not one.
    return b"".join(piece(f"▁<extra_id_{i}>") for i in reversed(range(extra_ids)))


def without_dummy_prefix(model: bytes) -> bytes:
    """The model with a normalizer that prepends no space."""
    return model + bytes([_NORMALIZER << 3 | 2, 2, 3 << 3, 0])  # {3: {3: false}}, merged on load


def parse(model: bytes) -> Model:
    """Reads a model that `is_complete`. Raises ValueError if it is damaged."""
    pieces = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for number, value in _fields(model):
        if number == _PIECE:
            fields = dict(_fields(_bytes(value)))
            score = _float(_bytes(fields.get(2, bytes(4))))
            text = _bytes(fields.get(1, b"")).decode("utf-8")
            pieces.append(Piece(text, score, _int(fields.get(3, 1))))
        elif number == _TRAINER:
            trainer |= dict(_fields(_bytes(value)))
        elif number == _NORMALIZER:
            normalizer |= dict(_fields(_bytes(value)))
    return Model(
        pieces,
        model_type=_int(trainer.get(3, UNIGRAM)),
        byte_fallback=bool(trainer.get(35, 0)),
        charsmap=_bytes(normalizer.get(2, b"")),
        add_dummy_prefix=bool(normalizer.get(3, 1)),
        remove_extra_whitespaces=bool(normalizer.get(4, 1)),
    )


def _int(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise ValueError("a number is bytes")
    return value


def _bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("bytes are a number")
    return value


def _float(value: bytes) -> float:
    if len(value) != 4:
        raise ValueError("a score has no four bytes")
    score: float = struct.unpack("<f", value)[0]
    return score


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The numbers and values of a message's fields. Raises ValueError if it is truncated."""
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            if position >= len(message):
                raise ValueError("cut short")
            byte = message[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while position < len(message):
        tag = varint()
        match tag & 7:
            case 0:
                yield tag >> 3, varint()
                continue
            case 1:
                length = 8
            case 2:
                length = varint()
            case 5:
                length = 4
            case kind:
                raise ValueError(f"no wire type {kind}")
        if position + length > len(message):
            raise ValueError("cut short")
        yield tag >> 3, message[position : position + length]
        position += length
