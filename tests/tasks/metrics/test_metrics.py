"""Metrics against values worked out by hand, and the properties of an edit distance."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from t5jax.tasks.metrics import (
    Inflection,
    by_rule,
    exact_match,
    inflection_exact_match,
    nearest,
    phoneme_error_rate,
    rule_exact_match,
    word_error_rate,
)

phonemes = st.lists(st.sampled_from(["AH0", "L", "OW1", "HH", "Z"]), max_size=8).map(" ".join)
spoken = phonemes.filter(bool)

GO = Inflection("past", "go", ("went",))
STOP = Inflection("past", "stop", ("stopped",))
BUS = Inflection("plural", "bus", ("busses", "buses"))


def test_word_error_rate_accepts_any_listed_pronunciation():
    targets = [("T AH0", "T UW1"), ("R EH1 D", "R IY1 D"), ("D AO1 G",), "K AE1 T"]
    predictions = ["T UW1", "R EH1 D", "D AO1", "K AE1 T"]
    assert word_error_rate(targets, predictions) == {"wer": 0.25}
    assert exact_match(targets, predictions) == {"exact_match": 0.75}


def test_phoneme_error_rate_divides_by_the_nearest_pronunciations_length():
    # One edit from the second pronunciation (3 phonemes), none from "D AO1 G" (3).
    targets = [("HH AH0 L OW1", "Y EH1 S"), ("D AO1 G",)]
    assert phoneme_error_rate(targets, ["Y AH0 S", "D AO1 G"]) == {"per": 1 / 6}


def test_phoneme_error_rate_counts_substitution_insertion_and_deletion():
    targets = ["A B C"] * 4
    predictions = ["A X C", "A B X C", "A C", "A B C"]
    assert phoneme_error_rate(targets, predictions) == {"per": 3 / 12}


def test_an_empty_prediction_costs_every_phoneme():
    assert phoneme_error_rate([("A B C", "A B")], [""]) == {"per": 1.0}
    assert word_error_rate(["A B C"], [""]) == {"wer": 1.0}


def test_the_first_of_two_equally_near_pronunciations_counts():
    assert nearest(["A B", "A B C D"], "A B C") == (1, 2)
    assert nearest(["A B C D", "A B"], "A B C") == (1, 4)


@given(spoken, phonemes)
def test_edits_are_between_the_difference_and_the_greater_of_the_lengths(target, prediction):
    edits, length = nearest([target], prediction)
    predicted = len(prediction.split())
    assert length == len(target.split())
    assert abs(length - predicted) <= edits <= max(length, predicted)


@given(spoken, phonemes)
def test_edits_are_none_only_for_equal_phonemes(target, prediction):
    assert (nearest([target], prediction)[0] == 0) == (target == prediction)


@given(spoken, spoken, spoken)
def test_edits_are_symmetric_and_obey_the_triangle_inequality(a, b, c):
    def edits(x: str, y: str) -> int:
        return nearest([x], y)[0]

    assert edits(a, b) == edits(b, a)
    assert edits(a, c) <= edits(a, b) + edits(b, c)


@given(st.lists(spoken, min_size=1, max_size=4), spoken, phonemes)
def test_a_further_pronunciation_never_adds_edits(listed, further, prediction):
    assert nearest([*listed, further], prediction)[0] <= nearest(listed, prediction)[0]


@given(st.lists(st.tuples(spoken, phonemes), min_size=1, max_size=6))
def test_no_phoneme_errors_means_no_word_errors(pairs):
    targets, predictions = map(list, zip(*pairs, strict=True))
    per = phoneme_error_rate(targets, predictions)["per"]
    wer = word_error_rate(targets, predictions)["wer"]
    assert (per == 0) == (wer == 0)
    assert wer == pytest.approx(1 - exact_match(targets, predictions)["exact_match"])


@given(spoken, phonemes)
def test_repeating_the_data_changes_no_rate(target, prediction):
    assume(target != prediction)
    once = phoneme_error_rate([target], [prediction])["per"]
    assert phoneme_error_rate([target] * 3, [prediction] * 3)["per"] == pytest.approx(once)


@pytest.mark.parametrize(
    ("prefix", "lemma", "form"),
    [
        ("plural", "cat", "cats"),
        ("plural", "bus", "buses"),
        ("plural", "church", "churches"),
        ("plural", "box", "boxes"),
        ("plural", "city", "cities"),
        ("plural", "day", "days"),
        ("plural", "soliloquy", "soliloquies"),
        ("plural", "ox", "oxes"),
        ("plural", "potato", "potatos"),
        ("past", "walk", "walked"),
        ("past", "bake", "baked"),
        ("past", "agree", "agreed"),
        ("past", "stop", "stopped"),
        ("past", "quit", "quitted"),
        ("past", "rain", "rained"),
        ("past", "fix", "fixed"),
        ("past", "snow", "snowed"),
        ("past", "carry", "carried"),
        ("past", "play", "played"),
        ("past", "visit", "visited"),
        ("past", "cypher", "cyphered"),
        ("participle", "go", "goed"),
        ("present participle", "go", "going"),
        ("present participle", "bake", "baking"),
        ("present participle", "see", "seeing"),
        ("present participle", "dye", "dyeing"),
        ("present participle", "die", "dying"),
        ("present participle", "be", "being"),
        ("present participle", "carry", "carrying"),
        ("present participle", "run", "running"),
        ("present participle", "yap", "yapping"),
        ("comparative", "big", "bigger"),
        ("comparative", "happy", "happier"),
        ("comparative", "large", "larger"),
        ("superlative", "free", "freest"),
        ("superlative", "new", "newest"),
    ],
)
def test_the_rule_spells_as_english_does(prefix, lemma, form):
    assert by_rule(prefix, lemma) == form


def test_the_rule_refuses_an_unknown_prefix():
    with pytest.raises(ValueError, match="prefix 'future'; use one of plural, past"):
        by_rule("future", "go")


def test_inflections_are_counted_by_whether_the_rule_gives_a_listed_form():
    targets = [GO, STOP, BUS, BUS]
    predictions = ["went", "stopped", "buses", "bus"]
    assert inflection_exact_match(targets, predictions) == {
        "exact_match": 0.75,
        "exact_match_irregular": 1.0,
        "exact_match_regular": pytest.approx(2 / 3),
    }
    assert rule_exact_match(targets, predictions) == {
        "rule_exact_match": 0.75,
        "rule_exact_match_irregular": 0.0,
    }


def test_a_mean_over_no_words_is_left_out():
    assert inflection_exact_match([GO], ["goed"]) == {
        "exact_match": 0.0,
        "exact_match_irregular": 0.0,
    }
    assert rule_exact_match([STOP], [""]) == {"rule_exact_match": 1.0}


@pytest.mark.parametrize(
    "metric",
    [exact_match, word_error_rate, phoneme_error_rate, inflection_exact_match, rule_exact_match],
)
def test_every_metric_refuses_nothing_and_unequal_lengths(metric):
    with pytest.raises(ValueError, match="no targets"):
        metric([], [])
    with pytest.raises(ValueError, match="2 targets but 1 predictions"):
        metric([GO, GO], ["went"])
