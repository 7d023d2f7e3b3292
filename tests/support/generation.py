"""Random models that end now and then, and what transformers' `generate` makes of them."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np

from t5jax.engine.results import Generation
from t5jax.model.parameters import for_serving
from t5jax.text2text import Text2Text
from t5jax.vocabulary import ByteVocabulary
from tests.support.models import TINY
from tests.support.reference import params_of, ragged_ids, random_torch, torch

# Of equal depth: transformers 5.23 makes its cache as deep as the encoder and fails beyond it.
CONFIG = TINY.replace(num_decoder_layers=2)
MODELS = 20
RAGGED = ragged_ids(np.random.default_rng(0), [11, 3, 7, 1], 384)
# transformers counts padding among an input's ids; where that matters there is none.
EVEN = ragged_ids(np.random.default_rng(1), [9, 9, 9, 9], 384)


# Compiled once, where each Text2Text would compile its own.
laid_out = jax.jit(for_serving, static_argnums=0)


@functools.cache
def pair(seed: int, config=CONFIG) -> tuple[Any, Text2Text]:
    """transformers' model and ours of the same random weights."""
    model = random_torch(config, seed)
    with torch.no_grad():
        # A head that likes EOS a little more in every direction ends some rows early, not all.
        weight = model.shared.weight if config.tie_word_embeddings else model.lm_head.weight
        weight[1] = weight[100:112].max(dim=0).values
    vocabulary = ByteVocabulary(config.vocab_size - 259)  # so that no logit is masked
    return model, Text2Text(config, laid_out(config, params_of(config, model)), vocabulary)


def theirs(model: Any, inputs: np.ndarray, **options: Any) -> Generation:
    """transformers' result in our shape, with our padding."""
    options = {"num_beams": 1, "do_sample": False, "max_new_tokens": 12} | options
    with torch.no_grad():
        out = model.generate(
            torch.tensor(inputs),
            attention_mask=torch.tensor(inputs != 0),
            output_scores=True,
            output_logits=True,
            return_dict_in_generate=True,
            **options,
        )
    samples = options.get("num_return_sequences", 1)
    ids = out.sequences.numpy()[:, 1:].reshape(len(inputs), samples, -1).copy()
    ends = options.get("eos_token_id", [1])
    ended = np.isin(ids, ends)
    lengths = np.where(ended.any(-1), ended.argmax(-1) + 1, ids.shape[-1])
    # After the end, transformers' beam search repeats EOS where the padding is 0.
    ids[np.arange(ids.shape[-1]) >= lengths[..., None]] = 0
    if options["num_beams"] > 1:
        scores = out.sequences_scores.numpy().reshape(lengths.shape)
    else:  # of the ids that were decided, before any processor
        log_p = torch.stack(out.logits, 1).log_softmax(-1).numpy()
        given = ids.shape[-1] - log_p.shape[1]
        log_p = log_p.reshape(*lengths.shape, *log_p.shape[1:])
        log_p = np.take_along_axis(log_p, ids[..., given:, None], -1)[..., 0]
        there = given + np.arange(log_p.shape[-1]) < lengths[..., None]
        scores = np.where(there, log_p, 0).sum(-1)
    return Generation(ids, scores, lengths)


def ours(t5: Text2Text, inputs: np.ndarray, **options: Any) -> Generation:
    return t5.generate_ids(inputs, **({"max_new_tokens": 12} | options))


def assert_same(ours: Generation, theirs: Generation) -> None:
    """The same ids and scores."""
    np.testing.assert_array_equal(ours.ids, theirs.ids)
    np.testing.assert_array_equal(ours.lengths, theirs.lengths)
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-4, rtol=1e-5)


def compare(inputs: np.ndarray, models: int = MODELS, config=CONFIG, **options: Any) -> np.ndarray:
    """Asserts equality on that many models; the lengths of all results."""
    lengths = []
    for seed in range(models):
        model, t5 = pair(seed, config)
        result = ours(t5, inputs, **options)
        assert_same(result, theirs(model, inputs, **options))
        lengths.append(result.lengths)
    return np.stack(lengths)
