"""Checkpoints: what is damaged is told of and gives way to the one before; which ones stay."""

import json
import os
import random
import shutil
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import t5jax
from scripts.damage import DAMAGES
from t5jax import run_folder
from t5jax.config import TrainingConfig
from t5jax.formats import checksums
from t5jax.training.checkpoints import Checkpoints, abstract_state
from t5jax.training.report import Report, read_metrics
from t5jax.training.step import TrainState
from tests.support.mistakes import error_of
from tests.support.models import tiny_text2text


def tiny_state(value: int) -> TrainState:
    return TrainState(
        step=jnp.int32(value), params={"w": jax.random.normal(jax.random.key(value), 20_000)},
        opt_state=(), key=jnp.zeros(4, jnp.uint32),
    )  # fmt: skip


def position(folder) -> None:
    (folder / "position").write_text("here")


def target() -> TrainState:
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = jax.eval_shape(lambda: tiny_state(0))
    return abstract_state(shapes, jax.tree.map(lambda _: device, shapes))


def saved(folder, steps, **config) -> None:
    checkpoints = Checkpoints(folder, TrainingConfig(**config))
    for step in steps:
        checkpoints.save(tiny_state(step), step, position, {"task/loss": 1.0 / step})
    checkpoints.close()


@pytest.mark.parametrize("kind", DAMAGES)
def test_any_damage_of_any_file_is_found(kind, tmp_path):
    whole = tmp_path / "whole"
    (whole / "a").mkdir(parents=True)
    for i, name in enumerate(("a/b", "c", "d")):
        (whole / name).write_bytes(
            bytes(range(100 * i, 100 * i + 90)) if i < 2 else b"x" * 3_000_000
        )
    checksums.write(whole, {"step": 3})
    checksums.verify(whole)
    assert checksums.read(whole).about == {"step": 3}
    for seed, name in enumerate(("a/b", "c", "d", run_folder.CHECKSUMS) * 5):
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        copy = shutil.copytree(whole, tmp_path / "copy")
        DAMAGES[kind](copy / name, random.Random(seed))
        if (name, kind) == (run_folder.CHECKSUMS, "removed"):
            with pytest.warns(UserWarning, match="not verified"):
                checksums.verify(copy)
        elif name == run_folder.CHECKSUMS and json_equal(copy / name, whole / name):
            continue  # a space for a line's end
        else:
            with pytest.raises(checksums.Damaged, match=name):
                checksums.verify(copy)


def json_equal(a, b) -> bool:
    try:
        return json.loads(a.read_bytes()) == json.loads(b.read_bytes())
    except ValueError:
        return False


def test_files_that_are_replaced_pass_at_every_moment(tmp_path, monkeypatch):
    old, new = ({"x": b"1" * n, "y/z": b"2" * n} for n in (3, 5))
    new["w"] = b""
    replace = os.replace
    for survived in range(8):
        folder = tmp_path / str(survived)
        checksums.replace_files(folder, old)
        left = [None] * survived

        def killed(source, target, left=left):
            left.pop()  # IndexError in place of the kill
            replace(source, target)

        monkeypatch.setattr(os, "replace", killed)
        try:
            checksums.replace_files(folder, new)
            done = True
        except IndexError:
            done = False
        monkeypatch.setattr(os, "replace", replace)
        for name in old:
            checksums.verify(folder, name)
            assert (folder / name).read_bytes() in (old[name], new[name])
        checksums.replace_files(folder, new)
        checksums.verify(folder)
        assert {name: (folder / name).read_bytes() for name in new} == new
    assert done


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_step_gives_way_to_the_one_before_and_is_saved_again(kind, tmp_path):
    saved(tmp_path, (1, 2, 3))
    root = tmp_path / run_folder.CHECKPOINTS
    for file in ("params", "data"):
        largest = max(
            (root / "3" / file).rglob("*"), key=lambda file: file.stat().st_size * file.is_file()
        )
        DAMAGES[kind](largest, random.Random(0))
        checkpoints = Checkpoints(tmp_path, TrainingConfig())
        told = []
        assert checkpoints.whole(told.append) == 2
        (line,) = told
        assert str(largest) in line and "step 2 is taken" in line and "3.damaged" in line
        state, place = checkpoints.restore(2, target())
        np.testing.assert_array_equal(state.params["w"], tiny_state(2).params["w"])
        assert (place / "position").read_text() == "here"
        checkpoints.save(tiny_state(3), 3, position)
        checkpoints.close()
        assert sorted(path.name for path in root.iterdir()) == ["1", "2", "3", "3.damaged"]
        assert Checkpoints(tmp_path, TrainingConfig()).whole(told.append) == 3


def test_a_run_all_of_whose_steps_are_damaged_says_so_and_keeps_them(tmp_path):
    saved(tmp_path, (1, 2))
    for step in ("1", "2"):
        (tmp_path / run_folder.CHECKPOINTS / step / "data" / "position").write_text("hero")
    with pytest.raises(ValueError, match=r"2/data/position is damaged.*no earlier .* is whole"):
        Checkpoints(tmp_path, TrainingConfig()).whole(print)
    assert run_folder.steps(tmp_path) == [1, 2]


def test_a_step_without_checksums_is_read_with_a_warning(tmp_path):
    saved(tmp_path, (1,))
    (tmp_path / run_folder.CHECKPOINTS / "1" / run_folder.CHECKSUMS).unlink()
    checkpoints = Checkpoints(tmp_path, TrainingConfig())
    with pytest.warns(UserWarning, match="not verified"):
        assert checkpoints.whole(print) == 1
    state, _ = checkpoints.restore(1, target())
    np.testing.assert_array_equal(state.params["w"], tiny_state(1).params["w"])
    for file in (tmp_path / run_folder.CHECKPOINTS / "1" / "params").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be read"):
        checkpoints.restore(1, target())


def test_steps_that_a_kill_left_are_deleted_at_the_next_start(tmp_path):
    saved(tmp_path, range(1, 6), keep=5)
    root = tmp_path / run_folder.CHECKPOINTS
    shutil.copytree(root / "5", root / "6.orbax-checkpoint-tmp")  # killed before it was renamed
    shutil.rmtree(root / "1" / "params")  # killed while it was deleted
    checkpoints = Checkpoints(tmp_path, TrainingConfig(keep=2))
    assert checkpoints.whole(print) == 5
    checkpoints.clean()
    checkpoints.close()
    assert sorted(path.name for path in root.iterdir()) == ["4", "5"]


def test_the_newest_and_the_best_checkpoints_are_kept(tmp_path):
    config = TrainingConfig(keep=2, keep_best="pronounce/wer", best_mode="min")
    checkpoints = Checkpoints(tmp_path, config)
    wer = {1: 0.9, 2: 0.2, 3: 0.5, 4: 0.7, 5: 0.8}
    for step, value in wer.items():
        checkpoints.save(tiny_state(step), step, position, {"pronounce/wer": value})
    checkpoints.save(tiny_state(6), 6, position, None)  # at a step without an evaluation
    checkpoints.wait()
    assert run_folder.steps(tmp_path) == [2, 5, 6]
    assert checkpoints.latest() == 6
    checkpoints.close()


@pytest.mark.parametrize("mode, best", [("max", 2), ("min", 4)])
def test_the_best_step_is_known_after_a_restart(mode, best, tmp_path):
    config = TrainingConfig(keep=1, keep_best="task/loss", best_mode=mode)
    values = {1: 0.5, 2: 0.9, 3: float("nan"), 4: 0.1, 5: 0.5, 6: 0.6}
    for step, value in values.items():
        checkpoints = Checkpoints(tmp_path, config)  # a process for every step
        checkpoints.clean()
        checkpoints.save(tiny_state(step), step, position, {"task/loss": value})
        checkpoints.close()
    assert run_folder.steps(tmp_path) == [best, 6]


@pytest.mark.parametrize("kind", DAMAGES)
def test_loading_names_the_damaged_file_and_the_step_that_is_whole(kind, tmp_path, capsys):
    run = tmp_path / "run"
    tiny_text2text().save(run)
    root = run / run_folder.CHECKPOINTS
    shutil.copytree(root / "0", root / "7")
    rng = random.Random(0)
    files = [file for file in (root / "7" / "params").rglob("*") if file.is_file()]
    for file in [*rng.sample(files, 3), max(files, key=lambda file: file.stat().st_size)]:
        content = file.read_bytes()
        if not content:
            continue
        DAMAGES[kind](file, rng)
        with pytest.raises(checksums.Damaged) as error:
            t5jax.load(run)
        assert str(file) in str(error.value) and f"{root / '0'} is whole" in str(error.value)
        file.write_bytes(content)
    DAMAGES[kind](file, rng)
    assert str(file) in error_of(capsys, "convert", run, tmp_path / "out", "--format", "hf")
    assert not (tmp_path / "out").exists()
    old = t5jax.load(root / "0").params
    jax.tree.map(np.testing.assert_array_equal, old, tiny_text2text().params)
    file.write_bytes(content)
    for name in (run_folder.MODEL, "vocabulary/vocabulary.json"):
        content = (run / name).read_bytes()
        DAMAGES[kind](run / name, rng)
        # Without a model.json it is no folder of ours.
        assert name in error_of(capsys, "generate", run, "x")
        (run / name).write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        t5jax.load(run)


def test_metrics_that_are_damaged_are_told_of_and_cost_no_other_row(tmp_path, capsys):
    report = Report(tmp_path, start=0, steps=9, tensorboard=False)
    for step in range(1, 6):
        report.write(step, {"loss": 1.0 / step})
        if step == 4:
            written = report.checksum()
    report.close()
    capsys.readouterr()
    Report(tmp_path, start=4, steps=9, tensorboard=False, written=written).close()
    assert "warning" not in capsys.readouterr().err
    rows = read_metrics(report.file, 9)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    for bad in (b'{"step": "x"}', b"[1]", b"\xff", b'{"step": 2, "loss": []}', b"{"):
        lines = [
            bad if i == 1 else str(row).replace("'", '"').encode() for i, row in enumerate(rows)
        ]
        report.file.write_bytes(b"\n".join(lines))
        Report(tmp_path, start=4, steps=9, tensorboard=False, written=written).close()
        assert "is not as it was at step 4; its 3 rows" in capsys.readouterr().err
        assert [row["step"] for row in read_metrics(report.file, 9)] == [1, 3, 4]
