"""`Text2Text`: a model that generates, scores and embeds texts."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from t5jax.decoding.constraints import AllowedTokens
from t5jax.decoding.controls import LogitsProcessor
from t5jax.decoding.options import GenerationOptions, with_options
from t5jax.engine.arguments import (
    array_of_ids,
    by_length,
    list_of_texts,
    need_type,
    padded,
    trimmed,
)
from t5jax.engine.decoder import BatchDecoder
from t5jax.engine.encoded import Encoded
from t5jax.engine.progress import bar
from t5jax.engine.request import Request
from t5jax.engine.results import Generation, gather
from t5jax.loaded import LoadedModel
from t5jax.vocabulary.texts import pieces


class Text2Text(LoadedModel):
    __doc__ = LoadedModel.__doc__

    _cut_reported = False  # whether an input was cut, and said to be

    def encode(self, texts: str | Sequence[str]) -> Encoded:
        """Texts -> encoder output; give it to `generate` any number of times."""
        return self.encode_ids(self.text_ids(texts))

    def encode_ids(self, input_ids: Any) -> Encoded:
        """int[B, S], padded with `config.pad_token_id` -> encoder output, its S rounded up."""
        return self.decoder.encode(array_of_ids("input_ids", input_ids, self.config))

    def logits(self, input_ids: Any, decoder_input_ids: Any) -> jax.Array:
        """Teacher-forced: int[B, S], int[B, T] beginning with the start id -> float32[B, T, V]."""
        self._need_decoder()
        ids = array_of_ids("input_ids", input_ids, self.config)
        prefix = array_of_ids("decoder_input_ids", decoder_input_ids, self.config)
        if len(ids) != len(prefix):
            raise ValueError(f"{len(ids)} rows of input_ids, {len(prefix)} of decoder_input_ids")
        return self.decoder.logits(ids, prefix)

    def score(
        self,
        inputs: str | Sequence[str],
        targets: str | Sequence[str],
        *,
        batch_size: int = 64,
        progress: bool = True,
    ) -> np.ndarray:
        """float32[B]: log p(target | input) in nats, summed over the target's tokens and EOS."""
        self._need_decoder()
        ids = self.text_ids(list_of_texts("inputs", inputs))
        target_ids = self.target_ids(targets)
        return self.score_ids(ids, target_ids, batch_size=batch_size, progress=progress)

    def score_ids(
        self, input_ids: Any, target_ids: Any, *, batch_size: int = 64, progress: bool = True
    ) -> np.ndarray:
        """int[B, S], int[B, T] -> float32[B]: log p(target | input) in nats.

        Both are padded with `config.pad_token_id`.
        """
        self._need_decoder()
        ids = array_of_ids("input_ids", input_ids, self.config)
        targets = array_of_ids("target_ids", target_ids, self.config)
        if len(ids) != len(targets):
            raise ValueError(
                f"{len(ids)} inputs (input_ids), {len(targets)} targets (target_ids); give one "
                "target an input"
            )
        scores = np.zeros(len(ids), np.float32)
        for rows, some in self._batches("score", ids, batch_size, progress):
            scores[rows] = self.decoder.score(some, self._trim(targets[rows]))
        return scores

    def score_each_ids(
        self, input_ids: Any, target_ids: Any, *, batch_size: int = 64, progress: bool = True
    ) -> np.ndarray:
        """int[B, S], int[A, T] -> float32[B, A]: log p of each target for each input, in nats.

        As `score_ids`, for targets that all inputs have in common; an input is encoded once.
        """
        self._need_decoder()
        ids = array_of_ids("input_ids", input_ids, self.config)
        targets = self._trim(array_of_ids("target_ids", target_ids, self.config))
        scores = np.zeros((len(ids), len(targets)), np.float32)
        for rows, some in self._batches("score", ids, batch_size, progress):
            for i, target in enumerate(targets):
                scores[rows, i] = self.decoder.score(some, np.tile(target, (len(rows), 1)))
        return scores

    @with_options
    def generate(
        self,
        texts: str | Sequence[str] | Encoded,
        *,
        batch_size: int = 64,
        decoder_prefix: Any = None,
        logits_processor: LogitsProcessor | None = None,
        prefix_allowed_tokens_fn: AllowedTokens | None = None,
        assistant_model: Text2Text | None = None,
        progress: bool = True,
        **options: Any,
    ) -> Any:
        """Text for text.

        A string gives a string, a sequence (or `Encoded`) a list of strings; with
        `num_return_sequences=n > 1`, each string becomes a list of n.

        Args:
          texts: the inputs.
          batch_size: inputs decoded at a time; of an `Encoded` all are.
          decoder_prefix: what outputs begin with: a text for all, or a text or ids for each input.
            It is part of the output, but counts in no score and not in `max_new_tokens`.
          logits_processor: a function `(ids int32[R, T], logits float32[R, V]) -> logits` that JAX
            can trace, called at every step after all other processors but `answers`. `ids` begin
            with the start id and are -1 from the first one on that is not decided yet; in beam
            search `logits` are log-probabilities. It is compiled once for each function object.
          prefix_allowed_tokens_fn: a Python function `(number of the input, ids int64[T]) -> ids`
            that says which ids may follow those, of which the first is the start id. It is asked
            before decoding for every output that it allows, and must allow no more than can be
            listed; for other rules give a `logits_processor`.
          assistant_model: a smaller model with the same vocabulary, which guesses ids ahead. The
            output is this model's own, up to rounding: sooner where guesses are often right, and
            few inputs are decoded at a time. Not with beams.
          progress: whether to show progress after two seconds, where stderr is a terminal or a
            notebook's.
          options: see below.
        """
        single = isinstance(texts, str)
        inputs = texts if isinstance(texts, Encoded) else list_of_texts("texts", texts)
        request = self.request(
            options,
            inputs=len(inputs),
            decoder_prefix=_one_row(decoder_prefix) if single else decoder_prefix,
            logits_processor=logits_processor,
            prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
            assistant_model=assistant_model,
            scores=False,
        )
        ids = inputs if isinstance(inputs, Encoded) else self.text_ids(inputs)
        out = self.texts_of(self._generate(ids, request, batch_size, progress))
        return out[0] if single else out

    def texts_of(self, result: Generation) -> list[Any]:
        """The texts of a generation's ids: one an input, or a list of n where n > 1."""
        groups = [
            [self.vocabulary.decode(ids[:n].tolist()) for ids, n in zip(*row, strict=True)]
            for row in zip(result.ids, result.lengths, strict=True)
        ]
        return groups if result.ids.shape[1] > 1 else [group[0] for group in groups]

    @with_options
    def generate_ids(
        self,
        input_ids: Any,
        *,
        batch_size: int = 64,
        decoder_prefix: Any = None,
        logits_processor: LogitsProcessor | None = None,
        prefix_allowed_tokens_fn: AllowedTokens | None = None,
        assistant_model: Text2Text | None = None,
        progress: bool = True,
        return_scores: bool = True,
        return_token_scores: bool = False,
        return_cross_attention: bool = False,
        **options: Any,
    ) -> Generation:
        """int[B, S], or `Encoded`, -> `Generation`; arguments as of `generate`.

        Ids are padded with `config.pad_token_id`. Inputs go `batch_size` at a time, sorted by
        length. An input's output does not depend on the others, but for rounding, which quantized
        on a CPU differs for one row, several and many. `Generation.token_scores` and
        `.cross_attention` are there where the last two arguments ask for them; they take one more
        pass over the finished ids. So do the scores of greedy decoding of a few rows on a CPU; with
        `return_scores=False` they are None.
        """
        ids = input_ids
        if not isinstance(ids, Encoded):
            ids = array_of_ids("input_ids", ids, self.config)
        request = self.request(
            options,
            inputs=len(ids),
            decoder_prefix=decoder_prefix,
            logits_processor=logits_processor,
            prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
            assistant_model=assistant_model,
            scores=return_scores,
            token_scores=return_token_scores,
            cross_attention=return_cross_attention,
        )
        return self._generate(ids, request, batch_size, progress)

    def _generate(
        self, ids: np.ndarray | Encoded, request: Request, batch_size: int, progress: bool
    ) -> Generation:
        if isinstance(ids, Encoded):
            return self.decoder.generate(ids, request)
        parts = [
            (rows, self.decoder.generate(some, request, rows))
            for rows, some in self._batches("generate", ids, batch_size, progress)
        ]
        if not parts:
            return request.nothing()
        result = gather(parts, self.config.pad_token_id)
        if result.cross_attention is None:
            return result
        # As wide as the input: a batch is encoded without its padding, or with more of it.
        weights = result.cross_attention[..., : ids.shape[1]]
        missing = ids.shape[1] - weights.shape[-1]
        weights = np.pad(weights, [(0, 0)] * (weights.ndim - 1) + [(0, missing)])
        return dataclasses.replace(result, cross_attention=weights)

    @with_options
    def stream(
        self,
        text: str | Encoded,
        *,
        decoder_prefix: Any = None,
        logits_processor: LogitsProcessor | None = None,
        prefix_allowed_tokens_fn: AllowedTokens | None = None,
        **options: Any,
    ) -> Iterator[str]:
        """The output for one text in pieces, as they are decided.

        They join to what `generate` gives with the same arguments. A piece is held back while what
        comes next may change it: a character of which bytes are missing, a space at the end.

        Raises:
          ValueError: as `generate`; more than one input, beam or sequence. At once, not at the
            first piece.
        """
        if not isinstance(text, str | Encoded):
            raise ValueError(f"stream takes one text, not {type(text).__name__}; call it for each")
        if isinstance(text, Encoded) and len(text) != 1:
            raise ValueError(f"stream takes one input, not {len(text)}; call it for each")
        request = self.request(
            options,
            decoder_prefix=_one_row(decoder_prefix),
            logits_processor=logits_processor,
            prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
        )
        for name in ("num_beams", "num_return_sequences"):
            value = getattr(request.options, name)
            if value > 1:
                raise ValueError(
                    f"{name}={value} cannot be streamed: what comes first is decided last; "
                    f"use generate, or {name}=1"
                )
        encoded = self.encode(text) if isinstance(text, str) else text
        return pieces(self.vocabulary, self.decoder.stream(encoded, request))

    def check_options(
        self,
        options: Mapping[str, Any],
        *,
        decoder_prefix: str | None = None,
        logits_processor: LogitsProcessor | None = None,
        prefix_allowed_tokens_fn: AllowedTokens | None = None,
        assistant_model: Text2Text | None = None,
    ) -> GenerationOptions:
        """All options of a call of `generate` with these options and arguments.

        Raises:
          ValueError: what such a call would raise for them, before there is any input.
        """
        if not isinstance(decoder_prefix, str | None):
            raise ValueError(f"decoder_prefix={decoder_prefix!r} must be one text for all inputs")
        return self.request(
            options,
            decoder_prefix=decoder_prefix,
            logits_processor=logits_processor,
            prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
            assistant_model=assistant_model,
        ).options

    def request(
        self,
        options: Mapping[str, Any],
        *,
        assistant_model: Text2Text | None = None,
        **more: Any,
    ) -> Request:
        """The request of a call of `generate_ids`, complete and checked.

        `more` are `Request.make`'s arguments.
        """
        self._need_decoder()
        assistant = None if assistant_model is None else self._assistant(assistant_model)
        request = Request.make(
            self.generation, options, self.config, self._vocabulary, assistant=assistant, **more
        )
        length = request.length(np.arange(request.inputs))
        self.decoder.check_fits(request, rows=1, inputs=1, length=length)
        return request

    def _assistant(self, model: Text2Text) -> BatchDecoder:
        """An assistant's decoder; ValueError where it cannot assist."""
        need_type("assistant_model", model, Text2Text, "a Text2Text, as load gives it")
        model._need_decoder()
        ours, theirs = ((t.config.vocab_size, t.config.pad_token_id) for t in (self, model))
        if ours != theirs:
            raise ValueError(
                f"the assistant_model has {theirs[0]} ids and padding {theirs[1]}, the model "
                f"{ours[0]} and {ours[1]}; they must have one vocabulary"
            )
        if model.mesh != self.mesh:
            raise ValueError("the assistant_model must lie on the model's mesh; load it with that")
        return model.decoder

    def _batches(
        self, what: str, ids: np.ndarray, batch_size: int, progress: bool
    ) -> Iterator[tuple[np.ndarray, Encoded]]:
        """int32[B, S] in batches of like length, encoded, each with its rows' numbers."""
        with bar(what, len(ids), progress) as shown:
            for rows in by_length(ids != self.config.pad_token_id, batch_size):
                yield rows, self.decoder.encode(self._trim(ids[rows]))
                shown.update(len(rows))

    def text_ids(self, texts: str | Sequence[str]) -> np.ndarray:
        """Texts -> int32[B, S], each with its EOS, cut to `max_input_length`, padded with
        `config.pad_token_id`.

        The first cut is reported on stderr, with the number of tokens lost.
        """
        rows = []
        for text in list_of_texts("texts", texts):
            ids = self.vocabulary.encode(text)
            limit = self.max_input_length
            if limit is not None and len(ids) + 1 > limit:
                if not self._cut_reported:
                    print(
                        f"warning: an input has {len(ids) + 1} tokens; {len(ids) + 1 - limit} "
                        f"beyond max_input_length={limit} were cut (said once)",
                        file=sys.stderr,
                    )
                    self._cut_reported = True
                ids = ids[: limit - 1]
            rows.append([*ids, self.config.eos_token_id])
        return padded(rows, self.config.pad_token_id)

    def target_ids(self, texts: str | Sequence[str]) -> np.ndarray:
        """Texts -> int32[B, T], each whole with its EOS, padded with `config.pad_token_id`."""
        texts = list_of_texts("targets", texts)
        rows = [[*self.vocabulary.encode(text), self.config.eos_token_id] for text in texts]
        return padded(rows, self.config.pad_token_id)

    def _trim(self, ids: np.ndarray) -> np.ndarray:
        return trimmed(ids, self.config.pad_token_id)

    def _need_decoder(self) -> None:
        if self.config.encoder_only:
            raise ValueError("this checkpoint is an encoder alone; encode() is all that it does")


def _one_row(prefix: Any) -> Any:
    """A call's `decoder_prefix` for one input: its ids become a row."""
    if isinstance(prefix, Sequence | np.ndarray) and not isinstance(prefix, bytes) and len(prefix):
        return [prefix] if isinstance(prefix[0], int | np.integer) else prefix
    return prefix
