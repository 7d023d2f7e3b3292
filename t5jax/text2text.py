"""`Text2Text`: a model with its parameters and vocabulary, ready to generate, score and embed."""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from t5jax import sharding, sizes
from t5jax.decoding.constraints import AllowedTokens
from t5jax.decoding.controls import LogitsProcessor
from t5jax.decoding.options import GenerationOptions
from t5jax.engine import programs
from t5jax.engine.generation import (
    LENGTH_BUCKETS,
    Decoder,
    Encoded,
    Generation,
    Request,
    bucket,
    gather,
)
from t5jax.formats import generation_defaults
from t5jax.formats.assembly import placements
from t5jax.formats.checkpoint import About, InMemory, tensors_of
from t5jax.formats.detect import open_checkpoint, report_assumed, write_checkpoint
from t5jax.knobs import Range, check_value, short
from t5jax.model.contract import ModelConfig, Params
from t5jax.model.family import family_of
from t5jax.model.parameters import (
    abstract_params,
    for_serving,
    from_serving,
    is_serving,
    scheme_of,
)
from t5jax.model.parameters import quantize as quantize_tree
from t5jax.ops.quantized import Kind, Quantized, Scheme, dequantize, map_kernels
from t5jax.vocabulary import Vocabulary
from t5jax.vocabulary.texts import pieces


class Text2Text:
    """A model, its parameters and its vocabulary.

    Wherever ids go in or out, rows are padded with `config.pad_token_id`: 0 in every model of the
    family but MADLAD-400's, where it is 1.

    Args:
      config: the architecture.
      params: the parameter tree with stacked layers, as `t5jax.model.parameters.init_params`
        makes it, or the serving tree of `for_serving`; leaves may lie on host or device.
      vocabulary: turns text to ids and back. Without one (None) all that works on ids works.
      dtype: "float32" or "bfloat16", or such a dtype: what parameters are stored in and computed
        with. Norms, softmax and logits are float32.
      mesh: devices to spread the parameters over; default: one device.
      generation: default options of `generate`.
      max_input_length: tokens of a text that are used, its EOS counted; None: all.

    Attributes:
      dtype: np.dtype of what is not quantized, and of computation.
      generation, max_input_length, mesh: as given.

    Raises:
      ValueError: a parameter is missing or does not fit the configuration. TypeError: an argument
        is of another type.
    """

    def __init__(
        self,
        config: ModelConfig,
        params: Params,
        vocabulary: Vocabulary | None,
        *,
        dtype: Any = "float32",
        mesh: Mesh | None = None,
        generation: GenerationOptions | None = None,
        max_input_length: int | None = None,
    ) -> None:
        dtype = dtype_of(dtype)
        _need_type("mesh", mesh, Mesh | None, "a jax.sharding.Mesh")
        _need_type("vocabulary", vocabulary, Vocabulary | None, "a Vocabulary, or None")
        if vocabulary is not None and vocabulary.vocab_size > config.vocab_size:
            raise ValueError(
                f"the vocabulary has {vocabulary.vocab_size} ids, the embedding only "
                f"{config.vocab_size} rows; they do not belong together"
            )
        check_params(config, params)
        self.config = config
        self._vocabulary = vocabulary
        self.dtype = dtype
        family = family_of(config)
        self.model = family.training(config, self.dtype)
        self.generation = generation or GenerationOptions()
        self.max_input_length = max_input_length
        self.mesh = mesh
        self._network = family.serving(config, self.dtype)
        self._params = _place(config, params, self.dtype, mesh)
        self._decoder = Decoder(self._network, self._params, mesh)
        self._cut_reported = False

    @property
    def params(self) -> Params:
        """The parameter tree with stacked layers, in `dtype`; made anew at each access.

        Kernels of a quantized model are expanded to float32 each time: four times the memory that
        an int8 model holds, eight times that of an int4 one.
        """
        # Decoding wants another layout, and holding both would double the memory.
        # New dictionaries all through: whoever edits the tree does not edit this model.
        return jax.tree.map(lambda x: x, from_serving(self.config, dequantize(self._params)))

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokenizer; ValueError where the checkpoint came without one."""
        if self._vocabulary is None:
            raise ValueError(
                "this checkpoint came without a vocabulary; load(…, vocabulary='bytes' or a "
                "SentencePiece file) gives it one, and ids work without"
            )
        return self._vocabulary

    @property
    def quantization(self) -> Scheme | None:
        """How kernels are held: kind ("int8" or "int4") and whether the head is; None: in dtype."""
        return scheme_of(self.config, self._params)

    @property
    def nbytes(self) -> int:
        """Bytes of the parameters as they are held, counted once however many devices have them."""
        return sum(x.nbytes for x in jax.tree.leaves(self._params))

    def cast(self, dtype: Any) -> Text2Text:
        """A new model that holds what is not quantized, and computes, in `dtype`.

        It generates what `load(…, dtype=dtype)` would. Casting bfloat16 to float32 does not restore
        what rounding lost. Arrays that are in `dtype` already are shared, not copied.
        """
        return self._with(self._params, dtype)

    def quantize(self, kind: Kind, *, head: bool = True) -> Text2Text:
        """A new model with kernels in "int8" or "int4".

        Of a float32 model it generates what `load(…, quantize=kind, quantize_head=head)` would.

        Raises:
          ValueError: an unknown kind; or this model is quantized already, in another way.
        """
        scheme, have = Scheme(kind, head), self.quantization
        if have == scheme:
            return self._with(self._params, self.dtype)
        if have is not None:
            raise ValueError(
                f"this model is quantized already, as {have}; {scheme} can only be made of the one "
                "that it was made from"
            )
        with sharding.use(self.mesh):
            params = jax.jit(lambda x: quantize_tree(self.config, x, scheme))(self._params)
        return self._with(params, self.dtype)

    def _with(self, params: Params, dtype: Any) -> Text2Text:
        return Text2Text(
            self.config,
            params,
            self._vocabulary,
            dtype=dtype,
            mesh=self.mesh,
            generation=self.generation,
            max_input_length=self.max_input_length,
        )

    def encode(self, texts: str | Sequence[str]) -> Encoded:
        """Texts -> encoder output; give it to `generate` any number of times."""
        return self.encode_ids(self.text_ids(texts))

    def encode_ids(self, input_ids: Any) -> Encoded:
        """int[B, S] (0 = padding) -> encoder output, its S rounded up."""
        return self._decoder.encode(self._ids(input_ids, "input_ids"))

    def logits(self, input_ids: Any, decoder_input_ids: Any) -> jax.Array:
        """Teacher-forced: int[B, S], int[B, T] beginning with the start id -> float32[B, T, V]."""
        self._need_decoder()
        ids = self._ids(input_ids, "input_ids")
        prefix = self._ids(decoder_input_ids, "decoder_input_ids")
        if len(ids) != len(prefix):
            raise ValueError(f"{len(ids)} rows of input_ids, {len(prefix)} of decoder_input_ids")
        self._check_logits(*prefix.shape)
        mask = ids != self.config.pad_token_id
        with sharding.use(self.mesh):
            hidden = programs.encode(self._network, self._params, ids, mask)
            return programs.logits(self._network, self._params, hidden, mask, prefix)

    def score(self, inputs: str | Sequence[str], targets: str | Sequence[str]) -> np.ndarray:
        """float32[B]: log p(target | input) in nats, summed over the target's tokens and EOS."""
        ids = self.text_ids(_texts("inputs", inputs))
        return self.score_ids(ids, self.target_ids(targets))

    def score_ids(self, input_ids: Any, target_ids: Any, *, batch_size: int = 64) -> np.ndarray:
        """int[B, S], int[B, T] (0 = padding) -> float32[B]: log p(target | input) in nats."""
        self._need_decoder()
        ids = self._ids(input_ids, "input_ids")
        targets = self._ids(target_ids, "target_ids")
        if len(ids) != len(targets):
            raise ValueError(
                f"{len(ids)} inputs (input_ids), {len(targets)} targets (target_ids); give one "
                "target an input"
            )
        scores = np.zeros(len(ids), np.float32)
        for rows in _by_length(ids != self.config.pad_token_id, batch_size):
            encoded = self.encode_ids(self._trim(ids[rows]))
            scores[rows] = self._score_encoded(encoded, self._trim(targets[rows]))
        return scores

    def score_each_ids(
        self, input_ids: Any, target_ids: Any, *, batch_size: int = 64
    ) -> np.ndarray:
        """int[B, S], int[A, T] (0 = padding) -> float32[B, A]: log p of each target for each input.

        As `score_ids`, for targets that all inputs have in common; an input is encoded once.
        """
        self._need_decoder()
        ids = self._ids(input_ids, "input_ids")
        targets = self._trim(self._ids(target_ids, "target_ids"))
        scores = np.zeros((len(ids), len(targets)), np.float32)
        for rows in _by_length(ids != self.config.pad_token_id, batch_size):
            encoded = self.encode_ids(self._trim(ids[rows]))
            for i, target in enumerate(targets):
                scores[rows, i] = self._score_encoded(encoded, np.tile(target, (len(rows), 1)))
        return scores

    def _check_logits(self, rows: int, width: int) -> None:
        sizes.check_fits(
            f"scoring {rows} target(s) of {width} tokens",
            {"logits": rows * width * self.config.vocab_size * 4},
            self._decoder.devices,
            "score fewer at a time",
        )

    def _score_encoded(self, encoded: Encoded, targets: np.ndarray) -> np.ndarray:
        """B encoded inputs, int[B, T] -> float32[B]."""
        rows = self._decoder.rows(len(targets))
        self._check_logits(rows, targets.shape[1])
        padded = self._padding(rows, bucket(targets.shape[1], LENGTH_BUCKETS))
        padded[: len(targets), : targets.shape[1]] = targets
        hidden, mask = self._decoder.pad_rows(encoded, rows)
        with sharding.use(self.mesh):
            result = programs.score(self._network, self._params, hidden, mask, padded)
        return np.asarray(result)[: len(targets)]

    def generate(
        self,
        texts: str | Sequence[str] | Encoded,
        *,
        batch_size: int = 64,
        decoder_prefix: Any = None,
        logits_processor: LogitsProcessor | None = None,
        prefix_allowed_tokens_fn: AllowedTokens | None = None,
        assistant_model: Text2Text | None = None,
        **options: Any,
    ) -> Any:
        """Text for text; see `GenerationOptions` for `options`.

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
        """
        assistant = self._assistant(assistant_model, options)
        request = self._request(
            options,
            logits_processor=logits_processor,
            prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
            scores=False,
        )
        single = isinstance(texts, str)
        if isinstance(texts, Encoded):
            request = self._with_prefix(request, options, decoder_prefix, len(texts))
            result = self._decoder.generate(texts, request, assistant)
        else:
            ids = self.text_ids(texts)
            request = self._with_prefix(request, options, decoder_prefix, len(ids), single)
            result = self._generate(ids, request, batch_size, assistant)
        out = self.texts_of(result)
        return out[0] if single else out

    def texts_of(self, result: Generation) -> list[Any]:
        """The texts of a generation's ids: one an input, or a list of n where n > 1."""
        groups = [
            [self.vocabulary.decode(ids[:n].tolist()) for ids, n in zip(*row, strict=True)]
            for row in zip(result.ids, result.lengths, strict=True)
        ]
        return groups if result.ids.shape[1] > 1 else [group[0] for group in groups]

    def generate_ids(
        self,
        input_ids: Any,
        *,
        batch_size: int = 64,
        decoder_prefix: Any = None,
        logits_processor: LogitsProcessor | None = None,
        prefix_allowed_tokens_fn: AllowedTokens | None = None,
        assistant_model: Text2Text | None = None,
        return_scores: bool = True,
        return_token_scores: bool = False,
        return_cross_attention: bool = False,
        **options: Any,
    ) -> Generation:
        """int[B, S] (0 = padding), or `Encoded`, -> `Generation`; for `options` see
        `GenerationOptions`, for the other arguments `generate`.

        Inputs go `batch_size` at a time, sorted by length. What an input gives does not depend on
        the others, but for rounding, which quantized on a CPU differs for one row and several.
        `Generation.token_scores` and `.cross_attention` are there where the last two arguments ask
        for them; they take one more pass over the finished ids. So do the scores of greedy decoding
        of a few rows on a CPU; without `return_scores` they may be nan.
        """
        assistant = self._assistant(assistant_model, options)
        request = self._request(
            options,
            logits_processor=logits_processor,
            prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
            scores=return_scores,
            token_scores=return_token_scores,
            cross_attention=return_cross_attention,
        )
        if isinstance(input_ids, Encoded):
            request = self._with_prefix(request, options, decoder_prefix, len(input_ids))
            return self._decoder.generate(input_ids, request, assistant)
        ids = self._ids(input_ids, "input_ids")
        request = self._with_prefix(request, options, decoder_prefix, len(ids))
        return self._generate(ids, request, batch_size, assistant)

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
        request = self._request(
            options,
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
        if not isinstance(text, str | Encoded):
            raise ValueError(f"stream takes one text, not {type(text).__name__}; call it for each")
        encoded = self.encode(text) if isinstance(text, str) else text
        if len(encoded) != 1:
            raise ValueError(f"stream takes one input, not {len(encoded)}; call it for each")
        request = self._with_prefix(request, options, decoder_prefix, 1, single=True)
        return pieces(self.vocabulary, self._decoder.stream(encoded, request))

    def check_options(
        self,
        options: Mapping[str, Any],
        *,
        decoder_prefix: str | None = None,
        logits_processor: LogitsProcessor | None = None,
        prefix_allowed_tokens_fn: AllowedTokens | None = None,
        assistant_model: Text2Text | None = None,
    ) -> GenerationOptions:
        """All options of a call of `generate` with these.

        Raises:
          ValueError: what such a call would raise for them, before there is any input.
        """
        if not isinstance(decoder_prefix, str | None):
            raise ValueError(f"decoder_prefix={decoder_prefix!r} must be one text for all inputs")
        self._assistant(assistant_model, options)
        request = self._request(
            options,
            logits_processor=logits_processor,
            prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
        )
        return self._with_prefix(request, options, decoder_prefix, 1).options

    def _request(self, options: Mapping[str, Any], **more: Any) -> Request:
        self._need_decoder()
        settings = self.generation.replace(options)
        request = Request.make(settings, self.config, self._vocabulary, **more)
        self._decoder.check_fits(request, rows=1, inputs=1)
        return request

    def _with_prefix(
        self,
        request: Request,
        options: Mapping[str, Any],
        prefix: Any,
        inputs: int,
        single: bool = False,
    ) -> Request:
        """The request of a call's `options` with `decoder_prefix` as ids, one row an input."""
        request = dataclasses.replace(request, numbers=list(range(inputs)))
        if prefix is None:
            return request
        if isinstance(prefix, str):
            prefix = [prefix] * inputs
        elif not isinstance(prefix, Sequence | np.ndarray) or isinstance(prefix, bytes):
            raise TypeError(
                f"decoder_prefix={short(prefix)} must be a text, or a text or ids for each input"
            )
        elif single and len(prefix) and isinstance(prefix[0], int | np.integer):
            prefix = [prefix]
        if len(prefix) != inputs:
            raise ValueError(
                f"decoder_prefix has {len(prefix)} rows for {inputs} inputs; give one for each, "
                "or one text for all"
            )
        rows = []
        limit = self.config.vocab_size
        for row in prefix:
            text = isinstance(row, str)
            try:
                ids = self.vocabulary.encode(row) if text else np.asarray(row).tolist()
            except ValueError:  # ragged, nested, or no text that can be encoded
                ids = None
            if not isinstance(ids, list) or not all(
                isinstance(i, int) and 0 <= i < limit for i in ids
            ):
                raise ValueError(
                    f"decoder_prefix holds {short(row)}; give texts, or ids from 0 to {limit - 1}"
                )
            while ids and ids[-1] == self.config.pad_token_id:
                ids.pop()
            rows.append(ids)
        first = options.get("forced_bos_token_id")
        if first is not None and any(rows):
            raise ValueError(
                f"forced_bos_token_id={first} and decoder_prefix both say what an output begins "
                "with; give one of them"
            )
        return dataclasses.replace(request, prefixes=rows)

    def _assistant(self, model: Text2Text | None, options: Mapping[str, Any]) -> Decoder | None:
        """An assistant's decoder; ValueError where it cannot assist."""
        settings = self.generation.replace(options)
        beams = settings.num_beams
        if model is None:
            count = options.get("num_assistant_tokens")
            if count is not None:
                raise ValueError(f"num_assistant_tokens={count} needs an assistant_model")
            return None
        _need_type("assistant_model", model, Text2Text, "a Text2Text, as load gives it")
        model._need_decoder()
        if beams > 1:
            raise ValueError(f"num_beams={beams} cannot be assisted; leave assistant_model out")
        if settings.max_time is not None:
            raise ValueError(
                f"max_time={settings.max_time} cannot be kept with an assistant_model, which "
                "decodes to the end at once; leave one of them out"
            )
        ours, theirs = ((t.config.vocab_size, t.config.pad_token_id) for t in (self, model))
        if ours != theirs:
            raise ValueError(
                f"the assistant_model has {theirs[0]} ids and padding {theirs[1]}, the model "
                f"{ours[0]} and {ours[1]}; they must have one vocabulary"
            )
        if model.mesh != self.mesh:
            raise ValueError("the assistant_model must lie on the model's mesh; load it with that")
        return model._decoder

    def _generate(
        self, ids: np.ndarray, request: Request, batch_size: int, assistant: Decoder | None
    ) -> Generation:
        parts = [
            (
                rows,
                self._decoder.generate(
                    self.encode_ids(self._trim(ids[rows])), request.of_rows(rows), assistant
                ),
            )
            for rows in _by_length(ids != self.config.pad_token_id, batch_size)
        ]
        result = gather(parts, len(ids), request.samples, request)
        if result.cross_attention is None or not parts:
            return result
        # As wide as the input: a batch is encoded without its padding, or with more of it.
        weights = result.cross_attention[..., : ids.shape[1]]
        missing = ids.shape[1] - weights.shape[-1]
        weights = np.pad(weights, [(0, 0)] * (weights.ndim - 1) + [(0, missing)])
        return dataclasses.replace(result, cross_attention=weights)

    def save(self, path: str | Path, format: str = "t5jax", dtype: Any = None) -> None:
        """Writes the model to a folder that does not exist yet; `load` reads it.

        Args:
          path: the folder.
          format: "t5jax", "hf" (transformers reads it) or "t5x".
          dtype: "float32", "bfloat16" or "float16", of the written parameters; None: as they are.

        Raises:
          ValueError: unknown format, or one that has no such model; with float16 a value past
            65,504, its largest.
          FileExistsError: `path` exists.
        """
        dtype = None if dtype is None else dtype_of(dtype, also="float16")
        generation = dataclasses.asdict(self.generation)
        default = dataclasses.asdict(GenerationOptions())
        about = About(
            self.config,
            self._vocabulary,
            # What is as everywhere need not be said, to other libraries least of all.
            generation={k: v for k, v in generation.items() if v != default[k]},
            max_input_length=self.max_input_length,
            scheme=self.quantization,
        )
        tensors = {} if about.scheme else tensors_of(self.config, self._params)
        checkpoint = InMemory(about, tensors, self._params)
        write_checkpoint(path, checkpoint, format, dtype=dtype)

    def _need_decoder(self) -> None:
        if self.config.encoder_only:
            raise ValueError("this checkpoint is an encoder alone; encode() is all that it does")

    def text_ids(self, texts: str | Sequence[str]) -> np.ndarray:
        """Texts -> int32[B, S], each with its EOS, cut to `max_input_length`, padded with
        `config.pad_token_id`.

        The first cut is reported on stderr, with the number of tokens lost.
        """
        rows = []
        for text in _texts("texts", texts):
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
        return self._pad(rows)

    def target_ids(self, texts: str | Sequence[str]) -> np.ndarray:
        """Texts -> int32[B, T], each whole with its EOS, padded with `config.pad_token_id`."""
        texts = _texts("targets", texts)
        ids = [[*self.vocabulary.encode(text), self.config.eos_token_id] for text in texts]
        return self._pad(ids)

    def _padding(self, *shape: int) -> np.ndarray:
        return np.full(shape, self.config.pad_token_id, np.int32)

    def _pad(self, rows: Sequence[Sequence[int]]) -> np.ndarray:
        out = self._padding(len(rows), max(map(len, rows), default=0))
        for row, ids in zip(out, rows, strict=True):
            row[: len(ids)] = ids
        return out

    def _trim(self, ids: np.ndarray) -> np.ndarray:
        """Without the columns at the end that are padding in every row."""
        used = np.flatnonzero((ids != self.config.pad_token_id).any(axis=0))
        return ids[:, : used[-1] + 1 if len(used) else 1]

    def _ids(self, ids: Any, name: str) -> np.ndarray:
        try:
            ids = np.asarray(ids)
        except ValueError:  # rows of several lengths
            raise ValueError(
                f"{name} must be int[rows, tokens] with rows of one length; pad them with "
                f"{self.config.pad_token_id}"
            ) from None
        if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
            if ids.size == 0:
                return np.zeros((len(ids), 0), np.int32)
            raise ValueError(f"{name} must be int[rows, tokens], not {ids.dtype}{list(ids.shape)}")
        if ids.size and not 0 <= ids.min() <= ids.max() < self.config.vocab_size:
            bad = ids.min() if ids.min() < 0 else ids.max()
            raise ValueError(f"{name} holds id {bad}; ids are 0 to {self.config.vocab_size - 1}")
        return ids.astype(np.int32)


def load(
    path: str | Path,
    dtype: Any = "float32",
    mesh: Mesh | None = None,
    *,
    vocabulary: str | Path | Vocabulary | None = None,
    allow: str | Iterable[str] = (),
    quantize: Kind | None = None,
    quantize_head: bool = True,
    **changes: Any,
) -> Text2Text:
    """Loads a model: a t5jax run or saved model, a Hugging Face folder or hub id, T5X's format.

    A run gives its latest step; RUN/checkpoints/STEP gives that one. Parameters are read one by
    one, straight into `dtype` and onto `mesh`. What a safetensors file holds as it is needed stays
    in the file's pages: do not change it in place while the model is used. Compiled programs are
    kept in a cache on disk unless JAX already has one configured.

    Args:
      path: the folder, or the id of a model on the Hugging Face hub.
      dtype: "float32" or "bfloat16", or such a dtype: of the parameters and of computation, but for
        norms, softmax and logits, which are float32. float16 is refused: T5's activations reach
        past 65,504. A float16 file loads into both.
      mesh: devices to spread the parameters over; default: the first device.
      vocabulary: in place of the checkpoint's: a `Vocabulary`, "bytes", or a SentencePiece file.
      allow: regular expressions of tensors that the files may hold in vain, or lack.
      quantize: "int8" keeps the kernels in a quarter of float32's bytes: faster where few rows are
        decoded, and a little less exact; "int4" in an eighth, slower and less exact than "int8".
        Default: as the checkpoint is. A quantized checkpoint cannot be quantized otherwise.
      quantize_head: whether the output head is among them, the embedding where that is the head.
      changes: fields of the configuration that are to be otherwise than the checkpoint says.

    Raises:
      FileNotFoundError: nothing is there. ValueError: what is there is damaged, incomplete, or of
        no known format.
    """
    dtype = dtype_of(dtype)
    _need_type("mesh", mesh, Mesh | None, "a jax.sharding.Mesh")
    if quantize is None and not quantize_head:
        raise ValueError("quantize_head=False needs quantize; without it every head is as it is")
    scheme = None if quantize is None else Scheme(quantize, quantize_head)
    checkpoint = open_checkpoint(path, vocabulary=vocabulary, allow=allow, **changes)
    report_assumed(path, checkpoint)
    keep_compiled_programs()
    about = checkpoint.about
    return Text2Text(
        about.config,
        checkpoint.read(scheme or "serving", dtype, mesh),
        about.vocabulary,
        dtype=dtype,
        mesh=mesh,
        generation=generation_defaults.read(about.generation, about.config, about.limit),
        max_input_length=about.max_input_length,
    )


def dtype_of(value: Any, also: str = "") -> np.dtype:
    """A dtype that models are held in, from its name or itself; `also` names one more.

    Raises:
      ValueError: it is another one, or none.
    """
    names = ("float32", "bfloat16", also)
    try:
        found = jnp.dtype(value)
    except (TypeError, ValueError, RecursionError):
        found = None
    if value is not None and found is not None and found.name in names:
        return found
    reason = ""
    if found == np.float16:
        reason = ": values in T5's MLPs pass float16's largest, 65,504; bfloat16 goes to 3e38"
    wanted = " or ".join(repr(name) for name in names if name)
    raise ValueError(f"dtype={short(value)} must be {wanted}{reason}")


def _need_type(name: str, value: Any, kind: Any, wanted: str) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{name}={short(value)} must be {wanted}")


def _texts(name: str, texts: Any) -> list[str]:
    """One text or several as a list.

    Raises:
      TypeError: it is none, or one of them is no str. ValueError: one cannot be written as UTF-8.
    """
    if isinstance(texts, str):
        found = [texts]
    elif isinstance(texts, bytes | bytearray | Mapping) or not isinstance(texts, Iterable):
        raise TypeError(f"{name}={short(texts)} must be a str, or a list of them")
    else:
        found = list(texts)
    for i, text in enumerate(found):
        where = name if isinstance(texts, str) else f"{name}[{i}]"
        if not isinstance(text, str):
            raise TypeError(f"{where}={short(text)} must be a str")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{where}={short(text)} is no text: character {error.start} is half of a "
                "surrogate pair"
            ) from None
    return found


def keep_compiled_programs() -> None:
    """Keeps compiled programs on disk, unless the user has configured JAX's cache already."""
    config: Any = jax.config
    if config.jax_compilation_cache_dir is None:
        root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(root) / "t5jax" / "programs"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def check_params(config: ModelConfig, params: Params) -> None:
    """Raises ValueError, naming the first parameter that is missing, unknown or misshapen."""
    tree = abstract_params(config, serving=is_serving(params))
    expected = dict(jax.tree.leaves_with_path(tree))
    given = dict(jax.tree.leaves_with_path(params, is_leaf=lambda x: isinstance(x, Quantized)))
    for path in expected.keys() | given.keys():
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if path not in given:
            raise ValueError(f"parameter {name} {expected[path].shape} is missing")
        if path not in expected:
            raise ValueError(f"parameter {name} has no place in this configuration")
        if given[path].shape != expected[path].shape:
            raise ValueError(
                f"parameter {name} has shape {given[path].shape}; "
                f"the configuration asks for {expected[path].shape}"
            )


# One program a configuration, however many models are made.
@functools.partial(jax.jit, static_argnames=("config", "dtype"))
def _lay_out(config: ModelConfig, params: Params, dtype: Any) -> Params:
    """Cast, in the serving layout."""
    return for_serving(config, jax.tree.map(lambda x: x.astype(dtype), params))


def _place(config: ModelConfig, params: Params, dtype: Any, mesh: Mesh | None) -> Params:
    """Cast, laid out for inference, on the device or spread over the mesh."""
    if not is_serving(params):
        # Put where they belong first: all of them need not fit into one device.
        params = _lay_out(config, jax.device_put(params, placements(config, mesh)), dtype)

    def put(x: Any, where: jax.sharding.Sharding) -> Any:
        if isinstance(x, Quantized):
            return jax.device_put(x, x.places(where))
        return jax.device_put(x.astype(dtype), where)

    return map_kernels(put, params, placements(config, mesh, serving=True))


def _by_length(used: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """bool[B, S], False at padding -> row numbers in batches of like length, longest first."""
    check_value("batch_size", batch_size, int, Range(least=1))
    lengths = np.where(used, np.arange(1, used.shape[1] + 1), 0).max(axis=1, initial=0)
    order = np.argsort(-lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
