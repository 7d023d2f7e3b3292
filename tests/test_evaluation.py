"""What an evaluation adds to seqio's: ranked answers, intervals, losses; the command compare."""

import json
import math

import numpy as np
import pytest
import seqio
import tensorflow as tf

from t5jax.cli import main
from t5jax.config import LengthsConfig
from t5jax.evaluate import Evaluation, write_results
from t5jax.tasks import ranking
from t5jax.tasks.metrics import accuracy, bleu, exact_match, pearson_corrcoef
from t5jax.tasks.ranking import answers_of, set_answers
from tests.mistakes import error_of
from tests.models import random_ids, tiny_text2text

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
    assert "confidence=95.0 must lie" in error_of(capsys, *words, "--confidence", "95")
    error = error_of(capsys, *words, "--confidence", "0.9", "--resamples", "0")
    assert "resamples=0 must be at least 1" in error


def predictions(folder, answers, *, inputs=INPUTS, metrics=None, **more):
    """A predictions.jsonl of answers, with a metrics.json beside it that names metrics."""
    folder.mkdir()
    rows = [
        {"inputs": text, "targets": LABELS[i % 3], "prediction": answer} | more
        for i, (text, answer) in enumerate(zip(inputs, answers, strict=False))
    ]
    file = folder / "predictions.jsonl"
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    file.write_text("".join(lines), encoding="utf-8")
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps({"metrics": metrics}))
    return file


def compared(capsys, *words):
    """The lines of values that `compare` prints, by name."""
    main(["compare", *map(str, words)])
    lines = capsys.readouterr().out.splitlines()[4:]
    return {line.split()[0]: line.split()[1:] for line in lines}


GOLD = [LABELS[i % 3] for i in range(8)]


def test_compare_tells_a_difference_from_chance(tmp_path, capsys):
    good = predictions(tmp_path / "good", GOLD, metrics=["accuracy", "a_users_own"])
    bad = predictions(tmp_path / "bad", ["so-so"] * 8)
    lines = compared(capsys, bad, good)
    assert lines["exact_match"][:3] == ["0.2500", "1.0000", "0.7500"]
    assert float(lines["exact_match"][-1]) < 0.1
    # The metrics of the task are those that the first file's folder names.
    assert compared(capsys, good, bad)["accuracy"][:3] == ["100.0000", "25.0000", "-75.0000"]
    lines = compared(capsys, good, bad, "--metric", "squad", "--metric", "chrf", "--resamples", "9")
    assert list(lines) == ["em", "f1", "chrf"]
    assert compared(capsys, good, good)["accuracy"][-2:] == ["1.0000", "1.0000"]


def test_compare_takes_what_the_metrics_saw(tmp_path, capsys):
    accepted = {"expected": ["so-so", "positive"]}
    # A line separator of Unicode does not end a line of JSON.
    first = predictions(tmp_path / "a", ["so-so"] * 8, inputs=["a\u2028b"] * 8, **accepted)
    second = predictions(tmp_path / "b", ["negative"] * 8, inputs=["a\u2028b"] * 8, **accepted)
    assert compared(capsys, first, second)["exact_match"][:2] == ["1.0000", "0.0000"]
    ranked = predictions(
        tmp_path / "c", ["x"] * 8, inputs=["a\u2028b"] * 8, ranked="positive", **accepted
    )
    assert compared(capsys, ranked, ranked, "--ranked")["exact_match"][:2] == ["1.0000", "1.0000"]


def test_mistakes_of_compare_are_one_line(tmp_path, capsys):
    good = predictions(tmp_path / "good", GOLD)
    fewer = predictions(tmp_path / "fewer", GOLD[:5])
    others = predictions(tmp_path / "others", GOLD, inputs=INPUTS[::-1])
    right = predictions(tmp_path / "right", GOLD, expected=["x"])
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"inputs": "x", "targets": "y", "prediction": "z"}\n{"inp')
    alien = tmp_path / "alien.jsonl"
    alien.write_text('{"inputs": "x"}\n')
    cases = {
        (good, fewer): "fewer/predictions.jsonl 5; compare predictions for the same examples",
        (good, others): "line 1 is about other inputs: 'review: dull film' in",
        (good, right): "line 1 is about other targets: 'negative' in",
        (good, broken): "line 2 is not JSON",
        (alien, good): "line 1 has no 'targets'",
        (good, tmp_path / "none"): "none: no such file",
        (good, good, "--metric", "squat"): "no metric is called 'squat'; did you mean squad?",
        (good, good, "--metric", "f1_score_with_invalid"): "target 'negative' must be 0 or 1",
        (good, good, "--metric", "record"): "does not fit targets like 'negative'",
        (good, good, "--ranked"): "has no 'ranked'; `t5jax eval --rank` writes it",
        (good, good, "--confidence", "2"): "confidence=2.0",
        (good, good, "--resamples", "0"): "resamples=0",
    }
    for words, expected in cases.items():
        assert expected in error_of(capsys, "compare", *words), words
