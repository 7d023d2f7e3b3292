"""The objectives: lengths, statistics and reconstruction, over many random texts."""

import dataclasses
import json

import numpy as np
import pytest
import seqio
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from t5jax.config import DataConfig, LengthsConfig
from t5jax.data import TrainData
from t5jax.tasks import ablations, noising, objectives, registry
from t5jax.vocabulary import (
    AddedToken,
    AddedTokensVocabulary,
    ByteVocabulary,
    SentencePieceVocabulary,
    TokenizerJsonVocabulary,
    Vocabulary,
    load_vocabulary,
    save_vocabulary,
    train_sentencepiece,
    write_huggingface,
)

BYTES = seqio.ByteVocabulary(125)
FEATURES = {name: seqio.Feature(BYTES, add_eos=True) for name in ("inputs", "targets")}
FIRST = 383  # <extra_id_0> of bytes
C4 = "span_corruption iid_denoising prefix_lm full_lm ul2 iid_15_r10s90_f all_permute".split()


def texts(sizes, seed: int = 0) -> list[np.ndarray]:
    """Ids of bytes: no padding, EOS or sentinel."""
    draw = np.random.default_rng(seed)
    return [draw.integers(3, 259, size, np.int32) for size in sizes]


def dataset_of(documents) -> tf.data.Dataset:
    ragged = tf.ragged.constant([ids.tolist() for ids in documents], dtype=tf.int32)
    return tf.data.Dataset.from_tensor_slices(ragged).map(lambda ids: {"targets": ids})


def apply(objective, documents, *, inputs=512, targets=114, features=FEATURES, seed=7, **options):
    lengths = {"inputs": inputs, "targets": targets}
    with seqio.map_seed_manager(seed):
        made = objective(dataset_of(documents), lengths, features, **options)
    return list(made.as_numpy_iterator())


def restored(inputs: np.ndarray, targets: np.ndarray, sentinels=range(259, 384)) -> list[int]:
    """The text: the n-th sentinel of the inputs replaced by the n-th run of ids of the targets."""
    runs: list[list[int]] = []
    before = True
    for token in targets.tolist():
        if token not in sentinels and before:
            runs.append([])
        if token not in sentinels:
            runs[-1].append(token)
        before = token in sentinels
    spans = iter(runs)
    text: list[int] = []
    for token in inputs.tolist():
        text += next(spans) if token in sentinels else [token]
    assert next(spans, None) is None
    return text


def runs(ids: np.ndarray) -> list[int]:
    """Lengths of the spans between the sentinels of a denoiser's targets."""
    places = [*np.flatnonzero(ids >= 259).tolist(), len(ids)]
    return (np.diff(places) - 1).tolist()


# --- lengths --------------------------------------------------------------------------------------


def by_search(inputs: int, density: float, span: float) -> tuple[int, int]:
    """T5's lengths: the last text before the first whose inputs are too long."""

    candidates = np.arange(inputs, 4 * inputs)
    noise = np.rint(candidates * density)
    spans = np.rint(noise / span)
    last = int(np.argmax(candidates - noise + spans + 1 > inputs)) - 1
    text, targets = int(candidates[last]), int(noise[last] + spans[last] + 1)
    return (text - 1, targets - 1) if density == 0.5 and targets > inputs else (text, targets)


def test_512_inputs_come_from_568_ids_with_114_targets():
    assert noising.text_length(512, 0.15, 3)[:3] == (568, 512, 114)


def test_lengths_are_t5s_from_64_to_2048():
    for inputs in range(64, 2049):
        lengths = noising.text_length(inputs, 0.15, 3)
        assert (lengths.text, lengths.targets) == by_search(inputs, 0.15, 3), inputs


@pytest.mark.parametrize("density", [0.15, 0.25, 0.5])
@pytest.mark.parametrize("span", [1.5, 3, 8])
def test_lengths_are_t5s_at_other_settings(density, span):
    for inputs in range(64, 2049, 7):
        lengths = noising.text_length(inputs, density, span)
        assert (lengths.text, lengths.targets) == by_search(inputs, density, span), inputs


def lengths_made(sizes, density: float, span: float) -> np.ndarray:
    """int[n, 3]: noise ids, spans, and 1 where noise is first or text last."""

    def count(size, seed):
        noise = noising.spans_noise(size, density, span, tf.stack([seed, seed]))
        ends = noise & ~tf.concat([noise[1:], [False]], axis=0)
        counts = [tf.reduce_sum(tf.cast(x, tf.int32)) for x in (noise, ends)]
        return tf.stack([*counts, tf.cast(noise[0] | ~noise[-1], tf.int32)])

    sizes = tf.constant(list(sizes), tf.int32)
    seeds = tf.data.Dataset.range(len(sizes))
    made = tf.data.Dataset.zip(tf.data.Dataset.from_tensor_slices(sizes), seeds).map(count)
    return np.stack(list(made.as_numpy_iterator()))


def test_every_example_has_the_lengths_of_the_formula():
    inputs = range(64, 2049, 3)
    lengths = [noising.text_length(n, 0.15, 3) for n in inputs]
    counts = lengths_made([each.text for each in lengths], 0.15, 3)
    expected = [(each.targets - each.spans - 1, each.spans, 0) for each in lengths]
    np.testing.assert_array_equal(counts, expected)


@pytest.mark.parametrize(
    ("density", "span"), [(0.15, 8), (0.5, 3), (0.5, 8), (0.15, 64), (0.5, 64)]
)
def test_texts_of_ul2_fill_the_inputs_and_never_overflow(density, span):
    denoiser = objectives.Denoiser("", density, span)
    for inputs, targets in ((64, 64), (512, 512), (512, 128), (128, 512), (2048, 2048)):
        size = denoiser.text(inputs, targets, 125)
        room = []
        for text in (size, size + 1):
            noise = round(text * density)
            spans = np.ceil(noise / span)
            made = (text - noise + spans + 1, noise + spans + 1, spans)
            room.append(
                all(n <= most for n, most in zip(made, (inputs, targets, 125), strict=True))
            )
        assert room == [True, False]


# --- noise ----------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(0, 5))
def test_sentinels_stand_for_runs_and_the_text_can_be_restored(noise, limit):
    ids = np.arange(3, 3 + len(noise), dtype=np.int32)
    kept = noising.at_most(tf.constant(noise), limit).numpy()
    example = objectives.denoised(
        tf.constant(ids), tf.constant(kept), objectives.Sentinels(383, 125)
    )
    inputs, targets = example["inputs"].numpy(), example["targets"].numpy()
    assert restored(inputs, targets) == ids.tolist()
    used = inputs[inputs >= 259].tolist()
    assert used == [383 - i for i in range(len(used))] and len(used) <= limit
    assert inputs[inputs < 259].tolist() == ids[~kept].tolist()
    assert targets[targets < 259].tolist() == ids[kept].tolist()
    runs_of_noise = "".join("x" if n else " " for n in noise).split()
    assert len(used) == min(limit, len(runs_of_noise))


def test_all_ways_to_place_the_spans_are_equally_likely():
    # 3 noise ids of 8 in 2 spans: 2 ways to cut the noise, 4 to cut the text.
    seeds = tf.data.Dataset.range(4000)
    made = seeds.map(lambda s: noising.spans_noise(8, 0.375, 1.5, tf.stack([s, 3 * s])))
    counts: dict[bytes, int] = {}
    for noise in made.as_numpy_iterator():
        counts[noise.tobytes()] = counts.get(noise.tobytes(), 0) + 1
    assert len(counts) == 8
    assert all(abs(n - 500) < 105 for n in counts.values())  # five standard deviations


def test_iid_noise_is_independent():
    seeds = tf.data.Dataset.range(300)
    made = seeds.map(lambda s: noising.iid_noise(500, 0.15, tf.stack([s, 1])))
    noise = np.stack(list(made.as_numpy_iterator()))
    assert noise.mean() == pytest.approx(0.15, abs=0.005)
    assert (noise[:, 1:] & noise[:, :-1]).mean() == pytest.approx(0.15**2, abs=0.003)


@pytest.mark.parametrize(("density", "most"), [(0.5, 40), (0.25, 21)])
def test_suffix_noise_is_a_suffix_of_uniform_length(density, most):
    seeds = tf.data.Dataset.range(4000)
    made = seeds.map(lambda s: noising.suffix_noise(41, density, tf.stack([s, 1])))
    noise = np.stack(list(made.as_numpy_iterator()))
    assert (np.diff(noise.astype(int), axis=1) >= 0).all()
    sizes, counts = np.unique(noise.sum(axis=1), return_counts=True)
    np.testing.assert_array_equal(sizes, np.arange(1, most + 1))
    assert abs(counts - 4000 / most).max() < 5 * np.sqrt(4000 / most)
    assert noise.mean() == pytest.approx(density, abs=1 / 41)


@pytest.mark.parametrize("size", [1, 2, 9, 100])
def test_density_0_corrupts_nothing(size):
    seed = tf.constant([size, 1])
    for noise in (
        noising.spans_noise(size, 0.0, 3.0, seed),
        noising.spans_noise(size, tf.constant(0.0, tf.float64), 3.0, seed),
        noising.iid_noise(size, 0.0, seed),
        noising.suffix_noise(size, 0.0, seed),
    ):
        assert noise.shape == (size,) and not noise.numpy().any()
    assert noising.span_lengths(size, 0.0, 3) == (size, size + 1, 2, 0)


NOT_DENSITIES = [-0.1, 1.0, 1.5, float("nan"), float("inf"), "much", True, None]


@pytest.mark.parametrize("density", NOT_DENSITIES, ids=str)
def test_densities_that_cannot_be_are_refused(density):
    seed = tf.constant([1, 1])
    message = f"density of {density!r}; use a number from 0 on"
    for call in (
        lambda: noising.spans_noise(9, density, 3.0, seed),
        lambda: noising.iid_noise(9, density, seed),
        lambda: noising.suffix_noise(9, density, seed),
        lambda: noising.text_length(64, density, 3),
        lambda: objectives.Denoiser("", density, 3),
        lambda: apply(objectives.span_corruption, texts([9]), density=density),
        lambda: apply(objectives.iid_denoising, texts([9]), density=density),
        lambda: apply(ablations.masked, texts([9]), targets=512, density=density),
        lambda: apply(ablations.with_dropped, texts([9]), density=density),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("span", [0, -3, 0.5, float("nan"), float("inf"), "long"], ids=str)
def test_spans_that_cannot_be_are_refused(span):
    for call in (
        lambda: noising.spans_noise(9, 0.15, span, tf.constant([1, 1])),
        lambda: objectives.Denoiser("", 0.15, span),
        lambda: apply(objectives.span_corruption, texts([9]), span=span),
    ):
        with pytest.raises(ValueError, match=f"spans of {span!r} ids on average; use a number"):
            call()


def test_half_of_a_text_at_most_can_be_a_suffix_on_average():
    with pytest.raises(ValueError, match=r"density of 0.6; use a number from 0 on, at most 0.5"):
        noising.suffix_noise(9, 0.6, tf.constant([1, 1]))
    with pytest.raises(ValueError, match=r"density of 0.6"):
        objectives.Denoiser("", 0.6, None)


def test_rolled_noise_is_the_same_noise_from_another_place_on():
    seeds = tf.data.Dataset.range(2000)

    def roll(s):
        seed = tf.stack([s, 5])
        noise = noising.spans_noise(12, 0.25, 3.0, seed)
        return noise, noising.rolled(noise, seed)

    made = list(seeds.map(roll).as_numpy_iterator())
    shifts = []
    for before, after in made:
        fits = [n for n in range(12) if np.array_equal(np.roll(before, n), after)]
        shifts.append(fits[0])
    # One span of 3 at the end of the text; afterwards anywhere.
    assert all(before.tolist() == [False] * 9 + [True] * 3 for before, _ in made)
    counts = np.bincount(shifts, minlength=12)
    assert abs(counts - 2000 / 12).max() < 5 * np.sqrt(2000 / 12)


# --- T5's objectives ------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_span_corruption_restores_its_texts_exactly(count):
    (document,) = texts([count * 40])
    examples = apply(objectives.span_corruption, np.split(document, 8), inputs=37, targets=12)
    size = noising.text_length(37, 0.15, 3).text
    assert size == 40 and len(examples) == count
    for index, example in enumerate(examples):
        text = restored(example["inputs"], example["targets"])
        assert text == document[index * size : (index + 1) * size].tolist()


def test_span_corruption_has_the_published_statistics():
    examples = apply(objectives.span_corruption, texts([568 * 50]))
    assert len(examples) == 50
    for example in examples:
        spans = runs(example["targets"])
        assert len(example["inputs"]) == 511 and len(example["targets"]) == 113  # EOS comes behind
        assert sum(spans) == 85 and np.mean(spans) == pytest.approx(3, abs=0.1)
        sentinels = [token for token in example["targets"] if token >= 259]
        assert sentinels == [FIRST - i for i in range(28)]
    lengths = np.concatenate([runs(example["targets"]) for example in examples])
    assert lengths.min() == 1 and lengths.max() > 8


def test_iid_denoising_restores_its_texts_and_corrupts_15_percent():
    (document,) = texts([300 * 511])
    examples = apply(objectives.iid_denoising, np.split(document, 3))
    text = [restored(example["inputs"], example["targets"]) for example in examples]
    assert np.concatenate(text).tolist() == document.tolist()
    noise = sum((example["targets"] < 259).sum() for example in examples)
    assert noise / document.size == pytest.approx(0.15, abs=0.005)


def test_iid_denoising_runs_out_of_sentinels_without_taking_others():
    few = {name: seqio.Feature(seqio.ByteVocabulary(5)) for name in ("inputs", "targets")}
    for example in apply(objectives.iid_denoising, texts([511 * 5]), features=few):
        text = restored(example["inputs"], example["targets"], range(259, 264))
        assert len(text) == 511 and max(text) < 259


def test_prefix_lm_cuts_documents_in_two():
    documents = texts([3, 511, 700, 1])
    examples = apply(objectives.prefix_lm, documents)
    whole = [np.concatenate([e["inputs"], e["targets"]]).tolist() for e in examples]
    pieces = [documents[0], documents[1], documents[2][:511], documents[2][511:], documents[3]]
    assert whole == [piece.tolist() for piece in pieces]
    assert all(len(e["targets"]) for e in examples)
    assert all(len(e["inputs"]) for e in examples[:-1])


def test_full_lm_ends_documents_and_fills_the_targets():
    documents = texts([3, 20, 100, 1])
    examples = apply(objectives.full_lm, documents, targets=16)
    flat = np.concatenate([example["targets"] for example in examples])
    assert flat.tolist() == [i for ids in documents for i in [*ids.tolist(), 1]]
    assert [len(example["targets"]) for example in examples] == [16] * 8
    assert all(example["inputs"].tolist() == [1] for example in examples)


def test_one_random_part_of_a_long_document_is_used():
    (document,) = texts([65_536 * 2 + 100])
    starts = set()
    for seed in range(6):
        part = np.concatenate(
            [e["targets"] for e in apply(objectives.full_lm, [document], targets=4096, seed=seed)]
        )[:-1]
        start = next(s for s in (0, 65_536, 131_072) if (document[s : s + 50] == part[:50]).all())
        assert part.tolist() == document[start : start + 65_536].tolist()
        starts.add(start)
    assert len(starts) > 1


def test_span_corruption_of_density_0_keeps_its_texts():
    (document,) = texts([200])
    examples = apply(objectives.span_corruption, [document], inputs=64, targets=8, density=0.0)
    assert np.concatenate([e["inputs"] for e in examples]).tolist() == document.tolist()
    assert all(e["targets"].tolist() == [FIRST] for e in examples)


@pytest.mark.parametrize("span", [3, 64])
def test_rolled_span_corruption_restores_its_texts_within_the_lengths(span):
    (document,) = texts([20_000])
    examples = apply(
        objectives.span_corruption, [document], inputs=64, targets=20, span=span, roll=True
    )
    text = [restored(e["inputs"], e["targets"]) for e in examples]
    assert np.concatenate(text).tolist() == document.tolist()
    sizes = {(len(e["inputs"]) < 64, len(e["targets"]) < 20) for e in examples}
    assert sizes == {(True, True)}
    # Without the roll no text begins with noise or ends with what is kept.
    begins = np.mean([e["inputs"][0] >= 259 for e in examples])
    assert 0.08 < begins < 0.25


# --- T5's ablations -------------------------------------------------------------------------------


def test_masked_ids_are_15_percent_and_the_targets_are_the_whole_text():
    (document,) = texts([300 * 63])
    examples = apply(ablations.masked, np.split(document, 3), inputs=64, targets=64)
    assert np.concatenate([e["targets"] for e in examples]).tolist() == document.tolist()
    inputs = np.concatenate([e["inputs"] for e in examples])
    assert inputs.shape == document.shape and all(len(e["inputs"]) == 63 for e in examples)
    changed = inputs != document
    assert (inputs[changed] == FIRST).all()
    assert changed.mean() == pytest.approx(0.15, abs=0.013)  # five standard deviations


def test_a_tenth_of_berts_noise_is_random_ids():
    (document,) = texts([2000 * 63])
    examples = apply(ablations.masked, np.split(document, 4), inputs=64, targets=64, random=0.1)
    assert np.concatenate([e["targets"] for e in examples]).tolist() == document.tolist()
    inputs = np.concatenate([e["inputs"] for e in examples])
    changed = inputs != document
    # A random id is by chance the mask, or the id that was there, in 1 of 381 cases.
    assert changed.mean() == pytest.approx(0.15, abs=0.0055)
    drawn = inputs[changed & (inputs != FIRST)]
    assert len(drawn) / changed.sum() == pytest.approx(0.1, abs=0.012)
    assert drawn.min() >= 3 and drawn.max() < 384 and len(np.unique(drawn)) > 300
    assert abs(drawn.mean() - (3 + 383) / 2) < 5 * 110 / np.sqrt(len(drawn))


def test_dropped_ids_leave_no_trace_but_the_targets():
    (document,) = texts([300 * 63])
    examples = apply(ablations.with_dropped, np.split(document, 3), inputs=64, targets=64)
    place = 0
    for example in examples:
        piece = document[place : place + 63]
        place += 63
        assert len(example["inputs"]) + len(example["targets"]) == 63
        # Both are in the text's order: each is what is left of it without the other.
        for ids in (example["inputs"], example["targets"]):
            rest = iter(piece.tolist())
            assert all(i in rest for i in ids.tolist())
        both = np.concatenate([example["inputs"], example["targets"]])
        assert sorted(both.tolist()) == sorted(piece.tolist())
    share = sum(len(e["targets"]) for e in examples) / document.size
    assert share == pytest.approx(0.15, abs=0.013)


def test_shuffled_pieces_of_documents_are_put_in_order():
    documents = texts([3, 63, 100, 1])
    examples = apply(ablations.deshuffling, documents, inputs=64, targets=64)
    pieces = [documents[0], documents[1], documents[2][:63], documents[2][63:], documents[3]]
    assert [e["targets"].tolist() for e in examples] == [piece.tolist() for piece in pieces]
    for example in examples:
        assert sorted(example["inputs"]) == sorted(example["targets"])
    assert examples[1]["inputs"].tolist() != examples[1]["targets"].tolist()


def test_shuffled_ids_come_to_every_place_equally_often():
    examples = apply(
        ablations.deshuffling, [np.array([3, 4, 5], np.int32)] * 1200, inputs=4, targets=4
    )
    orders = [tuple(e["inputs"].tolist()) for e in examples]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 6 and all(abs(n - 200) < 5 * np.sqrt(200) for n in counts)


@pytest.mark.parametrize("percent", [10, 25, 50])
def test_iid_denoising_has_the_density_of_its_name(percent):
    step = registry.get(f"c4_v220_iid_{percent}_u_u").preprocessors[-2]
    many = {name: seqio.Feature(seqio.ByteVocabulary(400)) for name in ("inputs", "targets")}
    (document,) = texts([200 * 511])
    examples = apply(step, np.split(document, 2), targets=512, features=many)
    noise = sum((example["targets"] < 259).sum() for example in examples)
    assert noise / document.size == pytest.approx(percent / 100, abs=0.008)


# --- UL2 ------------------------------------------------------------------------------------------

MODES = {"[NLU] ": "R", "[S2S] ": "S", "[NLG] ": "X"}


def denoisers_seen(count: int, inputs: int, targets: int):
    """For each example its mode, noise share, mean span and number of spans; all are restored."""
    size = np.mean([d.text(inputs - 6, targets, 125) for d in objectives.UL2])
    documents = np.array_split(*texts([int(size * count)]), -(-int(size * count) // 65_536))
    document = np.concatenate(documents)
    examples = apply(objectives.mixture_of_denoisers, documents, inputs=inputs, targets=targets)
    seen, place = [], 0
    for example in examples:
        mode = MODES[BYTES.decode(example["inputs"][:6].tolist())]
        text = restored(example["inputs"][6:], example["targets"])
        assert text == document[place : place + len(text)].tolist()
        place += len(text)
        assert len(example["inputs"]) < inputs and len(example["targets"]) < targets
        spans = runs(example["targets"])
        seen.append((mode, sum(spans) / len(text), np.mean(spans), len(spans), len(text)))
    assert place >= document.size - 1
    return seen[:-1]  # the last one may be short


def check_the_seven(seen, sizes):
    # Of a text's length and number of spans each denoiser has its own, but for S's spans.
    groups = {
        d: [s for s in seen if s[0] == MODES[f"{d.mode} "] and s[4] == size and ok(d, s)]
        for d, size in sizes.items()
    }
    assert sum(map(len, groups.values())) == len(seen)
    for denoiser, found in groups.items():
        assert len(found) / len(seen) == pytest.approx(1 / 7, abs=5 * np.sqrt(0.13 / len(seen)))
        density = np.mean([s[1] for s in found])
        wide = 0.72 / np.sqrt(len(found)) if denoiser.span is None else 0
        assert density == pytest.approx(denoiser.density, abs=0.005 + wide)
        if denoiser.span is None:
            assert {s[3] for s in found} == {1}
        else:
            # Over all examples a span's mean length is µ; their number is drawn where noise / µ is
            # no whole number, with a standard deviation of up to 0.5 in each example.
            spans = [s[3] for s in found]
            noise = sum(round(s[1] * s[4]) for s in found)
            wide = 5 * 0.5 * np.sqrt(len(found)) / sum(spans)
            assert noise / sum(spans) == pytest.approx(denoiser.span, rel=0.01 + wide)


def ok(denoiser, seen) -> bool:
    if denoiser.span is None:
        return True
    spans = round(seen[4] * denoiser.density) / denoiser.span
    return seen[3] in (max(1, np.floor(spans)), np.ceil(spans))


@pytest.mark.parametrize("count", [700, pytest.param(10_000, marks=pytest.mark.slow)])
def test_ul2_has_the_seven_published_denoisers(count):
    inputs = targets = 512
    sizes = {d: d.text(inputs - 6, targets, 125) for d in objectives.UL2}
    check_the_seven(denoisers_seen(count, inputs, targets), sizes)


def test_ul2_names_the_published_settings():
    # arXiv:2205.05131, Table 1.
    assert [(MODES[f"{d.mode} "], d.span, d.density) for d in objectives.UL2] == [
        ("R", 3, 0.15),
        ("R", 8, 0.15),
        ("S", None, 0.25),
        ("X", 3, 0.5),
        ("X", 8, 0.5),
        ("X", 64, 0.15),
        ("X", 64, 0.5),
    ]


# --- as tasks -------------------------------------------------------------------------------------


def lines_of(texts: list[str]) -> seqio.FunctionDataSource:
    def read(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices({"text": texts})

    return seqio.FunctionDataSource(read, splits=["train"])


def c4(name: str, vocabulary=None) -> seqio.Task:
    """The task of C4, over a few hundred lines."""
    words = "the quick brown fox jumps over a lazy dog and runs away".split()
    draw = np.random.default_rng(0)
    lines = [" ".join(draw.choice(words, size)) for size in draw.integers(5, 100, 200)]
    task = registry.get(f"c4_v220_{name}")
    if vocabulary is not None:
        task = registry.with_vocabulary(task.name, vocabulary)
    return task.replace(source=lines_of(lines))


def first(task: seqio.Task, seed: int | None, count: int = 5) -> list[dict]:
    lengths = {"inputs": 128, "targets": 128}
    dataset = task.get_dataset(lengths, "train", shuffle=False, seed=seed)
    return list(dataset.take(count).as_numpy_iterator())


def same(a: list[dict], b: list[dict]) -> bool:
    return all(
        np.array_equal(x[name], y[name])
        for x, y in zip(a, b, strict=True)
        for name in ("inputs", "targets")
    )


@pytest.mark.parametrize("name", C4)
def test_a_seed_fixes_the_examples(name):
    task = c4(name)
    examples = first(task, 3)
    assert same(examples, first(task, 3))
    assert name == "full_lm" or not same(examples, first(task, 4))
    for example in examples:
        assert len(example["inputs"]) <= 128 and len(example["targets"]) <= 128
        assert example["inputs"][-1] == 1 and (name == "full_lm" or example["targets"][-1] == 1)


@pytest.fixture(scope="module")
def pieces(tmp_path_factory) -> SentencePieceVocabulary:
    path = tmp_path_factory.mktemp("vocabulary") / "spiece.model"
    lines = ["the quick brown fox jumps over a lazy dog and runs away", "[NLU] [S2S] [NLG]"]
    return train_sentencepiece(lines * 5, path, vocab_size=40)


@pytest.mark.parametrize("name", ["span_corruption", "ul2"])
def test_sentinels_and_modes_are_those_of_the_runs_vocabulary(name, pieces):
    vocabulary = registry.seqio_vocabulary(pieces)
    for example in first(c4(name, vocabulary), 1):
        text = pieces.decode(example["inputs"].tolist())
        assert "<extra_id_0>" in text
        assert pieces.decode(example["targets"].tolist()).startswith("<extra_id_0>")
        if name == "ul2":
            assert text.startswith(("[NLU]", "[S2S]", "[NLG]"))


def test_sentinels_among_a_models_own_pieces_are_found(tmp_path, pieces):
    # As in mT5's: the model with its sentinels in the file.
    (tmp_path / "own.model").write_bytes(pieces.processor.serialized_model_proto())
    own = seqio.SentencePieceVocabulary(str(tmp_path / "own.model"), 0)
    assert own.extra_ids == 0
    assert objectives.sentinels_of(own) == objectives.Sentinels(139, 100)


# T5's sentinel_id is the vocabulary's last id; ByT5's tasks have seqio.ByteVocabulary().
@pytest.mark.parametrize(
    ("vocabulary", "first", "count"),
    [
        (seqio.ByteVocabulary(), 258, 100),
        (seqio.ByteVocabulary(125), 383, 125),
        (registry.seqio_vocabulary(ByteVocabulary()), 258, 100),
        (registry.seqio_vocabulary(ByteVocabulary(0)), 258, 100),
        (registry.seqio_vocabulary(ByteVocabulary(first_sentinel=383)), 383, 125),
    ],
)
def test_bytes_sentinels_are_byt5s(vocabulary, first, count):
    assert objectives.sentinels_of(vocabulary) == objectives.Sentinels(first, count)
    features = {name: seqio.Feature(vocabulary) for name in ("inputs", "targets")}
    ascii = [texts([400])[0] % 100 + 3]
    example = apply(objectives.span_corruption, ascii, features=features)[0]
    for side in ("inputs", "targets"):
        sentinels = [i for i in example[side].tolist() if i > first - count]
        assert sentinels == list(range(first, first - len(sentinels), -1)) and sentinels


def test_a_run_in_bytes_has_byt5s_sentinels_and_one_begun_before_keeps_its_own(tmp_path):
    def sentinel(vocabulary: Vocabulary) -> int:
        task = c4("span_corruption", registry.seqio_vocabulary(vocabulary))
        return int(first(task, 1)[0]["targets"][0])

    save_vocabulary(ByteVocabulary(), tmp_path / "new")
    assert sentinel(load_vocabulary(tmp_path / "new")) == 258
    # As it was written before.
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "vocabulary.json").write_text('{"kind": "bytes", "extra_ids": 125}\n')
    old = load_vocabulary(tmp_path / "old")
    save_vocabulary(old, tmp_path / "again")
    assert load_vocabulary(tmp_path / "again") == old != ByteVocabulary()
    assert sentinel(old) == 383


def test_sentinels_before_added_tokens_are_found(pieces, tmp_path):
    base = SentencePieceVocabulary(pieces.model, 0)
    tokens = [AddedToken(f"<extra_id_{i}>", base.vocab_size + 4 - i) for i in range(5)]
    added = AddedTokensVocabulary(base, [*tokens, AddedToken("<sep>", base.vocab_size + 5)])
    found = objectives.Sentinels(base.vocab_size + 4, 5)
    assert objectives.sentinels_of(registry.seqio_vocabulary(added)) == found
    write_huggingface(pieces, tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_bytes())
    content["added_tokens"].append(content["added_tokens"][-1] | {"id": 140, "content": "<sep>"})
    fast = TokenizerJsonVocabulary(json.dumps(content).encode())
    assert fast.vocab_size == 141
    found = objectives.Sentinels(139, 100)
    assert objectives.sentinels_of(registry.seqio_vocabulary(fast)) == found


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n == "span_corruption" else pytest.mark.slow) for n in C4]
)
def test_training_resumes_exactly_within_an_objective(name, tmp_path):
    # A small buffer, so that the task is read as it goes.
    config = DataConfig(
        lengths=LengthsConfig(64, 64), batch=4, streams=2, shuffle_buffer=8, prefetch=1
    )
    with TrainData(c4(name), config, snapshot_every=2) as data:
        before = [next(data) for _ in range(3)]
        data.save(tmp_path)
        after = [next(data) for _ in range(3)]
    assert not np.array_equal(before[0].decoder_target_tokens, after[0].decoder_target_tokens)
    with TrainData(c4(name), config, restore_from=tmp_path) as data:
        for expected in after:
            batch = next(data)
            for field in dataclasses.fields(batch):
                np.testing.assert_array_equal(
                    getattr(batch, field.name), getattr(expected, field.name)
                )


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objective", "options", "message"),
    [
        ("span_corruption", {"targets": 113}, "114 target tokens, but .* 113; use 114 or more"),
        ("span_corruption", {"inputs": 4096, "targets": 4096}, "227 sentinels, but .* has 125"),
        ("mixture_of_denoisers", {"inputs": 8, "targets": 8}, "inputs of 2 .* too short"),
        ("masked", {"inputs": 64, "targets": 63}, "makes 64 target tokens, .* 63; use 64 or more"),
        ("deshuffling", {"inputs": 64, "targets": 63}, "makes 64 target tokens, .* is 63"),
        ("masked", {"targets": 512, "random": 1.5}, "share of random ids of 1.5; use a number"),
        ("masked", {"targets": 512, "random": float("nan")}, "share of random ids of nan"),
    ],
)
def test_lengths_that_do_not_fit_say_what_would(objective, options, message):
    with pytest.raises(ValueError, match=message):
        apply(objective_of(objective), texts([100]), **options)


def objective_of(name: str):
    return getattr(objectives, name, None) or getattr(ablations, name)


@pytest.mark.parametrize("length", [-(10**12), -1, 0, 1, 2])
@pytest.mark.parametrize(
    "name",
    "span_corruption iid_denoising prefix_lm full_lm mixture_of_denoisers masked with_dropped "
    "deshuffling".split(),
)
def test_lengths_that_hold_no_text_are_refused(name, length):
    fewest = {"span_corruption": 3, "prefix_lm": 3, "full_lm": 1, "mixture_of_denoisers": 9}
    documents = texts([100, 20])
    if length < fewest.get(name, 2):
        with pytest.raises(ValueError, match=r"use \d or more|too short"):
            apply(objective_of(name), documents, inputs=length, targets=64)
    else:
        assert apply(objective_of(name), documents, inputs=length, targets=64)
    if length < 2:
        with pytest.raises(ValueError, match=f"cannot make targets of {length} tokens; use 2"):
            apply(objective_of(name), documents, inputs=64, targets=length)


def test_a_vocabulary_without_sentinels_is_refused():
    none = {name: seqio.Feature(seqio.PassThroughVocabulary(9)) for name in ("inputs", "targets")}
    with pytest.raises(ValueError, match="9 ids and no sentinels"):
        apply(objectives.iid_denoising, texts([100]), features=none)


def test_lengths_are_needed():
    with pytest.raises(ValueError, match="cuts text to lengths; give inputs and targets a length"):
        objectives.span_corruption(dataset_of(texts([9])), None, FEATURES)
