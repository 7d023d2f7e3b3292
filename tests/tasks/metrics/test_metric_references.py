"""Metrics against the libraries that papers use, T5's own against hand-computed cases; merging."""

import functools
import math
import random
import re
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from t5jax.tasks import metrics
from t5jax.tasks.metrics import (
    METRICS,
    Metric,
    accuracy,
    as_metric,
    auc,
    bits_per_byte,
    bleu,
    bleu_13a,
    character_error_rate,
    chrf,
    chrf_plus_plus,
    each_class_f1,
    exact_match,
    f1_score_with_invalid,
    find,
    matthews_corrcoef,
    mean_multiclass_f1,
    multirc_exact_match,
    multirc_f1_over_all_answers,
    pearson_corrcoef,
    perplexity,
    record,
    rouge,
    score_auc,
    spearman_corrcoef,
    squad,
    trivia_qa,
    word_edit_rate,
    word_error_rate,
)
from t5jax.tasks.metrics.base import built_in, is_built_in, percentages
from t5jax.tasks.metrics.question_answering import normalize_squad, normalize_trivia_qa

classes = st.lists(st.tuples(st.integers(0, 2), st.integers(-1, 2)), min_size=1, max_size=40)
binary = st.lists(st.tuples(st.integers(0, 1), st.integers(-1, 1)), min_size=1, max_size=40)
numbers = st.floats(-5, 5).map(lambda x: round(x, 2))
sentences = st.lists(
    st.sampled_from(["The", "the", "cat", "sat", "on", "a", "mat", ".", "Größe", "U.S.", "«x»"]),
    max_size=12,
).map(" ".join)
texts = st.lists(st.tuples(sentences.filter(bool), sentences), min_size=1, max_size=8)
quick = settings(max_examples=40, deadline=None)


def columns(pairs):
    return [list(column) for column in zip(*pairs, strict=True)]


@quick
@given(classes)
def test_accuracy_and_multiclass_f1_are_scikit_learns(pairs):
    targets, predictions = columns(pairs)
    score = sklearn.metrics.accuracy_score(targets, predictions)
    assert accuracy(targets, predictions)["accuracy"] == pytest.approx(100 * score)
    score = sklearn.metrics.f1_score(
        targets, predictions, labels=[0, 1, 2], average="macro", zero_division=0
    )
    value = mean_multiclass_f1(3)(targets, predictions)
    assert value == {"mean_3class_f1": pytest.approx(100 * score)}


@quick
@given(classes)
def test_f1_of_each_class_is_scikit_learns(pairs):
    targets, predictions = columns(pairs)
    f1 = sklearn.metrics.f1_score(
        targets, predictions, labels=[0, 1, 2], average=None, zero_division=0
    )
    values = each_class_f1(3)(targets, predictions)
    assert values == {f"f1_class_{i}": pytest.approx(100 * x) for i, x in enumerate(f1)}


@quick
@given(st.lists(st.tuples(st.integers(0, 1), numbers), min_size=2, max_size=40))
def test_areas_under_curves_are_scikit_learns(pairs):
    targets, scores = columns(pairs)
    values = auc(targets, scores)
    assert score_auc(targets, scores) == pytest.approx(values, nan_ok=True)
    if len(set(targets)) == 1:
        assert all(map(math.isnan, values.values()))
    else:
        roc = sklearn.metrics.roc_auc_score(targets, scores)
        precision = sklearn.metrics.average_precision_score(targets, scores)
        assert values == pytest.approx({"auc-roc": roc, "auc-pr": precision})


@pytest.mark.filterwarnings("ignore:A single label was found")
@quick
@given(classes)
def test_matthews_correlation_is_scikit_learns_with_no_class_as_a_class(pairs):
    targets, predictions = columns(pairs)
    score = 100 * sklearn.metrics.matthews_corrcoef(targets, predictions)
    expected = {"matthews_corrcoef": pytest.approx(score, abs=1e-9)}
    assert matthews_corrcoef(targets, predictions) == expected
    texts = ["" if p == -1 else p for p in predictions]
    assert matthews_corrcoef(targets, texts) == expected


@quick
@given(binary)
def test_f1_counts_what_is_no_class_as_the_wrong_one(pairs):
    targets, predictions = columns(pairs)
    replaced = [p if p in (0, 1) else 1 - t for t, p in pairs]
    score = sklearn.metrics.f1_score(targets, replaced, zero_division=0)
    assert f1_score_with_invalid(targets, predictions) == {"f1": pytest.approx(100 * score)}


def test_f1_by_hand():
    # Class 1: one hit, one false alarm, and two misses, of which -1 is one.
    assert f1_score_with_invalid([1, 1, 1, 0, 0], [1, 0, -1, 1, 0])["f1"] == pytest.approx(40)
    # Class 0: 1 of 1 and 1 of 2; class 1: 0; class 2: 1 of 1 and 1 of 1.
    value = mean_multiclass_f1(3)([0, 0, 2, 1], [0, -1, 2, -1])["mean_3class_f1"]
    assert value == pytest.approx(100 * (2 / 3 + 0 + 1) / 3)
    assert matthews_corrcoef([1, 1, 0, 0], [1, 1, 1, 1]) == {"matthews_corrcoef": 0}


@quick
@given(st.lists(st.tuples(numbers, numbers), min_size=3, max_size=40))
def test_correlations_are_scipys(pairs):
    targets, predictions = columns(pairs)
    for metric, function in (
        (pearson_corrcoef, scipy.stats.pearsonr),
        (spearman_corrcoef, scipy.stats.spearmanr),
    ):
        (value,) = metric(targets, predictions).values()
        if len(set(targets)) == 1 or len(set(predictions)) == 1:
            assert math.isnan(value)
        else:
            assert value == pytest.approx(100 * function(targets, predictions)[0], abs=1e-9)


def test_a_text_that_is_no_number_correlates_as_minus_one():
    numbers = pearson_corrcoef([1.0, 2.0, 3.0, 5.0], [1.5, -1.0, 3.0, -1.0])
    assert pearson_corrcoef(["1.0", "2.0", "3.0", "5.0"], ["1.5", "", "3.0", "nan"]) == numbers


@quick
@given(texts)
def test_bleu_and_chrf_are_sacrebleus(pairs):
    targets, predictions = columns(pairs)
    for metric, reference in (
        (bleu, sacrebleu.BLEU(tokenize="intl")),
        (bleu_13a, sacrebleu.BLEU()),
        (chrf, sacrebleu.CHRF()),
        (chrf_plus_plus, sacrebleu.CHRF(word_order=2)),
    ):
        score = reference.corpus_score(predictions, [targets]).score
        assert metric(targets, predictions) == {metric.name: pytest.approx(score, abs=1e-9)}
        assert metric.signature(targets) == str(reference.get_signature())


def test_references_may_be_several_and_vary_in_number():
    targets = [["The cat sat on the mat .", "A cat sat down ."], ["It rains a lot today ."]]
    predictions = ["The cat sat down .", "It rains a lot ."]
    streams = [["The cat sat on the mat .", "It rains a lot today ."], ["A cat sat down .", None]]
    reference = sacrebleu.BLEU(tokenize="intl")
    score = reference.corpus_score(predictions, streams).score
    assert score > 10
    assert bleu(targets, predictions) == {"bleu": pytest.approx(score)}
    assert bleu.signature(targets) == str(reference.get_signature())
    assert "nrefs:var" in bleu.signature(targets)


@quick
@given(texts)
def test_rouge_is_rouge_scores(pairs):
    targets, predictions = columns(pairs)
    names = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    scorer = RougeScorer(names)
    scores = [
        # As T5 prepares them: a line for each sentence.
        scorer.score(t.replace(" . ", " .\n"), p.replace(" . ", " .\n"))
        for t, p in pairs
    ]
    expected = {
        name: pytest.approx(100 * np.mean([score[name].fmeasure for score in scores]))
        for name in names
    }
    assert rouge(targets, predictions) == expected


def test_rouge_lsum_looks_at_sentences():
    values = rouge(["a b . c d ."], ["c d . a b ."])
    assert values["rougeLsum"] == pytest.approx(100)
    assert values["rougeL"] == pytest.approx(50)


def test_squad_by_hand():
    targets = [["The Eiffel Tower", "Eiffel tower, Paris"], ["1889"], ["an apple"]]
    predictions = ["eiffel tower!", "in 1889", "a pear"]
    # Equal to the first after normalisation; 2 * 1 / (2 + 1); nothing shared.
    assert squad(targets, predictions) == {
        "em": pytest.approx(100 / 3),
        "f1": pytest.approx(100 * (1 + 2 / 3 + 0) / 3),
    }
    # The best answer is chosen for each of the two by itself; a word counts as often as it occurs.
    assert squad([["b b c", "b d e f"]], ["b b b"])["f1"] == pytest.approx(100 * 2 * 2 / 6)


def test_normalisations_differ_in_what_becomes_of_punctuation():
    text = "The U.S.A.’s  well-known_Theatre `an'"
    assert normalize_squad(text) == "usa’s wellknowntheatre"
    assert normalize_trivia_qa(text) == "u s s well known theatre"
    assert squad([["US"]], ["U.S."])["em"] == 100
    assert trivia_qa([["US"]], ["U.S."])["em"] == 0
    assert trivia_qa([["well known"]], ["well-known"]) == {"em": 100, "f1": 100}


def test_an_answer_that_normalises_to_nothing_matches_without_an_f1():
    assert squad([["the"]], ["a."]) == {"em": 100, "f1": 0}


def test_record_counts_the_first_example_of_each_group():
    targets = [
        {"value": ["Paris", "City of Light"], "group": (0, 1)},
        {"value": ["Paris", "City of Light"], "group": (0, 1)},
        {"value": ["John Smith"], "group": np.array([0, 2])},
    ]
    predictions = [{"value": "Paris"}, {"value": "London"}, "Smith"]
    assert record(targets, predictions) == {"em": 50, "f1": pytest.approx(100 * (1 + 2 / 3) / 2)}


def test_multirc_by_hand():
    targets = [
        {"value": value, "group": group}
        for value, group in [(1, "a"), (0, "a"), (1, "b"), (0, "b"), (1, "c")]
    ]
    predictions = [{"value": value} for value in (1, 0, 1, 1, -1)]
    # Only of question a all answers are right.
    assert multirc_exact_match(targets, predictions) == {"exact_match": pytest.approx(100 / 3)}
    # Two hits, one false alarm, one miss.
    assert multirc_f1_over_all_answers(targets, predictions)["f1"] == pytest.approx(100 * 4 / 6)
    ungrouped = [{"value": target["value"]} for target in targets]
    assert multirc_f1_over_all_answers(ungrouped, [1, 0, 1, 1, -1])["f1"] == pytest.approx(400 / 6)


def test_rates_of_edits_by_hand():
    # Two letters of "kitten" (6) are replaced and one is added; nothing of "abc" (3) is there.
    assert character_error_rate(["kitten", "abc"], ["sitting", ""]) == {"cer": 6 / 9}
    assert character_error_rate([("colour", "color")], ["collor"]) == {"cer": 1 / 5}
    assert word_edit_rate(["the cat sat", "yes"], ["the bat", "yes"]) == {"word_edit_rate": 2 / 4}
    with pytest.raises(ValueError, match="the targets hold no character at all"):
        character_error_rate([""], ["x"])


def test_perplexity_and_bits_per_byte():
    # A uniform choice of 256 at each of 3 bytes, in tokens of a byte.
    nats = 3 * math.log(256)
    assert perplexity(nats, 3) == pytest.approx(256)
    assert bits_per_byte(nats, 3) == pytest.approx(8)
    assert perplexity(1e6, 1) == math.inf


# For each metric a way to make a target and predictions of it, the empty one included.
def _example(name: str, dice: random.Random):
    word = functools.partial(dice.choice, ["the cat", "a dog sat .", "HH AH0", "7", "x"])
    group = dice.randrange(4)
    if name.startswith("multirc"):
        return {"value": dice.randrange(2), "group": group}, dice.choice(["", 0, 1, -1])
    if name == "record":
        return {"value": [word(), word()], "group": (group, 0)}, dice.choice(["", word()])
    if name in ("f1_score_with_invalid", "mean_3class_f1"):
        return dice.randrange(2), dice.choice(["", 0, 1, -1])
    if name in ("auc", "score_auc"):
        return dice.randrange(2), dice.choice(["", 0, 1, 2.5])
    if name.endswith("corrcoef"):
        return dice.randrange(5), dice.choice(["", 0, 1, 2.5])
    if name in ("inflection_exact_match", "rule_exact_match"):
        target = dice.choice([("past", "go", ("went",)), ("past", "walk", ("walked",))])
        return target, dice.choice(["", "went", "walked"])
    if name == "span_squad":
        context = "the cat or a dog sat . HH AH0 , 7 x"
        return {"answers": [word()], "context": context}, dice.choice(["", "start: 3 end: 5"])
    return dice.choice([word(), (word(), word())]), dice.choice(["", word()])


def examples_of(name: str, number: int, seed: int):
    dice = random.Random(seed)
    return columns(_example(name, dice) for _ in range(number))


@pytest.mark.parametrize("name", METRICS)
@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=4),
)
def test_merged_parts_equal_the_whole(name, seed, sizes):
    metric = METRICS[name]
    targets, predictions = examples_of(name, sum(sizes), seed)
    ends = np.cumsum(sizes).tolist()
    parts = [
        metric.statistics(targets[end - size : end], predictions[end - size : end])
        for end, size in zip(ends, sizes, strict=True)
    ]
    whole = metric(targets, predictions)
    expected = pytest.approx(whole, rel=1e-12, abs=1e-9, nan_ok=True)
    assert functools.reduce(lambda a, b: a.merge(b), parts).compute() == expected
    if len(parts) == 3:  # in another order of merging
        assert parts[0].merge(parts[1].merge(parts[2])).compute() == expected


def test_statistics_of_different_metrics_do_not_merge():
    with pytest.raises(ValueError, match="statistics of squad and trivia_qa do not merge"):
        squad.statistics(["a"], ["a"]).merge(trivia_qa.statistics(["a"], ["a"]))


def test_sums_stay_one_row_however_many_examples():
    targets, predictions = examples_of("bleu", 50, 0)
    statistics = bleu.statistics(targets, predictions)
    assert len(statistics.merge(statistics).rows) == 1


@pytest.mark.parametrize("name", METRICS)
def test_an_empty_prediction_is_a_prediction_in_every_metric(name):
    targets, _ = examples_of(name, 6, 1)
    values = METRICS[name](targets, [""] * 6)
    assert values
    if name.endswith(("pearson_corrcoef", "spearman_corrcoef")):
        assert all(map(math.isnan, values.values()))  # all predictions are the same
    elif name.endswith(("_rate",)):
        assert set(values.values()) == {1.0}
    elif name.endswith("auc"):  # nothing is ordered: precision is the share of class 1
        assert values == {"auc-roc": 0.5, "auc-pr": np.mean(targets)}
    elif name != "rule_exact_match":
        assert all(value == 0 for value in values.values()), values


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_names_both_numbers_when_they_differ(name):
    targets, predictions = examples_of(name, 3, 0)
    with pytest.raises(ValueError, match="3 targets but 2 predictions"):
        METRICS[name](targets, predictions[:2])
    with pytest.raises(ValueError, match="no targets"):
        METRICS[name]([], [])


def test_an_unknown_metric_names_the_nearest():
    assert find("squad") is squad
    assert find("mean_4class_f1") is mean_multiclass_f1(4)
    assert find("each_12class_f1") is each_class_f1(12)
    with pytest.raises(ValueError, match="'zzzz'; there are accuracy, auc, bleu"):
        find("zzzz")
    with pytest.raises(ValueError, match="'blue'; did you mean bleu"):
        find("blue")
    with pytest.raises(ValueError, match="did you mean word_error_rate"):
        find("word_eror_rate")


def test_targets_that_no_prediction_could_meet_are_refused():
    with pytest.raises(ValueError, match="target 3 must be a class, 0 to 2"):
        mean_multiclass_f1(3)([3], [1])
    with pytest.raises(ValueError, match="target 'x' must be 0 or 1"):
        f1_score_with_invalid(["x"], [1])
    with pytest.raises(ValueError, match="target 'x' must be the number of a class"):
        matthews_corrcoef(["x"], [1])
    for metric in (squad, exact_match, word_error_rate, rouge, bleu):
        with pytest.raises(ValueError, match="without a single accepted text"):
            metric([[]], ["x"])


def test_a_plain_function_becomes_a_metric():
    def longest(targets, predictions):
        return {"longest": max(map(len, predictions))}

    metric = as_metric(longest)
    assert metric.name == "longest" and as_metric(squad) is squad
    parts = [metric.statistics(["a"], ["bb"]), metric.statistics(["a"], ["bbbb"])]
    assert parts[0].merge(parts[1]).compute() == {"longest": 4}


def test_a_metric_is_named_in_its_own_file_alone():
    sources = Path(metrics.__file__).parent.glob("*.py")
    code = "".join(file.read_text(encoding="utf-8") for file in sources)
    for name, metric in METRICS.items():
        assert getattr(metrics, name, metric) is metric and is_built_in(metric)
        assert len(re.findall(rf"^{name} = built_in\(", code, re.MULTILINE)) <= 1
    same_name = Metric("accuracy", "mine", lambda t, p: (t[0] == p[0], 1), percentages("accuracy"))
    assert not is_built_in(same_name)
    with pytest.raises(ValueError, match="there is a metric 'accuracy' already"):
        built_in(same_name)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        metrics.nothing  # noqa: B018
