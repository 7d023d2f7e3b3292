"""One task's values: of its metrics, of seqio's metric objects, and of the targets' losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import seqio

from t5jax import user_code
from t5jax.tasks.metrics import bits_per_byte, perplexity
from t5jax.tasks.metrics.examples import numbers_of
from t5jax.text2text import Text2Text

# Fields of metrics.json that are not values.
_ABOUT = (
    "task metrics per_example rank_per_example options confidence resamples targets_cut split step "
    "checkpoint"
).split()


class Values:
    """A task's values by name; each name has one origin."""

    def __init__(self, task: str) -> None:
        self.by_name: dict[str, float] = {}
        self._task = task
        self._origins = dict.fromkeys(_ABOUT, "metrics.json itself")

    def add(self, origin: str, values: Mapping[str, float]) -> None:
        """Adds values; ValueError for a name that another origin has given."""
        for name, value in values.items():
            if name in self._origins:
                raise ValueError(
                    f"task {self._task}: {self._origins[name]} and {origin} both have a value "
                    f"called {name!r}; let the task's metric call its own otherwise"
                )
            self.by_name[name] = value
        self._origins |= dict.fromkeys(values, origin)


def of_objects(
    each: seqio.Evaluator,
    task: seqio.Task,
    predicted: np.ndarray,
    predicted_scores: np.ndarray,
    scores: np.ndarray,
) -> dict[str, float]:
    """Values that seqio computes for a task with `metric_objs`, metric functions included."""
    if len(task.metric_objs) == len(task.metric_fns):
        return {}
    order = range(len(predicted))  # seqio's order is the same
    with user_code.running(f"task {task.name}: metric_objs"):
        results, _ = each.evaluate(
            compute_metrics=True,
            predict_fn=lambda _: list(zip(order, predicted, strict=True)),
            score_fn=lambda _: list(zip(order, scores, strict=True)),
            predict_with_aux_fn=lambda _: (
                list(zip(order, predicted, strict=True)),
                {"scores": predicted_scores.tolist()},
            ),
        )
        return numbers_of(results.result()[task.name], "metric_objs")


LOSSES = ("loss", "perplexity", "bits_per_byte", "examples")


def losses(
    t5: Text2Text, scores: np.ndarray, targets: np.ndarray, texts: Sequence[str]
) -> dict[str, float]:
    """float[B] log-probabilities of targets int[B, T] -> loss per token, perplexity, bits per byte.

    EOS counts as a token, and costs bits without adding a byte.
    """
    nats = -float(scores.sum())
    rows = [ids[ids != t5.config.pad_token_id].tolist() for ids in targets]
    tokens = max(sum(map(len, rows)), 1)
    size = sum(
        # A cut target, without EOS, is only a part of its text.
        len((text if t5.config.eos_token_id in ids else t5.vocabulary.decode(ids)).encode())
        for ids, text in zip(rows, texts, strict=True)
    )
    values = {"loss": nats / tokens, "perplexity": perplexity(nats, tokens)}
    if size:
        values["bits_per_byte"] = bits_per_byte(nats, size)
    return values
