"""`data.lengths: auto`: as cheap as the best pair of a search, and what training really packs."""

import dataclasses
import functools

import numpy as np
import pytest
import seqio
import tensorflow as tf
import yaml

from t5jax.cli import main
from t5jax.config import DataConfig, LengthsConfig
from t5jax.config_files import auto_lengths, read_config
from t5jax.data import TrainData, row_lengths
from t5jax.model.family import family_of
from t5jax.model.t5 import VARIANTS
from t5jax.run_folder import CONFIG
from t5jax.tasks import objectives
from t5jax.training.opening import resolve
from tests.data.test_data import pairs, text_task
from tests.support.mistakes import error_of

SMALL = VARIANTS["t5_small"]
COST = functools.partial(family_of(SMALL).step_flops, SMALL, 1)


def some(inputs: float, targets: float, seed: int = 0) -> np.ndarray:
    """Lengths of 2,048 examples with these medians."""
    rng = np.random.default_rng(seed)
    sizes = [rng.lognormal(np.log(median), 0.6, 2048) for median in (inputs, targets)]
    return np.maximum(1, np.stack(sizes, 1)).astype(int)


@pytest.mark.parametrize(("inputs", "targets"), [(30, 10), (20, 40), (120, 15), (400, 60)])
def test_an_example_costs_no_more_than_with_the_best_pair_of_a_search(inputs, targets):
    sizes = some(inputs, targets)
    found = row_lengths.choose(sizes, COST, together=16, given={})
    assert max(found.cut) <= row_lengths.CUT
    least = [int(np.quantile(column, 0.99, method="higher")) for column in sizes.T]
    most = max(least[0], row_lengths.LONGEST)
    searched = [
        row_lengths.measure(sizes, LengthsConfig(n, m), COST, 16).cost
        for n in np.linspace(least[0], most, 6, dtype=int).tolist()
        for m in np.linspace(
            least[1], n * targets / inputs * 2.5 + least[1], 12, dtype=int
        ).tolist()
    ]
    assert found.cost <= 1.01 * min(searched)


def test_rows_of_one_example_are_as_long_as_99_percent_of_the_examples():
    sizes = some(50, 9)
    found = row_lengths.choose(sizes, COST, together=0, given={}, longest=(96, None))
    assert found.lengths.inputs == 96 and found.cut[0] == (sizes[:, 0] > 96).mean() > 0.05
    targets = np.quantile(sizes[:, 1], 0.99, method="higher")
    assert 0 <= found.lengths.targets - targets < 8
    assert found.filled[1] == pytest.approx(
        np.minimum(sizes[:, 1], found.lengths.targets).mean() / found.lengths.targets
    )
    assert found.cost == COST(96, found.lengths.targets)


@pytest.mark.parametrize("packed", [True, False])
def test_what_is_told_is_what_training_data_has(packed):
    task = text_task("numbers", pairs(3000))
    data = DataConfig(batch=64, streams=4, pack=packed, shuffle_buffer=5000)
    sizes = row_lengths.look(task, "train", seed=0)
    assert sizes.shape == (row_lengths.EXAMPLES, 2)
    together = row_lengths.rows_together(data)
    assert together == (16 if packed else 0)
    found = row_lengths.choose(sizes, COST, together=together, given={"targets": 40})
    assert found.lengths.targets == 40
    batches = TrainData(task, dataclasses.replace(data, lengths=found.lengths))
    try:
        read = [next(batches) for _ in range(8)]
    finally:
        batches.close()
    for name, told in zip(("encoder", "decoder"), found.filled, strict=True):
        filled = np.mean([getattr(batch, f"{name}_segment_ids") != 0 for batch in read])
        assert filled == pytest.approx(told, abs=0.03)


def test_tasks_are_looked_at_by_their_rates():
    short = text_task("short", pairs(40))
    long = text_task("long", [("y" * 99, "z" * 9)] * 7)
    sizes = row_lengths.look(seqio.Mixture("mixed", [(short, 3.0), (long, 1.0)]), "train", seed=0)
    is_long = (sizes == (100, 10)).all(axis=1)
    assert is_long.mean() == pytest.approx(0.25, abs=0.03)
    assert set(sizes[~is_long, 0].tolist()) == {len(pair[0]) + 1 for pair in pairs(40)}


def test_the_command_shows_what_a_run_would_choose(tmp_path, capsys):
    main(["tasks", "inflect", "--n", "1", "--lengths_for", "t5_small", "--targets", "32"])
    packed, padded = capsys.readouterr().out.splitlines()[-2:]
    assert packed.startswith("packed: ") and padded.startswith("an example a row: ")
    assert all(" 32 targets (" in x and "GFLOPs an example" in x for x in (packed, padded))
    resolve(
        {
            "model": {"variant": "t5_small"},
            "data": {"mixture": "inflect", "lengths": {"inputs": "auto", "targets": 32}},
            "run_dir": str(tmp_path / "run"),
        }
    )
    told = capsys.readouterr().out.strip().removeprefix("data.lengths: ")
    assert packed.removeprefix("packed: ").startswith(f"{told}; ")
    error = error_of(capsys, "tasks", "inflect", "--lengths_for", "t5_smal")
    assert "'t5_smal' is no variant; did you mean t5_small?" in error
    error = error_of(capsys, "tasks", "--lengths_for", "t5_small")
    assert "--lengths_for needs the name of a task" in error


def test_random_preprocessors_draw_the_same_each_time():
    @seqio.map_over_dataset(num_seeds=1)
    def cut(example, seed):
        size = tf.random.stateless_uniform([], seed, 2, 40, tf.int32)
        return example | {"inputs": example["inputs"][:size]}

    task = text_task("random", [("x" * 60, "y")] * 50, extra=[cut])
    first, second, other = (row_lengths.look(task, "train", seed) for seed in (0, 0, 1))
    assert (first == second).all() and (first != other).any()


@pytest.mark.parametrize(
    ("lengths", "told"),
    [
        ("aut", "data.lengths='aut' must be auto, or a section with inputs and targets"),
        ({"inputs": "Auto"}, "data.lengths.inputs='Auto' must be auto, or a whole number"),
    ],
)
def test_another_word_than_auto_is_refused(lengths, told):
    with pytest.raises(ValueError, match=told):
        auto_lengths({"data": {"lengths": lengths}})


def test_an_override_leaves_the_other_length_to_choose(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("data: {lengths: auto}")
    tree = read_config(file, ["--data.lengths.targets=64"])
    assert tree["data"]["lengths"] == {"inputs": "auto", "targets": 64}


def test_a_run_keeps_the_lengths_that_were_chosen_for_it(tmp_path, capsys):
    tree = {
        "model": {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_heads": 2, "num_layers": 1},
        "data": {"mixture": "inflect", "lengths": {"inputs": "auto", "targets": 32}, "batch": 8},
        "optimizer": {"learning_rate": 0.01, "warmup": 1},
        "training": {"steps": 1, "eval_every": 0},
        "run_dir": str(tmp_path / "run"),
    }
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(tree))
    main(["train", str(file)])
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("data.lengths: ")]
    chosen = yaml.safe_load((tmp_path / "run" / CONFIG).read_text())["data"]["lengths"]
    assert chosen["targets"] == 32 and f"{chosen['inputs']} inputs (" in line and "% cut" in line
    tree["data"]["mixture"] = "pronounce"  # other lengths: it must not be looked at
    config, _ = resolve(tree)
    assert dataclasses.asdict(config.data.lengths) == chosen
    assert "data.lengths: " not in capsys.readouterr().out
    again = "--data.lengths.targets=24"
    assert "data.lengths.targets=24 but the run" in error_of(capsys, "train", str(file), again)


def test_what_has_no_lengths_of_its_own_is_refused():
    task = text_task("denoised", pairs(9), extra=[objectives.span_corruption])
    with pytest.raises(ValueError, match=r"denoised fills rows of any length; give data\.lengths"):
        row_lengths.look(task, "train", seed=0)
    with pytest.raises(ValueError, match="cannot be chosen: no example in empty, split 'train'"):
        row_lengths.look(text_task("empty", []), "train", seed=0)
