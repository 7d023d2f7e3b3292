"""SentencePiece with T5's sentinels."""

from __future__ import annotations

from pathlib import Path

import sentencepiece

from t5jax.vocabulary.base import Vocabulary, path_of
from t5jax.vocabulary.sentencepiece_model import has_own_sentinels, is_complete, sentinel_pieces

SENTENCEPIECE_EXTRA_IDS = 100
SENTENCEPIECE_MODEL = "spiece.model"


class SentencePieceVocabulary(Vocabulary):
    """A SentencePiece model with sentinels appended: `<extra_id_0>` is the highest id.

    The ids of `seqio.SentencePieceVocabulary(path, extra_ids)` in Python, and of transformers.
    seqio's TensorFlow op tokenizes training data, as it did T5's, and holds an older SentencePiece.
    It may choose another of several equally probable segmentations: "----" is "---", "-"
    there and "-", "---" here. The older version compares sums of log-probabilities before they are
    rounded to float32, the newer version after.

    Args:
      model_bytes_or_path: a serialized model, or the path of its file.
      extra_ids: sentinels to append; default: 100, or 0 if the model holds sentinels, as mT5's and
        umT5's do.

    Raises:
      FileNotFoundError: no such file.
      ValueError: an invalid model; the message names the path.
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
            self.path = path_of(model_bytes_or_path, "model_bytes_or_path")
            if not self.path.is_file():
                raise FileNotFoundError(f"{self.path}: no such SentencePiece model")
            self.model = self.path.read_bytes()
        source = "SentencePiece model" if self.path is None else str(self.path)
        if not is_complete(self.model):
            raise ValueError(f"{source}: not a SentencePiece model, or one that was cut short")
        if extra_ids is None:
            extra_ids = 0 if has_own_sentinels(self.model) else SENTENCEPIECE_EXTRA_IDS
        super().__init__(extra_ids)
        try:
            self.processor = sentencepiece.SentencePieceProcessor(
                model_proto=self.model + sentinel_pieces(extra_ids)
            )
        except RuntimeError as error:
            cause = " ".join(str(error).split())
            raise ValueError(
                f"{source}: cannot load with extra_ids={extra_ids}: {cause}"
            ) from error
        self.vocab_size = self.processor.get_piece_size()
        self.eos_id, self.unk_id = self.processor.eos_id(), self.processor.unk_id()

    @property
    def sentinel_ids(self) -> range:
        size, count, piece = self.vocab_size, self.extra_ids, self.processor.id_to_piece
        while not self.extra_ids and piece(size - 1 - count).lstrip("▁") == f"<extra_id_{count}>":
            count += 1
        return range(size - 1, size - 1 - count, -1)

    def _encode(self, text: str) -> list[int]:
        return self.processor.encode(text)

    def _decode(self, ids: list[int]) -> str:
        size, unk = self.vocab_size, self.unk_id
        known = [i if i < size else unk for i in ids]
        return self.processor.decode(known) if known else ""

    def save(self, folder: str | Path) -> None:
        super().save(folder)
        (Path(folder) / SENTENCEPIECE_MODEL).write_bytes(self.model)

    @property
    def _key(self) -> tuple[object, ...]:
        return (self.extra_ids, self.model)

    def __repr__(self) -> str:
        return f"SentencePieceVocabulary({str(self.path)!r}, extra_ids={self.extra_ids})"
