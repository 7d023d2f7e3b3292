"""Hugging Face's `tokenizer.json`, through the `tokenizers` library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers

from t5jax.vocabulary.added_tokens import SENTINEL, in_order
from t5jax.vocabulary.base import Vocabulary, path_of

TOKENIZER_JSON = "tokenizer.json"
PAD, BOS, EOS, UNK = "<pad>", "<s>", "</s>", "<unk>"


class OtherSuffix(ValueError):
    """A tokenizer.json ends texts with other ids than EOS."""


class TokenizerJsonVocabulary(Vocabulary):
    """A `tokenizer.json` of the T5 family, with the ids of Hugging Face's tokenizer.

    They usually equal the ids of the SentencePiece model that the file was made from. Differences:

    - A sentinel is found anywhere, and the space before it is stripped: "a <extra_id_0>" and
      "a<extra_id_0>" give the same ids, and decode without the space. SentencePiece finds it only
      at the beginning of a word. Some files also read "<extra_id_0>." as "<extra_id_0> .".
    - "</s>", "<pad>" and "<unk>" in a text become special ids; SentencePiece reads them as text.
    - The unknown id decodes to "<unk>", in SentencePiece to " ⁇ ".
    - A combining mark may be lost after a character that normalization replaces ("²" with a mark).
    - Another of two equally probable segmentations may be taken ("thethethe" in mT5).
    - Some files: rare white space, and characters that need byte fallback.

    The file's truncation and padding are ignored. A prefix of its post-processor, such as the "<s>"
    of code models, is part of `encode`; a suffix must be EOS.

    Args:
      json_bytes_or_path: the file's content, or its path.
      eos_token, unk_token, pad_token: names of special tokens. Default: "</s>", "<unk>", and
        "<pad>", or "<s>" if that is missing, as in MADLAD-400.

    Raises:
      FileNotFoundError: no such file.
      ValueError: an invalid file, one without a special token, or one whose post-processor ends
        texts with other ids than EOS; the message names the path.
    """

    kind = "tokenizer_json"

    def __init__(
        self,
        json_bytes_or_path: bytes | str | Path,
        *,
        eos_token: str | None = None,
        unk_token: str | None = None,
        pad_token: str | None = None,
    ):
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
        self.eos_token, self.unk_token = eos_token or EOS, unk_token or UNK
        self.pad_token = pad_token or (PAD if PAD in ids else BOS)
        missing = [token for token in (self.eos_token, self.unk_token) if token not in ids]
        if self.pad_token not in ids:
            missing.append(self.pad_token if pad_token else PAD)
        if missing:
            raise ValueError(f"{source}: no token {missing[0]!r}; T5's tokenizers have one")
        self.pad_id = ids[self.pad_token]
        self.vocab_size = max(ids.values()) + 1
        self.eos_id, self.unk_id = ids[self.eos_token], ids[self.unk_token]
        self._before = _before(self.tokenizer, self.eos_id, source)
        super().__init__(len({m[1] for m in map(SENTINEL.fullmatch, ids) if m}))

    @property
    def sentinel_ids(self) -> list[int]:
        return in_order(self.tokenizer.get_vocab())

    def _encode(self, text: str) -> list[int]:
        # add_special_tokens would append EOS.
        return self._before + self.tokenizer.encode(text, add_special_tokens=False).ids

    def _decode(self, ids: list[int]) -> str:
        silent = {self.pad_id, self.eos_id, *self._before}
        some = [i for i in ids if i not in silent]
        known = [i if i < self.vocab_size else self.unk_id for i in some]
        # skip_special_tokens would also skip sentinels.
        return self.tokenizer.decode(known, skip_special_tokens=False)

    def description(self) -> dict[str, Any]:
        names = {name: getattr(self, name) for name in ("eos_token", "unk_token", "pad_token")}
        return super().description() | names

    def save(self, folder: str | Path) -> None:
        super().save(folder)
        (Path(folder) / TOKENIZER_JSON).write_bytes(self.json)

    @property
    def _key(self) -> tuple[object, ...]:
        return (self.json, self.eos_token, self.unk_token, self.pad_token)

    def __repr__(self) -> str:
        return f"TokenizerJsonVocabulary({str(self.path)!r})"


def without_ids_past(content: bytes, rows: int) -> bytes:
    """A tokenizer.json without its special tokens from id `rows` on.

    bart-large-cnn's embedding has no row for <mask>, its tokenizer's last id.
    """
    try:
        tree = json.loads(content)
        added = tree["added_tokens"]
        past = {t["content"] for t in added if t["id"] >= rows and t["special"]}
        tree["added_tokens"] = [t for t in added if t["content"] not in past]
        words = tree["model"]["vocab"]
        if isinstance(words, dict):
            tree["model"]["vocab"] = {k: i for k, i in words.items() if k not in past}
    except (ValueError, KeyError, TypeError):
        return content  # not for us to say what is wrong with it
    return json.dumps(tree, ensure_ascii=False).encode() if past else content


def _before(tokenizer: tokenizers.Tokenizer, eos_id: int, source: str) -> list[int]:
    """The prefix of the file's post-processor, as ids."""
    plain = tokenizer.encode("a", add_special_tokens=False).ids
    whole = tokenizer.encode("a").ids
    length = len(plain)
    start = next(i for i in range(len(whole)) if whole[i : i + length] == plain) if whole else 0
    after = whole[start + length :]
    if after not in ([], [eos_id]):
        raise OtherSuffix(
            f"{source}: its post-processor ends texts with the ids {after}; t5jax ends them with "
            f"EOS, {eos_id}, alone"
        )
    return whole[:start]


def _read(content: bytes, source: str) -> tokenizers.Tokenizer:
    try:
        tokenizer = tokenizers.Tokenizer.from_buffer(content)
    except BaseException as error:
        # The library may panic, which raises a BaseException.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        cause = " ".join(str(error).split()).removeprefix(
            "Cannot instantiate Tokenizer from buffer: "
        )
        raise ValueError(f"{source}: not a {TOKENIZER_JSON}, or a damaged one: {cause}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
