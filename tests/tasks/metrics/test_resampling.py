"""Intervals and tests of significance against theory, exhaustive enumeration and sacrebleu."""

import itertools
import math
import random

import numpy as np
import pytest
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest

from t5jax.tasks.metrics import (
    accuracy,
    as_metric,
    bleu,
    character_error_rate,
    exact_match,
    f1_score_with_invalid,
    inflection_exact_match,
    matthews_corrcoef,
    multirc_exact_match,
    pearson_corrcoef,
    squad,
)
from t5jax.tasks.metrics.resampling import compare, confidence_intervals

WORDS = "a small black cat sat on the old red mat and slept all day".split()


def garbled(rate: float, number: int, seed: int) -> list[str]:
    dice = random.Random(seed)
    return [
        " ".join(dice.choice(WORDS) if dice.random() < rate else word for word in line.split())
        for line in references(number)
    ]


def references(number: int) -> list[str]:
    dice = random.Random(0)
    return [" ".join(dice.sample(WORDS, dice.randint(5, 12))) for _ in range(number)]


def test_an_interval_of_a_fraction_is_that_of_its_standard_error():
    right = [i % 5 != 0 for i in range(500)]
    ((low, high),) = confidence_intervals(accuracy, [1] * 500, right, resamples=4000).values()
    error = 100 * math.sqrt(0.8 * 0.2 / 500)
    assert low == pytest.approx(80 - 1.96 * error, abs=0.25)
    assert high == pytest.approx(80 + 1.96 * error, abs=0.25)
    (narrow,) = confidence_intervals(accuracy, [1] * 500, right, level=0.5, resamples=4000).values()
    assert narrow[1] - narrow[0] == pytest.approx(2 * 0.674 * error, abs=0.25)


def test_an_interval_of_a_correlation_is_fishers():
    noise = np.random.default_rng(0)
    x = noise.normal(size=400)
    y = 0.8 * x + 0.6 * noise.normal(size=400)
    ((low, high),) = confidence_intervals(pearson_corrcoef, x.tolist(), y.tolist()).values()
    z = np.arctanh(np.corrcoef(x, y)[0, 1])
    bounds = 100 * np.tanh([z - 1.96 / math.sqrt(397), z + 1.96 / math.sqrt(397)])
    assert (low, high) == pytest.approx(tuple(bounds), abs=1.0)


def test_the_seed_fixes_the_draws():
    targets, predictions = references(40), garbled(0.3, 40, 1)
    once = confidence_intervals(squad, targets, predictions, resamples=200)
    assert confidence_intervals(squad, targets, predictions, resamples=200) == once
    assert confidence_intervals(squad, targets, predictions, resamples=200, seed=1) != once


def test_groups_are_drawn_whole():
    # Two questions of 50 answers each, one right, one wrong: a resample has 0, 1 or 2 of either.
    targets = [{"value": 1, "group": i // 50} for i in range(100)]
    predictions = [int(i < 50) for i in range(100)]
    (interval,) = confidence_intervals(multirc_exact_match, targets, predictions).values()
    assert interval == (0, 100)


def test_a_value_that_is_not_in_every_resample_has_an_interval():
    regular, irregular = ("past", "walk", ("walked",)), ("past", "go", ("went",))
    intervals = confidence_intervals(
        inflection_exact_match, [regular] * 3 + [irregular], ["walked"] * 3 + ["went"]
    )
    assert intervals["exact_match_irregular"] == (1, 1)
    # Nor is a rate defined for a resample of empty targets alone.
    assert confidence_intervals(character_error_rate, ["", "ab"], ["", "a"]) == {"cer": (0.5, 0.5)}


def test_a_plain_function_is_resampled_too():
    def mean_length(targets, predictions):
        return {"mean": float(np.mean([len(p) for p in predictions]))}

    intervals = confidence_intervals(as_metric(mean_length), ["x"] * 30, ["ab", "abcd", "a"] * 10)
    low, high = intervals["mean"]
    assert 1 < low < 7 / 3 < high < 4


def test_randomization_gives_the_p_of_all_exchanges():
    targets = list("aaaaaaaa")
    first, second = list("abbbabbb"), list("aaaabaab")
    gains = np.array([(b == "a") - (a == "a") for a, b in zip(first, second, strict=True)])
    exchanged = [abs(gains @ signs) for signs in itertools.product([1, -1], repeat=8)]
    exact = np.mean(np.array(exchanged) >= abs(gains.sum()))
    result = compare(exact_match, targets, first, second, resamples=4000)["exact_match"]
    assert (result.first, result.second, result.difference) == (0.25, 0.75, 0.5)
    assert result.randomization_p == pytest.approx(exact, abs=0.03)
    # The bootstrap draws the gains with replacement; of 8, those that sum to 0 or less are few.
    sums = [sum(draw) for draw in _draws(gains, 20000)]
    assert result.bootstrap_p == pytest.approx(2 * np.mean(np.array(sums) <= 0), abs=0.03)


def _draws(values, number):
    noise = np.random.default_rng(5)
    return noise.choice(values, size=(number, len(values)))


def test_a_system_does_not_differ_from_itself():
    targets, predictions = references(30), garbled(0.3, 30, 1)
    result = compare(bleu, targets, predictions, predictions, resamples=100)["bleu"]
    assert (result.difference, result.low, result.high) == (0, 0, 0)
    assert result.bootstrap_p == result.randomization_p == 1


def test_exchanging_the_systems_turns_the_difference_round():
    targets, first, second = references(30), garbled(0.4, 30, 1), garbled(0.3, 30, 2)
    one = compare(squad, targets, first, second, resamples=300)["f1"]
    two = compare(squad, targets, second, first, resamples=300)["f1"]
    assert (two.difference, two.low, two.high) == pytest.approx(
        (-one.difference, -one.high, -one.low)
    )
    assert two.bootstrap_p == one.bootstrap_p
    assert two.randomization_p == pytest.approx(one.randomization_p, abs=0.1)


@pytest.mark.parametrize("rate", [0.24, 0.4])
def test_p_values_of_bleu_are_near_sacrebleus(rate):
    targets, first, second = references(60), garbled(0.2, 60, 1), garbled(rate, 60, 2)
    result = compare(bleu, targets, first, second, resamples=1000)["bleu"]
    systems = [("first", first), ("second", second)]
    # sacrebleu's bootstrap counts one side only.
    for kind, ours in (("bs", result.bootstrap_p / 2), ("ar", result.randomization_p)):
        _, scores = PairedTest(
            systems, {"BLEU": BLEU(tokenize="intl")}, [targets], test_type=kind, n_samples=1000
        )()
        theirs = scores["BLEU"][1]
        assert theirs.score == pytest.approx(result.second)
        assert ours == pytest.approx(theirs.p_value, abs=0.05)
    assert (result.bootstrap_p < 0.05) == (rate == 0.4)


def test_metrics_of_classes_and_ranks_can_be_compared():
    targets = [0, 1] * 30
    good = [t if i % 7 else 1 - t for i, t in enumerate(targets)]
    bad = [t if i % 2 else -1 for i, t in enumerate(targets)]
    for metric in (f1_score_with_invalid, matthews_corrcoef, pearson_corrcoef):
        (result,) = compare(metric, targets, bad, good, resamples=50).values()
        assert result.low <= result.difference <= result.high
        assert 0 < result.bootstrap_p <= 1


def test_what_makes_no_interval_is_refused():
    with pytest.raises(ValueError, match="confidence=95 must be more than 0 and less than 1"):
        confidence_intervals(accuracy, [1], [1], level=95)
    with pytest.raises(ValueError, match="resamples=0 must be from 1 to"):
        compare(accuracy, [1], [1], [1], resamples=0)
    for more, message in (
        ({"resamples": 10**12}, "resamples=1000000000000 must be from 1 to 1000000"),
        ({"level": math.nan}, "confidence=nan must be a number"),
        ({"seed": -1}, "seed=-1 must be at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            confidence_intervals(accuracy, [1], [1], **more)
    with pytest.raises(ValueError, match="2 targets but 1 predictions"):
        compare(accuracy, [1, 1], [1, 1], [1])
