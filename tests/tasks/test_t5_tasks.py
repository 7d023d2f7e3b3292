"""T5's tasks: every format, on made-up data and on the examples of the paper's appendix D."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from t5jax.cli import main
from t5jax.config import DataConfig, LengthsConfig
from t5jax.data import TrainData
from t5jax.evaluate import Evaluation
from t5jax.evaluation.examples import count_cut
from t5jax.tasks import behind_sentinel, grammar, metrics, mixtures, postprocessors, registry, text
from t5jax.tasks.metrics import exact_match, question_answering
from t5jax.tasks.question_answering import keep_answer
from t5jax.tasks.source import output_features
from t5jax.vocabulary import ByteVocabulary

LENGTHS = {"inputs": 512, "targets": 512}
T5 = [
    name
    for name in registry.task_names()
    if name in seqio.TaskRegistry.names()
    and isinstance(seqio.TaskRegistry.get(name).source, text.TfdsSource)
]
# Configs that TFDS makes no more: they can be read only where they were prepared before.
GONE = {"c4_realnewslike_v020_unsupervised", "c4_webtextlike_v020_unsupervised"}


def made(task: str, *rows: dict) -> list[dict]:
    """What the task makes of rows before it tokenizes them; their types are those of TFDS."""
    provider = registry.get(task)
    types = tfds.builder(provider.source.name).info.features.get_tensor_spec()

    def given(row, types):
        return {k: given(v, types[k]) if isinstance(v, dict) else types[k] for k, v in row.items()}

    dataset = tf.data.Dataset.from_generator(
        lambda: iter(rows), output_signature=given(rows[0], types)
    )
    steps = list(provider.preprocessors)
    for step in steps[: steps.index(seqio.preprocessors.tokenize)]:
        dataset = step(dataset)
    return list(dataset.as_numpy_iterator())


def texts(examples: list[dict]) -> list[tuple[str, str]]:
    return [(example["inputs"].decode(), example["targets"].decode()) for example in examples]


# --- the published examples (arXiv:1910.10683, appendix D) ----------------------------------------

SQUAD = {
    "id": "56e1c5d8",
    "question": "What does increased oxygen concentrations in the patient's lungs displace?",
    "context": "Hyperbaric (high-pressure) medicine uses special oxygen chambers.",
    "answers": {"text": ["carbon monoxide", "CO."]},
}
PUBLISHED = [
    (
        "glue_cola_v002",
        {"sentence": "John made Bill master of himself.", "label": 1, "idx": 1},
        "cola sentence: John made Bill master of himself.",
        "acceptable",
    ),
    (
        "glue_rte_v002",
        {
            "sentence1": "A smaller proportion of Yugoslavia's Italians were settled in Slovenia.",
            "sentence2": "Slovenia has 3,000 inhabitants.",
            "label": 1,
            "idx": 1,
        },
        "rte sentence1: A smaller proportion of Yugoslavia's Italians were settled in Slovenia. "
        "sentence2: Slovenia has 3,000 inhabitants.",
        "not_entailment",
    ),
    (
        "glue_mnli_v002",
        {
            "hypothesis": "The St. Louis Cardinals have always won.",
            "premise": "yeah well losing is i mean i'm i'm originally from Saint Louis",
            "label": 2,
            "idx": 1,
        },
        "mnli hypothesis: The St. Louis Cardinals have always won. premise: yeah well losing is i "
        "mean i'm i'm originally from Saint Louis",
        "contradiction",
    ),
    (
        "glue_mrpc_v002",
        {
            "sentence1": "We acted because we saw the existing evidence in a new light .",
            "sentence2": "Rather , the US acted because the administration saw it .",
            "label": 1,
            "idx": 1,
        },
        "mrpc sentence1: We acted because we saw the existing evidence in a new light . sentence2: "
        "Rather , the US acted because the administration saw it .",
        "equivalent",
    ),
    (
        "glue_qnli_v002",
        {
            "question": "Where did Jebe die?",
            "sentence": "Genghis Khan recalled Subutai back to Mongolia soon afterwards, and Jebe "
            "died on the road back to Samarkand.",
            "label": 0,
            "idx": 1,
        },
        "qnli question: Where did Jebe die? sentence: Genghis Khan recalled Subutai back to "
        "Mongolia soon afterwards, and Jebe died on the road back to Samarkand.",
        "entailment",
    ),
    (
        "glue_qqp_v002",
        {
            "question1": "What attributes would have made you highly desirable in ancient Rome?",
            "question2": "How I GET OPPERTINUTY TO JOIN IT COMPANY AS A FRESHER?",
            "label": 0,
            "idx": 1,
        },
        "qqp question1: What attributes would have made you highly desirable in ancient Rome? "
        "question2: How I GET OPPERTINUTY TO JOIN IT COMPANY AS A FRESHER?",
        "not_duplicate",
    ),
    (
        "glue_sst2_v002",
        {"sentence": "it confirms fincher 's status as a film maker .", "label": 1, "idx": 1},
        "sst2 sentence: it confirms fincher 's status as a film maker .",
        "positive",
    ),
    (
        "glue_stsb_v002",
        {
            "sentence1": "Representatives for Puretunes could not immediately be reached.",
            "sentence2": "Puretunes representatives could not be located.",
            "label": 3.25,
            "idx": 1,
        },
        "stsb sentence1: Representatives for Puretunes could not immediately be reached. "
        "sentence2: Puretunes representatives could not be located.",
        "3.2",
    ),
    (
        "glue_wnli_v002",
        {"sentence1": "He fell.", "sentence2": "Bob fell.", "label": 1, "idx": 1},
        "wnli sentence1: He fell. sentence2: Bob fell.",
        "entailment",
    ),
    (
        "glue_ax_v002",
        {"hypothesis": "The cat sat.", "premise": "The cat did not sit.", "label": -1, "idx": 1},
        "mnli hypothesis: The cat sat. premise: The cat did not sit.",
        "<unk>",
    ),
    (
        "super_glue_boolq_v102",
        {"question": "is it", "passage": "It is.", "label": 1, "idx": 1},
        "boolq passage: It is. question: is it",
        "True",
    ),
    (
        "super_glue_cb_v102",
        {
            "hypothesis": "Valence was helping",
            "premise": "Valence the void-brain, Valence the virtuous valet.",
            "label": 1,
            "idx": 1,
        },
        "cb hypothesis: Valence was helping premise: Valence the void-brain, Valence the virtuous "
        "valet.",
        "contradiction",
    ),
    (
        "super_glue_copa_v102",
        {
            "choice1": "Many citizens relocated to the capitol.",
            "choice2": "Many citizens took refuge in other territories.",
            "premise": "Political violence broke out in the nation.",
            "question": "effect",
            "label": 1,
            "idx": 1,
        },
        "copa choice1: Many citizens relocated to the capitol. choice2: Many citizens took refuge "
        "in other territories. premise: Political violence broke out in the nation. question: "
        "effect",
        "choice2",
    ),
    (
        "super_glue_multirc_v102",
        {
            "question": "Why was Joey surprised the morning he woke up for breakfast?",
            "answer": "There was a T-REX in his garden",
            "paragraph": "<b>Sent 1: </b>Once upon a time, there was a squirrel named Joey.<br>"
            "<b>Sent 2: </b>Joey loved to go outside.",
            "label": 1,
            "idx": {"paragraph": 1, "question": 2, "answer": 3},
        },
        "multirc question: Why was Joey surprised the morning he woke up for breakfast? answer: "
        "There was a T-REX in his garden paragraph: Sent 1: Once upon a time, there was a squirrel "
        "named Joey. Sent 2: Joey loved to go outside.",
        "True",
    ),
    (
        "super_glue_rte_v102",
        {"premise": "A b.", "hypothesis": "C d.", "label": 0, "idx": 1},
        "rte hypothesis: C d. premise: A b.",
        "entailment",
    ),
    (
        "super_glue_axb_v102",
        {"sentence1": "A b.", "sentence2": "C d.", "label": 1, "idx": 1},
        "rte hypothesis: C d. premise: A b.",
        "not_entailment",
    ),
    (
        "super_glue_wic_v102",
        {
            "sentence1": "It was the deliberation of his act that was insulting .",
            "sentence2": "The deliberations of the jury .",
            "word": "deliberation",
            "label": 0,
            "idx": 1,
        },
        "wic sentence1: It was the deliberation of his act that was insulting . sentence2: The "
        "deliberations of the jury . word: deliberation",
        "False",
    ),
    (
        "super_glue_wsc_v102",
        {
            "text": "This is a test sentence .",
            "span1_text": "test",
            "span1_index": 3,
            "span2_text": "This",
            "span2_index": 0,
            "label": 0,
            "idx": 1,
        },
        "wsc text: # This # is a * test * sentence .",
        "False",
    ),
    (
        "super_glue_wsc_v102_simple_eval",
        {
            "text": "The stable was very roomy, with four good stalls; a large swinging window "
            "opened into the yard , which made it pleasant and airy.",
            "span1_text": "The stable",
            "span2_text": "it",
            "span2_index": 19,
            "label": 0,
            "idx": 1,
        },
        "wsc: The stable was very roomy, with four good stalls; a large swinging window opened "
        "into the yard , which made *it* pleasant and airy.",
        "The stable",
    ),
    (
        "dpr_v001_simple",
        {
            "sentence": "Bob asked Tom if he can lend some money, and he did.",
            "pronoun": "he",
            "candidates": ["Bob", "Tom"],
            "label": 1,
        },
        "wsc: Bob asked Tom if *he* can lend some money, and he did.",
        "Tom",
    ),
    (
        "cnn_dailymail_v002",
        {"article": "marouane fellaini and adnan januzaj continue", "highlights": "the pair ."},
        "summarize: marouane fellaini and adnan januzaj continue",
        "the pair .",
    ),
    (
        "xsum_v110",
        {"document": "The full cost of damage", "summary": "Clean-up operations"},
        "summarize: The full cost of damage",
        "Clean-up operations",
    ),
    (
        "gigaword_v120",
        {"document": "japan 's nec corp.", "summary": "nec"},
        "summarize: japan 's nec corp.",
        "nec",
    ),
    (
        "samsum_v100",
        {
            "dialogue": "Amanda: I baked cookies.\r\nJerry: Sure!",
            "summary": "Amanda baked.",
            "id": "",
        },
        "summarize: Amanda: I baked cookies.\r\nJerry: Sure!",
        "Amanda baked.",
    ),
    (
        "squad_v010",
        SQUAD,
        "question: What does increased oxygen concentrations in the patient ' s lungs displace ? "
        "context: Hyperbaric ( high - pressure ) medicine uses special oxygen chambers . ",
        "carbon monoxide",
    ),
    (
        "wmt_t2t_ende_v003",
        {
            "en": '"Luigi often said to me that he never wanted the brothers to end up in court," '
            "she wrote.",
            "de": '"Luigi sagte oft zu mir, dass er nie wollte, dass die Brüder vor Gericht '
            'landen", schrieb sie.',
        },
        'translate English to German: "Luigi often said to me that he never wanted the brothers to '
        'end up in court," she wrote.',
        '"Luigi sagte oft zu mir, dass er nie wollte, dass die Brüder vor Gericht landen", schrieb '
        "sie.",
    ),
    (
        "wmt15_enfr_v003",
        {
            "en": "This image section from an infrared recording by the Spitzer telescope",
            "fr": "Ce détail d'une photographie infrarouge prise par le télescope Spitzer",
        },
        "translate English to French: This image section from an infrared recording by the Spitzer "
        "telescope",
        "Ce détail d'une photographie infrarouge prise par le télescope Spitzer",
    ),
    (
        "wmt16_enro_v003",
        {
            "en": "Taco Bell said it plans to add 2,000 locations in the US by 2022.",
            "ro": "Taco Bell a afirmat că, până în 2022, intenționează să deschidă 2000 de "
            "restaurante în SUA.",
        },
        "translate English to Romanian: Taco Bell said it plans to add 2,000 locations in the US "
        "by 2022.",
        "Taco Bell a afirmat că, până în 2022, intenționează să deschidă 2000 de restaurante în "
        "SUA.",
    ),
]


@pytest.mark.parametrize(
    ("task", "row", "inputs", "targets"), PUBLISHED, ids=[case[0] for case in PUBLISHED]
)
def test_published_examples_are_written_as_t5_does(task, row, inputs, targets):
    assert texts(made(task, row)) == [(inputs, targets)]


def test_record_asks_once_for_each_answer_and_joins_the_highlights():
    row = {
        "passage": "It rained.\n@highlight\nA man left\n@highlight\nHe said 'no'\n@highlight\nEnd",
        "query": "@placeholder went home",
        "entities": ["Bob", "Tom"],
        "answers": ["Bob", "Tom"],
        "idx": {"passage": 4, "query": 5},
    }
    inputs = (
        "record query: @placeholder went home entities: Bob, Tom passage: It rained. A man left. "
        "He said 'no' End"
    )
    examples = made("super_glue_record_v102", row, {**row, "answers": []})
    assert texts(examples) == [(inputs, "Bob"), (inputs, "Tom"), (inputs, "<unk>")]
    assert [e["answers"].tolist() for e in examples] == [[b"Bob", b"Tom"]] * 2 + [[]]
    assert [(e["idx/passage"], e["idx/query"]) for e in examples] == [(4, 5)] * 3


def test_trivia_qa_asks_once_for_each_answer_in_each_context():
    row = {
        "question": "What is the answer?",
        "entity_pages": {"wiki_context": ["It is the key.", "They are the KEYS (of a+b)."]},
        "search_results": {"search_context": ["No answer."]},
        "answer": {"normalized_aliases": ["key", "keys"]},
    }
    first = "question: What is the answer ? context: It is the key . "
    second = "question: What is the answer ? context: They are the KEYS ( of a + b ) . "
    examples = made("trivia_qa_v010", row)
    assert texts(examples) == [(first, "key"), (second, "key"), (second, "keys")]
    assert all(example["answers"].tolist() == [b"key", b"keys"] for example in examples)


@pytest.mark.parametrize("seed", range(5))
def test_inputs_of_trivia_qa_are_cut_around_the_answer(seed):
    ids = np.arange(3, 103)
    rows = {
        "inputs": tf.constant([ids, ids], tf.int32),
        "targets": tf.constant([[50, 51], [51, 50]], tf.int32),
    }
    with seqio.map_seed_manager(seed):
        cut = keep_answer(tf.data.Dataset.from_tensor_slices(rows), {"inputs": 10, "targets": 5})
    (example,) = cut.as_numpy_iterator()  # the other answer is not there
    start = example["inputs"][0]
    assert example["inputs"].tolist() == list(range(start, start + 10)) and 42 <= start <= 50


WHIPPED = (
    "The boy continued to whip the pony , and eventually the pony threw him over. John laughed out "
    'quite loud. "Good for him," he said. '
)
MAGIC = (
    "Mr. Farley put the magic pebble in an iron safe . Some day they might want to use it , but "
    "really for now, what more could they wish for?"
)


@pytest.mark.parametrize(
    ("words", "pronoun", "place", "expected"),
    [
        # The two rows of the data whose pronoun is not the word at its place.
        (WHIPPED, "him", 22, WHIPPED.replace('him,"', '*him* ,"').rstrip()),
        (MAGIC, "it", 17, MAGIC.replace(" it ", " *it* ")),
        ("It is item it , it", "it", 3, "It is item *it* , it"),
        ("no such word", "it", 1, "no such word"),
    ],
)
def test_wsc_marks_the_pronoun_at_its_place(words, pronoun, place, expected):
    row = {"text": words, "span1_text": "a", "span2_text": pronoun, "span2_index": place}
    ((inputs, _),) = texts(made("super_glue_wsc_v102_simple_eval", {**row, "label": 1, "idx": 0}))
    assert inputs == f"wsc: {expected}"


def test_wsc_is_trained_on_right_nouns_alone():
    row = {"text": "a it b", "span1_text": "x", "span2_text": "it", "span2_index": 1, "idx": 0}
    rows = [{**row, "label": label} for label in (1, 0, -1, 1)]
    assert len(made("super_glue_wsc_v102_simple_train", *rows)) == 2


@pytest.mark.parametrize(
    ("score", "written"),
    [(0.0, "0.0"), (1.8, "1.8"), (2.5, "2.4"), (2.75, "2.8"), (3.25, "3.2"), (5.0, "5.0")],
)
def test_scores_are_rounded_to_a_fifth(score, written):
    row = {"sentence1": "a", "sentence2": "b", "label": score, "idx": 0}
    assert texts(made("glue_stsb_v002", row))[0][1] == written


def test_grammar_correction_has_a_format():
    row = {"source": tf.constant("She go home."), "target": tf.constant("She goes home.")}
    example = grammar.correct(row)
    assert example["inputs"] == b"grammar: She go home."
    assert example["targets"] == b"She goes home."


def test_squad_can_be_asked_without_the_context():
    ((inputs, targets),) = texts(made("squad_v010_context_free", SQUAD))
    assert inputs == (
        "squad trivia question: What does increased oxygen concentrations in the patient ' s lungs "
        "displace ? "
    )
    assert targets == "carbon monoxide"


@pytest.mark.parametrize(
    ("context", "answer", "span"),
    [
        # As T5's squad_span_space_tokenized: a mark and the blanks around it are three words less
        # one, and what ends the context is not found.
        ("The cat sat on the mat today.", "cat sat", "start: 1 end: 2"),
        ("Hello, my (big) cat sat. It was big-ish, ok.", "cat", "start: 9 end: 9"),
        ("Hello, my (big) cat sat. It was big-ish, ok.", "big-ish", "start: 15 end: 18"),
        ("A b c d", "c", "start: 2 end: 2"),
        ("A b c.", "c", "start: 2 end: 2"),
        ("Été à Zürich now ok", "Zürich", "start: 5 end: 6"),
        ("A b c", "c", None),
        ("x y", "z", None),
        ("x", "x y z", None),
    ],
)
def test_answers_can_be_the_place_of_their_words(context, answer, span):
    row = {"id": "1", "question": "Who?", "context": context, "answers": {"text": [answer, "no"]}}
    examples = made("squad_v010_allanswers_span", row)
    assert [target for _, target in texts(examples)] == ([] if span is None else [span])
    for example in examples:
        target = postprocessors.answers_in_context(span, example, is_target=True)
        assert target["answers"] == [a.decode() for a in example["answers"]]
        assert postprocessors.answers_in_context(span, example) == span
        assert metrics.span_squad([target], [span]) == {"em": 100, "f1": 100}
        assert metrics.span_squad([target], ["start: 0 end: 0"])["em"] == 0


@pytest.mark.parametrize(
    ("span", "text"),
    [
        ("start:2 end:3", "a string"),
        ("start: 5 end: 99", "it has the answer."),
        *((span, "") for span in ("", "start: 3", "start: one end: two", "99 99 99 99", "a 3 b 2")),
    ],
)
def test_a_span_names_words_of_the_context_or_nothing(span, text):
    context = "this is a string! it has the answer."
    assert question_answering.answer_of_span(span, context) == text


@pytest.mark.parametrize(
    ("premise", "hypothesis", "inputs", "noun"),
    [
        # Of T5's own test.
        (
            "Lily spoke to Donna breaking her silence.",
            "Lily spoke to Donna breaking Donna's silence.",
            "wsc: Lily spoke to Donna breaking *her* silence.",
            "Donna",
        ),
        (
            "The fish ate the worm. It was tasty.",
            "The worm was tasty.",
            "wsc: The fish ate the worm. *It* was tasty.",
            "The worm",
        ),
        (
            "Edward dropped adhesive tape onto his window sill, and when he pulled the tape off, "
            "some of the glue was stuck on it.",
            "Some of the glue was stuck on the window sill.",
            "wsc: Edward dropped adhesive tape onto his window sill, and when he pulled the tape "
            "off, some of the glue was stuck on *it* .",
            "the window sill",
        ),
        (
            "Al stole Bob's wallet and car, and then he was driving it really fast to get away.",
            "He was driving the car really fast to get away.",
            "wsc: Al stole Bob's wallet and car, and then he was driving *it* really fast to get "
            "away.",
            "the car",
        ),
        ("No such word.", "None (here).", "wsc: No such word.", "<unk>"),
        ("(It) [was] it a?", "(It) [was] b a?", "wsc: (It) [was] *it* a?", "b"),
    ],
)
def test_wnli_asks_for_the_noun_that_the_hypothesis_has(premise, hypothesis, inputs, noun):
    row = {"sentence1": premise, "sentence2": hypothesis, "label": 1, "idx": 1}
    examples = made("glue_wnli_v002_simple_eval", row)
    assert texts(examples) == [(inputs, noun)] and examples[0]["label"] == 1


@pytest.mark.parametrize("length", [None, 8, 4])
def test_a_sentinel_stands_behind_the_inputs_and_before_the_targets(length):
    task = registry.get("super_glue_boolq_v102_1_sentinel")
    rows = {"inputs": [[3, 4, 5], [*range(3, 20)], []], "targets": [[5], [6], [7, 8, 9]]}
    ragged = {name: tf.ragged.constant(ids, dtype=tf.int32) for name, ids in rows.items()}
    features = dict.fromkeys(rows, seqio.Feature(seqio.ByteVocabulary(125)))
    lengths = None if length is None else {"inputs": length, "targets": length}
    dataset = behind_sentinel.add_sentinel(
        tf.data.Dataset.from_tensor_slices(ragged), features, lengths
    )
    for example, inputs, targets in zip(
        dataset.as_numpy_iterator(), rows["inputs"], rows["targets"], strict=True
    ):
        assert example["inputs"].tolist() == [
            *inputs[: None if length is None else length - 2],
            383,
        ]
        assert example["targets"].tolist() == [383, *targets]
    *_, added, end = task.preprocessors
    assert (
        added is behind_sentinel.add_sentinel and end is seqio.preprocessors.append_eos_after_trim
    )
    assert [task.postprocess_fn(x) for x in ("<extra_id_0> True", "True", "True <extra_id_0>")] == [
        1,
        1,
        -1,
    ]
    dpr = registry.get("dpr_v001_simple_1_sentinel")
    assert dpr.postprocess_fn("<extra_id_0> Tom") == "Tom"


# --- what the metrics get -------------------------------------------------------------------------


def test_labels_become_their_index_and_other_texts_minus_1():
    index = postprocessors.label_index(("no", "yes"))
    assert [index("yes"), index("no"), index("maybe"), index("")] == [1, 0, -1, -1]
    assert [postprocessors.number(x) for x in ("3.2", "x", "")] == [3.2, -1.0, -1.0]


def test_targets_become_all_answers_with_their_group():
    example = {
        "answers": np.array([b"a", "é".encode()], object),
        "idx/question": np.int32(3),
        "idx/passage": np.int32(1),
        "idx/query": np.int32(2),
    }
    target = {"example": example, "is_target": True}
    assert postprocessors.answers("a", **target) == ["a", "é"]
    assert postprocessors.answers("a", example=example) == "a"
    assert postprocessors.record("a", **target) == {"value": ["a", "é"], "group": (1, 2)}
    assert postprocessors.record("b", example=example) == {"value": "b"}
    assert postprocessors.multirc("True", **target) == {"value": 1, "group": 3}
    assert postprocessors.multirc("Tru", example=example) == {"value": -1}


@pytest.mark.parametrize(
    ("prediction", "noun", "found"),
    [
        ("the bunny", "fuzzy bunny", 1),
        ("Fuzzy Bunny", "the bunny", 1),
        ("dog", "bunny", 0),
        ("Bob", "Bob's hat", 0),
        ("the", "bunny", -1),
        ("", "bunny", -1),
        # A noun of no words is not part of everything (T5's wsc_simple gives these too).
        ("bunny", "", 0),
        ("bunny", "the", 0),
        ("fuzzy bunny", "his  ", 0),
        ("the", "", -1),
        ("", "", -1),
        ("bunny", "an  the", 0),
        ("an  the  a", "bunny", 0),
        ("Été", "été", 1),
        ("the\u00a0bunny", "bunny", 0),
    ],
)
def test_a_noun_is_found_by_its_words(prediction, noun, found):
    example = {"targets_pretokenized": noun.encode(), "label": np.int64(1)}
    assert postprocessors.referent(prediction, example=example) == found
    assert postprocessors.referent(noun, example=example, is_target=True) == 1


# --- as tasks and mixtures ------------------------------------------------------------------------


@pytest.fixture
def mocked():
    with tfds.testing.mock_data(num_examples=3):
        yield


SELDOM = [name for name in T5 if "_sentinel" in name or "_u_u" in name]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in SELDOM else ())
        for name in sorted(set(T5) - GONE)
    ],
)
def test_every_task_renders_and_its_own_targets_are_right(name, mocked):
    task = registry.get(name)
    dataset = task.get_dataset(LENGTHS, list(task.splits)[-1], shuffle=False, seed=0)
    seen = list(dataset.as_numpy_iterator())
    # In random text no answer is found.
    assert seen or name in ("trivia_qa_v010", "squad_v010_allanswers_span")
    for example in seen:
        for feature, ids in (("inputs", example["inputs"]), ("targets", example["targets"])):
            assert ids.dtype == np.int32 and len(ids) <= LENGTHS[feature]
            assert ids[-1] == 1 or name == "c4_v220_full_lm"
    for metric in task.metric_fns if seen else ():
        said = [example["targets_pretokenized"].decode() for example in seen]
        targets, predictions = (
            [
                task.postprocess_fn(text, example=example, is_target=is_target)
                for text, example in zip(said, seen, strict=True)
            ]
            for is_target in (True, False)
        )
        if name.startswith("super_glue_wsc_v102_simple") or name == "glue_wnli_v002_simple_eval":
            targets = [1] * len(targets)  # a prediction of the noun says that it is the right one
        values = metric(targets, predictions)
        assert values and all(np.isnan(v) or v <= 100.001 for v in values.values())
        if metric.name in ("accuracy", "squad", "record", "multirc_exact_match"):
            assert min(values.values()) == pytest.approx(100), (metric.name, values)


# What T5's task module registers for these data sets (t5/data/tasks.py), by data set and version.
# Of C4's it lacks two whose examples are packed for other architectures.
UPSTREAM = {
    **{
        f"glue_{name}_v002": f"glue/{name}:1.0.0"
        for name in "cola sst2 mrpc qqp stsb mnli mnli_matched mnli_mismatched qnli rte wnli "
        "ax".split()
    },
    "glue_wnli_v002_simple_eval": "glue/wnli:1.0.0",
    **{
        f"super_glue_{name}_v102{form}": f"super_glue/{name}:1.0.2"
        for name in "boolq cb copa multirc record rte wic axb axg".split()
        for form in ("", "_1_sentinel")
    },
    **{
        f"super_glue_wsc_v102_simple_{form}": "super_glue/wsc.fixed:1.0.2"
        for form in ("train", "eval", "1_sentinel_train", "1_sentinel_eval")
    },
    "dpr_v001_simple": "definite_pronoun_resolution:1.1.0",
    "dpr_v001_simple_1_sentinel": "definite_pronoun_resolution:1.1.0",
    **{
        f"squad_v010{form}": "squad/v1.1:3.0.0"
        for form in ("", "_allanswers", "_allanswers_span", "_context_free")
    },
    "trivia_qa_v010": "trivia_qa/rc:1.1.0",
    "cnn_dailymail_v002": "cnn_dailymail:3.4.0",
    "wmt_t2t_ende_v003": "wmt_t2t_translate/de-en:1.0.0",
    "wmt14_ende_v003": "wmt14_translate/de-en:1.0.0",
    "wmt14_enfr_v003": "wmt14_translate/fr-en:1.0.0",
    "wmt15_enfr_v003": "wmt15_translate/fr-en:1.0.0",
    "wmt16_enro_v003": "wmt16_translate/ro-en:1.0.0",
    "wmt19_ende_v003": "wmt19_translate/de-en:1.0.0",
    **{
        f"c4_v220_{name}": "c4/en:2.2.0"
        for name in ("span_corruption", "iid_denoising", "prefix_lm", "full_lm")
    },
    "c4_v020_unsupervised": "c4/en:2.2.0",
    "c4_noclean_v020_unsupervised": "c4/en.noclean:2.2.0",
    "c4_realnewslike_v020_unsupervised": "c4/en.realnewslike:2.2.0",
    "c4_webtextlike_v020_unsupervised": "c4/en.webtextlike:2.2.0",
}
# Its gin files of objectives, but for the two that other tasks have by name, prefix_lm and lm.
ABLATIONS = (
    "all_permute iid_10_u_u iid_15_d_d iid_15_m_f iid_15_r10s90_f iid_15_u_u iid_25_u_u iid_50_u_u "
    "span_10_15_u_u span_2_15_u_u span_3_15_u_u span_5_15_u_u"
).split()
OURS = "c4_v220_ul2 gigaword_v120 samsum_v100 super_glue_wsc_v102 xsum_v110".split()


def test_every_task_of_t5s_is_there_under_its_name_and_version():
    ours = {name: seqio.TaskRegistry.get(name).source.name for name in T5}
    expected = UPSTREAM | {f"c4_v220_{name}": "c4/en:2.2.0" for name in ABLATIONS}
    assert {name: data for name, data in ours.items() if name not in OURS} == expected


def test_every_mixture_of_t5s_is_there_under_its_name():
    left_out = (
        "cnn_dailymail_v002 glue_v002_proportional squad_v010_allanswers "
        "super_glue_v102_proportional wmt15_enfr_v003 wmt16_enro_v003 wmt_t2t_ende_v003"
    ).split()
    assert set(mixtures.MIXTURES) == {
        *(f"leave_one_out_{name}" for name in left_out),
        *(
            "all_equal all_mix all_proportional en_mix glue_mnli_and_dev_v002 "
            "glue_v002_proportional large_supervised_equal large_supervised_proportional "
            "large_translation_equal squad_trivia_qa_equal super_glue_v102_proportional "
            "super_glue_v102_proportional_sentinel wsc_dpr_simple_proportional"
        ).split(),
    }
    assert set(mixtures.MIXTURES) <= set(registry.task_names())


@pytest.mark.parametrize("maximum", [None, 2**19, 2**21])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 8.0])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_rates_are_seqios(maximum, temperature, scale):
    class Sized:
        """What seqio's function asks of a task."""

        name, cache_dir = "sized", None

        def __init__(self, size):
            self.num_input_examples = lambda split: size

    options = {"maximum": maximum, "temperature": temperature, "scale": scale}
    rates = mixtures.proportional(mixtures.OTHERS | mixtures.UNSUPERVISED, **options)
    for name, value in rates.items():
        expected = seqio.mixing_rate_num_examples(Sized(mixtures.ALL[name]), **options)
        assert value == pytest.approx(expected, rel=1e-12), name


@pytest.mark.parametrize("name", ["maximum", "temperature", "scale"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_rates_that_are_none_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name}={value!r} must be above 0"):
        mixtures.rate(10, **{name: value})


def test_mixtures_of_everything_have_the_published_rates():
    capped = {"all_proportional": 2**19, "all_mix": 10**6}
    for name, limit in capped.items():
        rates = mixtures.MIXTURES[name]
        assert len(rates) == 29
        assert rates["c4_v020_unsupervised"] == rates["wmt15_enfr_v003"] == limit
        assert rates["wmt16_enro_v003"] == min(610_320, limit)
        assert rates["squad_v010_allanswers"] == 87_599
        # The same data set twice.
        assert rates["glue_rte_v002"] == rates["super_glue_rte_v102"] == 1245
        assert rates["glue_ax_v002"] == rates["super_glue_wsc_v102_simple_eval"] == 0
    assert set(mixtures.MIXTURES["all_equal"].values()) == {1.0}
    assert set(mixtures.MIXTURES["all_equal"]) == set(mixtures.MIXTURES["all_mix"])
    sentinel = mixtures.MIXTURES["super_glue_v102_proportional_sentinel"]
    assert sentinel["super_glue_wsc_v102_simple_1_sentinel_train"] == 259
    assert sum(sentinel.values()) == 185_673 and len(sentinel) == 12


def test_mixtures_have_the_published_rates(mocked):
    def rates(name):
        mixture = registry.get(name)
        return {task.name: mixture.get_rate(task) for task in mixture.tasks}

    assert rates("wsc_dpr_simple_proportional") == mixtures.WSC
    glue = rates("glue_v002_proportional")
    assert len(glue) == 11 and sum(glue.values()) == 949_101
    assert sum(rates("super_glue_v102_proportional").values()) == 185_673
    assert rates("en_mix")["c4_v220_span_corruption"] == 1e6
    left = rates("leave_one_out_squad_v010_allanswers")
    assert "squad_v010_allanswers" not in left and len(left) == 28
    assert left["glue_rte_v002"] == left["super_glue_rte_v102"] == 1245
    assert left["c4_v220_span_corruption"] == left["wmt15_enfr_v003"] == 2**19
    assert rates("leave_one_out_glue_v002_proportional")["super_glue_rte_v102"] == 2490


def test_a_mixture_renders(mocked):
    mixture = registry.get("wsc_dpr_simple_proportional")
    dataset = mixture.get_dataset(LENGTHS, "train", shuffle=False, seed=1)
    assert len(list(dataset.take(9).as_numpy_iterator())) == 9


@pytest.mark.slow
# In random text TriviaQA finds no answer, and so its mixture has no examples.
@pytest.mark.parametrize("name", sorted({*mixtures.MIXTURES} - {"squad_trivia_qa_equal"}))
def test_every_mixture_renders(name, mocked):
    dataset = registry.get(name).get_dataset(LENGTHS, "train", shuffle=False, seed=1)
    assert len(list(dataset.take(20).as_numpy_iterator())) == 20


@pytest.mark.slow
def test_importing_reads_no_data_set():
    code = (
        "import seqio, t5jax.tasks; print(len(seqio.TaskRegistry.names()))\n"
        "assert not seqio.utils.LazyTfdsLoader._MEMOIZED_BUILDERS"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and int(done.stdout) >= 45, done.stderr[-500:]


# --- mistakes -------------------------------------------------------------------------------------


def error_of(capsys, *words: object) -> str:
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    return error


def test_data_that_is_not_there_is_named(capsys, tmp_path, monkeypatch):
    builder = tfds.builder("glue/cola:1.0.0", data_dir=tmp_path)
    known = seqio.utils.LazyTfdsLoader._MEMOIZED_BUILDERS
    monkeypatch.setitem(known, ("glue/cola:1.0.0", None), builder)
    error = error_of(capsys, "tasks", "glue_cola_v002")
    assert "glue/cola:1.0.0 is not prepared" in error and "tensorflow_datasets.load" in error
    assert "no split 'test'; it has train, validation" in error_of(
        capsys, "tasks", "squad_v010", "--split", "test"
    )


def test_unknown_tasks_get_the_nearest_name(capsys):
    assert "did you mean glue_rte_v002" in error_of(capsys, "tasks", "glue_rte_v02")
    assert "no task or mixture is called 'gleu_*'" in error_of(capsys, "tasks", "gleu_*")


def test_tasks_are_listed_by_pattern_with_their_metrics(capsys):
    main(["tasks", "glue_*"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "tasks" and "mixtures" in lines
    assert [line.split() for line in lines if "stsb" in line] == [
        ["glue_stsb_v002", "pearson_corrcoef", "spearman_corrcoef"]
    ]
    assert not any("squad" in line for line in lines)


TASK = """
import seqio
def read(split, shuffle_files=False, seed=None):
    import tensorflow as tf
    return tf.data.Dataset.from_tensor_slices({"inputs": ["a"], "targets": ["b"]})
features = {name: seqio.Feature(seqio.ByteVocabulary()) for name in ("inputs", "targets")}
def add(name):
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(read, splits=["train"]),
        preprocessors=[seqio.preprocessors.tokenize],
        output_features=features,
    )
"""


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("add('twice_a')\nadd('twice_a')", "there is a 'twice_a' already; register it under"),
        ("add('glue_rte_v002')", "there is a 'glue_rte_v002' already"),
        (
            "seqio.MixtureRegistry.add('mixed_b', [('glue_rte_v02', 1)])",
            "no task or mixture is called 'glue_rte_v02'; did you mean glue_rte_v002",
        ),
        (
            "add('both_c')\nseqio.MixtureRegistry.add('both_c', [('both_c', 1)])",
            "'both_c' is both a task and a mixture; rename one",
        ),
        ("seqio.MixtureRegistry.add('mixed_d', ['glue_rte_v002'])", "need a rate for each task"),
    ],
)
def test_registrations_that_cannot_be_say_why(capsys, tmp_path, lines, message):
    module = tmp_path / "mine.py"
    module.write_text(TASK + lines + "\n")
    try:
        assert message in error_of(capsys, "tasks", "--modules", module)
    finally:
        for name in ("twice_a", "both_c"):
            seqio.TaskRegistry.remove(name)
            seqio.MixtureRegistry.remove(name)


def pairs(name: str, splits: list[str], metrics: list) -> seqio.Task:
    """A task of three pairs, the targets of 2, 5 and 9 letters."""

    def read(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
        rows = {"inputs": ["a", "b", "c"], "targets": ["xy", "xyzxy", "xyzxyzxyz"]}
        return tf.data.Dataset.from_tensor_slices(rows)

    return seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(read, splits=splits),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim],
        output_features=output_features(),
        metric_fns=metrics,
    )


@pytest.fixture
def mixed():
    """A mixture of three tasks, one of which can be evaluated on its validation split."""
    pairs("mixed_1", ["train", "validation"], [exact_match])
    pairs("mixed_2", ["train", "validation"], [])
    pairs("mixed_3", ["train", "test"], [exact_match])
    rates = [("mixed_1", 0), ("mixed_2", 0), ("mixed_3", 1)]
    yield seqio.MixtureRegistry.add("mixed", rates)
    seqio.MixtureRegistry.remove("mixed")
    for i in (1, 2, 3):
        seqio.TaskRegistry.remove(f"mixed_{i}")


def test_a_mixture_is_evaluated_where_it_can_be_and_cut_targets_are_counted(mixed):
    lengths = LengthsConfig(8, 6)
    evaluation = Evaluation(["mixed"], ByteVocabulary(), lengths=lengths)
    (only,) = evaluation.evaluators
    examples = list(only.cached_task_datasets["mixed_1"].as_numpy_iterator())
    texts = [example["targets_pretokenized"].decode() for example in examples]
    assert [len(example["targets"]) for example in examples] == [3, 6, 6]
    assert count_cut(examples, texts, lengths, ByteVocabulary()) == 1
    with pytest.raises(ValueError, match="mixed_3 has no split 'validation'"):
        Evaluation(["mixed_3"], ByteVocabulary())


def test_a_mixture_whose_rates_are_all_0_is_refused(mixed):
    config = DataConfig(split="validation", batch=2, streams=1)
    with pytest.raises(ValueError, match=r"mixed_1 0, mixed_2 0.*nor all 0"):
        TrainData(mixed, config)


def test_the_readmes_objective_works_over_ones_own_text(capsys, tmp_path, monkeypatch):
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    code = readme[readme.index("# mine.py") :]
    (tmp_path / "mine.py").write_text(code[: code.index("```")])
    (tmp_path / "lines.txt").write_text("the quick brown fox\njumps over the lazy dog\n" * 40)
    monkeypatch.chdir(tmp_path)
    lengths = ["--inputs", "64", "--targets", "64"]
    main(["tasks", "my_text", "--modules", "mine.py", "--n", "2", *lengths])
    assert capsys.readouterr().out.startswith(("inputs   [N", "inputs   [S"))
    main(["tasks", "my_text", "--modules", "mine.py", "--n", "1"])
    assert capsys.readouterr().out.startswith(("inputs   [N", "inputs   [S"))
    seqio.TaskRegistry.remove("my_text")
