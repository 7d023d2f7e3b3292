"""Answers of tasks with a few possible texts: names of classes, or each example's choices.

`t5jax eval --rank` scores every answer of every example, takes the likeliest, and computes the
task's metrics of it, as `rank_accuracy` beside `accuracy`. A ranked answer is always valid. A
task's module declares its answers:

    seqio.TaskRegistry.add("sentiment", …)
    set_answers("sentiment", ("negative", "positive"))
    set_answers("record", lambda example: [x.decode() for x in example["entities"]])
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

# A function of a preprocessed example with all its features.
AnswersOf = Callable[[Mapping[str, Any]], Sequence[str]]

_ANSWERS: dict[str, tuple[str, ...] | AnswersOf] = {}


def set_answers(task: str, answers: Sequence[str] | AnswersOf) -> None:
    """Declares a task's possible answers.

    Args:
      task: its registered name; it may be registered later.
      answers: texts as in its targets before tokenization, for all examples; or a function from an
        example to at least one text.

    Raises:
      ValueError: fewer than two texts, a repeated text, or the task has other answers already.
    """
    if callable(answers):
        _ANSWERS[task] = answers
        return
    texts = tuple(answers)
    if isinstance(answers, str) or len(set(texts)) < max(2, len(texts)):
        raise ValueError(f"task {task}: answers={answers!r} must be two or more different texts")
    if _ANSWERS.setdefault(task, texts) != texts:
        raise ValueError(f"task {task} is answered with {_ANSWERS[task]}, not with {texts}")


def answers_of(task: str) -> tuple[str, ...] | AnswersOf | None:
    """The task's declared answers, or None."""
    return _ANSWERS.get(task)


def declared() -> Mapping[str, tuple[str, ...] | AnswersOf]:
    """All declared answers, by task."""
    return _ANSWERS
