"""The model against transformers on random weights."""

import jax.numpy as jnp
import numpy as np
import pytest

from t5jax.model.t5.config import T5Config
from t5jax.model.t5.network import T5
from t5jax.model.t5.positions import relative_position_bucket
from tests.support.reference import ragged_ids, random_pair, torch

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
# No released model has these, users' own do. Not every number of buckets divides by four, or two.
OTHERS = {
    "gelu, 30 buckets": {"feed_forward_proj": "gelu", "relative_attention_num_buckets": 30},
    "silu, 31 buckets": {"feed_forward_proj": "silu", "relative_attention_num_buckets": 31},
    "gelu_new, 6 buckets": {"feed_forward_proj": "gelu_new", "relative_attention_num_buckets": 6},
    "gated-relu, 7 buckets": {
        "feed_forward_proj": "gated-relu",
        "relative_attention_num_buckets": 7,
        "relative_attention_max_distance": 9,
    },
}


LOCAL = SMALL.replace(encoder_attention_type="local")
GLOBAL = SMALL.replace(encoder_attention_type="transient-global")
TIED = {"feed_forward_proj": "relu", "tie_word_embeddings": True}
LONG = {
    "local": LOCAL,
    "local-tied": LOCAL.replace(**TIED),
    "local-near": LOCAL.replace(local_radius=5),
    "global": GLOBAL,
    "global-scaled": GLOBAL.replace(**TIED, scale_decoder_outputs=True),
    "global-near": GLOBAL.replace(local_radius=6, global_block_size=4),
    "global-buckets": GLOBAL.replace(
        global_block_size=2, relative_attention_num_buckets=16, relative_attention_max_distance=40
    ),
}
# Less than a block, whole blocks and what is left over of them, in one padded batch; and too little
# for a global token.
LENGTHS = {"uneven": [600, 3, 15, 16, 17, 127, 128, 385], "short": [3, 15, 9]}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("lengths", [[3, 17, 30], [150, 1, 300]], ids=["short", "long"])
def test_logits_and_hidden_states_equal_transformers(name, lengths):
    check(CONFIGS[name], lengths)


@pytest.mark.parametrize("name", OTHERS)
def test_every_mlp_and_number_of_buckets_gives_transformers_logits(name):
    check(SMALL.replace(num_layers=1, num_decoder_layers=1, **OTHERS[name]), [150, 1, 40])


@pytest.mark.parametrize("bidirectional", [True, False])
def test_buckets_of_any_number_are_transformers(bidirectional):
    from transformers.models.t5.modeling_t5 import T5Attention

    distances = np.arange(-300, 301)
    for buckets in (4, 5, 6, 7, 9, 15, 30, 31, 32, 33, 64):
        for most in (buckets // 2 + 1, 128):
            theirs = T5Attention._relative_position_bucket(
                torch.tensor(distances), bidirectional, buckets, most
            )
            ours = relative_position_bucket(
                distances, bidirectional=bidirectional, num_buckets=buckets, max_distance=most
            )
            np.testing.assert_array_equal(ours, theirs, err_msg=f"{buckets} buckets to {most}")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("local", "global") else pytest.mark.slow)
        for name in LONG
    ],
)
@pytest.mark.parametrize(
    "lengths",
    [LENGTHS["uneven"], pytest.param(LENGTHS["short"], marks=pytest.mark.slow)],
    ids=LENGTHS,
)
def test_long_inputs_equal_transformers_longt5(name, lengths):
    check(LONG[name], lengths)


def check(config, lengths):
    model, params = random_pair(config)
    rng = np.random.default_rng(1)
    inputs = ragged_ids(rng, lengths, config.vocab_size)
    prefix = ragged_ids(rng, ([9, 2, 5] * len(lengths))[: len(lengths)], config.vocab_size)
    prefix[:, 0] = 0
    mask = inputs != 0
    with torch.no_grad():
        theirs = model(
            input_ids=torch.tensor(inputs),
            attention_mask=torch.tensor(mask).long(),
            decoder_input_ids=torch.tensor(prefix),
        )
    hidden = T5(config).apply({"params": params}, jnp.asarray(inputs), method="encode")
    expected = theirs.encoder_last_hidden_state.numpy()
    np.testing.assert_allclose(hidden[mask], expected[mask], atol=1e-4)
    logits = T5(config).apply({"params": params}, jnp.asarray(inputs), jnp.asarray(prefix))
    assert np.std(theirs.logits.numpy()) > 0.5  # otherwise closeness would say little
    np.testing.assert_allclose(logits, theirs.logits.numpy(), atol=1e-4)
