"""Tasks that are answered with one of a few texts: names of classes, or each example's choices.

For those a model can be asked which answer it finds likeliest, beside what it writes: it then
never gives an answer that is none. A task's module declares the texts behind the task:

    seqio.TaskRegistry.add("sentiment", …)
    set_answers("sentiment", ("negative", "positive"))
    set_answers("record", lambda example: [x.decode() for x in example["entities"]])

and `t5jax eval --rank` scores every answer of every example, takes the best, and computes the
task's own metrics of it, as `rank_accuracy` beside `accuracy`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

# Of an example, with all features that the task's preprocessors left in it.
AnswersOf = Callable[[Mapping[str, Any]], Sequence[str]]

_ANSWERS: dict[str, tuple[str, ...] | AnswersOf] = {}


def set_answers(task: str, answers: Sequence[str] | AnswersOf) -> None:
    """Declares what a task may be answered with.

    Args:
      task: the name that it is, or will be, registered under.
      answers: texts as they stand in its targets before tokenization, the same for every example;
        or a function that gives those of an example, one or more.

    Raises:
      ValueError: fewer than two, two alike, or others were declared for this task before.
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
    """What was declared for the task; None: nothing."""
    return _ANSWERS.get(task)


def declared() -> Mapping[str, tuple[str, ...] | AnswersOf]:
    """What was declared for all tasks, by name."""
    return _ANSWERS
