"""`Controls`: generation options as arguments of compiled programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import numpy as np

from t5jax.decoding.constraints import AnswerTrie
from t5jax.decoding.options import GenerationOptions
from t5jax.decoding.processors import (
    BadWords,
    BeginSuppress,
    EncoderNoRepeatNGram,
    EncoderRepetitionPenalty,
    ExponentialDecay,
    ForcedFirst,
    ForcedLast,
    KeepBelow,
    MinNewTokens,
    NoRepeatNGram,
    Processor,
    RepetitionPenalty,
    SequenceBias,
    Suppress,
    UserFunction,
)
from t5jax.decoding.rules import Search
from t5jax.decoding.samplers import Greedy, Sample
from t5jax.decoding.stopping import StopStrings
from t5jax.knobs import short
from t5jax.ops.shortlist import Shortlist

LogitsProcessor = Callable[[jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class SpecialIds:
    """Special ids and the vocabulary's size."""

    start: int
    pad: int
    eos: tuple[int, ...]
    limit: int  # ids from here on are never generated
    vocab: int  # the model's vocab_size


@flax.struct.dataclass
class Prefix:
    """Forced beginnings of R rows: the first `lengths` int32[R] of `ids` int32[R, P]."""

    ids: Any
    lengths: Any


@flax.struct.dataclass
class Controls:
    """How to decode R rows, or B inputs with beams, as a pytree. Leaves do not recompile.

    Attributes:
      ids: special ids; static.
      keys: uint32[R, 2], or [B, 2] with beams: threefry key data.
      max_new_tokens: int32, the most generated ids.
      processors: in the order of application.
      sampler: chooses the next id.
      search: beam search; None: one hypothesis a row.
      stop: stop strings, or None.
      prefix: forced beginnings of rows, or None.
      shortlist: the head's int8 copy, where `may_shortlist`; or None.
    """

    ids: SpecialIds = flax.struct.field(pytree_node=False)
    keys: Any
    max_new_tokens: Any
    processors: tuple[Processor, ...]
    sampler: Greedy | Sample
    search: Search | None = None
    stop: StopStrings | None = None
    prefix: Prefix | None = None
    shortlist: Shortlist | None = None

    @property
    def may_shortlist(self) -> bool:
        """Whether decoding only needs the likeliest id that is not forbidden."""
        greedy = self.search is None and isinstance(self.sampler, Greedy)
        return greedy and all(p.forbids for p in self.processors)


def make_processors(
    options: GenerationOptions,
    ids: SpecialIds,
    inputs: np.ndarray,
    mask: np.ndarray,
    *,
    answers: Sequence[Sequence[int]] = (),
    trie: AnswerTrie | None = None,
    function: LogitsProcessor | None = None,
) -> tuple[Processor, ...]:
    """The processors of `options`, in transformers' order.

    Args:
      options: the generation options.
      ids: special ids.
      inputs: int32[B, S], the ids of each input.
      mask: bool[B, S], False at padding, which processors ignore.
      answers: `options.answers` as ids, without EOS.
      trie: replaces `answers`.
      function: a user's `(ids, logits) -> logits`.
    """
    out: list[Processor] = []
    if ids.limit < ids.vocab:
        out.append(KeepBelow(ids.limit))
    if options.sequence_bias:
        out.append(SequenceBias.of(options.sequence_bias))
    if options.encoder_repetition_penalty != 1.0:
        penalty = np.float32(options.encoder_repetition_penalty)
        out.append(EncoderRepetitionPenalty.of(penalty, inputs, mask, ids.vocab))
    if options.repetition_penalty != 1.0:
        out.append(RepetitionPenalty(np.float32(options.repetition_penalty), ids.vocab))
    if options.no_repeat_ngram_size:
        out.append(NoRepeatNGram(options.no_repeat_ngram_size))
    if options.encoder_no_repeat_ngram_size:
        marked = np.where(mask, inputs, -1).astype(np.int32)
        out.append(EncoderNoRepeatNGram(marked, options.encoder_no_repeat_ngram_size))
    words = [word for word in options.bad_words_ids if word not in {(i,) for i in ids.eos}]
    if words:
        out.append(BadWords.of(words))
    # Always present, so that changing min_new_tokens does not recompile.
    out.append(MinNewTokens(np.int32(options.min_new_tokens), ids.eos))
    if options.forced_bos_token_id is not None:
        out.append(ForcedFirst(np.int32(options.forced_bos_token_id)))
    if options.forced_eos_token_id:
        out.append(ForcedLast(np.array(options.forced_eos_token_id, np.int32)))
    if options.exponential_decay_length_penalty is not None:
        start, factor = options.exponential_decay_length_penalty
        out.append(ExponentialDecay(np.int32(start), np.float32(factor), ids.eos))
    if options.suppress_tokens:
        out.append(Suppress(_mask(options.suppress_tokens, ids.vocab)))
    if options.begin_suppress_tokens:
        forced = options.forced_bos_token_id is not None
        out.append(BeginSuppress(_mask(options.begin_suppress_tokens, ids.vocab), forced))
    if function is not None:
        out.append(UserFunction(function))
    # Last, so that outputs are always answers.
    if trie is not None:
        out.append(trie)
    elif answers:
        out.append(AnswerTrie.of(answers, ids.eos))
    return tuple(out)


def _mask(ids: Sequence[int], vocab: int) -> np.ndarray:
    mask = np.zeros(vocab, bool)
    mask[list(ids)] = True
    return mask


def check_ids(options: GenerationOptions, limit: int) -> None:
    """Raises ValueError if the options hold an id that is not below `limit`."""
    given = {
        "suppress_tokens": options.suppress_tokens,
        "begin_suppress_tokens": options.begin_suppress_tokens,
        "bad_words_ids": [i for word in options.bad_words_ids for i in word],
        "sequence_bias": [i for word, _ in options.sequence_bias for i in word],
        "force_words_ids": [i for p in options.force_words_ids for word in p for i in word],
        "forced_bos_token_id": [options.forced_bos_token_id or 0],
        "forced_eos_token_id": options.forced_eos_token_id,
        "eos_token_id": options.eos_token_id,
        "answers": [i for answer in options.answers if not isinstance(answer, str) for i in answer],
    }
    for name, values in given.items():
        for i in values:
            if i >= limit:
                raise ValueError(
                    f"{name} holds id {short(i)}; the vocabulary has ids 0 to {limit - 1}"
                )
