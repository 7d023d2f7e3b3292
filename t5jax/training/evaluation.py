"""Evaluation during training: its tasks, its generation options, and `training.keep_best`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from t5jax.config import RunConfig
from t5jax.decoding.options import GenerationOptions
from t5jax.engine.request import Request
from t5jax.evaluate import Evaluation
from t5jax.knobs import nearest
from t5jax.vocabulary import Vocabulary

# Metrics of the training step that `training.keep_best` may name.
TRAINED = ("loss", "accuracy", "z_loss", "grad_norm", "param_norm")
_EXAMPLES = 100  # metrics are tried on these before training


def make_evaluation(config: RunConfig, vocabulary: Vocabulary) -> Evaluation | None:
    """The run's evaluation, or None. Tries its metrics on the targets.

    Raises:
      ValueError: an unknown task, a metric that fails, or an unknown `training.keep_best`.
    """
    evaluation = None
    if config.eval.tasks:
        evaluation = Evaluation(
            config.eval.tasks,
            vocabulary,
            split=config.eval.split,
            lengths=config.data.lengths,
            examples=config.eval.examples,
            batch=config.eval.batch,
            pad=config.model.pad_token_id,
        )
    names = [] if evaluation is None else _names(evaluation, _EXAMPLES)
    best = config.training.keep_best
    if best and best not in (*TRAINED, *names):
        # Some examples may lack a value, so try all of them.
        names = [] if evaluation is None else _names(evaluation, None)
        if best not in names:
            tasks = "" if config.eval.tasks else " (eval.tasks is empty)"
            raise ValueError(
                f"training.keep_best={best!r} is no metric of this run{tasks}; {_hint(best, names)}"
            )
    return evaluation


def generation_options(config: RunConfig, vocabulary: Vocabulary) -> dict[str, Any]:
    """`eval.options`, with `max_new_tokens` from the configuration.

    Raises:
      ValueError: an unknown option, or options that conflict with one another or the model.
    """
    options: Mapping[Any, Any] = config.eval.options
    for name in options:
        if not isinstance(name, str):
            raise ValueError(f"eval.options: {name!r} is no option's name")
    longest = config.eval.max_new_tokens
    if longest is not None and "max_new_tokens" in options:
        raise ValueError(
            f"eval.max_new_tokens={longest} and eval.options.max_new_tokens="
            f"{options['max_new_tokens']} say the same; give one of them"
        )
    try:
        options = {"max_new_tokens": longest or config.data.lengths.targets, **options}
        Request.make(GenerationOptions(), options, config.model, vocabulary)
    except ValueError as error:
        raise ValueError(f"eval.options: {error}") from error
    return dict(options)


def _names(evaluation: Evaluation, examples: int | None) -> list[str]:
    found = evaluation.value_names(examples)
    return [f"{task}/{name}" for task, names in found.items() for name in names]


def _hint(best: str, names: list[str]) -> str:
    task = best.rpartition("/")[0]
    if of_task := [name for name in names if name.startswith(f"{task}/")]:
        return f"it has {', '.join(of_task)}"
    known = [*names, *TRAINED]
    return nearest(best, known, most=3, otherwise=f"it has {', '.join(known)}")
