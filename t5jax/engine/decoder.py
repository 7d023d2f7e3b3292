"""`BatchDecoder`: encodes and decodes batches with programs of few shapes."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from t5jax import sharding, sizes
from t5jax.compiled import ProgramRoom
from t5jax.decoding.loop import Decoded
from t5jax.engine import buckets, programs
from t5jax.engine.arguments import check_length, lengths_of, padded
from t5jax.engine.buckets import ROW_BUCKETS, bucket
from t5jax.engine.encoded import Encoded
from t5jax.engine.programs import Forced, Job
from t5jax.engine.request import Request
from t5jax.engine.results import Generation, Guesses
from t5jax.model.contract import Network, Params
from t5jax.model.family import family_of
from t5jax.ops.shortlist import BLOCK, BLOCKS, Shortlist, make_shortlist

# Ids between two looks at the clock, where `max_time` is set.
LOOK = 8

# A shortlist (see `t5jax.ops.shortlist`) pays for so few rows, and heads of so many entries.
SHORTLIST_ROWS = 2
SHORTLIST_SIZE = 2**22

# A server of inputs and outputs of every length compiles hundreds of programs.
PROGRAM_ROOM = ProgramRoom()


@dataclasses.dataclass(frozen=True)
class BatchDecoder:
    """A serving network with its parameters, on one device or a mesh."""

    network: Network
    params: Params
    mesh: Mesh | None

    @property
    def devices(self) -> Sequence[jax.Device]:
        """Where it computes."""
        return jax.devices()[:1] if self.mesh is None else list(self.mesh.devices.flat)

    def rows(self, rows: int) -> int:
        """Rows rounded up to a bucket, and so that they divide over the mesh."""
        parts = sharding.batch_parts(self.mesh)
        return -(-bucket(rows, ROW_BUCKETS) // parts) * parts

    def encode(self, ids: np.ndarray) -> Encoded:
        """int32[B, S] -> encoder output, rows and S rounded up within it."""
        PROGRAM_ROOM.make()
        config = self.network.config
        ids = self._within_positions(ids)
        (rows, width), longest = ids.shape, config.longest_input
        shape = self.rows(rows), bucket(width, longest=longest)
        cells = math.prod(shape) * self.network.dtype.itemsize
        sizes.check_fits(
            f"encoding {rows} input(s) of {width} tokens",
            {"activations": cells * family_of(config).sizes(config).widest},
            self.devices,
            "encode fewer at a time, or shorter ones",
        )
        pad = config.pad_token_id
        ids = padded(ids, pad, shape)
        mask = ids != pad
        with sharding.use(self.mesh):
            hidden = programs.encode(self.network, self.params, ids, mask)
        if rows < len(ids):  # cutting is a small program of its own
            hidden, ids, mask = hidden[:rows], ids[:rows], mask[:rows]
        return Encoded(hidden, jax.device_put(mask), ids, pad)

    def logits(self, ids: np.ndarray, prefix: np.ndarray) -> jax.Array:
        """Teacher-forced: int32[B, S], int32[B, T] with the start id -> float32[B, T, V]."""
        PROGRAM_ROOM.make()
        self._check_targets(len(prefix), prefix.shape[1])
        ids = self._within_positions(ids)
        mask = ids != self.network.config.pad_token_id
        with sharding.use(self.mesh):
            hidden = programs.encode(self.network, self.params, ids, mask)
            return programs.logits(self.network, self.params, hidden, mask, prefix)

    def score(self, encoded: Encoded, targets: np.ndarray) -> np.ndarray:
        """log p(target | input), as many targets int32[B, T] -> float32[B]."""
        PROGRAM_ROOM.make()
        rows, pad = self.rows(len(targets)), self.network.config.pad_token_id
        self._check_targets(rows, targets.shape[1])
        forced = self._forced(*encoded.padded(rows), targets)
        with sharding.use(self.mesh):
            result = programs.score(self.network, self.params, forced, forced.targets != pad)
        return np.asarray(result)[: len(targets)]

    def generate(
        self, encoded: Encoded, request: Request, numbers: np.ndarray | None = None
    ) -> Generation:
        """One batch: all inputs of a request, or those of the `numbers` int[B]."""
        PROGRAM_ROOM.make()
        inputs, samples = len(encoded), request.samples
        if inputs == 0:
            return request.nothing()
        numbers = np.arange(inputs) if numbers is None else numbers
        rows, length = self.rows(inputs), request.length(numbers)
        self.check_fits(request, rows, encoded.ids.shape[1], length)
        job = self.job(encoded, request, numbers, rows)
        with sharding.use(self.mesh):
            if request.assistant is not None:
                decoded, guesses = self._assisted(job, encoded, request, length)
            else:
                # Steps between two looks at whether all rows have ended.
                block = 1 if jax.default_backend() == "cpu" else math.gcd(8, length)
                program = functools.partial(
                    programs.decode, self.network, self.params, job, block=block
                )
                decoded, guesses = _in_rooms(program, length, request.options.max_time), None
            decoded = jax.device_get(decoded)
            lengths = decoded.lengths.reshape(rows, samples)[:inputs]
            ids = decoded.ids.reshape(rows, samples, -1)[:inputs, :, : lengths.max()]
            token_scores = cross_attention = None
            if request.token_scores or (request.scores and decoded.scores is None):
                token_scores = self._token_scores(job, request, numbers, ids, lengths)
            if request.cross_attention:
                cross_attention = self._cross_attention(job, ids, lengths)
        scores = None
        if request.scores and decoded.scores is not None:
            scores = decoded.scores.reshape(rows, samples)[:inputs]
        elif request.scores and token_scores is not None:
            # With a shortlist the head is not read whole: scores come of the finished ids.
            scores = token_scores.sum(axis=-1)
        return Generation(
            ids,
            scores,
            lengths,
            token_scores if request.token_scores else None,
            cross_attention,
            guesses,
        )

    def stream(self, encoded: Encoded, request: Request) -> Iterator[list[int]]:
        """The ids of one input as they are decided."""
        PROGRAM_ROOM.make()
        number = np.arange(1)
        job = jax.device_put(self.job(encoded, request, number, self.rows(1)))
        rooms = buckets.rooms(request.length(number))
        call = self.network, self.params, job
        with sharding.use(self.mesh):
            begun = programs.begin(*call, room=rooms[0])
        cross_kv, state = begun.cross_kv, begun.state
        steps = 1 if jax.default_backend() == "cpu" else math.gcd(4, rooms[-1])
        given, used = 0, 0
        max_time, began = request.options.max_time, time.monotonic()
        for room in rooms:
            with sharding.use(self.mesh):
                state = state if room == rooms[0] else programs.extend(state, room)
            while used < room:
                with sharding.use(self.mesh):
                    state = programs.advance(*call, cross_kv, state, steps=steps)
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

    def _within_positions(self, ids: np.ndarray) -> np.ndarray:
        """int32[B, S] without columns of padding past the encoder's positions; ValueError where
        there are tokens past them."""
        longest = self.network.config.longest_input
        used = lengths_of(ids != self.network.config.pad_token_id).max(initial=0)
        check_length("an input", used, "longest_input", longest)
        return ids[:, :longest]

    def job(self, encoded: Encoded, request: Request, numbers: np.ndarray, rows: int) -> Job:
        """The programs' input for a request's inputs with these numbers, filled up to `rows`."""
        hidden, mask = encoded.padded(rows)
        inputs, repeats = len(encoded), request.repeats
        used = np.zeros(mask.shape, bool)
        used[:inputs] = encoded.mask
        keys = np.zeros((rows, repeats, 2), np.uint32)
        for i, j in np.ndindex(inputs, repeats):
            keys[i, j] = row_key(request.options.seed, encoded.ids[i][used[i]], j)
        ids = padded(encoded.ids, encoded.pad, used.shape)
        controls = request.controls(numbers, ids, used, keys.reshape(-1, 2))
        few = rows * repeats <= SHORTLIST_ROWS and request.assistant is None
        if few and controls.may_shortlist:
            controls = dataclasses.replace(controls, shortlist=self.shortlist)
        return Job(hidden, mask, np.repeat(np.arange(rows) >= inputs, repeats), controls)

    @functools.cached_property
    def shortlist(self) -> Shortlist | None:
        """Finds the likeliest id of a few rows on a CPU; made when first asked for.

        On an accelerator the head is a small part of what a step costs.
        """
        if self.mesh is not None or jax.default_backend() != "cpu":
            return None
        kernel: Any = self.network.ranking_head(self.params)
        if getattr(kernel, "dtype", None) != jnp.float32:  # none, another type, or quantized
            return None
        large = kernel.size >= SHORTLIST_SIZE and kernel.shape[0] > BLOCK * (BLOCKS + 1)
        return make_shortlist(kernel) if large else None

    def check_fits(self, request: Request, rows: int, inputs: int, length: int) -> None:
        """ValueError where decoding `rows` inputs of so many tokens to outputs of `length` cannot
        fit into memory."""
        options = request.options
        name, hypotheses = "num_return_sequences", request.samples
        if options.num_beams > 1:
            name, hypotheses = "num_beams", options.num_beams
        sizes.check_fits(
            f"decoding {rows} input(s) with {name}={hypotheses}, "
            f"max_new_tokens={options.max_new_tokens}",
            sizes.decoding_bytes(
                self.network.config,
                rows=rows,
                hypotheses=hypotheses,
                length=length,
                inputs=inputs,
                size=self.network.dtype.itemsize,
            ),
            self.devices,
            "lower them" if rows == 1 else "lower them, or decode fewer at a time",
        )

    def _assisted(
        self, job: Job, encoded: Encoded, request: Request, length: int
    ) -> tuple[Decoded, Guesses]:
        assistant, made = request.assistant, request.options.num_assistant_tokens
        assert assistant is not None
        try:
            theirs = assistant.encode(encoded.ids)
        except ValueError as error:
            raise ValueError(f"assistant_model: {error}") from None
        decoded, rounds, right = programs.decode_assisted(
            self.network,
            self.params,
            job,
            assistant.network,
            assistant.params,
            *theirs.padded(len(job.mask)),
            length=length,
            guesses=made,
        )
        return decoded, Guesses(int(rounds) * made, int(right))

    def _forced(self, hidden: jax.Array, mask: jax.Array, targets: np.ndarray) -> Forced:
        """The program's input for targets int32[B, T], B at most the rows of `hidden`."""
        config = self.network.config
        columns = bucket(targets.shape[1], longest=config.longest_output)
        return Forced(hidden, mask, padded(targets, config.pad_token_id, (len(hidden), columns)))

    def _finished(self, job: Job, ids: np.ndarray) -> Forced:
        """For one more pass over finished ids int32[B, n, T]: ordinary decoding pays nothing."""
        inputs, samples, width = ids.shape
        hidden, mask = (jnp.repeat(x, samples, axis=0) for x in (job.hidden, job.mask))
        return self._forced(hidden, mask, ids.reshape(inputs * samples, width))

    def _token_scores(
        self,
        job: Job,
        request: Request,
        numbers: np.ndarray,
        ids: np.ndarray,
        lengths: np.ndarray,
    ) -> np.ndarray:
        scores = programs.token_scores(self.network, self.params, self._finished(job, ids))
        scores = np.asarray(scores).reshape(len(job.mask), ids.shape[1], -1)
        at = np.arange(ids.shape[2])
        given = np.array([len(row) for row in request.given(numbers)])
        there = (at < lengths[..., None]) & (at >= given[:, None, None])
        return np.where(there, scores[: len(ids), :, : len(at)], 0.0)

    def _cross_attention(self, job: Job, ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        inputs, samples, width = ids.shape
        weights = programs.cross_attention(self.network, self.params, self._finished(job, ids))
        weights = np.asarray(weights).reshape(len(job.mask), samples, *weights.shape[1:])
        there = np.arange(width) < lengths[..., None]
        return np.where(
            there[:, :, None, None, :, None], weights[:inputs, ..., :width, :], np.float32(0)
        )

    def _check_targets(self, rows: int, width: int) -> None:
        check_length("a target", width, "longest_output", self.network.config.longest_output)
        sizes.check_fits(
            f"scoring {rows} target(s) of {width} tokens",
            {"logits": rows * width * self.network.config.vocab_size * 4},
            self.devices,
            "score fewer at a time",
        )


def _in_rooms(program: Callable[..., Any], length: int, max_time: float | None) -> Decoded:
    """The result of `program`, called with more room each time until all rows have ended.

    With `max_time`, seconds, it is called for `LOOK` ids at a time until that has passed.
    """
    begun, used, began = None, 0, time.monotonic()
    for room in buckets.rooms(length):
        until = room if max_time is None else min(used + LOOK, room)
        while used < room:
            more = {} if max_time is None else {"until": np.int32(until)}
            last = room == length and max_time is None
            decoded, begun = program(begun, room=room, last=last, **more)
            if begun is None or np.all(jax.device_get(begun.state.done)):
                return decoded
            if max_time is not None and time.monotonic() - began >= max_time:
                return decoded
            used, until = until, min(until + LOOK, room)
    return decoded


def row_key(seed: int, ids: np.ndarray, sample: int) -> np.ndarray:
    """uint32[2] from the seed, the input and the sample's number: nothing of the batch."""
    text = f"{seed}/{sample}/".encode() + ids.astype("<i4").tobytes()
    return np.frombuffer(hashlib.blake2b(text, digest_size=8).digest(), np.uint32)
