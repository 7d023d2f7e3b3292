"""The model against transformers on random weights."""

import jax.numpy as jnp
import numpy as np
import pytest

from t5jax.model.config import T5Config
from t5jax.model.network import T5
from tests.reference import ragged_ids, random_pair, torch

SMALL = T5Config(
    vocab_size=384, d_model=64, d_kv=16, d_ff=96, num_heads=4, num_layers=3, num_decoder_layers=2
)
CONFIGS = {
    "v1.0": SMALL.replace(
        feed_forward_proj="relu", tie_word_embeddings=True, scale_decoder_outputs=True
    ),
    "v1.1": SMALL,
    "ul2": SMALL.replace(feed_forward_proj="gated-silu", num_layers=2, num_decoder_layers=3),
    "tied-unscaled": SMALL.replace(tie_word_embeddings=True),
    "wide-heads": SMALL.replace(d_kv=24, num_heads=5),
    "buckets": SMALL.replace(relative_attention_num_buckets=16, relative_attention_max_distance=40),
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("lengths", [[3, 17, 30], [150, 1, 300]], ids=["short", "long"])
def test_logits_and_hidden_states_equal_transformers(name, lengths):
    config = CONFIGS[name]
    model, params = random_pair(config)
    rng = np.random.default_rng(1)
    inputs = ragged_ids(rng, lengths, config.vocab_size)
    prefix = ragged_ids(rng, [9, 2, 5], config.vocab_size)
    prefix[:, 0] = 0
    mask = inputs != 0
    with torch.no_grad():
        theirs = model(
            input_ids=torch.tensor(inputs),
            attention_mask=torch.tensor(mask),
            decoder_input_ids=torch.tensor(prefix),
        )
    hidden = T5(config).apply({"params": params}, jnp.asarray(inputs), method="encode")
    expected = theirs.encoder_last_hidden_state.numpy()
    np.testing.assert_allclose(hidden[mask], expected[mask], atol=1e-4)
    logits = T5(config).apply({"params": params}, jnp.asarray(inputs), jnp.asarray(prefix))
    assert np.std(theirs.logits.numpy()) > 0.5  # otherwise closeness would say little
    np.testing.assert_allclose(logits, theirs.logits.numpy(), atol=1e-4)
