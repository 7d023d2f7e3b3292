"""Reading comprehension as text: `question: … context: …` -> the answer."""

from __future__ import annotations

from collections.abc import Mapping

import seqio
import tensorflow as tf

from t5jax.tasks import metrics
from t5jax.tasks.postprocessors import answers, answers_in_context, one_answer
from t5jax.tasks.text import RawExample, add_task, each, escaped, one_blank, spaced


def _ask(question: tf.Tensor, context: tf.Tensor) -> tf.Tensor:
    return one_blank(tf.strings.join(["question:", question, "context:", context], separator=" "))


def squad(row: RawExample, with_context: bool = True) -> dict[str, tf.Tensor]:
    """SQuAD, with spaces around punctuation. The target is the first answer; metrics get all.

    Without the context (`squad trivia question: …`) a model has to know the answer.
    """
    right = spaced(row["answers"]["text"])
    question, context = spaced(row["question"]), spaced(row["context"])
    alone = one_blank(tf.strings.join(["squad trivia question:", question], separator=" "))
    return {
        "inputs": _ask(question, context) if with_context else alone,
        "targets": right[0],
        "id": row["id"],
        "question": question,
        "context": context,
        "answers": right,
    }


def spans(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """SQuAD with the answer's position as the target: `start: 3 end: 4`.

    Words are counted from 0; `end` is inclusive. As in T5, each character other than an ASCII
    letter, digit or underscore separates words, so two of them enclose an empty word, which counts;
    and examples whose answer is not in the context, or at its end, are dropped.
    """

    def words(text: tf.Tensor) -> tf.Tensor:
        return tf.strings.split(tf.strings.regex_replace(text, r"\W", " "), sep=" ")

    def place(example: RawExample) -> dict[str, tf.Tensor]:
        context, answer = words(example["context"]), words(example["targets"])
        numbers = tf.unique(tf.concat([context, answer], axis=0)).idx
        size = tf.size(answer)
        windows = tf.signal.frame(numbers[: tf.size(context)], size, 1)[:-1]
        found = tf.where(tf.reduce_all(windows == numbers[tf.size(context) :], axis=1))[:, 0]
        start = tf.cast(tf.concat([found, [-1]], axis=0)[0], tf.int32)
        span = tf.strings.format("start: {} end: {}", [start, start + size - 1])
        return {**example, "targets": tf.where(start < 0, "", span)}

    return dataset.map(place, num_parallel_calls=tf.data.AUTOTUNE).filter(
        lambda example: example["targets"] != ""
    )


def trivia_qa(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """TriviaQA: an example for each context and each answer found in it, ignoring case.

    Contexts are the Wikipedia pages, then the search results. Metrics get all answers.
    """

    def ask(row: RawExample) -> tf.data.Dataset:
        contexts = tf.concat(
            [
                row[source][field]
                for source, field in (
                    ("entity_pages", "wiki_context"),
                    ("search_results", "search_context"),
                )
                if source in row
            ],
            axis=0,
        )
        contexts = spaced(contexts)
        right = spaced(row["answer"]["normalized_aliases"])
        lower = tf.strings.lower(contexts)

        def holds(answer: tf.Tensor) -> tf.Tensor:
            pattern = tf.strings.join([".*", escaped(tf.strings.lower(answer)), ".*"])
            return tf.strings.regex_full_match(lower, pattern)

        found = tf.map_fn(holds, right, fn_output_signature=tf.bool)  # [answers, contexts]
        pairs = tf.where(tf.transpose(found))
        question = spaced(row["question"])

        def example(pair: tf.Tensor) -> dict[str, tf.Tensor]:
            inputs = _ask(question, contexts[pair[0]])
            return {"inputs": inputs, "targets": right[pair[1]], "answers": right}

        return tf.data.Dataset.from_tensor_slices(pairs).map(example)

    return dataset.flat_map(ask)


def keep_answer(
    dataset: tf.data.Dataset, sequence_length: Mapping[str, int] | None = None
) -> tf.data.Dataset:
    """Cuts long inputs to a random part that contains the answer's ids.

    Examples with long inputs that do not contain them are dropped.
    """
    if sequence_length is None:
        return dataset
    longest = sequence_length["inputs"]

    def part(ids: tf.Tensor, answer: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        windows = tf.signal.frame(ids, tf.size(answer), 1)
        places = tf.where(tf.reduce_all(windows == answer, axis=1))[:, 0]
        if tf.size(places) == 0:
            return ids[:0]
        place = tf.cast(places[0], tf.int32)
        first = tf.maximum(0, place + tf.size(answer) - longest)
        last = tf.minimum(place, tf.size(ids) - longest)
        start = tf.random.stateless_uniform([], seed, first, last + 1, tf.int32)
        return ids[start : start + longest]

    @seqio.map_over_dataset(num_seeds=1)
    def cut(example: RawExample, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        ids = example["inputs"]
        if tf.size(ids) > longest:
            ids = part(ids, example["targets"], seed)
        return {**example, "inputs": ids}

    return cut(dataset).filter(lambda example: tf.size(example["inputs"]) > 0)


# The metrics of squad_v010 see one answer, as in T5.
for _name, _steps, _postprocess, _metric in (
    ("", [each(squad)], one_answer, metrics.squad),
    ("_allanswers", [each(squad)], answers, metrics.squad),
    ("_context_free", [each(squad, with_context=False)], answers, metrics.squad),
    ("_allanswers_span", [each(squad), spans], answers_in_context, metrics.span_squad),
):
    add_task(
        f"squad_v010{_name}",
        "squad/v1.1:3.0.0",
        _steps,
        splits=("train", "validation"),
        postprocess=_postprocess,
        metrics=[_metric],
    )
# T5 gives TriviaQA no metric, because it has an example for each context.
add_task(
    "trivia_qa_v010",
    "trivia_qa/rc:1.1.0",
    [trivia_qa],
    on_ids=[keep_answer],
    postprocess=answers,
    metrics=[metrics.trivia_qa],
)
