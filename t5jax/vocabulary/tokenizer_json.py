"""Hugging Face's `tokenizer.json`, read by the `tokenizers` library."""

from __future__ import annotations

from pathlib import Path

import tokenizers

from t5jax.vocabulary.added_tokens import SENTINEL
from t5jax.vocabulary.base import Vocabulary, path_of

TOKENIZER_JSON = "tokenizer.json"
PAD, EOS, UNK = "<pad>", "</s>", "<unk>"


class TokenizerJsonVocabulary(Vocabulary):
    """A `tokenizer.json` of the T5 family. The ids are those of Hugging Face's tokenizer.

    On text without sentinels they are usually those of the SentencePiece model that the file was
    made from, and differ from them in corners:

    - A sentinel is one wherever it stands, without the space before it, which is stripped: "a
      <extra_id_0>" and "a<extra_id_0>" give the same ids, and decoding writes no space there. To
      SentencePiece it is one only where a word begins. Some files also put a space before what
      follows a sentinel: "<extra_id_0>." is then read as "<extra_id_0> .".
    - Special tokens in a text ("</s>", "<pad>", "<unk>") become their ids; to SentencePiece they
      are characters like others.
    - The unknown id is decoded as "<unk>", by SentencePiece as " ⁇ ".
    - A combining mark may be lost after a character that normalization replaces ("²" with a mark).
    - Of two equally probable ways to cut a text ("thethethe" to mT5), another may be taken.
    - In some files, rare white space, and characters that only bytes could express.

    Truncation and padding that a file asks for are not done.

    Args:
      json_bytes_or_path: the file's content, or its path.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it cannot be read, or has no "</s>", no "<unk>" or no "<pad>" of id 0; the message
        names the path.
    """

    kind = "tokenizer_json"

    def __init__(self, json_bytes_or_path: bytes | str | Path):
        if isinstance(json_bytes_or_path, bytes):
            self.path, self.json = None, json_bytes_or_path
        else:
            self.path = path_of(json_bytes_or_path, "json_bytes_or_path")
            if not self.path.is_file():
                raise FileNotFoundError(f"{self.path}: no such {TOKENIZER_JSON}")
            self.json = self.path.read_bytes()
        source = TOKENIZER_JSON if self.path is None else str(self.path)
        self.tokenizer = _read(self.json, source)
        ids = self.tokenizer.get_vocab(with_added_tokens=True)
        missing = [token for token in (PAD, EOS, UNK) if token not in ids]
        if missing:
            raise ValueError(f"{source}: no token {missing[0]!r}; T5's tokenizers have one")
        if ids[PAD] != self.pad_id:
            raise ValueError(f"{source}: {PAD!r} is id {ids[PAD]}; T5's tokenizers pad with 0")
        self._vocab_size, self._eos_id, self._unk_id = max(ids.values()) + 1, ids[EOS], ids[UNK]
        super().__init__(len({m[1] for m in map(SENTINEL.fullmatch, ids) if m}))

    @property
    def vocab_size(self) -> int:
        return self._vocab_size

    @property
    def eos_id(self) -> int:
        return self._eos_id

    @property
    def unk_id(self) -> int:
        return self._unk_id

    def _encode(self, text: str) -> list[int]:
        # Special tokens are what the file adds of itself: T5's appends EOS.
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def _decode(self, ids: list[int]) -> str:
        silent = (self.pad_id, self.eos_id)
        some = [i for i in ids if i not in silent]
        known = [i if i < self.vocab_size else self.unk_id for i in some]
        # Not skipped by the library, since sentinels are special tokens to it.
        return self.tokenizer.decode(known, skip_special_tokens=False)

    def save(self, folder: str | Path) -> None:
        super().save(folder)
        (Path(folder) / TOKENIZER_JSON).write_bytes(self.json)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TokenizerJsonVocabulary) and self.json == other.json

    def __hash__(self) -> int:
        return hash((self.kind, self.json))

    def __repr__(self) -> str:
        return f"TokenizerJsonVocabulary({str(self.path)!r})"


def _read(content: bytes, source: str) -> tokenizers.Tokenizer:
    try:
        tokenizer = tokenizers.Tokenizer.from_buffer(content)
    except BaseException as error:
        # The library panics at some files, with a class of its own that is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        cause = " ".join(str(error).split()).removeprefix(
            "Cannot instantiate Tokenizer from buffer: "
        )
        raise ValueError(f"{source}: not a {TOKENIZER_JSON}, or a damaged one: {cause}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
