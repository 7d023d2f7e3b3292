"""`compare`: the task's own metrics, from what its evaluation stored of each example."""

import json
import math

import numpy as np
import pytest
import seqio

from t5jax.cli import main
from t5jax.evaluate import Evaluation, write_results
from t5jax.evaluation.comparison import find_predictions
from t5jax.tasks import registry
from t5jax.tasks.metrics import METRICS, Metric, as_metric, each_class_f1, find
from t5jax.tasks.metrics.examples import measure, of_scores, of_statistics
from t5jax.tasks.metrics.resampling import confidence_intervals, unit_intervals
from tests.support.mistakes import error_of
from tests.support.models import shared_text2text
from tests.tasks.metrics.test_metric_references import examples_of

LABELS = ("negative", "positive", "so-so")
INPUTS = [f"review: {word} film" for word in "dull great odd fine long flat neat weak".split()]

MODULE = """
import seqio
import tensorflow as tf

LABELS = ("negative", "positive", "so-so")
INPUTS = [f"review: {word} film" for word in "dull great odd fine long flat neat weak".split()]

def read(split, shuffle_files=False, seed=None):
    targets = [LABELS[i % 3][0] + "…" for i in range(8)]
    return tf.data.Dataset.from_tensor_slices({"inputs": INPUTS, "targets": targets})

def accuracy(targets, predictions):
    right = [t[0] == p[:1] for t, p in zip(targets, predictions)]
    return {"accuracy": sum(right) / len(right)}

def variety(targets, predictions):
    return {"variety": len(set(predictions)) / len(predictions)}

features = {name: seqio.Feature(seqio.ByteVocabulary()) for name in ("inputs", "targets")}
seqio.TaskRegistry.add(
    "compare_own",
    source=seqio.FunctionDataSource(read, splits=["validation"]),
    preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
    output_features=features,
    metric_fns=[accuracy, variety],
)
"""


@pytest.fixture(scope="module")
def evaluations(tmp_path_factory):
    """Folders A and B of evaluations of a user's task of which B writes but one label."""
    root = tmp_path_factory.mktemp("compare")
    (root / "mine.py").write_text(MODULE)
    registry.load_modules([str(root / "mine.py")])
    t5 = shared_text2text()
    evaluation = Evaluation(["compare_own"], t5.vocabulary)
    for name, labels in (("A", LABELS), ("B", LABELS[2:])):
        results = evaluation.run(t5, answers=labels, max_new_tokens=10)
        write_results(root / name, results, {"split": "validation"})
    yield root
    seqio.TaskRegistry.remove("compare_own")


def compared(capsys, *words):
    """The lines of values that `compare` prints, by name; and what it warns of."""
    main(["compare", *map(str, words)])
    out, err = capsys.readouterr()
    return {line.split()[0]: line.split()[1:] for line in out.splitlines()[4:]}, err


def content(folder, name="compare_own"):
    place = folder / name
    rows = [json.loads(line) for line in (place / "predictions.jsonl").read_text().splitlines()]
    return json.loads((place / "metrics.json").read_text()), rows


def test_a_tasks_own_accuracy_is_compared_not_ours_of_the_same_name(evaluations, capsys):
    files = [evaluations / name / "compare_own" / "predictions.jsonl" for name in "AB"]
    (one, rows), (two, _) = (content(evaluations / name) for name in "AB")
    lines, warned = compared(capsys, *files)
    assert one["accuracy"] != two["accuracy"] and 0 < max(one["accuracy"], two["accuracy"]) <= 1
    assert lines["accuracy"][:2] == [f"{one['accuracy']:.4f}", f"{two['accuracy']:.4f}"]
    assert lines == compared(capsys, *files, "--metric", "accuracy")[0]
    # By hand: the exchange of all pairs of different examples.
    assert one["per_example"] == {
        "accuracy": "scores",
        "variety": "none: the mean over single examples is not its value",
    }
    assert [row["scores"]["accuracy"]["accuracy"] for row in rows] == [
        float(row["prediction"][0] == row["targets"][0]) for row in rows
    ]
    assert "metric variety is left out (the mean over single examples is not its value)" in warned
    # A built-in metric that the task has not is computed from the texts.
    assert compared(capsys, *files, "--metric", "exact_match")[0]["exact_match"][0] == "0.0000"


def test_a_corpus_metric_of_a_users_needs_its_module_and_gets_it(evaluations, capsys, monkeypatch):
    a, b = evaluations / "A", evaluations / "B"
    error = error_of(capsys, "compare", a, b, "--metric", "variety")
    assert "metric variety of task compare_own has no parts in" in error
    assert "name the module that has the task: --modules FILE.py" in error
    (one, rows), (two, _) = content(a), content(b)
    module = evaluations / "mine.py"
    lines, warned = compared(capsys, a, b, "--modules", module, "--resamples", "50")
    assert list(lines) == ["accuracy", "variety"] and warned == ""
    assert lines["variety"][:2] == [f"{one['variety']:.4f}", f"{two['variety']:.4f}"]
    assert one["variety"] == len({row["prediction"] for row in rows}) / 8


def test_runs_and_folders_are_taken_as_files_are(evaluations, tmp_path, capsys):
    task = evaluations / "A" / "compare_own"
    run = tmp_path / "runs" / "x"
    (run / "eval").mkdir(parents=True)
    for name in ("compare_own", "other"):
        (run / "eval" / name).symlink_to(task)
    file = task / "predictions.jsonl"
    lines, _ = compared(capsys, file, file)
    for place in (run, run / "eval", run / "eval" / "compare_own", evaluations / "A"):
        assert find_predictions(place)["compare_own"].samefile(file)
        assert compared(capsys, place, evaluations / "A")[0] == lines
    main(["compare", str(run), str(run)])
    assert capsys.readouterr().out.count("8 examples") == 2
    main(["compare", str(run), str(run), "--tasks", "other"])
    assert "compare_own" not in capsys.readouterr().out
    error = error_of(capsys, "compare", run, evaluations / "A", "--tasks", "other")
    assert "holds no evaluation of other, only of compare_own" in error
    (tmp_path / "eval" / "third").mkdir(parents=True)
    (tmp_path / "eval" / "third" / "predictions.jsonl").write_text("")
    assert "no task is in both" in error_of(capsys, "compare", tmp_path, evaluations / "A")
    assert "holds no predictions.jsonl" in error_of(capsys, "compare", tmp_path / "runs", run)


@pytest.mark.parametrize("name", [*METRICS, "each_3class_f1"])
def test_what_is_stored_gives_the_values_and_the_intervals_of_the_texts(name):
    metric = find(name)
    kind = "mean_3class_f1" if name == "each_3class_f1" else name
    targets, predictions = examples_of(kind, 12, 3)
    measured = measure(metric, targets, predictions)
    units = of_statistics(metric, json.loads(json.dumps(measured.parts)))
    assert measured.kind == "statistics"
    values = metric.of_units(units, np.ones(len(units), np.int64))
    assert values == pytest.approx(metric(targets, predictions), rel=1e-12, nan_ok=True)
    stored = unit_intervals(metric, units, level=0.9, resamples=20)
    drawn = confidence_intervals(metric, targets, predictions, level=0.9, resamples=20)
    assert repr(stored) == repr(drawn)


def mean_length(targets, predictions):
    return {"length": np.float32(np.mean([len(p) for p in predictions]))}


def median_length(targets, predictions):
    predictions.sort(key=len)  # what it does to its arguments is its own
    return {"median": float(np.median([len(p) for p in predictions]))}


def on_two(targets, predictions):
    return {"spread": float(np.std([len(p) for p in predictions], ddof=1))}


def nothing_right(targets, predictions):
    return {"right": 0.0 if len(targets) > 4 else 1.0}


def test_of_a_users_function_the_values_of_single_examples_are_stored_if_they_give_the_whole():
    targets = list("abcdefgh")
    predictions = ["x" * n for n in (3, 1, 4, 1, 5, 9, 2, 6)]
    measured = measure(mean_length, targets, predictions)
    assert [part["length"] for part in measured.parts] == [3, 1, 4, 1, 5, 9, 2, 6]
    assert measured.kind == "scores"
    metric, units = of_scores("mean_length", measured.parts)
    drawn = confidence_intervals(as_metric(mean_length), targets, predictions, resamples=50)
    stored = unit_intervals(metric, units, level=0.95, resamples=50)
    assert stored["length"] == pytest.approx(drawn["length"], rel=1e-6)
    reasons = {
        median_length: "none: the mean over single examples is not its value",
        nothing_right: "none: the mean over single examples is not its value",
        on_two: "none: it has no value of a single example",
        lambda targets, predictions: {"x": math.nan}: "none: a value is not finite",
        lambda targets, predictions: {}: "none: it has no values",
    }
    before = list(predictions)
    for function, reason in reasons.items():
        measured = measure(function, targets, predictions)
        assert (measured.kind, measured.parts) == (reason, None)
    assert predictions == before


def test_a_function_that_is_slow_on_single_examples_is_left_alone(monkeypatch):
    monkeypatch.setattr("t5jax.tasks.metrics.examples.LONGEST", 0.0)
    measured = measure(lambda targets, predictions: {"one": 1.0}, ["a"] * 5, ["b"] * 5)
    assert measured.kind.startswith("none: 1 single examples took more than 0 s")


def test_a_metric_object_of_a_users_is_no_built_in_one_whatever_its_name():
    mine = Metric(
        "accuracy", "half of ours", lambda t, p: (t == p, 2), lambda s: {"a": s[0] / s[1]}
    )
    measured = measure(mine, ["a", "b"], ["a", "c"])
    assert (measured.values, measured.kind) == ({"a": 0.25}, "scores")
    assert measure(each_class_f1(3), [0, 1], [0, 1]).kind == "statistics"


def changed(evaluations, tmp_path, change):
    """A copy of A whose metrics and rows `change` has changed in place."""
    metrics, rows = content(evaluations / "A")
    change(metrics, rows)
    folder = tmp_path / "changed"
    folder.mkdir(exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "predictions.jsonl").write_text("".join(line + "\n" for line in lines))
    return folder


def older(metrics, rows):
    del metrics["per_example"]
    for row in rows:
        del row["scores"]


def bleu_instead(metrics, rows):
    metrics["per_example"]["accuracy"] = "statistics"
    for row in rows:
        del row["scores"]
        row["statistics"] = {"accuracy": [1, 1]}


def put(path, value):
    def change(metrics, rows):
        place = {"metrics": metrics, "rows": rows}
        *parents, last = path
        for key in parents:
            place = place[key]
        place[last] = value

    return change


SCORE = ("rows", 2, "scores", "accuracy", "accuracy")
CHANGES = {
    "a score": (put(SCORE, 1 - 0.25), "gives accuracy=", "says 0."),
    "a value": (put(("metrics", "accuracy"), 0.9), "gives accuracy=", "says 0.9"),
    "no value": (put(("metrics", "accuracy"), None), "gives accuracy=", "says None"),
    "a text for a value": (put(("metrics", "accuracy"), "x"), "metrics.json: accuracy: 'x'"),
    "nan": (put(SCORE, math.nan), "predictions.jsonl, line 3: scores.accuracy.accuracy: nan"),
    "true": (put(SCORE, True), "line 3: scores.accuracy.accuracy: True"),
    "huge": (put(SCORE, 10**400), "line 3: scores.accuracy.accuracy: "),
    "text": (put(SCORE, "1"), "line 3: scores.accuracy.accuracy: '1'"),
    "list": (put(("rows", 1, "scores"), []), "line 2: scores: []"),
    "other name": (
        put(("rows", 1, "scores"), {"accuracy": {"a": 1}}),
        "example 2 has values ['a']",
    ),
    "lacking": (put(("rows", 1, "scores"), {}), "line 2 has no scores of metric accuracy"),
    "inputs": (put(("rows", 7, "inputs"), 7), "line 8: inputs: 7"),
    "null": (put(("rows", 4), None), "line 5: None"),
    "a number": (put(("rows", 4), 10**5), "line 5: 100000"),
    "cut": (put(("rows", 7), '{"inputs": "x", "tar'), "line 8 is not JSON"),
    "fewer": (lambda metrics, rows: rows.pop(), "has 7 lines, but", "says 8 examples"),
    "empty": (lambda metrics, rows: rows.clear(), "predictions.jsonl is empty"),
    "deep": (put(("rows", 0), "[" * 10**5), "line 1 is no JSON that can be read"),
    "metrics": (put(("metrics", "metrics"), "accuracy"), "metrics.json: metrics: 'accuracy'"),
    "per_example": (put(("metrics", "per_example"), []), "metrics.json: per_example: []"),
    "older": (older, "an older t5jax wrote it", "run `t5jax eval` again"),
    "statistics": (bleu_instead, "metric accuracy is another one in"),
    "other task": (put(("rows", 0, "inputs"), "x"), "line 1 is about other inputs: 'review: dull"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_file_that_was_changed_is_one_line_that_names_it(evaluations, tmp_path, capsys, case):
    change, *words = CHANGES[case]
    folder = changed(evaluations, tmp_path, change)
    error = error_of(
        capsys, "compare", evaluations / "A" / "compare_own", folder / "predictions.jsonl"
    )
    assert all(word in error for word in words), error


def test_damaged_statistics_are_told(evaluations, tmp_path, capsys):
    for part, message in (
        ([1], "line 1 has 1, the first"),
        (["x", 1], "line 1: 0: 'x'"),
        ([[1], 1], "line 1: 0: [1]"),
        ([1e308, 1e308, 1], "damaged"),
        ([], "damaged"),
    ):

        def change(metrics, rows, part=part):
            metrics["per_example"] = {"accuracy": "statistics"}
            metrics["metrics"] = ["accuracy"]
            for row in rows:
                row["statistics"] = {"accuracy": [1, 1]}
                row["scores"] = {}
            metrics["accuracy"] = 100.0
            rows[0]["statistics"]["accuracy"] = part

        folder = changed(evaluations, tmp_path, change)
        error = error_of(capsys, "compare", folder, folder)
        assert message.replace("line 1", "line") in error.replace("line 1", "line") or (
            "damaged" in error
        ), error


def test_predictions_without_scores_need_a_metric_by_name(evaluations, tmp_path, capsys):
    folder = changed(evaluations, tmp_path, older)
    (folder / "metrics.json").unlink()
    file = folder / "predictions.jsonl"
    error = error_of(capsys, "compare", file, file)
    assert "no scores of its task's metrics; run `t5jax eval` again, or name" in error
    lines, _ = compared(capsys, file, file, "--metric", "squad", "--metric", "chrf")
    assert list(lines) == ["em", "f1", "chrf"]
    for name, message in (
        ("squat", "no metric is called 'squat'; did you mean squad, "),
        ("f1_score_with_invalid", "metric f1_score_with_invalid: target 'n…' must be 0 or 1"),
        ("record", "metric record does not fit targets like 'n…'"),
    ):
        assert message in error_of(capsys, "compare", file, file, "--metric", name)


def test_other_mistakes_of_compare_are_one_line(evaluations, tmp_path, capsys):
    a = evaluations / "A"
    for words, message in {
        (a, tmp_path / "none"): "none is not there; `t5jax eval` writes it",
        (a, a, "--ranked"): "line 1 has no 'ranked'; `t5jax eval --rank` writes it",
        (a, a, "--confidence", "2"): "--confidence: '2' must be a number, more than 0 and less",
        (a, a, "--confidence", "nan"): "--confidence: 'nan' must be a number, more than 0 and less",
        (a, a, "--resamples", "0"): "--resamples: '0' must be a whole number, from 1 to 1000000",
        (a, a, "--resamples", str(10**12)): "must be a whole number, from 1 to 1000000",
        (a, a, "--seed", "-1"): "--seed: '-1' must be a whole number, at least 0",
    }.items():
        assert message in error_of(capsys, "compare", *words), words


def test_ranked_answers_have_scores_of_their_own(tmp_path, capsys):
    def rows(best):
        return [
            {
                "inputs": text,
                "targets": LABELS[i % 3],
                "prediction": "x",
                "ranked": best(i),
                "ranked_statistics": {"exact_match": [int(best(i) == LABELS[i % 3]), 1]},
                "statistics": {"exact_match": [0, 1]},
            }
            for i, text in enumerate(INPUTS)
        ]

    for name, best, value in (("a", lambda i: LABELS[i % 3], 1.0), ("b", lambda i: "so-so", 0.25)):
        folder = tmp_path / name
        folder.mkdir()
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows(best))
        (folder / "predictions.jsonl").write_text("".join(lines), encoding="utf-8")
        kinds = {"exact_match": "statistics"}
        (folder / "metrics.json").write_text(
            json.dumps(
                {"metrics": ["exact_match"], "exact_match": 0.0, "rank_exact_match": value}
                | {"per_example": kinds, "rank_per_example": kinds}
            )
        )
    files = [tmp_path / name / "predictions.jsonl" for name in "ab"]
    lines, _ = compared(capsys, *files, "--ranked")
    assert lines["exact_match"][:3] == ["1.0000", "0.2500", "-0.7500"]
    assert compared(capsys, *files)[0]["exact_match"][:2] == ["0.0000", "0.0000"]
