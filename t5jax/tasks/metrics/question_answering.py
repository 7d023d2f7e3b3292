"""T5's metrics of question answering, in percent: SQuAD, TriviaQA, ReCoRD, MultiRC.

Targets of ReCoRD and MultiRC are `{"value": …, "group": …}`, as T5's postprocessors make them;
predictions are `{"value": …}` or the value. A group is any JSON value.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from t5jax.tasks.metrics.base import Grouped, Metric, Row, Target, accepted, built_in, percentages
from t5jax.tasks.metrics.classification import binary_cells, binary_f1

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_DELETED = str.maketrans("", "", string.punctuation)
_BLANKED = str.maketrans(dict.fromkeys(string.punctuation + "‘’´`", " "))


def normalize_squad(text: str) -> str:
    """Lower case, without ASCII punctuation and articles, with single spaces."""
    return _normalize(text, _DELETED)


def normalize_trivia_qa(text: str) -> str:
    """Like `normalize_squad`, with spaces for punctuation, typographic quotes included."""
    return _normalize(text, _BLANKED)


def _normalize(text: str, punctuation: Mapping[int, Any]) -> str:
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(punctuation)).split())


def word_f1(target: str, prediction: str) -> float:
    """The F1 of words, counted with repetition.

    0 without a common word, also for two empty texts, as in SQuAD's script.
    """
    right, predicted = target.split(), prediction.split()
    shared = (Counter(right) & Counter(predicted)).total()
    return 2 * shared / (len(right) + len(predicted)) if shared else 0.0


def _answers(normalize: Callable[[str], str]) -> Callable[[Target, str], Row]:
    def example(target: Target, prediction: str) -> Row:
        answers = [normalize(answer) for answer in accepted(target)]
        predicted = normalize(prediction)
        return predicted in answers, max(word_f1(answer, predicted) for answer in answers), 1

    return example


def answer_of_span(span: str, context: str) -> str:
    """The words of the context that a text like `start: 3 end: 4` names, or ""."""
    parts = re.sub(r"\W", " ", span).split()
    try:
        first, last = int(parts[1]), int(parts[3])
    except (IndexError, ValueError):
        return ""
    # Words are counted as in T5's targets: two separators enclose a word, perhaps empty.
    ends = [*(found.start() for found in re.finditer(r"\W", context, re.ASCII)), len(context)]
    starts = [0, *(end + 1 for end in ends[:-1])]
    if first > last or first >= len(starts):
        return ""
    return context[starts[first] : ends[min(last, len(ends) - 1)]]


def _span(target: Mapping[str, Any], prediction: str) -> Row:
    return _answers(normalize_squad)(
        target["answers"], answer_of_span(prediction, target["context"])
    )


def _group(target: Mapping[str, Any]) -> Hashable:
    return _hashable(target.get("group"))


def _hashable(value: Any) -> Hashable:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value


def _value(prediction: Any) -> Any:
    return prediction["value"] if isinstance(prediction, Mapping) else prediction


def _record(target: Mapping[str, Any], prediction: Any) -> Row:
    return _group(target), *_answers(normalize_squad)(target["value"], _value(prediction))


def _multirc_cells(target: Mapping[str, Any], prediction: Any) -> Row:
    return _group(target), *binary_cells(_value(target), _value(prediction))


def _multirc_right(target: Mapping[str, Any], prediction: Any) -> Row:
    return _group(target), bool(target["value"] == _value(prediction))


def _sum_of_group(rows: Sequence[Row]) -> Sequence[float]:
    return [sum(column) for column in zip(*(row[1:] for row in rows), strict=True)]


squad = built_in(
    Metric(
        "squad",
        "`em` and `f1`: the percentage of predictions equal to an accepted answer, and the mean "
        "F1 of words with the answer nearest by it, both after SQuAD's normalisation.",
        _answers(normalize_squad),
        percentages("em", "f1"),
    )
)
span_squad = built_in(
    Metric(
        "span_squad",
        "`em` and `f1` as SQuAD's, of the text that a prediction like `start: 3 end: 4` names in "
        "the context. Words are counted as in T5's targets; T5's metric counts them differently, "
        "and takes the targets' own spans after punctuation for wrong.",
        _span,
        percentages("em", "f1"),
    )
)
trivia_qa = built_in(
    Metric(
        "trivia_qa",
        "`em` and `f1` as SQuAD's, after TriviaQA's normalisation: punctuation becomes blanks.",
        _answers(normalize_trivia_qa),
        percentages("em", "f1"),
    )
)
record = built_in(
    Grouped(
        "record",
        "`em` and `f1` as SQuAD's, over queries: the first example of each group counts.",
        _record,
        percentages("em", "f1"),
        lambda rows: rows[0][1:],
    )
)
multirc_f1_over_all_answers = built_in(
    Grouped(
        "multirc_f1_over_all_answers",
        "`f1`: the F1 of class 1 (true) over the answers to all questions, in percent; a "
        "prediction other than true and false counts as wrong.",
        _multirc_cells,
        binary_f1,
        _sum_of_group,
    )
)
multirc_exact_match = built_in(
    Grouped(
        "multirc_exact_match",
        "`exact_match`: the percentage of questions all of whose answers are judged right; the "
        "metric `exact_match` is a fraction.",
        _multirc_right,
        percentages("exact_match"),
        lambda rows: (all(right for _, right in rows), 1),
    )
)
