"""`Request`: a call's options and arguments, complete and checked before anything is encoded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from t5jax.decoding.constraints import AllowedTokens, explore
from t5jax.decoding.controls import (
    Controls,
    LogitsProcessor,
    Prefix,
    SpecialIds,
    check_ids,
    make_processors,
)
from t5jax.decoding.options import GenerationOptions
from t5jax.decoding.rules import Search
from t5jax.decoding.stopping import StopStrings
from t5jax.engine.arguments import padded
from t5jax.engine.buckets import bucket
from t5jax.engine.results import Generation
from t5jax.knobs import short
from t5jax.model.contract import ModelConfig
from t5jax.vocabulary import Vocabulary
from t5jax.vocabulary.texts import token_texts

if TYPE_CHECKING:
    from t5jax.engine.decoder import BatchDecoder


@dataclasses.dataclass(frozen=True)
class Request:
    """One call, checked, and in ids.

    Attributes:
      options: as given.
      ids: special ids.
      inputs: how many there are.
      longest: the decoder's positions, and the assistant's; None: no limit.
      prefixes: ids that each input's output begins with; empty: none.
      answers: `options.answers` as ids, without EOS.
      stop: the automaton of `options.stop_strings`.
      function: a user's logits processor.
      allowed: a user's function that says which ids may follow.
      assistant: a smaller model's decoder.
      scores, token_scores, cross_attention: whether the result is to have them.
    """

    options: GenerationOptions
    ids: SpecialIds
    inputs: int
    longest: int | None
    prefixes: Sequence[Sequence[int]]
    answers: Sequence[Sequence[int]]
    stop: StopStrings | None
    function: LogitsProcessor | None
    allowed: AllowedTokens | None
    assistant: BatchDecoder | None
    scores: bool
    token_scores: bool
    cross_attention: bool

    @classmethod
    def make(
        cls,
        defaults: GenerationOptions,
        given: Mapping[str, Any],
        config: ModelConfig,
        vocabulary: Vocabulary | None,
        *,
        inputs: int = 1,
        decoder_prefix: Any = None,
        logits_processor: LogitsProcessor | None = None,
        prefix_allowed_tokens_fn: AllowedTokens | None = None,
        assistant: BatchDecoder | None = None,
        scores: bool = True,
        token_scores: bool = False,
        cross_attention: bool = False,
    ) -> Request:
        """Of a model's default options and those `given` in a call.

        Raises:
          ValueError: names an option that is wrong, or that the model or its vocabulary cannot
            follow.
        """
        options = defaults.replace(given)
        limit = vocabulary.vocab_size if vocabulary else config.vocab_size
        eos = options.eos_token_id or (config.eos_token_id,)
        _check_assistant(options, given, assistant)
        _check_functions(options, logits_processor, prefix_allowed_tokens_fn)
        _check_texts(options, vocabulary)
        check_ids(options, limit)
        _check_phrases(options, eos)
        stop = None
        if options.stop_strings and vocabulary is not None:
            stop = StopStrings.of(options.stop_strings, token_texts(vocabulary))
        prefixes = _prefixes(decoder_prefix, inputs, config, vocabulary)
        _check_first(prefixes, given)
        positions = {"model": config.longest_output}
        if assistant is not None:
            positions["assistant_model"] = assistant.network.config.longest_output
        longest = _longest(prefixes, options, positions)
        return cls(
            options=options,
            ids=SpecialIds(
                start=config.decoder_start_token_id,
                pad=config.pad_token_id,
                eos=eos,
                limit=limit,
                vocab=config.vocab_size,
            ),
            inputs=inputs,
            longest=longest,
            prefixes=prefixes,
            answers=_answers(options, vocabulary, eos, stop),
            stop=stop,
            function=logits_processor,
            allowed=prefix_allowed_tokens_fn,
            assistant=assistant,
            scores=scores,
            token_scores=token_scores,
            cross_attention=cross_attention,
        )

    @property
    def samples(self) -> int:
        """Sequences an input."""
        return self.options.num_return_sequences

    @property
    def repeats(self) -> int:
        """Rows an input is decoded in: its samples, or one of several beams."""
        return 1 if self.options.num_beams > 1 else self.samples

    def given(self, numbers: np.ndarray) -> list[Sequence[int]]:
        """The prefixes of some of the inputs."""
        return [self.prefixes[i] for i in numbers] if self.prefixes else [()] * len(numbers)

    def length(self, numbers: np.ndarray) -> int:
        """Columns of the result of some of the inputs, rounded up."""
        given = max(map(len, self.given(numbers)), default=0)
        return bucket(self.options.max_new_tokens + given, longest=self.longest)

    def nothing(self) -> Generation:
        """The result of no inputs."""
        n = self.samples

        def empty(asked: bool, *shape: int) -> np.ndarray | None:
            return np.zeros((0, n, *shape), np.float32) if asked else None

        return Generation(
            ids=np.zeros((0, n, 0), np.int32),
            scores=empty(self.scores),
            lengths=np.zeros((0, n), np.int32),
            token_scores=empty(self.token_scores, 0),
            cross_attention=empty(self.cross_attention, 0, 0, 0, 0),
        )

    def controls(
        self, numbers: np.ndarray, inputs: np.ndarray, mask: np.ndarray, keys: np.ndarray
    ) -> Controls:
        """For some of the inputs.

        Args:
          numbers: int[n], which; n at most B.
          inputs: int32[B, S], their ids, behind them rows that only fill a batch up.
          mask: bool[B, S], False at padding.
          keys: uint32[B * repeats, 2], threefry key data.
        """
        given = self.given(numbers)
        prefix = None
        if width := max(map(len, given), default=0):
            ids = padded(given, self.ids.pad, (len(inputs), bucket(width)))
            lengths = padded([[len(row)] for row in given], 0, (len(inputs), 1))[:, 0]
            prefix = Prefix(np.repeat(ids, self.repeats, axis=0), np.repeat(lengths, self.repeats))
        trie = None
        if self.allowed is not None:
            trie = explore(
                self.allowed,
                numbers.tolist(),
                [(self.ids.start, *row) for row in given],
                eos=self.ids.eos,
                limit=self.ids.limit,
                longest=self.options.max_new_tokens,
                rows=len(inputs),
            )
        return Controls(
            self.ids,
            keys,
            np.int32(self.options.max_new_tokens),
            make_processors(
                self.options,
                self.ids,
                inputs,
                mask,
                answers=self.answers,
                trie=trie,
                function=self.function,
            ),
            jax.tree.map(np.float32, self.options.sampler()),
            Search.of(self.options, self.ids.vocab),
            self.stop,
            prefix,
        )


def _check_assistant(
    options: GenerationOptions, given: Mapping[str, Any], assistant: BatchDecoder | None
) -> None:
    if assistant is None:
        if (count := given.get("num_assistant_tokens")) is not None:
            raise ValueError(f"num_assistant_tokens={count} needs an assistant_model")
        return
    if options.num_beams > 1:
        raise ValueError(
            f"num_beams={options.num_beams} cannot be assisted; leave assistant_model out"
        )
    if options.max_time is not None:
        raise ValueError(
            f"max_time={options.max_time} cannot be kept with an assistant_model, which "
            "decodes to the end at once; leave one of them out"
        )


def _check_functions(options: GenerationOptions, processor: Any, allowed: Any) -> None:
    if processor is not None and not callable(processor):
        raise ValueError(
            f"logits_processor={short(processor)} must be a function (ids, logits) -> logits"
        )
    if allowed is None:
        return
    if not callable(allowed):
        raise ValueError(
            f"prefix_allowed_tokens_fn={short(allowed)} must be a function (number of the input, "
            "ids so far) -> ids allowed next"
        )
    for name in ("answers", "force_words_ids"):
        if getattr(options, name):
            raise ValueError(
                f"{name} and prefix_allowed_tokens_fn both say what an output holds; give one of "
                "them"
            )


def _check_texts(options: GenerationOptions, vocabulary: Vocabulary | None) -> None:
    texts = [a for a in options.answers if isinstance(a, str)]
    if vocabulary is None and (texts or options.stop_strings):
        name, value = ("answers", texts) if texts else ("stop_strings", options.stop_strings)
        raise ValueError(
            f"{name}={list(value)!r}: this checkpoint has no vocabulary to read texts with; "
            + ("give ids" if texts else "load(…, vocabulary=…) gives it one")
        )


def _check_phrases(options: GenerationOptions, eos: Sequence[int]) -> None:
    if options.force_words_ids and options.num_beams == 1:
        raise ValueError("force_words_ids needs num_beams of 2 or more")
    for i in eos:
        if any(i in word for phrase in options.force_words_ids for word in phrase):
            raise ValueError(f"force_words_ids holds id {i}, which ends an output")


def _answers(
    options: GenerationOptions,
    vocabulary: Vocabulary | None,
    eos: Sequence[int],
    stop: StopStrings | None,
) -> list[Sequence[int]]:
    """`options.answers` as ids, without EOS; ValueError for one that cannot come out whole."""
    answers = [_answer(a, vocabulary, eos) for a in options.answers]
    longest = max(map(len, answers), default=0)
    if longest > options.max_new_tokens:
        raise ValueError(
            f"max_new_tokens={options.max_new_tokens} would cut the longest of the answers, "
            f"which has {longest} ids; give as many, or shorter answers"
        )
    for answer, given in zip(answers, options.answers, strict=True):
        if stop is not None and stop.cuts(answer):
            raise ValueError(
                f"stop_strings={list(options.stop_strings)} would cut the answer {given!r} "
                "short; leave one of them out"
            )
    return answers


def _answer(
    answer: str | Sequence[int], vocabulary: Vocabulary | None, eos: Sequence[int]
) -> Sequence[int]:
    if isinstance(answer, str):
        assert vocabulary is not None
        return vocabulary.encode(answer)
    ids = tuple(answer)
    if ids and ids[-1] in eos:
        ids = ids[:-1]
    ends = [i for i in ids if i in eos]
    if ends:
        raise ValueError(
            f"answers: {list(answer)} goes on after id {ends[0]}, which ends an output"
        )
    return ids


def _prefixes(
    prefix: Any, inputs: int, config: ModelConfig, vocabulary: Vocabulary | None
) -> list[list[int]]:
    """`decoder_prefix` as ids, one row an input; no rows where there is none."""
    if prefix is None:
        return []
    if isinstance(prefix, str):
        prefix = [prefix] * inputs
    elif not isinstance(prefix, Sequence | np.ndarray) or isinstance(prefix, bytes):
        raise TypeError(
            f"decoder_prefix={short(prefix)} must be a text, or a text or ids for each input"
        )
    if len(prefix) != inputs:
        raise ValueError(
            f"decoder_prefix has {len(prefix)} rows for {inputs} inputs; give one for each, "
            "or one text for all"
        )
    rows, limit = [], config.vocab_size
    for row in prefix:
        try:
            if isinstance(row, str) and vocabulary is not None:
                ids = vocabulary.encode(row)
            else:
                ids = np.asarray(row).tolist()
        except ValueError:  # ragged, nested, or no text that can be encoded
            ids = None
        if not isinstance(ids, list) or not all(isinstance(i, int) and 0 <= i < limit for i in ids):
            raise ValueError(
                f"decoder_prefix holds {short(row)}; give texts, or ids from 0 to {limit - 1}"
            )
        while ids and ids[-1] == config.pad_token_id:
            ids.pop()
        rows.append(ids)
    return rows


def _check_first(prefixes: Sequence[Sequence[int]], given: Mapping[str, Any]) -> None:
    first = given.get("forced_bos_token_id")
    if first is not None and any(prefixes):
        raise ValueError(
            f"forced_bos_token_id={first} and decoder_prefix both say what an output begins "
            "with; give one of them"
        )


def _longest(
    prefixes: Sequence[Sequence[int]],
    options: GenerationOptions,
    positions: Mapping[str, int | None],
) -> int | None:
    """The fewest of the models' `positions`; ValueError where an output may be longer."""
    most = options.max_new_tokens
    total = most + max(map(len, prefixes), default=0)
    limits = {model: limit for model, limit in positions.items() if limit is not None}
    for model, limit in limits.items():
        if total > limit:
            more = "" if total == most else ", decoder_prefix counted"
            raise ValueError(
                f"max_new_tokens={most} makes outputs of {total} tokens{more}; the {model}'s "
                f"longest_output is {limit}"
            )
    return min(limits.values(), default=None)
