"""A new family needs a folder and a registration: a toy one goes through everything there is."""

import json

import jax
import numpy as np
import pytest

import t5jax
from t5jax.cli import main
from t5jax.model import family
from t5jax.model.parameters import for_serving, init_params
from t5jax.training.loop import train
from t5jax.vocabulary import ByteVocabulary
from tests.support import toy

CONFIG = toy.ToyConfig()


@pytest.fixture(scope="module", autouse=True)
def registered():
    family.register(toy.TOY)
    yield
    family.unregister("toy")


@pytest.fixture(scope="module")
def params():
    return jax.jit(lambda key: init_params(CONFIG, key))(jax.random.key(0))


@pytest.fixture(scope="module")
def t5(params):
    return t5jax.Text2Text(CONFIG, params, ByteVocabulary())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two steps, and one more after a restart."""
    folder = tmp_path_factory.mktemp("runs") / "toy"
    tree = {
        "model": {"family": "toy", "width": 8},
        "data": {"mixture": "inflect", "lengths": {"inputs": 48, "targets": 32}, "batch": 8},
        "optimizer": {"name": "adamw", "weight_decay": 0.1, "warmup": 1, "learning_rate": 0.01},
        "training": {"steps": 2, "log_every": 1, "save_every": 1},
        "eval": {"tasks": ["inflect"], "examples": 8},
        "run_dir": str(folder),
    }
    train(tree)
    train(tree | {"training": tree["training"] | {"steps": 3}})
    return folder


def ids(seed, *shape):
    return np.random.default_rng(seed).integers(3, 259, shape, dtype=np.int32)


def test_the_networks_agree_and_steps_agree_with_teacher_forcing(t5, params):
    inputs, prefix = ids(0, 3, 9), ids(1, 3, 6)
    inputs[1, 4:] = CONFIG.pad_token_id
    expected = t5.model.apply({"params": params}, inputs, prefix)
    np.testing.assert_allclose(t5.logits(inputs, prefix), expected, atol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, t5.params, params)
    found = t5.generate_ids(inputs, max_new_tokens=6)
    scores = t5.score_ids(inputs, found.ids[:, 0])
    np.testing.assert_allclose(found.scores[:, 0], scores, atol=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"do_sample": True, "num_return_sequences": 2},
        {"num_beams": 3, "num_return_sequences": 3, "length_penalty": 0.0},
        {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "encoder_repetition_penalty": 1.2},
    ],
)
def test_ids_in_a_batch_are_those_alone_and_scores_those_of_the_model(t5, options):
    inputs = ids(2, 3, 11)
    inputs[1, 5:] = inputs[2, 8:] = CONFIG.pad_token_id
    found = t5.generate_ids(inputs, max_new_tokens=7, return_token_scores=True, **options)
    for i, row in enumerate(inputs):
        alone = t5.generate_ids(row[None, row != CONFIG.pad_token_id], max_new_tokens=7, **options)
        width = alone.ids.shape[-1]
        np.testing.assert_array_equal(found.ids[i, :, :width], alone.ids[0])
    samples = found.ids.shape[1]
    rows, ids_found = np.repeat(inputs, samples, axis=0), found.ids.reshape(3 * samples, -1)
    np.testing.assert_allclose(
        found.token_scores.sum(-1).ravel(), t5.score_ids(rows, ids_found), atol=1e-3
    )
    if "num_beams" in options:
        np.testing.assert_allclose(found.token_scores.sum(-1), found.scores, atol=1e-3)


def test_text_streams_is_scored_encoded_cast_quantized_and_saved(t5, tmp_path):
    assert "".join(t5.stream("go", max_new_tokens=9)) == t5.generate("go", max_new_tokens=9)
    assistant = t5.cast("float32")
    same = t5.generate("go", max_new_tokens=9, assistant_model=assistant)
    assert same == t5.generate("go", max_new_tokens=9)
    assert t5.generate(t5.encode(["go"]), max_new_tokens=9) == [same]
    t5.quantize("int8").save(tmp_path / "small")
    t5.save(tmp_path / "whole")
    small, whole = t5jax.load(tmp_path / "small"), t5jax.load(tmp_path / "whole", quantize="int8")
    assert small.config == CONFIG and str(small.quantization) == "int8 without the head"
    assert small.generation.max_new_tokens == CONFIG.positions
    assert small.score(["go"], ["went"]) == whole.score(["go"], ["went"])
    np.testing.assert_allclose(small.score("go", "went"), t5.score("go", "went"), rtol=0.02)
    for format in ("hf", "t5x"):
        with pytest.raises(
            ValueError, match=f"family toy has no tensor table for format '{format}'"
        ):
            t5.save(tmp_path / format, format=format)


def test_positions_end_where_the_model_says(params):
    config = CONFIG.replace(positions=40)
    table = params["token"]["positions"][:40]
    tree = params | {"token": params["token"] | {"positions": table}}
    t5 = t5jax.Text2Text(config, tree, ByteVocabulary())
    assert t5.generation.max_new_tokens == 40
    assert t5.encode_ids(ids(0, 2, 35)).hidden.shape[1] == 40
    assert t5.generate_ids(ids(0, 1, 40), min_new_tokens=40).ids.shape == (1, 1, 40)
    refused = [
        (lambda: t5.encode_ids(ids(0, 1, 41)), "an input has 41 tokens; .* longest_input is 40"),
        (lambda: t5.generate("x" * 40), "an input has 41 tokens; .* longest_input is 40"),
        (lambda: t5.generate("x", max_new_tokens=41), "41 tokens; the .* longest_output is 40"),
        (lambda: t5.generate("x", decoder_prefix="abc"), "max_new_tokens=40 .* of 43 tokens"),
        (lambda: t5.score_ids(ids(0, 1, 3), ids(1, 1, 41)), "a target has 41 tokens"),
        (lambda: t5.logits(ids(0, 1, 3), ids(1, 1, 41)), "a target has 41 tokens"),
    ]
    for call, words in refused:
        with pytest.raises(ValueError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_an_assistant_may_have_fewer_positions(t5, params):
    config = CONFIG.replace(positions=40)
    table = params["token"]["positions"][:40]
    tree = params | {"token": params["token"] | {"positions": table}}
    small = t5jax.Text2Text(config, tree, ByteVocabulary())
    inputs = ids(3, 2, 35)  # 64 columns for the model, 40 for its assistant
    inputs[1, 20:] = CONFIG.pad_token_id
    call = {"max_new_tokens": 40, "min_new_tokens": 40}
    for one, other in ((t5, small), (small, t5)):
        found = one.generate_ids(inputs, assistant_model=other, **call)
        np.testing.assert_array_equal(found.ids, one.generate_ids(inputs, **call).ids)
    refused = [
        ({}, 41, "assistant_model: an input has 41 tokens; the model's longest_input is 40"),
        ({"max_new_tokens": 41}, 9, "41 tokens; the assistant_model's longest_output is 40"),
    ]
    for more, width, words in refused:
        with pytest.raises(ValueError, match=words):
            t5.generate_ids(ids(0, 1, width), assistant_model=small, **{**call, **more})


def test_padding_past_the_last_position_counts_for_nothing(t5, params):
    inputs, prefix = ids(0, 2, 60), ids(1, 2, 5)
    wide = np.pad(inputs, ((0, 0), (0, 9)), constant_values=CONFIG.pad_token_id)
    for call in (lambda x: t5.logits(x, prefix), lambda x: t5.score_ids(x, prefix)):
        np.testing.assert_allclose(call(wide), call(inputs), atol=1e-5)


def test_a_run_is_trained_checkpointed_resumed_and_evaluated(run, capsys):
    assert (run / "model.json").read_text().count('"family": "toy"') == 1
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    t5 = t5jax.load(run)
    assert t5.config.width == 8 and t5.config.pad_token_id == 383
    main(["eval", str(run), "--tasks", "inflect", "--examples", "8", "--num_beams", "2"])
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.split()[0] == "examples"]
    assert line.split()[1] == "8"
    rows = (run / "eval" / "inflect" / "predictions.jsonl").read_text().splitlines()
    predictions = [json.loads(row) for row in rows]
    inputs = [row["inputs"] for row in predictions]
    assert [row["prediction"] for row in predictions] == t5.generate(inputs, num_beams=2)
    targets = [row["targets"] for row in predictions]
    scores = [row["target_score"] for row in predictions]
    np.testing.assert_allclose(scores, t5.score(inputs, targets), rtol=1e-4)


def test_a_parameter_that_the_layout_does_not_name_is_an_error(params):
    with pytest.raises(ValueError, match="no place for token/more"):
        for_serving(CONFIG, params | {"token": params["token"] | {"more": np.zeros(3)}})
    lacking = {k: v for k, v in params["encoder"]["layers"].items() if k != "value"}
    with pytest.raises(ValueError, match="encoder/layers_0/value is missing"):
        for_serving(CONFIG, params | {"encoder": {"layers": lacking}})
