"""Tokens added to SentencePiece or bytes, with the rules of transformers' tokenizers.

The rules are those of `T5Tokenizer` and `ByT5Tokenizer` in Python in transformers 4.57, with which
models were trained whose folders have `added_tokens.json` and no `tokenizer.json`. The Rust
tokenizers, the only ones of T5 in transformers 5, decode without a space before a token.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import sentencepiece

from t5jax.knobs import short
from t5jax.vocabulary.base import Vocabulary
from t5jax.vocabulary.byte_level import FIRST_BYTE, ByteVocabulary
from t5jax.vocabulary.sentencepiece import SENTENCEPIECE_MODEL, SentencePieceVocabulary
from t5jax.vocabulary.sentencepiece_model import without_dummy_prefix

SENTINEL = re.compile(r"▁?<extra_id_(\d+)>")  # mT5's and umT5's begin with SentencePiece's space
_SPACE = "▁"


@dataclasses.dataclass(frozen=True)
class AddedToken:
    """A text that is one id wherever it stands, found before SentencePiece runs.

    Attributes:
      text: matched exactly, before normalization.
      id: its id, perhaps that of a piece with the same text.
      lstrip: white space before it is dropped.
      rstrip: white space after it is dropped.
      single_word: it is a token only between spaces or ends of the text.
      special: transformers' `skip_special_tokens` drops it. t5jax only stores the flag.
      role: "eos_token", "unk_token", …; "" for most tokens.
    """

    text: str
    id: int
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    special: bool = False
    role: str = ""


class AddedTokensVocabulary(Vocabulary):
    """SentencePiece or bytes, after added tokens are split off.

    Sentinels and special tokens are added tokens here: unlike in `SentencePieceVocabulary`, "</s>"
    in a text is EOS, and "<extra_id_0>" is a sentinel inside a word too. Where tokens overlap, the
    leftmost counts, then the longest.

    Args:
      base: tokenizes the text between tokens; without sentinels.
      tokens: all tokens, sentinels and special tokens included. New ids follow `base`'s without a
        gap.
      legacy: transformers' flag, for SentencePiece: a text after a token begins a word. False: it
        does so only after a space.

    Raises:
      ValueError: an empty or repeated token, two tokens with one id, or a gap between ids.
    """

    kind = "added_tokens"

    def __init__(
        self,
        base: SentencePieceVocabulary | ByteVocabulary,
        tokens: Iterable[AddedToken],
        *,
        legacy: bool = True,
    ):
        self.base = base
        self.tokens = tuple(sorted(tokens, key=lambda token: token.id))
        self.legacy = legacy
        self._by_text = {token.text: token for token in self.tokens}
        self._by_id = {token.id: token for token in self.tokens}
        _check(base, self.tokens)
        super().__init__(sum(SENTINEL.fullmatch(token.text) is not None for token in self.tokens))
        longest_first = sorted(self._by_text, key=len, reverse=True)
        self._pattern = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")
        roles = {token.role: token.id for token in self.tokens}
        self.pad_id = roles.get("pad_token", base.pad_id)
        self.eos_id = roles.get("eos_token", base.eos_id)
        self.unk_id = roles.get("unk_token", base.unk_id)
        self.vocab_size = max([base.vocab_size, *(token.id + 1 for token in self.tokens)])

    @property
    def sentinel_ids(self) -> Sequence[int]:
        ids = {token.text: token.id for token in self.tokens}
        # ByT5 was pre-trained with bytes as sentinels, not with transformers' extra ids.
        return in_order(ids) if self.extra_ids and self._processor else self.base.sentinel_ids

    def _encode(self, text: str) -> list[int]:
        begins = text and not self.legacy and self._processor is not None
        if begins:
            text = _SPACE + text.replace(_SPACE, " ")
        parts = self._divide(text)
        ids = [self._ids(part) for part in parts]
        if begins and len(ids) > 1 and ids[0] == [self._space]:
            # The leading space is dropped only before a special token.
            rest = zip(parts[1:], ids[1:], strict=True)
            following = self._by_text.get(next((part for part, some in rest if some), ""))
            if following and (following.special or following.role):
                ids = ids[1:]
        return [i for some in ids for i in some]

    def _divide(self, text: str) -> list[str]:
        """Splits into tokens and texts between them, and drops white space beside tokens."""
        parts = [part for part in self._pattern.split(text) if part] if self.tokens else [text]
        for i in range(len(parts)):
            token = self._by_text.get(parts[i])
            if token is None:
                continue
            before = parts[i - 1] if i > 0 else ""
            after = parts[i + 1] if i + 1 < len(parts) else ""
            # A neighbour may itself be a token; one of white space is lost.
            if token.rstrip and after:
                parts[i + 1] = after.lstrip()
            if token.lstrip and before:
                parts[i - 1] = before.rstrip()
            if token.single_word and not before.endswith(" ") and before:
                parts[i - 1], parts[i] = parts[i - 1] + token.text, ""
            elif token.single_word and not after.startswith(" ") and after:
                parts[i], parts[i + 1] = "", token.text + parts[i + 1]
        return [part for part in parts if part]

    def _ids(self, part: str) -> list[int]:
        """The ids of a token, or of a text between tokens."""
        if part in self._by_text:
            return [self._by_text[part].id]
        processor, by_text = self._processor, self._by_text
        if processor is None:
            # The character with a byte's number may be an added token.
            return [
                by_text[chr(byte)].id if chr(byte) in by_text else byte + FIRST_BYTE
                for byte in part.encode("utf-8")
            ]
        if self.legacy or not part.startswith((_SPACE, " ")):
            pieces = processor.encode(part, out_type=str)
        else:
            # SentencePiece drops a leading space, so encode it after an unknown token.
            unknown = self._text_of(self.unk_id)
            before = len(processor.encode(unknown, out_type=str))
            pieces = processor.encode(unknown + part, out_type=str)[before:]
        # An unknown piece keeps its text, which may be a token that was not a single word.
        return [by_text[p].id if p in by_text else processor.piece_to_id(p) for p in pieces]

    def _text_of(self, i: int) -> str:
        if i in self._by_id:
            return self._by_id[i].text
        return "" if self._processor is None else self._processor.id_to_piece(i)

    def _decode(self, ids: list[int]) -> str:
        silent = (self.pad_id, self.eos_id)
        known = [i if self._is_known(i) else self.unk_id for i in ids if i not in silent]
        if isinstance(self.base, ByteVocabulary):
            # No spaces around tokens, as in transformers 5. Version 4 adds them, so encoding and
            # decoding change the text.
            decode = self.base.decode_bytes
            parts = [
                self._by_id[i].text.encode() if i in self._by_id else decode([i]) for i in known
            ]
            return b"".join(parts).decode("utf-8", errors="ignore")
        texts: list[str] = []
        run: list[int] = []
        for i in known:
            if i in self._by_id and self._stands_apart(self._by_id[i]):
                texts += [self._joined(run), self._by_id[i].text]
                run = []
            else:
                run.append(i)
        texts.append(self._joined(run))
        return " ".join(text for text in texts if text)

    def _is_known(self, i: int) -> bool:
        return i in self._by_id or i < self.base.vocab_size

    def _stands_apart(self, token: AddedToken) -> bool:
        """Whether decoding puts spaces around the token."""
        if token.role or token.special:
            return not token.role and token.id >= self.base.vocab_size
        return True

    def _joined(self, ids: list[int]) -> str:
        """Decodes pieces; a special token gets a space before it and none after it."""
        processor = self._processor
        assert processor is not None
        text = ""
        run: list[int] = []
        after_token = False
        for i in ids:
            token = self._by_id.get(i)
            if token is None:
                run.append(i)
            else:
                text += ("" if after_token else " ") + processor.decode(run) + token.text
                run = []
            after_token = token is not None
        return (text + (processor.decode(run) if run else "")).strip()

    @cached_property
    def _processor(self) -> sentencepiece.SentencePieceProcessor | None:
        """SentencePiece without sentinels; None for bytes."""
        if isinstance(self.base, ByteVocabulary):
            return None
        model = self.base.model
        return sentencepiece.SentencePieceProcessor(
            model_proto=model if self.legacy else without_dummy_prefix(model)
        )

    @cached_property
    def _space(self) -> int:
        assert self._processor is not None
        return self._processor.piece_to_id(_SPACE)

    def description(self) -> dict[str, Any]:
        return super().description() | {
            "base": self.base.kind,
            "legacy": self.legacy,
            "tokens": [dataclasses.asdict(token) for token in self.tokens],
        }

    def save(self, folder: str | Path) -> None:
        super().save(folder)
        if isinstance(self.base, SentencePieceVocabulary):
            (Path(folder) / SENTENCEPIECE_MODEL).write_bytes(self.base.model)

    @property
    def _key(self) -> tuple[object, ...]:
        return (self.base, self.tokens, self.legacy)

    def __repr__(self) -> str:
        new = [token.text for token in self.tokens if not token.role]
        new = [text for text in new if not SENTINEL.fullmatch(text)]
        return f"AddedTokensVocabulary({self.base!r}, {new}, legacy={self.legacy})"


def in_order(ids: Mapping[str, int]) -> list[int]:
    """The ids of `<extra_id_0>`, `<extra_id_1>`, …, up to the first missing one."""
    numbered = {m[1]: ids[text] for text in ids if (m := SENTINEL.fullmatch(text))}
    found: list[int] = []
    while str(len(found)) in numbered:
        found.append(numbered[str(len(found))])
    return found


def _check(base: Vocabulary, tokens: tuple[AddedToken, ...]) -> None:
    texts: set[str] = set()
    following = base.vocab_size
    last = None
    for token in tokens:
        if not token.text or token.text in texts:
            raise ValueError(f"the added token {short(token.text)} is empty, or there twice")
        if token.id == last:
            raise ValueError(
                f"the added token {short(token.text)} has id {short(last)}, as another has"
            )
        texts.add(token.text)
        last = token.id
        if token.id >= base.vocab_size:
            if token.id != following:
                raise ValueError(
                    f"{short(token.text)} was added as id {short(token.id)}, but the "
                    f"{base.vocab_size} ids of the model and the tokens before it leave "
                    f"{following}; the files do not belong together"
                )
            following += 1
