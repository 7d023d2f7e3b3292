"""Training of SentencePiece models with T5's special ids."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import sentencepiece

from t5jax.vocabulary.base import Vocabulary
from t5jax.vocabulary.sentencepiece import SENTENCEPIECE_EXTRA_IDS, SentencePieceVocabulary

_FIXED: dict[str, Any] = {
    "pad_id": Vocabulary.pad_id,
    "eos_id": 1,
    "unk_id": 2,
    "bos_id": -1,
    # By default pieces split before digits, which cuts phonemes such as AH0.
    "split_by_number": False,
    # By default sentences above 4,192 bytes are dropped silently.
    "max_sentence_length": 1 << 20,
    # Fixed: the order of floating-point sums depends on it, and so do the pieces.
    "num_threads": 16,
    "minloglevel": 2,
}


def frequent_words(texts: Iterable[str], number: int) -> list[str]:
    """The `number` most frequent words, as symbols for `train_sentencepiece`.

    For text with a few fixed words (labels, phonemes, task prefixes): each becomes one id.
    """
    counts = Counter(word for text in texts for word in text.split())
    # By count, then alphabetically, so that the order of the texts does not matter.
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
      texts: training sentences.
      path: the file to write, usually `….model`; its folder is made if missing.
      vocab_size: number of pieces, with special ids and `symbols`, without sentinels.
      model_type: "unigram" (T5, mT5) or "bpe".
      symbols: texts that are never split. A leading "▁" stands for a space: with "▁AH0", " AH0" is
        one id; with "AH0" it is two.
      extra_ids: sentinels of the returned vocabulary; the file holds none.
      character_coverage: share of characters that get a piece: 1.0 for alphabets, 0.9995 for
        Chinese or Japanese.
      byte_fallback: use 256 pieces for bytes, so that unseen characters are not unknown. T5's
        models do not.

    Raises:
      ValueError: no text, or a vocab_size that the texts do not allow; the message says which would
        do.
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
            **_FIXED,
        )
    except RuntimeError as error:
        raise ValueError(_training_error(str(error), vocab_size)) from error
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(output.getvalue())
    return SentencePieceVocabulary(path, extra_ids)


def _training_error(message: str, vocab_size: int) -> str:
    """SentencePiece's error in one line, with the remedy."""
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
