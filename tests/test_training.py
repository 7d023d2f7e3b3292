"""Training: resumed, killed, terminated and sharded runs, through the command that users type."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml

import t5jax

CONFIG = {
    "model": {
        "d_model": 16, "d_kv": 8, "d_ff": 24, "num_heads": 8, "num_layers": 2,
        "num_decoder_layers": 2, "dropout": 0.1,
    },
    "vocabulary": "bytes",
    "data": {
        "mixture": "inflect", "lengths": {"inputs": 48, "targets": 32}, "batch": 16,
        "shuffle_buffer": 100_000,
    },
    "optimizer": {"learning_rate": 0.01, "warmup": 100},
    "training": {"steps": 30, "log_every": 5, "eval_every": 0, "save_every": 10},
}  # fmt: skip


def write_config(folder: Path, **sections) -> Path:
    tree = {
        k: {**v, **sections.get(k, {})} if isinstance(v, dict) else v for k, v in CONFIG.items()
    }
    tree |= {k: v for k, v in sections.items() if k not in tree}
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(tree | {"run_dir": str(folder / "run")}))
    return file


def command(*words: str) -> list[str]:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    return [sys.executable, "-m", "t5jax.cli", *map(str, words)]


def environment(devices: int = 1) -> dict[str, str]:
    flags = f"--xla_force_host_platform_device_count={devices}"
    return {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


def run(*words: str, devices: int = 1, code: int = 0) -> str:
    done = subprocess.run(
        command(*words), env=environment(devices), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == code, done.stderr[-3000:]
    return done.stdout + done.stderr


def metrics(folder: Path) -> list[dict]:
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    config = write_config(folder, eval={"tasks": ["inflect"], "examples": 40})
    output = run("train", config)
    assert "devices: 1 x cpu" in output
    return folder


def test_run_folder_holds_what_it_promises(finished):
    rows = metrics(finished)
    assert [row["step"] for row in rows] == [5, 10, 15, 20, 25, 30]
    assert rows[-1]["loss"] < rows[0]["loss"]
    for name in ("accuracy", "z_loss", "grad_norm", "param_norm", "learning_rate",
                 "examples_per_second", "tokens_per_second", "step_seconds",
                 "model_flops_per_second"):  # fmt: skip
        assert np.isfinite(rows[0][name]), name
    result = json.loads((finished / "run" / "eval" / "inflect" / "metrics.json").read_text())
    assert {"exact_match", "rule_exact_match", "loss"} <= result.keys()
    assert result["step"] == 30 and result["examples"] == 40
    lines = (finished / "run" / "eval" / "inflect" / "predictions.jsonl").read_text().splitlines()
    assert len(lines) == 40
    assert {"inputs", "targets", "prediction"} <= json.loads(lines[0]).keys()
    assert rows[-1]["eval/inflect/exact_match"] == result["exact_match"]


def test_a_run_loads_generates_and_evaluates(finished):
    t5 = t5jax.load(finished / "run")
    assert t5.max_input_length == 48 and t5.generation.max_new_tokens == 32
    assert isinstance(t5.generate("past: go"), str)
    output = run("generate", finished / "run", "past: go", "--max_new_tokens", "4")
    assert t5.generate("past: go", max_new_tokens=4) in output
    out = finished / "again"
    run("eval", finished / "run", "--tasks", "inflect", "--examples", "40", "--out", out)
    first = json.loads((finished / "run" / "eval" / "inflect" / "metrics.json").read_text())
    again = json.loads((out / "inflect" / "metrics.json").read_text())
    for name in ("exact_match", "loss"):
        assert again[name] == pytest.approx(first[name], rel=1e-4, abs=1e-6)


def test_killed_and_resumed_run_equals_an_uninterrupted_one(finished, tmp_path):
    config = write_config(tmp_path, eval={"tasks": ["inflect"], "examples": 40})
    process = subprocess.Popen(
        command("train", config), env=environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    # Past the first checkpoint, with steps logged that are not in it.
    file = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        if file.exists() and len(file.read_text().splitlines()) >= 3:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    run("train", config)
    ours, theirs = t5jax.load(tmp_path / "run"), t5jax.load(finished / "run")
    jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)
    assert [row["step"] for row in metrics(tmp_path)] == [5, 10, 15, 20, 25, 30]


def test_mistakes_are_one_line_and_exit_2(finished, tmp_path):
    config = write_config(tmp_path)
    nowhere = tmp_path / "nowhere"
    cases = {
        ("train", config, "--data.bach=3"): "did you mean batch",
        ("train", nowhere): "no such configuration file",
        ("generate", nowhere, "x"): "is no folder",
        ("generate", finished / "run"): "give texts",
        ("generate", finished / "run", "x", "--temperature", "0", "--do_sample"): "temperature=0.0",
        ("train", finished / "config.yaml", "--data.seed=5"): "data.seed",
    }
    for words, expected in cases.items():
        output = run(*words, code=2)
        lines = [line for line in output.splitlines() if line.startswith("error:")]
        assert len(lines) == 1 and expected in lines[0], output
        assert "Traceback" not in output


@pytest.mark.slow
@pytest.mark.parametrize(
    "mesh", [{"data": 8}, {"data": 1, "fsdp": 8}, {"data": 2, "fsdp": 2, "tensor": 2}]
)
def test_eight_devices_lose_what_one_loses(mesh, tmp_path):
    losses = []
    for name, devices, layout in (("one", 1, {"data": 1}), ("eight", 8, mesh)):
        folder = tmp_path / name
        folder.mkdir()
        config = write_config(
            folder, mesh=layout, model={"dropout": 0.0},
            training={"steps": 10, "log_every": 1, "save_every": 10},
        )  # fmt: skip
        run("train", config, devices=devices)
        losses.append([row["loss"] for row in metrics(folder)])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    # The checkpoint of eight devices goes on, on one.
    run("train", tmp_path / "eight" / "config.yaml", "--training.steps=12", "--mesh.data=1",
        "--mesh.fsdp=1", "--mesh.tensor=1")  # fmt: skip
    assert metrics(tmp_path / "eight")[-1]["step"] == 12
