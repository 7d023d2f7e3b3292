"""Text to ids and back: bytes, SentencePiece, added tokens, Hugging Face's tokenizer.json.

Bytes and SentencePiece give seqio's ids without TensorFlow, seqio or protobuf, so a notebook
tokenizes exactly as training did.
"""

from t5jax.vocabulary.added_tokens import AddedToken, AddedTokensVocabulary
from t5jax.vocabulary.base import Vocabulary
from t5jax.vocabulary.byte_level import BYTE_EXTRA_IDS, ByteVocabulary
from t5jax.vocabulary.folders import load_vocabulary, make_vocabulary, save_vocabulary
from t5jax.vocabulary.huggingface import from_huggingface, from_tokenizer_json, write_huggingface
from t5jax.vocabulary.sentencepiece import SENTENCEPIECE_EXTRA_IDS, SentencePieceVocabulary
from t5jax.vocabulary.tokenizer_json import TokenizerJsonVocabulary
from t5jax.vocabulary.training import frequent_words, train_sentencepiece

__all__ = [
    "BYTE_EXTRA_IDS",
    "SENTENCEPIECE_EXTRA_IDS",
    "AddedToken",
    "AddedTokensVocabulary",
    "ByteVocabulary",
    "SentencePieceVocabulary",
    "TokenizerJsonVocabulary",
    "Vocabulary",
    "frequent_words",
    "from_huggingface",
    "from_tokenizer_json",
    "load_vocabulary",
    "make_vocabulary",
    "save_vocabulary",
    "train_sentencepiece",
    "write_huggingface",
]
