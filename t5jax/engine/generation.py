"""Generation on ids: what is asked for, in batches of fixed shapes, and what comes of it."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from t5jax import sharding, sizes
from t5jax.decoding.beam import Search
from t5jax.decoding.constraints import AllowedTokens, explore
from t5jax.decoding.controls import (
    Controls,
    Ids,
    LogitsProcessor,
    Prefix,
    check_ids,
    make_processors,
)
from t5jax.decoding.loop import Decoded
from t5jax.decoding.options import GenerationOptions
from t5jax.decoding.stopping import StopStrings
from t5jax.engine import programs
from t5jax.knobs import short
from t5jax.model.contract import ModelConfig, Network, Params
from t5jax.model.family import family_of
from t5jax.ops.shortlist import BLOCK, BLOCKS, Shortlist, make_shortlist
from t5jax.vocabulary import Vocabulary
from t5jax.vocabulary.texts import token_texts

# Rows and lengths are rounded up to these, so that few programs serve all shapes.
ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
LENGTH_BUCKETS = (32, 64, 128, 256, 384, 512, 768, 1024)

# Ids that there is room for at first, and when that is used up: a step reads its cache whole, and
# many outputs end long before they may. Each is a program more for those that get there.
ROOMS = tuple(128 * 2**i for i in range(16))

# Ids between two looks at the clock, where `max_time` is set.
LOOK = 8

# A shortlist (see `t5jax.ops.shortlist`) pays for so few rows, and heads of so many entries.
SHORTLIST_ROWS = 2
SHORTLIST_SIZE = 2**22


def bucket(size: int, buckets: Sequence[int]) -> int:
    """The smallest of `buckets` that `size` fits in; beyond them, multiples of the last."""
    for candidate in buckets:
        if size <= candidate:
            return candidate
    return -(-size // buckets[-1]) * buckets[-1]


class Guesses(NamedTuple):
    """Of an assistant: how many ids it guessed, and how many of those the model chose itself."""

    made: int
    right: int


@dataclasses.dataclass(frozen=True)
class Generation:
    """Results of `generate_ids` for B inputs with n sequences each.

    `ids` int32[B, n, T]: without the start id, with the given prefix and EOS, then padding (0).
    `scores` float32[B, n]: log p(sequence | input) in nats under the model; of beam search
    transformers' `sequences_scores`: the sum of log-probabilities after restrictions, penalised.
    Constraints may leave fewer than n hypotheses: those that lack are empty, their scores -inf.
    `lengths` int32[B, n]: tokens, prefix and EOS counted.

    On request, else None:
    `token_scores` float32[B, n, T]: log p of each decided token under the model, in nats.
    `cross_attention` float32[B, n, L, N, T, S]: how much each of N heads of L layers looked at each
    input token when a token was decided; sums to 1 over S.
    `guesses`: of the assistant, where there was one.
    """

    ids: np.ndarray
    scores: np.ndarray
    lengths: np.ndarray
    token_scores: np.ndarray | None = None
    cross_attention: np.ndarray | None = None
    guesses: Guesses | None = None


@flax.struct.dataclass
class Encoded:
    """Encoder output for B inputs: `hidden` [B, S, D], zero at padding; `mask` bool[B, S].

    `encoded[i]`, `encoded[1:3]`, `encoded[[2, 0]]` and `encoded[bool[B]]` are some of the inputs,
    an `Encoded` each (of one input, where i is a number); `Encoded.join` is the way back.
    """

    hidden: jax.Array
    mask: jax.Array
    # What was encoded, int32[B, S]: sampling is seeded by the input, not by its place in a batch.
    ids: np.ndarray = flax.struct.field(pytree_node=False)
    pad: int = flax.struct.field(pytree_node=False, default=0)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: Any) -> Encoded:
        rows = np.arange(len(self))
        if not isinstance(index, slice):
            index = np.asarray(index)
            if index.size == 0:
                index = index.astype(int)
            if index.ndim > 1 or index.dtype.kind not in "iub":
                raise TypeError(
                    "an Encoded is indexed by the inputs' numbers: one, a slice, a list of them, "
                    "or a bool for each"
                )
        rows = np.atleast_1d(rows[index])
        return Encoded(self.hidden[rows], self.mask[rows], self.ids[rows], self.pad)

    def __iter__(self) -> Iterator[Encoded]:
        return (self[i] for i in range(len(self)))

    @staticmethod
    def join(parts: Iterable[Encoded]) -> Encoded:
        """Inputs of several, encoded by one model, in order; shorter ones get padding.

        Raises:
          TypeError: a part is no `Encoded`. ValueError: there is none, or they are of models that
            differ in width, type or padding.
        """
        parts = list(parts)
        if not parts:
            raise ValueError("join: give at least one Encoded")
        for part in parts:
            if not isinstance(part, Encoded):
                raise TypeError(f"join: {type(part).__name__} is no Encoded")
        kinds = {(part.hidden.shape[-1], str(part.hidden.dtype), part.pad) for part in parts}
        if len(kinds) > 1:
            raise ValueError(f"join: encoded by models of (width, dtype, padding) {sorted(kinds)}")
        width = max(part.ids.shape[1] for part in parts)

        def wider(x: Any, fill: int, xp: Any) -> Any:
            missing = [(0, 0), (0, width - x.shape[1]), *[(0, 0)] * (x.ndim - 2)]
            return xp.pad(x, missing, constant_values=fill)

        return Encoded(
            jnp.concatenate([wider(part.hidden, 0, jnp) for part in parts]),
            jnp.concatenate([wider(part.mask, 0, jnp) for part in parts]),
            np.concatenate([wider(part.ids, part.pad, np) for part in parts]),
            parts[0].pad,
        )


@dataclasses.dataclass(frozen=True)
class Request:
    """What a call asks for, checked, and in ids.

    Attributes:
      options: as given.
      ids: special ids.
      answers: `options.answers` as ids, without EOS.
      stop: the automaton of `options.stop_strings`.
      function: a user's logits processor.
      allowed: a user's function that says which ids may follow.
      numbers: of the inputs, for that function.
      prefixes: ids that each input's output begins with.
      scores, token_scores, cross_attention: whether the result is to have them. Scores that are
        not asked for may be missing (nan).
    """

    options: GenerationOptions
    ids: Ids
    answers: tuple[tuple[int, ...], ...] = ()
    stop: StopStrings | None = None
    function: LogitsProcessor | None = None
    allowed: AllowedTokens | None = None
    numbers: Sequence[int] = ()
    prefixes: Sequence[Sequence[int]] | None = None
    scores: bool = True
    token_scores: bool = False
    cross_attention: bool = False

    @classmethod
    def make(
        cls,
        options: GenerationOptions,
        config: ModelConfig,
        vocabulary: Vocabulary | None,
        *,
        logits_processor: LogitsProcessor | None = None,
        prefix_allowed_tokens_fn: AllowedTokens | None = None,
        **more: Any,
    ) -> Request:
        """ValueError names an option that the model or its vocabulary cannot follow."""
        limit = vocabulary.vocab_size if vocabulary else config.vocab_size
        eos = options.eos_token_id or (config.eos_token_id,)
        ids = Ids(
            start=config.decoder_start_token_id,
            pad=config.pad_token_id,
            eos=eos,
            limit=limit,
            vocab=config.vocab_size,
        )
        texts = [a for a in options.answers if isinstance(a, str)]
        if vocabulary is None and (texts or options.stop_strings):
            name, value = ("answers", texts) if texts else ("stop_strings", options.stop_strings)
            raise ValueError(
                f"{name}={list(value)!r}: this checkpoint has no vocabulary to read texts with; "
                + ("give ids" if texts else "load(…, vocabulary=…) gives it one")
            )
        if logits_processor is not None and not callable(logits_processor):
            raise ValueError(
                f"logits_processor={short(logits_processor)} must be a function "
                "(ids, logits) -> logits"
            )
        if prefix_allowed_tokens_fn is not None:
            if not callable(prefix_allowed_tokens_fn):
                raise ValueError(
                    f"prefix_allowed_tokens_fn={short(prefix_allowed_tokens_fn)} must be a "
                    "function (number of the input, ids so far) -> ids allowed next"
                )
            for name in ("answers", "force_words_ids"):
                if getattr(options, name):
                    raise ValueError(
                        f"{name} and prefix_allowed_tokens_fn both say what an output holds; give "
                        "one of them"
                    )
        stop = None
        if options.stop_strings and vocabulary is not None:
            stop = StopStrings.of(options.stop_strings, token_texts(vocabulary))
        check_ids(options, limit)
        if options.force_words_ids and options.num_beams == 1:
            raise ValueError("force_words_ids needs num_beams of 2 or more")
        for i in eos:
            if any(i in word for phrase in options.force_words_ids for word in phrase):
                raise ValueError(f"force_words_ids holds id {i}, which ends an output")
        answers = tuple(_answer(a, vocabulary, eos) for a in options.answers)
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
        return cls(options, ids, answers, stop, logits_processor, prefix_allowed_tokens_fn, **more)

    def of_rows(self, rows: np.ndarray) -> Request:
        """What is asked for some of the inputs."""
        of = lambda each: [each[i] for i in rows] if each else each  # noqa: E731
        return dataclasses.replace(self, prefixes=of(self.prefixes), numbers=of(self.numbers))

    @property
    def samples(self) -> int:
        """Sequences an input."""
        return self.options.num_return_sequences

    def length(self) -> int:
        """Columns of the result, rounded up."""
        given = max(map(len, self.prefixes or ()), default=0)
        return bucket(self.options.max_new_tokens + given, LENGTH_BUCKETS)

    def controls(self, inputs: np.ndarray, repeats: int) -> Controls:
        """For inputs int32[B, S], with `repeats` rows each."""
        prefix = None
        width = max(map(len, self.prefixes or ()), default=0)
        if width:
            ids = np.full((len(inputs), bucket(width, LENGTH_BUCKETS)), self.ids.pad, np.int32)
            lengths = np.zeros(len(inputs), np.int32)
            for i, given in enumerate(self.prefixes or ()):
                ids[i, : len(given)], lengths[i] = given, len(given)
            prefix = Prefix(np.repeat(ids, repeats, axis=0), np.repeat(lengths, repeats))
        trie = None
        if self.allowed is not None:
            trie = explore(
                self.allowed,
                self.numbers,
                [(self.ids.start, *given) for given in self.prefixes or [()] * len(self.numbers)],
                eos=self.ids.eos,
                limit=self.ids.limit,
                longest=self.options.max_new_tokens,
                rows=len(inputs),
            )
        processors = make_processors(
            self.options, self.ids, inputs, answers=self.answers, trie=trie, function=self.function
        )
        return Controls(
            np.int32(self.options.max_new_tokens),
            processors,
            jax.tree.map(np.float32, self.options.sampler()),
            self.stop,
            prefix,
        )


def _answer(
    answer: str | Sequence[int], vocabulary: Vocabulary | None, eos: Sequence[int]
) -> tuple[int, ...]:
    if isinstance(answer, str):
        assert vocabulary is not None
        return tuple(vocabulary.encode(answer))
    ids = tuple(answer)
    if ids and ids[-1] in eos:
        ids = ids[:-1]
    ends = [i for i in ids if i in eos]
    if ends:
        raise ValueError(
            f"answers: {list(answer)} goes on after id {ends[0]}, which ends an output"
        )
    return ids


@dataclasses.dataclass(frozen=True)
class Decoder:
    """A network for inference with its parameters: decodes batches, in programs of few shapes."""

    network: Network
    params: Params
    mesh: Mesh | None

    def generate(
        self, encoded: Encoded, request: Request, assistant: Decoder | None = None
    ) -> Generation:
        """One batch."""
        inputs, samples = len(encoded), request.samples
        if inputs == 0:
            return gather([], 0, samples, request)
        rows = self.rows(inputs)
        self.check_fits(request, rows, encoded.ids.shape[1])
        hidden, mask = self.pad_rows(encoded, rows)
        length = request.length()
        # Steps between two looks at whether all rows have ended.
        block = 1 if jax.default_backend() == "cpu" else 8
        beams = request.options.num_beams > 1
        repeats = 1 if beams else samples
        keys = self._keys(encoded, request, rows, repeats)
        done = np.repeat(np.arange(rows) >= inputs, repeats)
        controls = self._controls(encoded, request, rows, repeats)
        if not beams and assistant is None:
            controls = self._with_shortlist(controls, rows * repeats)
        call = (self.network, self.params, hidden, mask, keys, done, controls)
        guesses = None
        with sharding.use(self.mesh):
            if beams:
                search = Search.of(request.options, request.ids)
                decoded = _in_rooms(
                    functools.partial(programs.beam_search, *call, search, results=samples),
                    length,
                    request.options.max_time,
                    ids=request.ids,
                    block=block,
                )
            elif assistant is not None:
                theirs = assistant.encode(encoded.ids)
                hidden = assistant.pad_rows(theirs, rows)[0]
                made = request.options.num_assistant_tokens
                decoded, rounds, right = programs.decode_assisted(
                    *call,
                    assistant.network,
                    assistant.params,
                    hidden,
                    length=length,
                    ids=request.ids,
                    guesses=made,
                )
                guesses = Guesses(int(rounds) * made, int(right))
            else:
                decode = functools.partial(programs.decode, *call)
                decoded = _in_rooms(
                    decode, length, request.options.max_time, ids=request.ids, block=block
                )
        decoded = jax.device_get(decoded)
        lengths = decoded.lengths.reshape(rows, samples)[:inputs]
        ids = decoded.ids.reshape(rows, samples, -1)[:inputs, :, : lengths.max()]
        scores = decoded.scores.reshape(rows, samples)[:inputs]
        result = Generation(ids, scores, lengths, guesses=guesses)
        # With a shortlist the head is not read whole: scores come of a pass over the finished ids.
        late = controls.shortlist is not None
        tokens = request.token_scores or (late and request.scores)
        with sharding.use(self.mesh):
            wanted = dataclasses.replace(request, token_scores=tokens)
            result = self._explain(hidden, mask, wanted, result)
        if not late:
            return result
        if result.token_scores is not None:
            scores = result.token_scores.sum(axis=-1)
        elif not request.scores:
            scores = np.full_like(scores, np.nan)
        kept = result.token_scores if request.token_scores else None
        return dataclasses.replace(result, scores=scores, token_scores=kept)

    @functools.cached_property
    def shortlist(self) -> Shortlist | None:
        """What finds the likeliest id of a few rows on a CPU, made when first asked for.

        On an accelerator the head is a small part of what a step costs.
        """
        if self.mesh is not None or jax.default_backend() != "cpu":
            return None
        kernel: Any = self.network.ranking_head(self.params)
        if getattr(kernel, "dtype", None) != jnp.float32:  # none, another type, or quantized
            return None
        large = kernel.size >= SHORTLIST_SIZE and kernel.shape[0] > BLOCK * (BLOCKS + 1)
        return make_shortlist(kernel) if large else None

    def check_fits(self, request: Request, rows: int, inputs: int) -> None:
        """ValueError where decoding `rows` inputs of that many tokens cannot fit into memory."""
        options, config = request.options, self.network.config
        beams = options.num_beams > 1
        used = {
            "num_beams" if beams else "num_return_sequences": (
                options.num_beams if beams else request.samples
            ),
            "max_new_tokens": options.max_new_tokens,
        }
        sizes.check_fits(
            f"decoding {rows} input(s) with "
            + ", ".join(f"{name}={value}" for name, value in used.items()),
            sizes.decoding_bytes(
                config,
                rows=rows,
                hypotheses=next(iter(used.values())),
                length=request.length(),
                inputs=inputs,
                size=self.network.dtype.itemsize,
            ),
            self.devices,
            "lower them" if rows == 1 else "lower them, or decode fewer at a time",
        )

    @property
    def devices(self) -> Sequence[jax.Device]:
        """Where it computes."""
        return jax.devices()[:1] if self.mesh is None else list(self.mesh.devices.flat)

    def encode(self, ids: np.ndarray) -> Encoded:
        """int32[B, S] -> encoder output, rows and S rounded up within it."""
        rows, width = ids.shape
        config = self.network.config
        cells = self.rows(rows) * bucket(width, LENGTH_BUCKETS) * self.network.dtype.itemsize
        sizes.check_fits(
            f"encoding {rows} input(s) of {width} tokens",
            {"activations": cells * family_of(config).sizes(config).widest},
            self.devices,
            "encode fewer at a time, or shorter ones",
        )
        pad = config.pad_token_id
        padded = np.full((self.rows(rows), bucket(width, LENGTH_BUCKETS)), pad, np.int32)
        padded[:rows, :width] = ids
        with sharding.use(self.mesh):
            hidden = programs.encode(self.network, self.params, padded, padded != pad)
        if rows < len(padded):  # cutting is a small program of its own
            hidden, padded = hidden[:rows], padded[:rows]
        return Encoded(hidden, jax.device_put(padded != pad), padded, pad)

    def stream(self, encoded: Encoded, request: Request) -> Iterator[list[int]]:
        """The ids of one input as they are decided."""
        rows = self.rows(1)
        hidden, mask = self.pad_rows(encoded, rows)
        keys = self._keys(encoded, request, rows, 1)
        controls = self._with_shortlist(self._controls(encoded, request, rows, 1), rows)
        controls = jax.device_put(controls)
        rooms = _rooms(request.length())
        with sharding.use(self.mesh):
            cross_kv, state = programs.begin(
                self.network,
                self.params,
                hidden,
                np.arange(rows) >= 1,
                controls,
                length=rooms[0],
                ids=request.ids,
            )
        steps = 1 if jax.default_backend() == "cpu" else 4
        given, used = 0, 0
        max_time, began = request.options.max_time, time.monotonic()
        for room in rooms:
            with sharding.use(self.mesh):
                state = state if room == rooms[0] else programs.extend(state, room)
            while used < room:
                with sharding.use(self.mesh):
                    state = programs.advance(
                        self.network,
                        self.params,
                        cross_kv,
                        mask,
                        keys,
                        controls,
                        state,
                        ids=request.ids,
                        steps=steps,
                    )
                used += steps
                late = max_time is not None and time.monotonic() - began >= max_time
                # Whole: a slice of an array on a device is a program of its own for each place.
                ids, length, done = (
                    x[0] for x in jax.device_get((state.ids, state.lengths, state.done))
                )
                yield ids[1 + given : 1 + length].tolist()
                if done or late:
                    return
                given = length

    def rows(self, rows: int) -> int:
        """Rows rounded up to a bucket, and so that they divide over the mesh."""
        parts = 1 if self.mesh is None else self.mesh.shape["data"] * self.mesh.shape["fsdp"]
        return -(-bucket(rows, ROW_BUCKETS) // parts) * parts

    def pad_rows(self, encoded: Encoded, rows: int) -> tuple[jax.Array, jax.Array]:
        """Hidden states and mask with rows of nothing added up to `rows`."""
        extra = rows - len(encoded)
        if extra == 0:
            return encoded.hidden, encoded.mask
        return (
            jnp.pad(encoded.hidden, ((0, extra), (0, 0), (0, 0))),
            jnp.pad(encoded.mask, ((0, extra), (0, 0))),
        )

    def _with_shortlist(self, controls: Controls, rows: int) -> Controls:
        """The controls with a shortlist, if that is faster and gives the same ids."""
        if rows > SHORTLIST_ROWS or not controls.may_shortlist:
            return controls
        return dataclasses.replace(controls, shortlist=self.shortlist)

    def _controls(self, encoded: Encoded, request: Request, rows: int, repeats: int) -> Controls:
        pad = request.ids.pad
        inputs = np.pad(encoded.ids, ((0, rows - len(encoded)), (0, 0)), constant_values=pad)
        return request.controls(inputs, repeats)

    def _keys(self, encoded: Encoded, request: Request, rows: int, repeats: int) -> np.ndarray:
        keys = np.zeros((rows, repeats, 2), np.uint32)
        for i, row in enumerate(encoded.ids):
            for j in range(repeats):
                keys[i, j] = row_key(request.options.seed, row[row != request.ids.pad], j)
        return keys.reshape(-1, 2)

    def _explain(self, hidden: Any, mask: Any, request: Request, result: Generation) -> Generation:
        """The result with what is asked for beside: one pass over the finished ids.

        Nothing of it is carried through decoding, which costs those nothing who do not ask.
        """
        inputs, samples, width = result.ids.shape
        if not (request.token_scores or request.cross_attention):
            return result
        rows = len(hidden)
        columns = bucket(width, LENGTH_BUCKETS)
        targets = np.full((rows * samples, columns), request.ids.pad, np.int32)
        targets[: inputs * samples, :width] = result.ids.reshape(inputs * samples, width)
        hidden, mask = (jnp.repeat(x, samples, axis=0) for x in (hidden, mask))
        call = (self.network, self.params, hidden, mask, targets)
        there = np.arange(width) < result.lengths[..., None]
        extra: dict[str, Any] = {}
        if request.cross_attention:
            weights = np.asarray(programs.cross_attention(*call))
            weights = weights.reshape(rows, samples, *weights.shape[1:])[:inputs, ..., :width, :]
            extra["cross_attention"] = np.where(there[:, :, None, None, :, None], weights, 0.0)
        if request.token_scores:
            scores = np.asarray(programs.token_scores(*call)).reshape(rows, samples, columns)
            given = np.array([len(p) for p in request.prefixes or [()] * inputs])
            there = there & (np.arange(width) >= given[:, None, None])
            extra["token_scores"] = np.where(there, scores[:inputs, :, :width], 0.0)
        return dataclasses.replace(result, **extra)


def _rooms(length: int) -> tuple[int, ...]:
    """How many ids there is room for, one after the other, until there is for `length`."""
    return (*(n for n in ROOMS if n < length), length)


def _in_rooms(
    program: Callable[..., Any], length: int, max_time: float | None, **options: Any
) -> Decoded:
    """What `program` has decoded when all rows have ended, called with more room each time.

    With `max_time`, seconds, it is called for `LOOK` ids at a time until that has passed.
    """
    begun, used, began = None, 0, time.monotonic()
    for room in _rooms(length):
        until = room if max_time is None else min(used + LOOK, room)
        while used < room:
            more = {} if max_time is None else {"until": np.int32(until)}
            last = room == length and max_time is None
            decoded, begun = program(begun, room=room, last=last, **more, **options)
            if begun is None or np.all(jax.device_get(begun.state.done)):
                return decoded
            if max_time is not None and time.monotonic() - began >= max_time:
                return decoded
            used, until = until, min(until + LOOK, room)
    return decoded


def gather(
    parts: Sequence[tuple[np.ndarray, Generation]], inputs: int, samples: int, request: Request
) -> Generation:
    """One result of `inputs` rows from those of parts, each with its rows' numbers."""

    def together(name: str, fill: float, dtype: Any) -> np.ndarray:
        arrays = [(rows, getattr(part, name)) for rows, part in parts]
        ranks = max((array.ndim for _, array in arrays), default=2)
        inner = [max(a.shape[i] for _, a in arrays) for i in range(2, ranks)]
        if not arrays and name in ("ids", "token_scores"):
            inner = [0]
        out = np.full((inputs, samples, *inner), fill, dtype)
        for rows, array in arrays:
            # Widths differ from batch to batch.
            place: Any = (rows, slice(None), *(slice(n) for n in array.shape[2:]))
            out[place] = array
        return out

    guesses = [part.guesses for _, part in parts if part.guesses]
    return Generation(
        together("ids", request.ids.pad, np.int32),
        together("scores", 0, np.float32),
        together("lengths", 0, np.int32),
        together("token_scores", 0, np.float32) if request.token_scores else None,
        together("cross_attention", 0, np.float32) if request.cross_attention else None,
        Guesses(*map(sum, zip(*guesses, strict=True))) if guesses else None,
    )


def row_key(seed: int, ids: np.ndarray, sample: int) -> np.ndarray:
    """uint32[2] from the seed, the input and the sample's number: nothing of the batch."""
    text = f"{seed}/{sample}/".encode() + ids.astype("<i4").tobytes()
    return np.frombuffer(hashlib.blake2b(text, digest_size=8).digest(), np.uint32)
