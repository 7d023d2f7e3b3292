"""SentencePiece models in the format of `tokenizer.json`."""

from __future__ import annotations

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers import decoders as dec
from tokenizers import models as mod
from tokenizers import normalizers as norm
from tokenizers import pre_tokenizers as pre
from tokenizers import processors as proc

from t5jax.vocabulary.sentencepiece import SentencePieceVocabulary
from t5jax.vocabulary.sentencepiece_model import BPE, UNIGRAM, USER_DEFINED, Model, Piece, parse
from t5jax.vocabulary.tokenizer_json import EOS, PAD, UNK

_SPACE = "▁"


def to_tokenizer_json(vocabulary: SentencePieceVocabulary) -> bytes:
    """A `tokenizer.json` with the vocabulary's ids; `TokenizerJsonVocabulary` lists differences.

    Raises:
      ValueError: the format cannot express the model.
    """
    model = parse(vocabulary.model)
    names = [model.pieces[i].text for i in (vocabulary.eos_id, vocabulary.unk_id)]
    if names != [EOS, UNK]:
        raise ValueError(
            f"EOS and unknown are called {', '.join(names)} in the SentencePiece model; "
            f"Hugging Face's T5 tokenizers call them {EOS}, {UNK}"
        )
    names.append(padding(vocabulary))
    sentinels = [f"<extra_id_{i}>" for i in reversed(range(vocabulary.extra_ids))]
    tokenizer = Tokenizer(_model(model, sentinels, vocabulary.unk_id))
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in [*names, *sentinels]]
    )

    rules: list[norm.Normalizer] = []
    if model.charsmap:
        try:
            rules += [norm.Precompiled(model.charsmap)]
        except Exception as error:  # tokenizers raises no type of its own
            cause = " ".join(str(error).split())
            raise ValueError(f"the SentencePiece model is damaged: {cause}") from None
    if model.remove_extra_whitespaces:
        # Leading spaces stay: after a sentinel they begin a word. norm.Strip would strip characters
        # that are not white space to SentencePiece.
        rules += [norm.Replace(Regex(" {2,}"), " "), norm.Replace(Regex(r" +\z"), "")]
    tokenizer.normalizer = norm.Sequence(rules)  # type: ignore[assignment]
    # "first": only the text's beginning gets a space; a text after a sentinel does not.
    scheme = "first" if model.add_dummy_prefix else "never"
    tokenizer.pre_tokenizer = pre.Metaspace(_SPACE, scheme)  # type: ignore[assignment]
    spaces = dec.Metaspace(_SPACE, scheme)
    tokenizer.decoder = (  # type: ignore[assignment]
        dec.Sequence([dec.ByteFallback(), spaces]) if model.byte_fallback else spaces
    )
    tokenizer.post_processor = proc.TemplateProcessing(  # type: ignore[assignment]
        single=f"$A {EOS}", pair=f"$A {EOS} $B {EOS}", special_tokens=[(EOS, vocabulary.eos_id)]
    )
    return tokenizer.to_str(pretty=True).encode("utf-8")


def padding(vocabulary: SentencePieceVocabulary) -> str:
    """The padding piece of Hugging Face's tokenizers: <pad>, or <s> in MADLAD-400.

    Raises:
      ValueError: the model has neither.
    """
    pieces = {piece.text for piece in parse(vocabulary.model).pieces}
    for name in (PAD, "<s>"):
        if name in pieces:
            return name
    raise ValueError(
        f"the SentencePiece model has no {PAD} and no <s>; Hugging Face's tokenizers pad with one"
    )


def fits_t5_tokenizer(vocabulary: SentencePieceVocabulary) -> bool:
    """Whether transformers' T5Tokenizer, which reads only the pieces, gives the same ids."""
    model = parse(vocabulary.model)
    return (
        model.model_type == UNIGRAM
        and model.pieces[vocabulary.pad_id].text == PAD
        and not model.byte_fallback
        and model.add_dummy_prefix
        and model.remove_extra_whitespaces
    )


def _model(model: Model, sentinels: list[str], unk_id: int) -> mod.Model:
    if model.model_type == UNIGRAM:
        scored = [(piece.text, piece.score) for piece in model.pieces]
        scored += [(token, 0.0) for token in sentinels]
        return mod.Unigram(scored, unk_id, model.byte_fallback)
    if model.model_type == BPE:
        # A merge joins two pieces; a user-defined symbol need not be one.
        if any(piece.type == USER_DEFINED for piece in model.pieces):
            raise ValueError(
                "a SentencePiece model of the type bpe with symbols has no tokenizer.json; train "
                "it as unigram, or without symbols"
            )
        texts = [piece.text for piece in model.pieces] + sentinels
        return mod.BPE(
            {text: i for i, text in enumerate(texts)},
            _merges(model.pieces),
            unk_token=UNK,
            fuse_unk=True,
            byte_fallback=model.byte_fallback,
        )
    raise ValueError(
        "only SentencePiece models of the types unigram and bpe have a tokenizer.json; this one's "
        f"type is {model.model_type}"
    )


def _merges(pieces: list[Piece]) -> list[tuple[str, str]]:
    """All pairs of pieces that join to a piece, in SentencePiece's order of merges."""
    texts = {piece.text for piece in pieces}
    return [
        (piece.text[:i], piece.text[i:])
        for piece in sorted(pieces, key=lambda piece: -piece.score)
        for i in range(1, len(piece.text))
        if piece.text[:i] in texts and piece.text[i:] in texts
    ]
