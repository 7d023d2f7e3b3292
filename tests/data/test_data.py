"""Training data: order, packing, dropping, resuming and placement, on small real seqio tasks."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import jax
import numpy as np
import pytest
import seqio
import tensorflow as tf
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from t5jax.config import DataConfig, LengthsConfig
from t5jax.data import TrainData
from t5jax.data.loader import readers_of
from t5jax.data.packing import SEQIO_IDS, Examples, ModelIds, pack, to_batch
from t5jax.data.prefetch import Prefetcher
from tests.support.devices import environment

LENGTHS = LengthsConfig(inputs=24, targets=16)
FEATURES = {
    name: seqio.Feature(seqio.ByteVocabulary(), add_eos=True) for name in ("inputs", "targets")
}
EOS = 1


def text_task(name: str, pairs: list[tuple[str, str]], *, sized: bool = True, extra=()):
    """A byte task over (inputs, targets) strings; unregistered."""

    def read(split, shuffle_files):
        inputs, targets = zip(*pairs, strict=True) if pairs else ((), ())
        return tf.data.Dataset.from_tensor_slices(
            {
                "inputs": tf.constant(inputs, tf.string, [len(pairs)]),
                "targets": tf.constant(targets, tf.string, [len(pairs)]),
            }
        )

    sizes = {"train": len(pairs)} if sized else None
    return seqio.Task(
        name,
        source=seqio.FunctionDataSource(read, ["train"], num_input_examples=sizes),
        preprocessors=[
            seqio.preprocessors.tokenize,
            seqio.preprocessors.append_eos,
            *extra,
        ],
        output_features=FEATURES,
    )


def pairs(count: int, mark: str = "") -> list[tuple[str, str]]:
    """Distinct examples of several lengths, whose targets are their inputs' number."""
    return [(f"{mark}{i}" + "x" * (i % 7), f"{mark}={i}") for i in range(count)]


def ids_task(rows: list[tuple[list[int], list[int]]]):
    """A task whose ids are given."""
    ragged = [tf.ragged.constant(list(column), tf.int32) for column in zip(*rows, strict=True)]

    def read(split, shuffle_files):
        dataset = tf.data.Dataset.from_tensor_slices(tuple(ragged))
        return dataset.map(lambda x, y: {"inputs": x, "targets": y})

    return seqio.Task(
        "ids",
        source=seqio.FunctionDataSource(read, ["train"]),
        output_features={
            name: seqio.Feature(seqio.PassThroughVocabulary(300), add_eos=False)
            for name in ("inputs", "targets")
        },
    )


HELD = DataConfig(lengths=LENGTHS, batch=16, streams=4, shuffle_buffer=1000, prefetch=2)
READ = replace(HELD, shuffle_buffer=40)  # the tasks below do not fit: they are read as they go
TASK = text_task("numbers", pairs(200))
MIXTURE = seqio.Mixture("both", [(TASK, 3.0), (text_task("small", pairs(30, "s")), 1.0)])
# Of the mixture, `numbers` is read as it goes and `small` is held in memory.
CASES = {"held": (TASK, HELD), "mixture": (MIXTURE, READ)}


def take(provider, config, count, **options):
    with TrainData(provider, config, **options) as data:
        return [next(data) for _ in range(count)]


class Case(NamedTuple):
    provider: seqio.Task | seqio.Mixture
    config: DataConfig
    batches: list  # the first ones of an uninterrupted run


@pytest.fixture(scope="module", params=CASES)
def case(request) -> Case:
    return Case(*CASES[request.param], take(*CASES[request.param], 14))


def examples_of(batch) -> list[tuple[str, str]]:
    """Every example in a batch, as text, found by its segment ids; checks their layout."""
    found = []
    for row in range(len(batch.encoder_input_tokens)):
        for segment in range(1, batch.encoder_segment_ids[row].max() + 1):
            sides = []
            for ids, segments in (
                (batch.encoder_input_tokens, batch.encoder_segment_ids),
                (batch.decoder_target_tokens, batch.decoder_segment_ids),
            ):
                places = np.flatnonzero(segments[row] == segment)
                assert np.array_equal(places, np.arange(places[0], places[-1] + 1))
                tokens = ids[row, places]
                assert tokens[-1] == EOS
                sides.append(FEATURES["inputs"].vocabulary.decode(tokens[:-1].tolist()))
            found.append(tuple(sides))
    return found


def joined(hosts) -> list:
    """The batches of several hosts as one: each leaves zeros in the rows of the others."""
    return [jax.tree.map(lambda *rows: sum(rows), *parts) for parts in zip(*hosts, strict=True)]


def assert_same(batches, expected):
    assert len(batches) == len(expected)
    for batch, other in zip(batches, expected, strict=True):
        jax.tree.map(np.testing.assert_array_equal, batch, other)


def differ(batches, expected) -> bool:
    return any(
        not np.array_equal(a.encoder_input_tokens, b.encoder_input_tokens)
        for a, b in zip(batches, expected, strict=True)
    )


# What a batch holds


def test_batches_have_the_documented_shapes_and_types(case):
    batch = case.batches[0]
    for name in ("encoder_input_tokens", "encoder_segment_ids"):
        assert getattr(batch, name).shape == (16, 24)
        assert getattr(batch, name).dtype == np.int32
    for name in ("decoder_input_tokens", "decoder_target_tokens", "decoder_segment_ids"):
        assert getattr(batch, name).shape == (16, 16)
        assert getattr(batch, name).dtype == np.int32
    assert batch.decoder_loss_weights.dtype == np.float32
    np.testing.assert_array_equal(batch.decoder_loss_weights, batch.decoder_target_tokens != 0)


def test_packed_segments_are_whole_examples_with_their_own_targets(case):
    known = set(pairs(200)) | set(pairs(30, "s"))
    packed = [example for batch in case.batches[:10] for example in examples_of(batch)]
    assert len(packed) > 10 * 16
    assert set(packed) <= known


def test_a_packed_row_is_what_seqio_makes_of_the_same_examples():
    (batch,) = take(TASK, HELD, 1)
    vocabulary = FEATURES["inputs"].vocabulary
    row = jax.tree.map(lambda x: x[:1], batch)
    encoded = [[[*vocabulary.encode(text), EOS] for text in e] for e in examples_of(row)]
    assert len(encoded) > 1
    dataset = tf.data.Dataset.from_generator(
        lambda: ({"inputs": x, "targets": y} for x, y in encoded),
        output_signature={k: tf.TensorSpec([None], tf.int32) for k in ("inputs", "targets")},
    )
    lengths = {"inputs": 24, "targets": 16}
    (theirs,) = seqio.EncDecFeatureConverter(pack=True)(dataset, lengths).as_numpy_iterator()
    for name in vars(row):
        np.testing.assert_array_equal(getattr(row, name)[0], theirs[name], err_msg=name)


def test_unpacked_rows_hold_one_example_each(case):
    provider, config, _ = case
    for batch in take(provider, replace(config, pack=False), 5):
        assert len(examples_of(batch)) == 16
        assert batch.encoder_segment_ids.max() == 1


def test_overlong_examples_are_cut_to_the_lengths():
    (batch,) = take(text_task("long", [("a" * 50, "b" * 50)] * 8), HELD, 1)
    assert (batch.encoder_segment_ids == 1).all()
    assert (batch.decoder_segment_ids == 1).all()


def test_packing_carries_over_what_fitted_nowhere_and_loses_nothing():
    rng = np.random.default_rng(0)
    made = [
        (np.full(n, i + 1, np.int32), np.full(m, i + 1, np.int32))
        for i, (n, m) in enumerate(rng.integers(1, (25, 17), (400, 2)))
    ]
    stream = iter(made)
    waiting, seen, waited = [], [], Counter()
    for _ in range(20):
        rows, waiting = pack(waiting, lambda: next(stream), 4, LENGTHS)
        assert all(rows)
        to_batch(rows, LENGTHS, SEQIO_IDS)  # would fail if a row were too long
        seen += [int(x[0]) for row in rows for x, _ in row]
        waited.update(int(x[0]) for x, _ in waiting)
    taken = 400 - len(list(stream))
    assert sorted(seen + [int(x[0]) for x, _ in waiting]) == list(range(1, taken + 1))
    assert max(waited.values()) <= 32


def test_rows_are_made_of_the_models_special_ids():
    """Padding and start of the model's own; an id 0 is one like any other."""
    rows = [[(np.array([5, 0]), np.array([7, 8])), (np.array([6]), np.array([0, 9]))], []]
    batch = to_batch(rows, LengthsConfig(inputs=4, targets=5), ModelIds(pad=1, start=3))
    assert batch.encoder_input_tokens.tolist() == [[5, 0, 6, 1], [1, 1, 1, 1]]
    assert batch.encoder_segment_ids.tolist() == [[1, 1, 2, 0], [0, 0, 0, 0]]
    assert batch.decoder_target_tokens.tolist() == [[7, 8, 0, 9, 1], [1, 1, 1, 1, 1]]
    assert batch.decoder_input_tokens.tolist() == [[3, 7, 3, 0, 1], [1, 1, 1, 1, 1]]
    assert batch.decoder_loss_weights.tolist() == [[1, 1, 1, 1, 0], [0, 0, 0, 0, 0]]


@pytest.mark.parametrize("buffer", [100, 4])
def test_examples_with_the_models_padding_id_are_left_out(buffer):
    texts = [("ab", "c"), ("axb", "c"), ("ab", "cx")] * 8
    config = replace(HELD, shuffle_buffer=buffer)
    ids = ModelIds(pad=ord("x") + 3, start=2)
    with TrainData(text_task("padding_inside", texts), config, ids=ids) as data:
        batch = next(data)
        assert data.dropped["padding_inside"] > 0
    assert not (batch.encoder_input_tokens[batch.encoder_segment_ids > 0] == ids.pad).any()
    assert not (batch.decoder_target_tokens[batch.decoder_segment_ids > 0] == ids.pad).any()
    assert (batch.encoder_input_tokens[batch.encoder_segment_ids == 0] == ids.pad).all()


# Order


def test_the_seed_fixes_the_order_and_another_seed_changes_it(case):
    provider, config, batches = case
    assert_same(take(provider, config, 5), batches[:5])
    assert differ(take(provider, replace(config, seed=1), 5), batches[:5])


@pytest.mark.parametrize("hosts", [[[0, 1], [2, 3]], [[0], [1], [2], [3]]])
def test_batches_are_the_same_for_every_number_of_hosts(case, hosts):
    provider, config, batches = case
    assert_same(joined(take(provider, config, 4, owned=owned) for owned in hosts), batches[:4])


def test_each_epoch_gives_every_example_once_in_a_new_order():
    # 200 examples, 50 a stream: unpacked, 50 reads of one row a stream are an epoch.
    config = replace(HELD, pack=False, batch=4)
    read = [e for batch in take(TASK, config, 100) for e in examples_of(batch)]
    assert Counter(read[:200]) == Counter(pairs(200))
    assert Counter(read[200:]) == Counter(pairs(200))
    assert read[:200] != read[200:]


@pytest.mark.parametrize("files", [2, 4])
def test_streams_that_are_read_partition_the_examples(files, tmp_path):
    for file in range(files):
        lines = [f"{i}\n" for i in range(file, 80, files)]
        (tmp_path / f"{file}.txt").write_text("".join(lines))
    task = seqio.Task(
        "lines",
        source=seqio.TextLineDataSource({"train": str(tmp_path / "*.txt")}),
        preprocessors=[
            lambda dataset: dataset.map(lambda line: {"inputs": line, "targets": line}),
            seqio.preprocessors.tokenize,
            seqio.preprocessors.append_eos,
        ],
        output_features=FEATURES,
    )
    pieces: list[Counter] = [Counter() for _ in range(4)]
    with TrainData(task, replace(READ, batch=4, pack=False)) as data:
        for _ in range(200):
            for stream, example in enumerate(examples_of(next(data))):
                pieces[stream][example] += 1
    assert sum(len(piece) for piece in pieces) == 80
    assert set().union(*pieces) == {(f"{i}", f"{i}") for i in range(80)}
    # 200 rows of 20 examples are ten epochs, but for what a buffer of 10 holds back.
    assert all(max(piece.values()) - min(piece.values()) <= 8 for piece in pieces)


def test_random_preprocessors_draw_anew_in_every_epoch():
    @seqio.map_over_dataset(num_seeds=1)
    def noise(example, seed):
        drawn = tf.random.stateless_uniform([8], seed, 3, 259, tf.int32)
        return {"inputs": tf.concat([example["inputs"], drawn], 0), "targets": example["targets"]}

    task = text_task("noisy", [(f"{i}", f"{i}") for i in range(8)], extra=[noise])
    batches = take(task, replace(HELD, pack=False), 20)
    rows = np.concatenate([batch.encoder_input_tokens for batch in batches])
    assert len(np.unique(rows, axis=0)) == len(rows)


def test_a_mixture_is_sampled_by_its_rates():
    read = [e for batch in take(MIXTURE, HELD, 100) for e in examples_of(batch)]
    assert np.mean([not x.startswith("s") for x, _ in read]) == pytest.approx(0.75, abs=0.03)


# Dropping


BAD = [([5, EOS], [6, EOS]), ([], [6, EOS]), ([5, EOS], []), ([5, 0, 7, EOS], [6, EOS])]


@pytest.mark.parametrize("buffer", [1000, 4])
def test_empty_examples_and_examples_with_id_0_are_dropped_and_counted(buffer):
    task = ids_task(BAD * 5 + [([EOS], [7, EOS])])
    with TrainData(task, replace(HELD, streams=1, shuffle_buffer=buffer)) as data:
        batches = [next(data) for _ in range(20)]
        dropped = data.dropped
    inputs, targets = set(), set()
    for batch in batches:
        inputs |= set(np.unique(batch.encoder_input_tokens))
        targets |= set(np.unique(batch.decoder_target_tokens))
        np.testing.assert_array_equal(
            batch.encoder_segment_ids.max(1), batch.decoder_segment_ids.max(1)
        )
    assert inputs - {0} == {5, EOS} and targets - {0} == {6, 7, EOS}
    if buffer == 1000:
        assert dropped == {"ids": 15}
    else:
        assert dropped["ids"] > 15


def test_the_streams_of_all_hosts_together_report_each_dropped_example_once():
    task = ids_task(BAD * 5)
    counts = []
    for stream in range(4):
        with TrainData(task, HELD, owned=[stream]) as data:
            counts.append(data.dropped["ids"])
    assert sum(counts) == 15


def test_a_task_without_usable_examples_is_an_error(monkeypatch):
    monkeypatch.setattr("t5jax.data.sources.HOPELESS", 3)
    task = ids_task(BAD[1:] * 20)
    with pytest.raises(ValueError, match=r"ids has 0 usable examples for data\.streams=4"):
        TrainData(task, HELD)
    with TrainData(task, replace(HELD, shuffle_buffer=8)) as data:
        with pytest.raises(ValueError, match="empty inputs or targets") as caught:
            next(data)
        assert caught.value.__cause__ is not None


# Resuming


@pytest.mark.parametrize("at", [0, 7])
def test_a_resumed_run_equals_the_uninterrupted_one(case, at, tmp_path):
    provider, config, expected = case
    with TrainData(provider, config, snapshot_every=4) as data:
        assert_same([next(data) for _ in range(at)], expected[:at])
        _wait_until_ahead(data)
        data.save(tmp_path)
    with TrainData(provider, config, snapshot_every=4, restore_from=tmp_path) as data:
        assert data.index == at
        assert_same([next(data) for _ in range(14 - at)], expected[at:])


def _wait_until_ahead(data: TrainData) -> None:
    ahead = data._prefetcher
    with ahead._changed:
        assert ahead._changed.wait_for(lambda: len(ahead._ready) == 2, timeout=30)


def test_saving_before_the_batch_last_read_gives_it_again(case, tmp_path):
    provider, config, expected = case
    with TrainData(provider, config, snapshot_every=2) as data:
        for _ in range(6):
            next(data)
        data.save(tmp_path, 5)
    with TrainData(provider, config, snapshot_every=2, restore_from=tmp_path) as data:
        assert_same([next(data) for _ in range(3)], expected[5:8])


def test_a_run_resumed_twice_equals_the_uninterrupted_one(tmp_path):
    config = replace(READ, batch=4, streams=1)
    expected = take(TASK, config, 9)
    seen = []
    for turn in range(3):
        before = tmp_path / f"{turn - 1}" if turn else None
        with TrainData(TASK, config, snapshot_every=2, restore_from=before) as data:
            seen += [next(data) for _ in range(3)]
            data.save(tmp_path / f"{turn}")
    assert_same(seen, expected)


def test_a_run_of_two_hosts_goes_on_with_one_and_with_others(case, tmp_path):
    provider, config, expected = case
    for owned in ([0, 1], [2, 3]):
        with TrainData(provider, config, snapshot_every=3, owned=owned) as data:
            for _ in range(5):
                next(data)
            data.save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    for hosts in ([[0, 1, 2, 3]], [[0], [1, 2, 3]]):
        parts = [take(provider, config, 3, restore_from=tmp_path, owned=owned) for owned in hosts]
        assert_same(joined(parts), expected[5:8])


def test_counts_of_dropped_examples_go_on_after_a_restart(tmp_path):
    config = replace(HELD, streams=1, shuffle_buffer=4)
    task = ids_task(BAD * 5)
    with TrainData(task, config, snapshot_every=1) as data:
        for _ in range(30):
            next(data)
        data.save(tmp_path)
    with np.load(tmp_path / "stream-00000-of-00001.npz") as saved:
        count = int(saved["state/0/dropped"])
    with TrainData(task, config, restore_from=tmp_path) as data:
        assert count > 15
        assert data.dropped["ids"] >= count


def test_going_on_is_exact_with_random_numbers_and_python_in_the_preprocessors(tmp_path):
    @seqio.map_over_dataset(num_seeds=1)
    def noise(example, seed):
        drawn = tf.random.stateless_uniform([4], seed, 3, 259, tf.int32)
        return {"inputs": tf.concat([example["inputs"], drawn], 0), "targets": example["targets"]}

    @seqio.map_over_dataset
    def python(example):
        reversed_ids = tf.numpy_function(lambda ids: ids[::-1], [example["inputs"]], tf.int32)
        return {"inputs": tf.ensure_shape(reversed_ids, [None]), "targets": example["targets"]}

    task = text_task("both", pairs(200), extra=[noise, python])
    config = replace(READ, batch=4, streams=1)
    expected = take(task, config, 12)
    with TrainData(task, config, snapshot_every=4) as data:
        for _ in range(7):
            next(data)
        data.save(tmp_path)
    assert_same(take(task, config, 5, restore_from=tmp_path), expected[7:])


def test_a_generator_that_does_not_fit_into_memory_is_refused():
    spec = {name: tf.TensorSpec([], tf.string) for name in FEATURES}

    def read(split, shuffle_files):
        return tf.data.Dataset.from_generator(
            lambda: ({"inputs": x, "targets": y} for x, y in pairs(200)), output_signature=spec
        )

    task = seqio.Task(
        "generated",
        source=seqio.FunctionDataSource(read, ["train"]),
        preprocessors=[seqio.preprocessors.tokenize],
        output_features=FEATURES,
    )
    with pytest.raises(ValueError, match=r"generated reads from Python .* data\.shuffle_buffer"):
        TrainData(task, READ)


RESUME = """
import sys
from pathlib import Path
import numpy as np
from tests.data.test_data import MIXTURE, READ, take
folder = Path(sys.argv[1])
batches = take(MIXTURE, READ, 4, restore_from=folder)
np.savez(folder / "next.npz", *[batch.encoder_input_tokens for batch in batches])
"""


@pytest.mark.slow
def test_a_new_process_goes_on_exactly(tmp_path):
    with TrainData(MIXTURE, READ, snapshot_every=4) as data:
        for _ in range(6):
            next(data)
        data.save(tmp_path)
        expected = [next(data) for _ in range(4)]
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", RESUME, str(tmp_path)]
    done = subprocess.run(command, cwd=root, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "next.npz") as saved:
        for index, batch in enumerate(expected):
            np.testing.assert_array_equal(saved[f"arr_{index}"], batch.encoder_input_tokens)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """The position of TASK under HELD before its first batch."""
    folder = tmp_path_factory.mktemp("position")
    with TrainData(TASK, HELD) as data:
        data.save(folder)
    return folder


@pytest.mark.parametrize(
    "knob, value",
    [
        ("seed", 1),
        ("batch", 32),
        ("streams", 2),
        ("pack", False),
        ("shuffle_buffer", 999),
        ("lengths", LengthsConfig(24, 20)),
    ],
)
def test_going_on_with_other_data_names_the_knob_and_both_values(knob, value, saved):
    name, now, was = (knob, value, getattr(HELD, knob))
    if knob == "lengths":
        name, now, was = "lengths.targets", 20, 16
    with pytest.raises(ValueError, match=rf"data\.{name}={now}, but .* set data\.{name}={was}"):
        TrainData(TASK, replace(HELD, **{knob: value}), restore_from=saved)


def test_going_on_with_changed_examples_names_the_task(saved):
    changed = text_task("numbers", [*pairs(199), ("other", "=0")])
    with pytest.raises(ValueError, match="task numbers is '200 examples"):
        TrainData(changed, HELD, restore_from=saved)


def test_missing_and_damaged_files_are_named(saved, tmp_path):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "stream-00002-of-00004.npz"
    content = path.read_bytes()
    for damaged in (
        content[: len(content) // 2],
        b"",
        content[: len(content) // 3] + b"?" * 40 + content[len(content) // 3 + 40 :],
    ):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"stream-00002-of-00004\.npz: .* cannot be read"):
            TrainData(TASK, HELD, restore_from=tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match=r"stream-00002-of-00004\.npz: .* missing"):
        TrainData(TASK, HELD, restore_from=tmp_path)


def test_files_of_different_saves_are_refused(saved, tmp_path):
    with TrainData(TASK, HELD) as data:
        next(data)
        data.save(tmp_path)
    name = "stream-00002-of-00004.npz"
    shutil.copy(saved / name, tmp_path / name)
    with pytest.raises(ValueError, match="different saves"):
        TrainData(TASK, HELD, restore_from=tmp_path)


def test_a_position_that_is_not_reached_or_not_kept_is_refused(tmp_path):
    with TrainData(TASK, HELD, snapshot_every=2) as data:
        for _ in range(9):
            next(data)
        for index in (0, 10):
            with pytest.raises(ValueError, match=f"before batch {index} is not known"):
                data.save(tmp_path, index)


def test_snapshots_that_no_save_can_need_are_let_go():
    with TrainData(TASK, HELD, snapshot_every=2) as data:
        for _ in range(50):
            next(data)
            assert len(data._snapshots) <= 4


# Mistakes


def test_a_batch_that_does_not_divide_into_streams_is_refused():
    with pytest.raises(ValueError, match=r"batch=16 does not divide into data\.streams=6; use"):
        TrainData(TASK, replace(HELD, streams=6))


@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("buffer", [1000, 2])
def test_fewer_examples_than_streams_are_refused(sized, buffer):
    task = text_task("few", pairs(3), sized=sized)
    with (
        pytest.raises(ValueError, match=r"few has (no|3 usable) example.*data\.streams=4"),
        TrainData(task, replace(HELD, shuffle_buffer=buffer)) as data,
    ):
        next(data)


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="numbers has no split 'dev'; its splits are train"):
        TrainData(TASK, replace(HELD, split="dev"))


# The thread


def test_what_the_thread_raises_reaches_the_consumer_with_its_cause():
    def broken():
        yield 1
        raise OSError("disk gone")

    items = Prefetcher(broken(), 4)
    assert next(items) == 1
    for _ in range(2):
        with pytest.raises(RuntimeError, match="OSError: disk gone") as caught:
            next(items)
        assert isinstance(caught.value.__cause__, OSError)
    items.close()


def test_a_preprocessor_that_fails_reaches_the_consumer():
    def check(example):
        with tf.control_dependencies([tf.debugging.assert_less(tf.size(example["inputs"]), 9)]):
            return {name: tf.identity(example[name]) for name in ("inputs", "targets")}

    # The first 256 examples are good: the bad one is met when reading has begun.
    bad = text_task(
        "bad",
        [("a", "b")] * 3000 + [("aaaaaaaaaaaaaaaaaa", "b")] * 9,
        extra=[lambda dataset: dataset.map(check)],
    )
    with (
        TrainData(bad, replace(HELD, shuffle_buffer=8)) as data,
        pytest.raises(ValueError, match=r"task bad, split train, example 3001 .*assertion"),
    ):
        for _ in range(1000):
            next(data)


def test_closing_ends_the_thread_and_refuses_more():
    before = threading.active_count()
    data = TrainData(TASK, HELD)
    next(data)
    data.close()
    data.close()
    assert threading.active_count() == before
    with pytest.raises(RuntimeError, match="closed"):
        next(data)


def test_the_thread_works_no_further_ahead_than_asked():
    made = []
    ready = threading.Event()

    def source():
        for i in range(100):
            made.append(i)
            if i == 2:
                ready.set()
            yield i

    items = Prefetcher(source(), 3)
    assert ready.wait(10)
    assert not threading.Event().wait(0.1) and len(made) == 3
    items.close()


# Devices


class SomeDevice(NamedTuple):
    process_index: int
    id: int


def test_streams_are_read_by_the_processes_whose_devices_need_their_rows():
    def sharding(cuts):
        indices = {
            SomeDevice(process, start): (slice(start, stop), slice(None))
            for process, start, stop in cuts
        }
        return SimpleNamespace(devices_indices_map=lambda shape: indices)

    config = replace(HELD, batch=16, streams=4)
    apart = sharding([(0, 0, 4), (0, 4, 8), (1, 8, 12), (1, 12, 16)])
    assert readers_of(config, apart) == {0: {0}, 1: {0}, 2: {1}, 3: {1}}
    # Two streams of eight rows for four hosts: two hosts read each, and the first writes it.
    shared = sharding([(p, 4 * p, 4 * p + 4) for p in range(4)])
    assert readers_of(replace(config, streams=2), shared) == {0: {0, 1}, 1: {2, 3}}


@pytest.mark.eight_devices
@pytest.mark.parametrize("streams", [2, 16])
def test_batches_lie_on_eight_devices_as_the_sharding_says(streams):
    mesh = jax.make_mesh((4, 2), ("data", "sequence"), axis_types=(AxisType.Auto,) * 2)
    sharding = NamedSharding(mesh, PartitionSpec("data", "sequence"))
    config = replace(HELD, streams=streams)
    expected = take(TASK, config, 3)
    for batch, host in zip(take(TASK, config, 3, sharding=sharding), expected, strict=True):
        for name in vars(host):
            array = getattr(batch, name)
            assert array.sharding == sharding and array.is_fully_addressable
            assert len(array.addressable_shards) == 8
            for shard in array.addressable_shards:
                np.testing.assert_array_equal(shard.data, getattr(host, name)[shard.index])
    with pytest.raises(ValueError, match=r"data\.batch=6 rows"):
        TrainData(TASK, replace(HELD, batch=6, streams=2), sharding=sharding)


def test_tensorflow_sees_no_accelerator():
    assert {device.device_type for device in tf.config.get_visible_devices()} == {"CPU"}


def test_examples_survive_as_arrays():
    made = [(np.arange(1, n + 1, dtype=np.int32), np.full(2, n, np.int32)) for n in range(1, 5)]
    held = Examples.of(made)
    assert len(held) == 4 and len(Examples.of([])) == 0
    for (x, y), (a, b) in zip(Examples(held.ids, held.cuts), made, strict=True):
        np.testing.assert_array_equal(x, a)
        np.testing.assert_array_equal(y, b)


# Every pair of values once, in half of the combinations: each opens its data twice.
@pytest.mark.parametrize(
    ("feature", "end", "buffer"),
    [
        ("inputs", seqio.preprocessors.append_eos_after_trim, 1000),
        ("inputs", None, 8),
        ("targets", seqio.preprocessors.append_eos_after_trim, 8),
        ("targets", None, 1000),
    ],
)
def test_examples_that_are_cut_are_counted(feature, buffer, end, tmp_path):
    steps = [seqio.preprocessors.tokenize, *([] if end is None else [end])]
    lengths = [3, 9, 10, 11, 30] * 20  # letters; EOS is one token more

    def read(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
        texts = {"inputs": ["a"] * 100, "targets": ["a"] * 100}
        texts[feature] = ["b" * n for n in lengths]
        return tf.data.Dataset.from_tensor_slices(texts)

    task = seqio.Task(
        "long_examples",
        seqio.FunctionDataSource(read, splits=["train"]),
        {name: seqio.Feature(seqio.ByteVocabulary()) for name in ("inputs", "targets")},
        preprocessors=steps,
    )
    config = DataConfig(
        lengths=LengthsConfig(**{"inputs": 4, "targets": 4, feature: 10}),
        batch=20, streams=2, shuffle_buffer=buffer, pack=False,
    )  # fmt: skip
    counts = []
    with TrainData(task, config, snapshot_every=7) as data:
        for i in range(50):
            next(data)
            counts.append(data.cut[feature]["long_examples"])
            if i == 29:
                data.save(tmp_path)
        assert sum(data.cut[k]["long_examples"] for k in ("inputs", "targets")) == counts[-1]
    # Counted with the batch that is given, whatever is read ahead: the same after a restart.
    with TrainData(task, config, snapshot_every=7, restore_from=tmp_path) as data:
        for count in counts[30:]:
            next(data)
            assert data.cut[feature]["long_examples"] == count
    cut = counts[-1]
    # Those of 10 letters fit where no EOS is added.
    share = 0.4 if end is None else 0.6
    if buffer == 1000:
        assert cut == 100 * share
    else:
        assert cut == pytest.approx(1000 * share, rel=0.35) and cut >= 100 * share
