"""Text to ids and back: bytes, and SentencePiece with T5's sentinels.

The ids are the ones that seqio's vocabularies of the same name give, without TensorFlow, seqio or
protobuf, so that a notebook tokenizes exactly as training did.
"""

from __future__ import annotations

import io
import json
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import sentencepiece

BYTE_EXTRA_IDS = 125  # ByT5: 3 special ids + 256 bytes + 125 sentinels = 384
SENTENCEPIECE_EXTRA_IDS = 100

_DESCRIPTION = "vocabulary.json"
_MODEL = "spiece.model"


class Vocabulary(ABC):
    """A tokenizer: ids 0 (padding) to vocab_size - 1. Instances are immutable and hashable."""

    kind: ClassVar[str]
    pad_id: ClassVar[int] = 0

    def __init__(self, extra_ids: int):
        if extra_ids < 0:
            raise ValueError(f"extra_ids={extra_ids}; use 0 or more")
        self.extra_ids = extra_ids

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of ids, sentinels included, without padding to a multiple of anything."""

    @property
    @abstractmethod
    def eos_id(self) -> int:
        """The id that ends a sequence."""

    @property
    @abstractmethod
    def unk_id(self) -> int:
        """The id of what the vocabulary cannot express."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without EOS."""

    @abstractmethod
    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of one sequence of ids, up to the first EOS. Padding gives no text.

        Raises ValueError if `ids` has more than one dimension.
        """

    def save(self, folder: str | Path) -> None:
        """Writes the files that load_vocabulary reads into `folder`, which is made if missing."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        description = {"kind": self.kind, "extra_ids": self.extra_ids}
        (folder / _DESCRIPTION).write_text(json.dumps(description) + "\n", encoding="utf-8")


class ByteVocabulary(Vocabulary):
    """UTF-8 bytes + 3, as ByT5 has it; the sentinels are ids of which no text is made.

    The ids of `seqio.ByteVocabulary(extra_ids)`, except that vocab_size counts 125 sentinels
    unless told otherwise (seqio's default is none).
    """

    kind = "bytes"
    eos_id = 1
    unk_id = 2

    _FIRST_BYTE = 3

    def __init__(self, extra_ids: int = BYTE_EXTRA_IDS):
        super().__init__(extra_ids)

    @property
    def vocab_size(self) -> int:
        return self._FIRST_BYTE + 256 + self.extra_ids

    def encode(self, text: str) -> list[int]:
        return [byte + self._FIRST_BYTE for byte in text.encode("utf-8")]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        # Special ids, sentinels and ids past the end are dropped, as are broken UTF-8 sequences.
        values = (i - self._FIRST_BYTE for i in _until_eos(ids, self.eos_id))
        return bytes(v for v in values if 0 <= v < 256).decode("utf-8", errors="ignore")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByteVocabulary) and self.extra_ids == other.extra_ids

    def __hash__(self) -> int:
        return hash((self.kind, self.extra_ids))

    def __repr__(self) -> str:
        return f"ByteVocabulary(extra_ids={self.extra_ids})"


class SentencePieceVocabulary(Vocabulary):
    """A SentencePiece model with sentinels appended: `<extra_id_0>` is the highest id.

    The ids of `seqio.SentencePieceVocabulary(path, extra_ids)`.

    Args:
      model_bytes_or_path: a serialized model, or the path of a file that holds one.
      extra_ids: number of sentinels to append; by default 100, or 0 where the model holds its own
        already, as mT5's and umT5's do.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the model cannot be read; the message names the path.
    """

    kind = "sentencepiece"

    def __init__(
        self,
        model_bytes_or_path: bytes | str | Path,
        extra_ids: int | None = None,
    ):
        if isinstance(model_bytes_or_path, bytes):
            self.path, self.model = None, model_bytes_or_path
        else:
            self.path = Path(model_bytes_or_path)
            if not self.path.is_file():
                raise FileNotFoundError(f"{self.path}: no such SentencePiece model")
            self.model = self.path.read_bytes()
        source = "SentencePiece model" if self.path is None else str(self.path)
        if not _is_complete(self.model):
            raise ValueError(f"{source}: not a SentencePiece model, or one that was cut short")
        if extra_ids is None:
            extra_ids = 0 if b"<extra_id_0>" in self.model else SENTENCEPIECE_EXTRA_IDS
        super().__init__(extra_ids)
        try:
            self.processor = sentencepiece.SentencePieceProcessor(
                model_proto=self.model + _sentinel_pieces(extra_ids)
            )
        except RuntimeError as error:
            cause = " ".join(str(error).split())
            raise ValueError(
                f"{source}: cannot load with extra_ids={extra_ids}: {cause}"
            ) from error

    @cached_property
    def vocab_size(self) -> int:  # type: ignore[override]
        return self.processor.get_piece_size()

    @cached_property
    def eos_id(self) -> int:  # type: ignore[override]
        return self.processor.eos_id()

    @cached_property
    def unk_id(self) -> int:  # type: ignore[override]
        return self.processor.unk_id()

    def encode(self, text: str) -> list[int]:
        return self.processor.encode(text)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        size, unk = self.vocab_size, self.unk_id
        known = [i if i < size else unk for i in _until_eos(ids, self.eos_id)]
        return self.processor.decode(known) if known else ""

    def save(self, folder: str | Path) -> None:
        super().save(folder)
        (Path(folder) / _MODEL).write_bytes(self.model)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, SentencePieceVocabulary)
            and self.extra_ids == other.extra_ids
            and self.model == other.model
        )

    def __hash__(self) -> int:
        return hash((self.kind, self.extra_ids, self.model))

    def __repr__(self) -> str:
        return f"SentencePieceVocabulary({str(self.path)!r}, extra_ids={self.extra_ids})"


def save_vocabulary(vocabulary: Vocabulary, folder: str | Path) -> None:
    """Writes `vocabulary.json`, and `spiece.model` for SentencePiece, into `folder`."""
    vocabulary.save(folder)


def load_vocabulary(folder: str | Path, extra_ids: int | None = None) -> Vocabulary:
    """Reads what save_vocabulary wrote. `extra_ids`, if given, replaces the saved number.

    Raises FileNotFoundError where a file is missing, ValueError where one cannot be understood.
    """
    path = Path(folder) / _DESCRIPTION
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; save_vocabulary writes it")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        kind, saved_extra_ids = description["kind"], int(description["extra_ids"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f'{path}: expected {{"kind": …, "extra_ids": …}}: {error!r}') from error
    n = saved_extra_ids if extra_ids is None else extra_ids
    if kind == ByteVocabulary.kind:
        return ByteVocabulary(n)
    if kind == SentencePieceVocabulary.kind:
        return SentencePieceVocabulary(Path(folder) / _MODEL, n)
    raise ValueError(f"{path}: kind={kind!r}; expected 'bytes' or 'sentencepiece'")


def make_vocabulary(spec: str | Path, extra_ids: int | None = None) -> Vocabulary:
    """The vocabulary that a config names.

    Args:
      spec: "bytes", a SentencePiece model file, or a folder written by save_vocabulary.
      extra_ids: number of sentinels to add; by default 125 for bytes, 100 for a model file (0 where
        it holds its own), and for a folder what was saved.

    Raises:
      FileNotFoundError: `spec` is none of these.
      ValueError: the model or the folder cannot be read.
    """
    if str(spec) == ByteVocabulary.kind:
        return ByteVocabulary(BYTE_EXTRA_IDS if extra_ids is None else extra_ids)
    path = Path(spec)
    if path.is_dir():
        return load_vocabulary(path, extra_ids)
    if path.is_file():
        return SentencePieceVocabulary(path, extra_ids)
    raise FileNotFoundError(
        f"vocabulary {str(spec)!r} not found; use 'bytes', a SentencePiece .model file, or a "
        "folder with vocabulary.json"
    )


def frequent_words(texts: Iterable[str], number: int) -> list[str]:
    """The `number` most frequent words between spaces, as symbols of `train_sentencepiece`.

    For text made of a few fixed words (labels, phonemes, task prefixes) beside free ones: each
    of the fixed words becomes one id, the free ones stay letters and syllables.
    """
    counts = Counter(word for text in texts for word in text.split())
    # By count, then by the word itself: the order of the texts decides nothing.
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    return [f"▁{word}" for word in ranked[:number]]


def train_sentencepiece(
    texts: Iterable[str],
    path: str | Path,
    *,
    vocab_size: int,
    model_type: Literal["unigram", "bpe"] = "unigram",
    symbols: Sequence[str] = (),
    extra_ids: int = SENTENCEPIECE_EXTRA_IDS,
    character_coverage: float = 1.0,
    byte_fallback: bool = False,
) -> SentencePieceVocabulary:
    """Trains a SentencePiece model with T5's special ids (pad 0, EOS 1, unk 2) into `path`.

    The same texts in the same order give the same file, byte for byte.

    Args:
      texts: one training sentence each.
      path: the file to write, usually `….model`; its folder is made if missing.
      vocab_size: number of pieces, special ids and `symbols` included, sentinels not.
      model_type: "unigram" (T5, mT5) or "bpe".
      symbols: texts that are always one piece of their own. A symbol written with a leading "▁"
        stands for the space before it too: "▁AH0" makes one id of " AH0", "AH0" makes two.
      extra_ids: sentinels of the vocabulary that is returned; the file holds none.
      character_coverage: share of the characters seen that get a piece. 1.0 suits alphabets;
        for Chinese or Japanese use 0.9995.
      byte_fallback: spend 256 pieces on bytes, so that unseen characters are not unknown. T5's
        models have none, and a small vocabulary can ill spare them.

    Raises:
      ValueError: no text, or a vocab_size out of the range that the texts allow; the message says
        which would do.
    """
    if model_type not in ("unigram", "bpe"):
        raise ValueError(f"model_type={model_type!r}; use 'unigram' or 'bpe'")
    output = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=output,
            vocab_size=vocab_size,
            model_type=model_type,
            user_defined_symbols=list(dict.fromkeys(symbols)),
            character_coverage=character_coverage,
            byte_fallback=byte_fallback,
            pad_id=Vocabulary.pad_id,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            # By default pieces end where digits begin, which would cut every phoneme like AH0.
            split_by_number=False,
            # By default sentences past 4,192 bytes are left out without a word.
            max_sentence_length=1 << 20,
            # Fixed, for the order of the sums, and with it the pieces, depends on it.
            num_threads=16,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(_training_error(str(error), vocab_size)) from error
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(output.getvalue())
    return SentencePieceVocabulary(path, extra_ids)


def _training_error(message: str, vocab_size: int) -> str:
    """One line that says what is wrong and what would be right."""
    if too_small := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return (
            f"vocab_size={vocab_size} is too small: the texts' characters and symbols alone take "
            f"{too_small[1]}; use at least that, or lower character_coverage"
        )
    if too_large := re.search(r"Please set it to a value <= (\d+)", message):
        return (
            f"vocab_size={vocab_size} is too large for these texts; use at most {too_large[1]}, "
            "or more text"
        )
    if "sentences_.empty()" in message:
        return "cannot train a SentencePiece model: there is no text"
    return f"cannot train a SentencePiece model: {' '.join(message.split())}"


def _until_eos(ids: Sequence[int] | np.ndarray, eos_id: int) -> list[int]:
    """The ids as Python integers, up to and with the first EOS."""
    array = np.asarray(ids, dtype=np.int64)
    if array.ndim != 1:
        raise ValueError(f"decode takes one sequence of ids, not an array of shape {array.shape}")
    values: list[int] = array.tolist()
    return values[: values.index(eos_id) + 1] if eos_id in values else values


# A model file is a protobuf message: field 1, repeated, is a piece {1: text, 2: float score,
# 3: type}, field 3 the normalizer. Serialized messages merge by concatenation and repeated fields
# append, so sentinels are added by appending bytes, with no protobuf library.

_NORMALIZER_FIELD = 3


def _sentinel_pieces(extra_ids: int) -> bytes:
    """Serialized pieces `▁<extra_id_{n-1}>` … `▁<extra_id_0>`, of the type "user defined" (4)."""

    def piece(text: str) -> bytes:
        utf8 = text.encode("utf-8")
        body = b"\x0a" + bytes([len(utf8)]) + utf8 + b"\x15\0\0\0\0" + b"\x18\x04"
        return b"\x0a" + bytes([len(body)]) + body

    # With the mark of a word's beginning, as seqio has it: a sentinel inside a word is no sentinel.
    return b"".join(piece(f"▁<extra_id_{i}>") for i in reversed(range(extra_ids)))


def _is_complete(model: bytes) -> bool:
    """Whether the bytes are whole protobuf fields up to the normalizer.

    SentencePiece loads a model that was cut between two pieces as a smaller one, without an error.
    """
    fields, position = set(), 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = model[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    try:
        while position < len(model):
            tag = varint()
            fields.add(tag >> 3)
            match tag & 7:
                case 0:
                    varint()
                case 1:
                    position += 8
                case 2:
                    length = varint()
                    position += length
                case 5:
                    position += 4
                case _:
                    return False
    except IndexError:
        return False
    return position == len(model) and _NORMALIZER_FIELD in fields
