"""A finite mask, -1e9 or the dtype's minimum, forbids as minus infinity does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.models import random_ids, shared_text2text

MASKS = {"-1e9": -1e9, "minimum": float(np.finfo(np.float32).min)}
INPUT = random_ids(0, 2, 8)


def constant(logits, mask=-jnp.inf):
    """A processor that gives log p of these logits at every step; `mask` for all other ids."""
    row = jnp.full(384, mask).at[: len(logits)].set(jnp.asarray(logits, jnp.float32))
    row = jax.nn.log_softmax(row)
    return lambda ids, before: jnp.broadcast_to(jnp.maximum(row, mask), before.shape)


def generate(function, **options):
    options = {"max_new_tokens": 5, "num_return_sequences": options.get("num_beams", 1)} | options
    return shared_text2text().generate_ids(INPUT, logits_processor=function, **options)


@pytest.mark.parametrize(
    "mask", [-np.inf, -1e9, pytest.param(MASKS["minimum"], marks=pytest.mark.slow)]
)
def test_brevity_penalty_ends_nothing_with_an_eos_that_is_masked(mask):
    """T5X's own case: of fewer finite logits than twice the beams, a masked EOS is a candidate."""
    function = constant([-1e7, -1e10, -0.1, -0.9], mask)
    result = generate(function, num_beams=2, brevity_penalty=0.6)
    np.testing.assert_array_equal(result.ids[0], [[2, 2, 2, 2, 2], [3, 2, 2, 2, 2]])


def test_brevity_penalty_counts_a_prefix_as_t5x_does():
    function = constant([-np.inf, *np.log([0.3, 0.5, 0.2])])
    options = {"num_beams": 2, "brevity_penalty": 0.6, "max_new_tokens": 3}
    result = generate(function, decoder_prefix=[[4, 5], []], **options)
    assert result.ids[0, 0, :3].tolist() == [4, 5, 1]
    np.testing.assert_allclose(result.scores[0, 0], -1.01310, atol=1e-5)  # log 0.3 / (8 / 6)^0.6
    # The row beside it has no prefix, and is what it is alone.
    assert result.ids[1, 0, :1].tolist() == [1]
    np.testing.assert_allclose(result.scores[1, 0], np.log(0.3), atol=1e-5)


CASES = [
    {"num_beams": 3, "early_stopping": True, "forced_eos_token_id": 1},
    {"num_beams": 2, "answers": [[5, 6], [7, 8, 9]]},
    {"num_beams": 3},
    {"num_beams": 3, "brevity_penalty": 0.6},
    {"num_beams": 2, "do_sample": True},
    {},
    {"do_sample": True, "typical_p": 0.9, "min_p": 0.01, "epsilon_cutoff": 0.01},
    {"forced_bos_token_id": 7, "forced_eos_token_id": 1},
    {"answers": [[5, 6], [7, 8, 9]]},
]


@pytest.mark.parametrize(
    ("options", "mask"),
    [
        pytest.param(options, mask, marks=[] if mask == -1e9 and i < 2 else pytest.mark.slow)
        for i, options in enumerate(CASES)
        for mask in MASKS.values()
    ],
    ids=str,
)
def test_any_mask_gives_what_minus_infinity_gives(options, mask):
    def masked(value):
        def function(ids, logits):
            length = jnp.sum(ids >= 0, axis=1, keepdims=True)
            # Few ids at a time, fewer than candidates; answers are forbidden altogether.
            allowed = (jnp.arange(384) + length) % 97 == 0
            allowed |= (jnp.arange(384) == 1) & (length > 3)
            return jnp.where(allowed, logits, value)

        return function

    infinite, finite = (generate(masked(value), **options) for value in (-jnp.inf, mask))
    np.testing.assert_array_equal(finite.ids, infinite.ids)
    np.testing.assert_allclose(finite.scores, infinite.scores, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_the_best_of_a_masked_search_equals_transformers(mask):
    from tests.support.generation import RAGGED, ours, pair, theirs, torch

    allowed = np.zeros(384, bool)
    allowed[[1, 30, 40, 50]] = True

    def as_torch(ids, logits):
        return torch.where(torch.tensor(allowed), logits, torch.tensor(mask))

    for seed in range(4):
        model, t5 = pair(seed)
        expected = theirs(model, RAGGED, num_beams=4, logits_processor=[as_torch])
        result = ours(
            t5,
            RAGGED,
            num_beams=4,
            logits_processor=lambda ids, logits: jnp.where(allowed, logits, mask),
        )
        np.testing.assert_array_equal(result.ids, expected.ids)
        np.testing.assert_allclose(result.scores, expected.scores, atol=1e-4)
