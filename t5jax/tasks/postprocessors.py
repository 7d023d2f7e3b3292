"""Postprocessors: from a text to the values that metrics compare.

seqio calls them for targets and predictions; `example` is the preprocessed example.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from t5jax.tasks.faults import Example


def label_index(labels: tuple[str, ...]) -> Callable[..., int]:
    """A postprocessor: the label's index, or -1 for another text."""

    def postprocess(output: str, **unused: object) -> int:
        return labels.index(output) if output in labels else -1

    return postprocess


def number(output: str, **unused: object) -> float:
    """The text as a number, or -1.0."""
    try:
        return float(output)
    except ValueError:
        return -1.0


def multirc(
    output: str, example: Example | None = None, is_target: bool = False, **unused: object
) -> dict[str, Any]:
    """`value`, the label's index; a target also has its question as `group`."""
    value = label_index(("False", "True"))(output)
    return {"value": value} | (
        {"group": int(example["idx/question"])} if is_target and example else {}
    )


def record(
    output: str, example: Example | None = None, is_target: bool = False, **unused: object
) -> dict[str, Any]:
    """`value`, the text; for a target all right answers, and passage and query as `group`."""
    if is_target and example:
        group = (int(example["idx/passage"]), int(example["idx/query"]))
        return {"value": answers(output, example, is_target), "group": group}
    return {"value": output}


def answers(
    output: str, example: Example | None = None, is_target: bool = False, **unused: object
) -> str | list[str]:
    """A target becomes a list of all right answers."""
    if is_target and example:
        return [answer.decode("utf-8") for answer in example["answers"]]
    return output


def answers_in_context(
    output: str, example: Example | None = None, is_target: bool = False, **unused: object
) -> str | dict[str, Any]:
    """A target becomes its right `answers` and their `context`."""
    if is_target and example:
        context = bytes(example["context"]).decode("utf-8")
        return {"answers": answers(output, example, is_target), "context": context}
    return output


def one_answer(output: str, is_target: bool = False, **unused: object) -> str | list[str]:
    """A target becomes a list of one answer."""
    return [output] if is_target else output


_DETERMINERS = frozenset(
    "a an few her his each every many much my our some that the their these this those which "
    "whose your".split()
)


def referent(output: str, example: Example, is_target: bool = False, **unused: object) -> int:
    """Whether the prediction names the row's noun: 1 or 0, or -1 if it is empty.

    A target becomes the row's label. Determiners and case are ignored. One may have more words than
    the other ("bunny", "fuzzy bunny"), but both or neither have an apostrophe: "Bob" is not "Bob's
    hat". A noun of determiners only is never named.
    """
    if is_target:
        return int(example["label"])
    predicted = _without_determiners(output)
    if not predicted:
        return -1
    noun = _without_determiners(bytes(example["targets_pretokenized"]).decode("utf-8"))
    if ("'" in predicted) != ("'" in noun):
        return 0
    # Split at each space, as in T5: an empty noun is one empty word, which a prediction has only
    # where two spaces meet.
    words, nouns = set(predicted.split(" ")), set(noun.split(" "))
    return int(words <= nouns or nouns <= words)


def _without_determiners(text: str) -> str:
    words = text.strip().lower().split(" ")
    return " ".join(word for word in words if word not in _DETERMINERS)
