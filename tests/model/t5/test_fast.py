"""The serving network is the training network, and its traces are what was computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5jax.model.parameters import for_serving, from_serving, quantize
from t5jax.ops.quantized import Scheme, dequantize
from tests.support.models import (
    TINY,
    apply,
    lively_params,
    random_ids,
    serve,
    serving,
    serving_params,
    teacher_forced,
)
from tests.support.reference import random_pair, torch

CONFIGS = {
    "1.0": TINY.replace(
        feed_forward_proj="relu", tie_word_embeddings=True, scale_decoder_outputs=True
    ),
    "umt5": TINY.replace(relative_bias="per_layer", num_heads=3),
    "local": TINY.replace(encoder_attention_type="local", local_radius=7),
    "global": TINY.replace(
        encoder_attention_type="transient-global", local_radius=7, global_block_size=4
    ),
}
EVERY = pytest.mark.parametrize("name", CONFIGS)


def inputs_of(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids with padding, and their segments."""
    ids = random_ids(0, rows, 21)
    ids[1:, 13:] = 0
    return ids, (ids != 0).astype(np.int32)


def prefix_of(rows: int, length: int = 8) -> np.ndarray:
    prefix = random_ids(1, rows, length)
    prefix[:, 0] = 0
    return prefix


@EVERY
def test_encoding_and_teacher_forcing_are_the_training_networks(name):
    config = CONFIGS[name]
    ids, segments = inputs_of(2)
    params = lively_params(config)
    hidden = serve(config, "encode")(serving_params(config), ids, segments)
    np.testing.assert_allclose(hidden, apply(config, "encode")(params, ids), atol=2e-5)
    expected = apply(config)(params, ids, prefix_of(2))
    np.testing.assert_allclose(teacher_forced(config, ids, prefix_of(2)), expected, atol=2e-5)


def test_an_encoder_alone_encodes_as_in_training():
    config = TINY.replace(num_decoder_layers=0)
    ids, segments = inputs_of(2)
    hidden = serve(config, "encode")(serving_params(config), ids, segments)
    expected = apply(config, "encode")(lively_params(config), ids)
    np.testing.assert_allclose(hidden, expected, atol=2e-5)


@pytest.mark.parametrize("name, rows", [("1.0", 1), ("umt5", 1), ("global", 2)])
def test_steps_of_one_and_of_several_tokens_are_teacher_forcing(name, rows):
    """One row is kept folded where its heads are even in number."""
    config = CONFIGS[name]
    ids, segments = inputs_of(rows)
    prefix = prefix_of(rows)
    expected = teacher_forced(config, ids, prefix)
    params, mask = serving_params(config), segments != 0
    hidden = serve(config, "encode")(params, ids, segments)
    cross = serve(config, "cross_kv")(params, hidden)
    cache, found = serving(config).init_cache(rows, 4), []
    for i in range(2):
        args = (prefix[:, i], cross, mask, cache, jnp.int32(i))
        x, cache = serve(config, "decode_hidden")(params, *args)
        found.append(x[:, None])
    args = (prefix[:, 2:7], cross, mask, cache.extend(8), jnp.int32(2))
    x, cache = serve(config, "decode_hidden_several")(params, *args)
    found.append(x)
    logits = serve(config, "logits")(params, jnp.concatenate(found, 1))
    np.testing.assert_allclose(logits, expected[:, :7], atol=2e-5)


@pytest.mark.parametrize("rows", [1, 2])
def test_a_beam_sees_the_slots_that_its_ancestry_names(rows):
    config, beams, length = CONFIGS["umt5"], 3, 5
    ids, segments = inputs_of(rows)
    params, mask = serving_params(config), segments != 0
    hidden = serve(config, "encode")(params, ids, segments)
    cross = serve(config, "cross_kv")(params, hidden)
    cache = serving(config).init_cache(rows, length, beams)
    rng = np.random.default_rng(3)
    ancestry = np.full((rows, beams, length), -1, np.int32)
    histories = np.zeros((rows, beams, 0), np.int32)
    for i in range(length):
        # Every beam goes on from one of the last step's, and writes to its own slot.
        parents = rng.integers(beams, size=(rows, beams))
        take = lambda x, at=parents: np.take_along_axis(x, at[..., None], axis=1)  # noqa: E731
        ancestry, histories = take(ancestry), take(histories)
        ancestry[..., i] = np.arange(beams)
        tokens = random_ids(10 + i, rows, beams) if i else np.zeros((rows, beams), np.int32)
        histories = np.concatenate([histories, tokens[..., None]], axis=2)
        args = (tokens.reshape(-1), cross, mask, cache, jnp.int32(i), ancestry)
        x, cache = serve(config, "decode_hidden")(params, *args)
    found = serve(config, "logits")(params, x)
    many = (jnp.repeat(hidden, beams, 0), np.repeat(segments, beams, 0))
    expected = serve(config, "decode")(params, *many, histories.reshape(rows * beams, -1))
    np.testing.assert_allclose(found, expected[:, -1], atol=2e-5)


@pytest.mark.parametrize("name", ["1.0", "global"])
def test_quantized_kernels_are_multiplied_as_what_they_stand_for(name):
    config = CONFIGS[name]
    ids, segments = inputs_of(2)
    small = quantize(config, serving_params(config), Scheme("int8"))
    found = serve(config, "encode")(small, ids, segments)
    expected = serve(config, "encode")(dequantize(small), ids, segments)
    # Activations are rounded to eight bits.
    assert 0 < np.std(found - expected) < 0.03 * np.std(expected)
    rounded = apply(config, "encode")(from_serving(config, dequantize(small)), ids)
    np.testing.assert_allclose(expected, rounded, atol=2e-5)


def theirs(config, ids, prefix):
    """transformers' outputs with every layer's attention and hidden states, and our parameters."""
    model, params = random_pair(config)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        out = model(
            input_ids=torch.tensor(ids).long(),
            attention_mask=torch.tensor(ids != 0).long(),
            decoder_input_ids=torch.tensor(prefix).long(),
            output_attentions=True,
            output_hidden_states=True,
        )
    return out, params


def layers_of(tensors) -> np.ndarray:
    return torch.stack(tuple(tensors), 1).numpy()


def traces(config, params, ids, prefix):
    params, segments = for_serving(config, params), (ids != 0).astype(np.int32)
    encoder = serve(config, "trace_encoder")(params, ids, segments)
    hidden = serve(config, "encode")(params, ids, segments)
    return encoder, serve(config, "trace_decoder")(params, hidden, segments, prefix)


def test_a_trace_is_transformers_attention_and_hidden_states():
    config, (ids, segments), prefix = CONFIGS["1.0"], inputs_of(2), prefix_of(2)
    out, params = theirs(config, ids, prefix)
    encoder, decoder = traces(config, params, ids, prefix)
    there = segments != 0
    for row, length in enumerate(there.sum(1)):
        found = encoder.attention[row, :, :, :length]
        expected = layers_of(out.encoder_attentions)[row, :, :, :length]
        np.testing.assert_allclose(found, expected, atol=1e-5)
        # transformers' last is normed.
        found = encoder.hidden[row, :-1, :length]
        expected = layers_of(out.encoder_hidden_states)[row, :-1, :length]
        np.testing.assert_allclose(found, expected, atol=1e-4)
    for found, expected in (
        (decoder.self_attention, out.decoder_attentions),
        (decoder.cross_attention, out.cross_attentions),
    ):
        np.testing.assert_allclose(found, layers_of(expected), atol=1e-5)
    expected = layers_of(out.decoder_hidden_states)
    np.testing.assert_allclose(decoder.hidden[:, :-1], expected[:, :-1], atol=1e-4)
    assert decoder.hidden.shape == expected.shape


@pytest.mark.parametrize("name", ["local", "global"])
def test_a_trace_of_longt5_is_transformers_blocks_put_together(name):
    """A global token's weight is shared out among the tokens that it sums."""
    config, prefix = CONFIGS[name], prefix_of(2)
    block, size = config.local_radius + 1, config.global_block_size
    ids, _ = inputs_of(2)
    lengths = (ids != 0).sum(1)
    out, params = theirs(config, ids, prefix)
    encoder, _ = traces(config, params, ids, prefix)
    for layer, blocks in enumerate(out.encoder_attentions):
        blocks = blocks.numpy()  # [B, blocks, N, T, 3 T and global tokens]
        for row, length in enumerate(lengths):
            expected = np.zeros((config.num_heads, length, length), np.float32)
            for at in range(length):
                weights = blocks[row, at // block, :, at % block]
                first = (at // block - 1) * block
                for key in range(max(0, at - block + 1), min(length, at + block)):
                    expected[:, at, key] += weights[:, key - first]
                for place in range(weights.shape[1] - 3 * block):
                    last = place == length // size - 1
                    summed = range(place * size, length if last else (place + 1) * size)
                    if place < length // size:
                        expected[:, at, summed] += weights[:, 3 * block + place, None] / len(summed)
            found = encoder.attention[row, layer, :, :length]
            np.testing.assert_allclose(found[..., :length], expected, atol=1e-5)
            np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)


@EVERY
def test_a_trace_ends_with_what_encoding_and_decoding_give(name):
    config, (ids, segments), prefix = CONFIGS[name], inputs_of(2), prefix_of(2)
    params = serving_params(config)
    encoder, decoder = traces(config, lively_params(config), ids, prefix)

    def normed(stack: str, x: jax.Array) -> jax.Array:
        x = x / np.sqrt(np.mean(np.square(x), -1, keepdims=True) + config.layer_norm_epsilon)
        return x * params[stack]["norm"]["scale"]

    hidden = serve(config, "encode")(params, ids, segments)
    there = segments != 0
    np.testing.assert_allclose(
        normed("encoder", encoder.hidden[:, -1])[there], hidden[there], atol=2e-5
    )
    logits = serve(config, "logits")(params, normed("decoder", decoder.hidden[:, -1]))
    np.testing.assert_allclose(logits, teacher_forced(config, ids, prefix), atol=1e-4)
    depths = (config.num_layers, config.num_decoder_layers)
    assert (encoder.attention.shape[1], decoder.self_attention.shape[1]) == depths
    np.testing.assert_allclose(decoder.self_attention.sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(decoder.cross_attention.sum(-1), 1, atol=1e-5)
