"""Starting from a checkpoint: `init:` in a configuration; transformers' losses from there on."""

import json

import jax
import numpy as np
import pytest
import yaml

import t5jax
from t5jax.batch import Batch
from t5jax.cli import main
from t5jax.config import OptimizerConfig, TrainingConfig
from t5jax.formats.detect import open_checkpoint
from t5jax.model.parameters import logical_axes
from t5jax.model.t5.config import T5Config
from t5jax.model.t5.network import T5
from t5jax.training.opening import open_init, resolve
from t5jax.training.optimizers import make_optimizer
from t5jax.training.schedules import make_schedule
from t5jax.training.step import init_state, make_step
from t5jax.vocabulary import ByteVocabulary
from tests.formats import test_t5x
from tests.support.models import lively_params, tiny_text2text
from tests.support.reference import ragged_ids, random_torch, torch

SMALL = T5Config(
    vocab_size=384, d_model=32, d_kv=8, d_ff=48, num_heads=4, num_layers=2, num_decoder_layers=2
)
V1_0 = SMALL.replace(feed_forward_proj="relu", tie_word_embeddings=True, scale_decoder_outputs=True)


def tokens(seed):
    rng = np.random.default_rng(seed)
    return ragged_ids(rng, [5, 12, 9], 384), ragged_ids(rng, [7, 3, 5], 384)


@pytest.mark.parametrize("config", [SMALL, V1_0], ids=["t5_1_1", "t5_1_0"])
def test_losses_of_two_steps_from_a_hugging_face_folder_equal_transformers(tmp_path, config):
    model = random_torch(config)
    model.save_pretrained(tmp_path / "hf")
    config = open_checkpoint(tmp_path / "hf").about.config.replace(dropout=0.0)
    knobs = OptimizerConfig(
        name="adamw", schedule="constant", learning_rate=1e-3, warmup=0, weight_decay=0.0
    )
    optimizer = make_optimizer(knobs, logical_axes(config), 10)
    training = TrainingConfig(z_loss=0.0)
    step = jax.jit(make_step(T5(config), optimizer, make_schedule(knobs, 10), training))
    state = init_state(open_checkpoint(tmp_path / "hf").read("training"), optimizer, 0)
    # Not train(): there is no dropout to draw.
    theirs = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, eps=knobs.epsilon)
    for seed in range(3):  # the third loss is that after two steps
        inputs, targets = tokens(seed)
        labels = torch.tensor(np.where(targets == 0, -100, targets))
        loss = model(
            input_ids=torch.tensor(inputs),
            attention_mask=torch.tensor(inputs != 0),
            labels=labels,
        ).loss
        theirs.zero_grad()
        loss.backward()
        theirs.step()
        batch = Batch(
            encoder_input_tokens=inputs.astype(np.int32),
            encoder_segment_ids=(inputs != 0).astype(np.int32),
            decoder_input_tokens=np.pad(targets[:, :-1], ((0, 0), (1, 0))).astype(np.int32),
            decoder_target_tokens=targets.astype(np.int32),
            decoder_segment_ids=(targets != 0).astype(np.int32),
            decoder_loss_weights=(targets != 0).astype(np.float32),
        )
        state, metrics = step(state, batch)
        ours = float(metrics.losses.nll / metrics.losses.weight)
        assert abs(ours - loss.item()) < 1e-4


def config_file(folder, **sections):
    tree = {
        "data": {"mixture": "inflect", "lengths": {"inputs": 48, "targets": 32}, "batch": 8},
        "optimizer": {"learning_rate": 1e-3},
        "training": {"steps": 2, "log_every": 1, "eval_every": 0, "save_every": 2},
        "run_dir": str(folder / "run"),
        **sections,
    }
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(tree))
    return str(file)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "format", ["hf", pytest.param("t5x", marks=SLOW), pytest.param("t5jax", marks=SLOW)]
)
def test_a_run_starts_from_a_checkpoint_of_every_format(tmp_path, format, capsys):
    """Its first loss is the checkpoint's own; model and vocabulary need not be repeated."""
    source = t5jax.Text2Text(V1_0, lively_params(V1_0), ByteVocabulary())
    source.save(tmp_path / "source", format=format)
    named = {"vocabulary": "bytes"} if format == "t5x" else {}
    file = config_file(tmp_path, init=str(tmp_path / "source"), **named)
    main(["train", file, "--optimizer.learning_rate=0.0", "--model.dropout=0.0"])
    run = t5jax.load(tmp_path / "run")
    assert run.config == V1_0 and run.vocabulary == ByteVocabulary()
    # At a learning rate of 0 the weights stay what they were at step 0.
    jax.tree.map(np.testing.assert_array_equal, run.params, source.params)
    rows = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]


@SLOW
def test_a_begun_run_no_longer_needs_what_it_started_from(tmp_path, capsys):
    tiny_text2text().save(tmp_path / "source")
    file = config_file(tmp_path, init=str(tmp_path / "source"))
    main(["train", file])
    (tmp_path / "source").rename(tmp_path / "gone")
    main(["train", file])
    assert t5jax.load(tmp_path / "run").config.d_model == 32


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model.d_ff=64"], "model.d_ff=64, but the checkpoint"),
        (["--model.variant=t5_small"], "model.d_model=512, but the checkpoint"),
        (["--init=/nowhere at all"], "is no folder"),
    ],
)
def test_mistakes_in_init_are_one_line(tmp_path, capsys, arguments, said):
    tiny_text2text().save(tmp_path / "source")
    with pytest.raises(SystemExit):
        main(["train", config_file(tmp_path, init=str(tmp_path / "source")), *arguments])
    assert said in capsys.readouterr().err


def test_a_checkpoint_without_a_vocabulary_asks_for_one(tmp_path, capsys):
    random_torch(SMALL.replace(vocab_size=400)).save_pretrained(tmp_path / "hf")
    with pytest.raises(SystemExit):
        main(["train", config_file(tmp_path, init=str(tmp_path / "hf"))])
    assert "came without a vocabulary" in capsys.readouterr().err


def test_what_a_t5x_checkpoint_does_not_tell_is_said_or_set_in_the_config(tmp_path, capsys):
    folder = test_t5x.write(tmp_path / "a", test_t5x.as_t5x(random_torch(SMALL), SMALL))
    tree = {
        "init": str(folder),
        "vocabulary": "bytes",
        "data": {"mixture": "pronounce"},
        "run_dir": str(tmp_path / "run"),
    }
    config, _ = resolve(tree)
    assert config.model.feed_forward_proj == "gated-gelu"
    assert "taken as feed_forward_proj=gated-gelu" in capsys.readouterr().err
    tree["model"] = {"feed_forward_proj": "gated-silu", "encoder_attention_type": "full"}
    config, _ = resolve(tree)
    assert open_init(config).about.config.feed_forward_proj == "gated-silu"
    assert capsys.readouterr().err == ""
    tree["model"]["d_ff"] = 7
    with pytest.raises(ValueError, match=r"model\.d_ff=7, but the checkpoint"):
        resolve(tree)
