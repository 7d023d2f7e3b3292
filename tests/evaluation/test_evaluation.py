"""What an evaluation adds to seqio's: ranked answers, intervals, losses, parts of each example."""

import json
import math

import numpy as np
import pytest
import seqio
import tensorflow as tf
from sklearn.metrics import roc_auc_score

from t5jax.cli import main
from t5jax.config import LengthsConfig
from t5jax.evaluate import Evaluation, write_results
from t5jax.tasks import ranking
from t5jax.tasks.metrics import (
    accuracy,
    bleu,
    exact_match,
    f1_score_with_invalid,
    pearson_corrcoef,
    record,
    score_auc,
)
from t5jax.tasks.ranking import answers_of, set_answers
from t5jax.vocabulary import ByteVocabulary
from tests.support.mistakes import error_of
from tests.support.models import random_ids, tiny_text2text

LABELS = ("negative", "positive", "so-so")
INPUTS = [f"review: {word} film" for word in "dull great odd fine long flat neat weak".split()]


def label(output, **unused):
    return LABELS.index(output) if output in LABELS else -1


def number(output, **unused):
    try:
        return float(output)
    except ValueError:
        return -1.0


def add_task(name, targets, postprocess, metrics):
    def read(split, shuffle_files=False, seed=None):
        return tf.data.Dataset.from_tensor_slices({"inputs": INPUTS, "targets": targets})

    feature = seqio.Feature(seqio.ByteVocabulary())
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(read, splits=["validation"]),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        output_features={"inputs": feature, "targets": feature},
        postprocess_fn=postprocess,
        metric_fns=metrics,
    )


@pytest.fixture(scope="module", autouse=True)
def tasks():
    add_task("test_reviews", [LABELS[i % 3] for i in range(8)], label, [accuracy])
    add_task("test_stars", [f"{i}.0" for i in range(8)], number, [pearson_corrcoef])
    add_task("test_words", [text[8:].upper() for text in INPUTS], None, [bleu, exact_match])
    set_answers("test_reviews", LABELS)
    yield
    for name in ("test_reviews", "test_stars", "test_words"):
        seqio.TaskRegistry.remove(name)


@pytest.fixture(scope="module")
def t5():
    return tiny_text2text()


@pytest.fixture(scope="module")
def saved(t5, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "model"
    t5.save(path)
    return path


def run(t5, *names, lengths=None, **options):
    return Evaluation(names, t5.vocabulary, lengths=lengths, **options).run(t5, max_new_tokens=4)


def test_each_target_is_scored_for_each_input_as_it_is_alone(t5):
    inputs, targets = random_ids(0, 5, 20), random_ids(1, 3, 6)
    inputs[2, 17:] = targets[1, 3:] = 0
    scores = t5.score_each_ids(inputs, targets)
    assert scores.shape == (5, 3)
    for i, target in enumerate(targets):
        alone = t5.score_ids(inputs, np.tile(target, (5, 1)))
        np.testing.assert_allclose(scores[:, i], alone, rtol=1e-5)


def test_the_likeliest_answer_is_ranked_first_and_judged_by_the_tasks_metrics(t5):
    result = run(t5, "test_reviews", rank=True, confidence=0.9)["test_reviews"]
    scores = np.stack([t5.score(INPUTS, [text] * len(INPUTS)) for text in LABELS])
    best = [LABELS[i] for i in scores.argmax(axis=0)]
    assert [row["ranked"] for row in result.predictions] == best
    assert [row["ranked_answer"] for row in result.predictions] == list(map(LABELS.index, best))
    right = np.mean([text == LABELS[i % 3] for i, text in enumerate(best)])
    metrics = result.metrics
    assert metrics["rank_accuracy"] == pytest.approx(100 * right)
    assert metrics["rank_accuracy_low"] <= metrics["rank_accuracy"] <= metrics["rank_accuracy_high"]
    # Beside what the untrained model writes, which is no label.
    assert metrics["accuracy"] == metrics["accuracy_high"] == 0
    assert [row["expected"] for row in result.predictions] == [i % 3 for i in range(8)]
    assert {row["answer"] for row in result.predictions} == {-1}
    assert "rank_accuracy" not in run(t5, "test_reviews")["test_reviews"].metrics


def test_answers_may_differ_from_example_to_example(t5, monkeypatch):
    monkeypatch.setattr(ranking, "_ANSWERS", {})

    def choices(example):
        text = example["inputs_pretokenized"].decode()[8:]
        return [text, text.upper(), text[::-1]][: 1 + len(text) % 3]

    set_answers("test_words", choices)
    result = run(t5, "test_words", rank=True)["test_words"]
    for row, text in zip(result.predictions, INPUTS, strict=True):
        rows = choices({"inputs_pretokenized": text.encode()})
        scores = t5.score([text] * len(rows), rows)
        assert row["ranked"] == rows[scores.argmax()]
    right = np.mean([row["ranked"] == row["targets"] for row in result.predictions])
    assert result.metrics["rank_exact_match"] == pytest.approx(right)
    set_answers("test_words", lambda example: [])
    with pytest.raises(ValueError, match="example 0 has no answers"):
        run(t5, "test_words", rank=True)


def test_losses_are_told_per_token_and_per_byte(t5):
    result = run(t5, "test_words")["test_words"]
    targets = [text[8:].upper() for text in INPUTS]
    nats = -t5.score(INPUTS, targets).sum()
    size = sum(map(len, targets))
    loss = nats / (size + len(targets))  # bytes are its tokens, and each text has an end
    assert result.metrics["loss"] == pytest.approx(loss, rel=1e-5)
    assert result.metrics["perplexity"] == pytest.approx(math.exp(loss), rel=1e-4)
    assert result.metrics["bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-5)


def test_a_target_that_is_cut_counts_the_bytes_that_were_scored(t5):
    lengths = LengthsConfig(inputs=64, targets=5)
    metrics = run(t5, "test_words", lengths=lengths)["test_words"].metrics
    assert metrics["bits_per_byte"] == pytest.approx(metrics["loss"] / math.log(2), rel=1e-6)


def test_metrics_json_has_names_signatures_and_null_for_what_is_not_defined(t5, tmp_path):
    results = run(t5, "test_words", confidence=0.5, resamples=20)
    results |= run(t5, "test_stars")
    write_results(tmp_path, results, {"split": "validation"})
    words = json.loads((tmp_path / "test_words" / "metrics.json").read_text())
    assert words["metrics"] == ["bleu", "exact_match"]
    assert words["bleu_signature"].startswith("nrefs:1|case:mixed|eff:no|tok:intl|smooth:exp|v")
    assert words["confidence"] == 0.5 and words["resamples"] == 20
    assert words["exact_match_low"] == words["exact_match_high"] == 0
    stars = json.loads((tmp_path / "test_stars" / "metrics.json").read_text())
    assert stars["pearson_corrcoef"] is None  # every prediction is -1


def test_answers_are_two_or_more_different_texts():
    for answers in (["yes"], ["yes", "yes"], "yes"):
        with pytest.raises(ValueError, match="two or more different texts"):
            set_answers("test_other", answers)
    set_answers("test_reviews", list(LABELS))  # again the same
    with pytest.raises(ValueError, match="test_reviews is answered with"):
        set_answers("test_reviews", ("yes", "no"))
    assert answers_of("test_other") is None


def test_eval_prints_intervals_and_ranks(saved, tmp_path, capsys):
    main(
        ["eval", str(saved), "--tasks", "test_reviews,test_words", "--rank", "--confidence", "0.95",
         "--resamples", "50", "--out", str(tmp_path), "--max_new_tokens", "4"]
    )  # fmt: skip
    out = capsys.readouterr().out
    assert "  accuracy                     0.0000  [0.0000, 0.0000]\n" in out
    assert "  rank_accuracy  " in out and "_low" not in out
    row = json.loads((tmp_path / "test_reviews" / "predictions.jsonl").read_text().split("\n")[0])
    assert row["ranked"] in LABELS and row["expected"] == 0


def test_eval_refuses_what_it_cannot_rank_or_bound(saved, capsys):
    words = ["eval", saved, "--tasks", "test_words"]
    assert "answers to rank are known for test_words" in error_of(capsys, *words, "--rank")
    assert "--confidence: '95' must be a number" in error_of(capsys, *words, "--confidence", "95")
    error = error_of(capsys, *words, "--confidence", "0.9", "--resamples", "0")
    assert "--resamples: '0' must be a whole number, from 1" in error
    for more, message in (
        ({"confidence": 95}, "confidence=95 must be more than 0 and less than 1"),
        ({"confidence": 0.9, "resamples": 0}, "resamples=0 must be from 1 to"),
    ):
        with pytest.raises(ValueError, match=message):
            Evaluation("test_words", ByteVocabulary(), **more)


def test_every_kind_of_metric_has_the_value_that_seqio_computes(t5):
    calls = []

    def first_letter(targets, predictions):
        return {
            "first": np.mean([t[:1] == p[:1] for t, p in zip(targets, predictions, strict=True)])
        }

    def mean_score(targets, scores):
        return {"mean_score": seqio.metrics.Scalar(np.mean(scores))}

    def weighted(targets, predictions, aux_values):
        assert len(aux_values["scores"]) == len(predictions)
        return {"weighted": float(np.sum(np.exp(aux_values["scores"])))}

    add_task(
        "test_kinds",
        [text[8:] for text in INPUTS],
        lambda output, **unused: calls.append(output) or output.upper(),
        [bleu, first_letter, mean_score, weighted, score_length],
    )
    try:
        evaluation = Evaluation(["test_kinds"], t5.vocabulary)
        (each,) = evaluation.evaluators
        ids = t5.text_ids(INPUTS)
        generated = t5.generate_ids(ids, max_new_tokens=4)
        scores = t5.score(INPUTS, [text[8:] for text in INPUTS])
        theirs, _ = each.evaluate(
            compute_metrics=True,
            predict_fn=lambda _: list(enumerate(generated.ids[:, 0])),
            score_fn=lambda _: list(enumerate(scores)),
            predict_with_aux_fn=lambda _: (
                list(enumerate(generated.ids[:, 0])),
                {"scores": generated.scores[:, 0].tolist()},
            ),
        )
        expected = theirs.result()["test_kinds"]
        expected["mean_score"] = expected["mean_score"].value
        result = evaluation.run(t5, max_new_tokens=4)["test_kinds"]
    finally:
        seqio.TaskRegistry.remove("test_kinds")
    ours = {name: result.metrics[name] for name in expected}
    assert ours == pytest.approx(expected, rel=1e-5)
    assert result.about["metrics"] == [
        "bleu", "first_letter", "mean_score", "score_length", "weighted",
    ]  # fmt: skip
    assert result.about["per_example"] == {
        "bleu": "statistics",
        "first_letter": "scores",
        "mean_score": "scores",
        "score_length": "none: the mean over single examples is not its value",
        "weighted": "none: the mean over single examples is not its value",
    }
    row = result.predictions[2]
    assert row["scores"]["mean_score"]["mean_score"] == pytest.approx(scores[2], rel=1e-5)
    assert len(row["statistics"]["bleu"]) == 10
    assert result.about["options"] == {"max_new_tokens": 4}


def score_length(targets, scores):
    return {"norm": float(np.linalg.norm(scores))}


def test_an_auc_of_scores_is_evaluated(t5):
    add_task("test_auc", [f"{i % 2}" for i in range(8)], lambda x, **unused: int(x), [score_auc])
    try:
        result = run(t5, "test_auc", confidence=0.9, resamples=20)["test_auc"]
    finally:
        seqio.TaskRegistry.remove("test_auc")
    scores = [row["target_score"] for row in result.predictions]
    expected = roc_auc_score([i % 2 for i in range(8)], scores)
    assert result.metrics["auc-roc"] == pytest.approx(expected)
    assert result.metrics["auc-roc_low"] <= expected <= result.metrics["auc-roc_high"]


MISTAKES = {
    "metric": (None, [lambda targets, predictions: predictions[0].foo], ("metric lambda: ", "foo")),
    "postprocessor": (
        lambda output, **unused: output.foo,
        [exact_match],
        ("postprocessor, example 0, 'DULL FILM'", "foo"),
    ),
    "mapping": (
        None,
        [lambda targets, predictions: 0.5],
        ("metric lambda: it returned 0.5; a metric returns numbers by name",),
    ),
    "number": (
        None,
        [lambda targets, predictions: {"x": "much"}],
        ("metric lambda: its value 'x' is 'much', which is no number",),
    ),
    "loss": (
        None,
        [lambda targets, predictions: {"loss": 1}],
        ("metric lambda and every evaluation both have a value called 'loss'",),
    ),
    "twice": (
        None,
        [exact_match, lambda targets, predictions: {"exact_match": 1}],
        ("metric exact_match and metric lambda both have a value called 'exact_match'",),
    ),
    "options": (
        None,
        [lambda targets, predictions: {"split": 1}],
        ("metrics.json itself and metric lambda both have a value called 'split'",),
    ),
    "ours": (
        None,
        [f1_score_with_invalid],
        ("f1_score_with_invalid: target 'DULL FILM' must be 0",),
    ),
    "fit": (None, [record], ("metric record does not fit targets like 'DULL FILM'",)),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_names_task_and_metric_with_a_model_and_before_there_is_one(t5, case):
    postprocess, metrics, words = MISTAKES[case]
    add_task("test_mistake", [text[8:].upper() for text in INPUTS], postprocess, metrics)
    try:
        evaluation = Evaluation(["test_mistake"], t5.vocabulary)
        for attempt in (evaluation.value_names, lambda: evaluation.run(t5, max_new_tokens=2)):
            with pytest.raises(ValueError) as raised:
                attempt()
            message = str(raised.value)
            assert message.startswith("task test_mistake: ")
            assert all(word in message for word in words), message
            if "foo" in words:
                assert "test_evaluation.py, line" in message and "T5JAX_TRACEBACK" in message
    finally:
        seqio.TaskRegistry.remove("test_mistake")


def test_a_mistake_in_a_function_of_answers_is_named(t5, monkeypatch):
    monkeypatch.setattr(ranking, "_ANSWERS", {})
    set_answers("test_words", lambda example: example.foo)
    with pytest.raises(ValueError, match=r"^task test_words: answers: .*test_evaluation.py, line"):
        run(t5, "test_words", rank=True)


def test_the_names_of_values_are_known_without_a_model(t5):
    evaluation = Evaluation(["test_reviews", "test_words"], t5.vocabulary)
    losses = ["loss", "perplexity", "bits_per_byte", "examples"]
    assert evaluation.value_names() == {
        "test_reviews": ["accuracy", *losses],
        "test_words": ["bleu", "exact_match", *losses],
    }

    def needs_two_classes(targets, predictions):
        if len(set(targets)) < 2:
            raise ValueError("one class only")
        return {"classes": len(set(targets))}

    add_task("test_classes", ["a"] * 4 + ["b"] * 4, None, [needs_two_classes])
    try:
        evaluation = Evaluation(["test_classes"], t5.vocabulary)
        assert evaluation.value_names(2) == {"test_classes": ["classes", *losses]}
    finally:
        seqio.TaskRegistry.remove("test_classes")
