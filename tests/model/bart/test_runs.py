"""Runs of BART's family: from scratch, resumed, from a checkpoint, and on a mesh."""

import json

import jax
import numpy as np
import pytest

import t5jax
from t5jax.batch import Batch
from t5jax.config import MeshConfig, OptimizerConfig, RunConfig, TrainingConfig
from t5jax.config_files import build_config
from t5jax.model.bart.network import Bart
from t5jax.model.bart.variants import VARIANTS
from t5jax.sharding import make_mesh, use
from t5jax.training.layout import make_layout
from t5jax.training.loop import train
from t5jax.training.schedules import make_schedule
from t5jax.training.step import make_step
from t5jax.vocabulary import ByteVocabulary
from tests.support.bart import CONFIGS, random_ids

SIZES = {
    "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16,
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_new_model_has_the_special_ids_of_its_vocabulary(variant):
    model = build_config({"model": {"variant": variant}}, ByteVocabulary()).model
    assert (model.vocab_size, model.pad_token_id, model.eos_token_id) == (384, 0, 1)
    base = VARIANTS[variant]
    starts_with_eos = base.decoder_start_token_id == base.eos_token_id
    assert model.decoder_start_token_id == (1 if starts_with_eos else 0)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["bart_base", "nllb_600m"])
def test_a_run_is_trained_resumed_and_fine_tuned(variant, tmp_path):
    tree = {
        "model": {"variant": variant, **SIZES},
        "data": {"mixture": "inflect", "lengths": {"inputs": 48, "targets": 32}, "batch": 8},
        "optimizer": {"name": "adamw", "weight_decay": 0.1, "warmup": 1, "learning_rate": 0.01},
        "training": {"steps": 2, "log_every": 1, "save_every": 1},
        "eval": {"tasks": ["inflect"], "examples": 8},
        "run_dir": str(tmp_path / "run"),
    }
    train(tree)
    train(tree | {"training": tree["training"] | {"steps": 3}})
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [1, 2, 3]
    whole = tree | {
        "training": tree["training"] | {"steps": 3}, "run_dir": str(tmp_path / "whole")
    }  # fmt: skip
    train(whole)
    one, other = t5jax.load(tmp_path / "run"), t5jax.load(tmp_path / "whole")
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
    one.save(tmp_path / "hf", format="hf")
    more = {key: value for key, value in tree.items() if key != "model"}
    train(
        more | {
            "init": str(tmp_path / "hf"), "vocabulary": "bytes", "run_dir": str(tmp_path / "tuned")
        }
    )  # fmt: skip
    tuned = t5jax.load(tmp_path / "tuned")
    assert tuned.config == one.config
    assert isinstance(tuned.generate("past: go", max_new_tokens=5), str)


@pytest.mark.eight_devices
@pytest.mark.parametrize("sizes", [{"data": 8}, {"fsdp": 8}, {"data": 2, "fsdp": 2, "tensor": 2}])
@pytest.mark.parametrize("kind", ["bart", "m2m_100"])
def test_a_mesh_trains_as_one_device_does(kind, sizes):
    config = CONFIGS[kind]
    run = RunConfig(
        config,
        optimizer=OptimizerConfig(name="adamw", learning_rate=1e-3, warmup=1),
        training=TrainingConfig(steps=9),
    )
    ids, targets = random_ids(config, 0, [12] * 8), random_ids(config, 1, [6] * 8)
    batch = Batch(
        encoder_input_tokens=ids.astype(np.int32),
        encoder_segment_ids=np.ones(ids.shape, np.int32),
        decoder_input_tokens=np.pad(
            targets[:, :-1], ((0, 0), (1, 0)), constant_values=config.decoder_start_token_id
        ).astype(np.int32),
        decoder_target_tokens=targets.astype(np.int32),
        decoder_segment_ids=np.ones(targets.shape, np.int32),
        decoder_loss_weights=np.ones(targets.shape, np.float32),
    )

    def losses(mesh):
        layout = make_layout(run, mesh, stacked=True)
        schedule = make_schedule(run.optimizer, 9)
        with use(mesh):
            step = jax.jit(make_step(Bart(config), layout.optimizer, schedule, run.training))
            state, found = layout.fresh(jax.random.key(0)), []
            for _ in range(3):
                state, metrics = step(state, batch)
                found.append(float(metrics.losses.nll))
        return found

    one = losses(make_mesh(MeshConfig(), jax.devices()[:1]))
    spread = losses(make_mesh(MeshConfig(**{"data": 1, **sizes})))
    np.testing.assert_allclose(spread, one, rtol=1e-5)
