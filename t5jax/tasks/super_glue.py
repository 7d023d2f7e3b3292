"""SuperGLUE as text, and definite pronoun resolution (DPR), more training data for its WSC.

boolq passage: … question: …                         ->  True
multirc question: … answer: … paragraph: …           ->  False
record query: … entities: …, … passage: …            ->  one of the answers
wsc: The dog wagged *its* tail                       ->  The dog
"""

from __future__ import annotations

import tensorflow as tf

from t5jax.tasks import metrics
from t5jax.tasks.behind_sentinel import with_sentinel
from t5jax.tasks.glue import Classification, add_classification, named_fields
from t5jax.tasks.metrics import (
    accuracy,
    mean_multiclass_f1,
    multirc_exact_match,
    multirc_f1_over_all_answers,
)
from t5jax.tasks.postprocessors import label_index, multirc, record, referent
from t5jax.tasks.ranking import set_answers
from t5jax.tasks.text import UNKNOWN, RawExample, add_task, each, escaped, label_text

_BOOLEAN = ("False", "True")
_ENTAILMENT = ("entailment", "not_entailment")
_CB = ("entailment", "contradiction", "neutral")


TASKS = (
    Classification("boolq", ("passage", "question"), _BOOLEAN),
    Classification("cb", ("hypothesis", "premise"), _CB, (mean_multiclass_f1(3), accuracy)),
    Classification("copa", ("choice1", "choice2", "premise", "question"), ("choice1", "choice2")),
    Classification("rte", ("hypothesis", "premise"), _ENTAILMENT),
    Classification("wic", ("sentence1", "sentence2", "word"), _BOOLEAN),
    Classification("axb", ("hypothesis", "premise"), _ENTAILMENT, (), "rte", ("test",)),
    Classification("axg", ("hypothesis", "premise"), _ENTAILMENT, (), "rte", ("test",)),
)


def broad_coverage(row: RawExample) -> dict[str, tf.Tensor]:
    """AX-b with the field names of RTE."""
    return {
        "premise": row["sentence1"],
        "hypothesis": row["sentence2"],
        "label": row["label"],
        "idx": row["idx"],
    }


def judge_answer(row: RawExample) -> dict[str, tf.Tensor]:
    """MultiRC: whether an answer is right; HTML in paragraphs is removed.

    Metrics use `idx/paragraph`, `idx/question` and `idx/answer`.
    """
    text = named_fields(row, "multirc", ("question", "answer", "paragraph"))
    text = tf.strings.regex_replace(text, "<br>", " ")
    return {
        "inputs": tf.strings.regex_replace(text, "</?b>", ""),
        "targets": label_text(row["label"], _BOOLEAN),
        **{f"idx/{part}": row["idx"][part] for part in ("paragraph", "question", "answer")},
    }


def fill_placeholder(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """ReCoRD: an example for each right answer, or one with `<unk>` if none is published.

    A passage's highlights become sentences. Metrics use `answers` (string [n]), `idx/passage` and
    `idx/query`; `entities` (string [m]) can be ranked.
    """

    def ask(row: RawExample) -> tf.data.Dataset:
        passage = tf.strings.regex_replace(row["passage"], r"([.?!\"'])\n@highlight\n", r"\1 ")
        passage = tf.strings.regex_replace(passage, r"\n@highlight\n", ". ")
        entities = tf.strings.reduce_join(row["entities"], separator=", ")
        parts = ["record query:", row["query"], "entities:", entities, "passage:", passage]
        common = {
            "inputs": tf.strings.join(parts, separator=" "),
            "answers": row["answers"],
            "entities": row["entities"],
            "idx/passage": row["idx"]["passage"],
            "idx/query": row["idx"]["query"],
        }
        none = tf.equal(tf.size(row["answers"]), 0)
        targets = tf.cond(none, lambda: tf.constant([UNKNOWN]), lambda: row["answers"])
        each_target = tf.data.Dataset.from_tensor_slices(targets)
        return each_target.map(lambda target: {**common, "targets": target})

    return dataset.flat_map(ask)


def mark_spans(row: RawExample) -> dict[str, tf.Tensor]:
    """WSC in T5's first format: ` * ` around the noun, ` # ` around the pronoun."""

    def mark(text: tf.Tensor, span: tf.Tensor, index: tf.Tensor, sign: str) -> tf.Tensor:
        before = tf.strings.join([r"^((?:\S+\s){", tf.strings.as_string(index), "})"])
        pattern = tf.strings.join([before, "(", escaped(span), ")"])
        return tf.strings.regex_replace(text, pattern, rf"\1{sign} \2 {sign}")

    noun, pronoun = row["span1_index"], row["span2_index"]
    text = mark(row["text"], row["span1_text"], noun, "*")
    # The two signs count as words.
    text = mark(text, row["span2_text"], pronoun + 2 * tf.cast(noun < pronoun, tf.int32), "#")
    return {
        "inputs": tf.strings.join(["wsc text:", text], separator=" "),
        "targets": label_text(row["label"], _BOOLEAN),
        "idx": row["idx"],
    }


def resolve_pronoun(row: RawExample) -> dict[str, tf.Tensor]:
    """WSC in T5's simple format: `*` around the pronoun; the target is the noun.

    Two rows have a wrong place of the pronoun, or a comma in its word. So the nearest word that
    begins with the pronoun is marked, and its rest is split off. `label`: the noun is right.
    """
    words = tf.strings.split(row["text"], " ")
    # Not a longer word, such as "item" for "it", whose rest begins with a letter.
    pattern = tf.strings.join(["^", escaped(row["span2_text"]), r"(\W.*)?$"])
    fits = tf.strings.regex_replace(words, pattern, "") != words
    far = tf.size(words)
    distance = tf.where(fits, tf.abs(tf.range(far) - row["span2_index"]), tf.int32.max)
    here = fits & (tf.range(far) == tf.argmin(distance, output_type=tf.int32))
    mark = tf.strings.regex_replace(
        words, pattern, tf.strings.join(["*", row["span2_text"], r"* \1"])
    )
    text = tf.strings.reduce_join(tf.where(here, tf.strings.strip(mark), words), separator=" ")
    alone = tf.reduce_any(here & (words == row["span2_text"]))
    return {
        # The row with the comma also ends in a space, which T5 drops only there.
        "inputs": tf.strings.join(
            ["wsc:", tf.where(alone, text, tf.strings.strip(text))], separator=" "
        ),
        "targets": row["span1_text"],
        "label": row["label"],
        "idx": row["idx"],
    }


def right_ones(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The rows with label 1: the pronoun refers to the noun."""
    return dataset.filter(lambda row: tf.equal(row["label"], 1))


def resolve_candidates(row: RawExample) -> dict[str, tf.Tensor]:
    """DPR in the same format, with the first occurrence of the pronoun marked."""
    pattern = tf.strings.join([" (", row["pronoun"], r")( |\.|,)"])
    text = tf.strings.regex_replace(row["sentence"], pattern, r" *\1*\2", replace_global=False)
    return {
        "inputs": tf.strings.join(["wsc:", text], separator=" "),
        "targets": tf.gather(row["candidates"], row["label"]),
    }


for _task in TASKS:
    add_classification(
        f"super_glue_{_task.name}_v102",
        f"super_glue/{_task.name}:1.0.2",
        _task,
        [each(broad_coverage)] if _task.name == "axb" else [],
    )

add_task(
    "super_glue_multirc_v102",
    "super_glue/multirc:1.0.2",
    [each(judge_answer)],
    postprocess=multirc,
    metrics=[multirc_f1_over_all_answers, multirc_exact_match],
)
set_answers("super_glue_multirc_v102", _BOOLEAN)
add_task(
    "super_glue_record_v102",
    "super_glue/record:1.0.2",
    [fill_placeholder],
    postprocess=record,
    metrics=[metrics.record],
)
set_answers(
    "super_glue_record_v102",
    lambda example: [entity.decode() for entity in dict.fromkeys(example["entities"])],
)
add_task(
    "super_glue_wsc_v102",
    "super_glue/wsc.fixed:1.0.2",
    [each(mark_spans)],
    postprocess=label_index(_BOOLEAN),
    metrics=[accuracy],
)
set_answers("super_glue_wsc_v102", _BOOLEAN)
add_task(
    "super_glue_wsc_v102_simple_train",
    "super_glue/wsc.fixed:1.0.2",
    [right_ones, each(resolve_pronoun)],
    splits=("train",),
)
add_task(
    "super_glue_wsc_v102_simple_eval",
    "super_glue/wsc.fixed:1.0.2",
    [each(resolve_pronoun)],
    splits=("validation", "test"),
    postprocess=referent,
    metrics=[accuracy],
)
add_task(
    "dpr_v001_simple",
    "definite_pronoun_resolution:1.1.0",
    [each(resolve_candidates)],
    splits=("train", "test"),
    metrics=[accuracy],
)

for _name in (
    *(f"super_glue_{_task.name}_v102" for _task in TASKS),
    "super_glue_multirc_v102",
    "super_glue_record_v102",
    "super_glue_wsc_v102_simple_train",
    "super_glue_wsc_v102_simple_eval",
    "dpr_v001_simple",
):
    with_sentinel(_name)
