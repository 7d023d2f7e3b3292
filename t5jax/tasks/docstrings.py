"""Summaries of docstrings, from the sources of packages that t5jax depends on.

`summarize_docstrings` asks for a docstring's first sentence, given the rest:

    summarize: The default is the mean of the flattened array …  ->  Compute the mean along an axis.

`docstrings_span_corruption` is T5's objective on whole docstrings of the same splits, for
pre-training. Sources are parsed, not imported. Rows depend on the packages' versions.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path, PurePath

import seqio
import tensorflow as tf

from t5jax.tasks import objectives
from t5jax.tasks.metrics import rouge
from t5jax.tasks.source import (
    SPLITS,
    TableSource,
    WordPair,
    WordTable,
    output_features,
    shuffled,
    split_of,
    text_to_text,
)
from t5jax.tasks.text import each

NAME = "summarize_docstrings"
PRETRAINING = "docstrings_span_corruption"

# Distributions, with their licences. A sentence in several belongs to the first.
LICENSES = {
    "numpy": "BSD-3-Clause",
    "scipy": "BSD-3-Clause",
    "scikit-learn": "BSD-3-Clause",
    "jax": "Apache-2.0",
    "flax": "Apache-2.0",
    "optax": "Apache-2.0",
    "orbax-checkpoint": "Apache-2.0",
    "seqio": "Apache-2.0",
    "tensorflow-datasets": "Apache-2.0",
    "nltk": "Apache-2.0",
}

# A period inside a sentence ("e.g. this") is followed by a lower-case letter.
_SENTENCE = re.compile(r"([A-Z].*?\w\.)(?:\s+(?=[A-Z])|$)")
_SUMMARY_WORDS = range(4, 25)
_BODY_WORDS = 80  # the most that are kept
_FEWEST_BODY_WORDS = 8


def divide(docstring: str) -> tuple[str, str] | None:
    """A clean docstring's first sentence and its rest, each in one line.

    None if the sentence has fewer than 4 or more than 24 words, or does not end where its paragraph
    ends or another sentence begins, or if the rest has fewer than 8 words. The rest is cut to 80.
    """
    paragraph, _, rest = docstring.partition("\n\n")
    paragraph = " ".join(paragraph.split())
    sentence = _SENTENCE.match(paragraph)
    if sentence is None:
        return None
    body = f"{paragraph[sentence.end() :]} {rest}".split()
    if len(sentence[1].split()) not in _SUMMARY_WORDS or len(body) < _FEWEST_BODY_WORDS:
        return None
    return sentence[1], " ".join(body[:_BODY_WORDS])


def docstrings(source: str) -> Iterator[str]:
    """The docstrings of a module's source: of the module, functions, classes and methods.

    Raises:
      SyntaxError: the source is not Python.
    """
    nodes: list[ast.Module | ast.ClassDef | ast.FunctionDef] = [ast.parse(source)]
    while nodes:
        node = nodes.pop()
        if text := ast.get_docstring(node):
            yield text
        if not isinstance(node, ast.FunctionDef):
            nodes += [n for n in node.body if isinstance(n, ast.ClassDef | ast.FunctionDef)]


def _sources(distribution: str) -> Iterator[tuple[str, Path]]:
    """Modules, as paths within the distribution, and their files, without tests."""
    try:
        files = metadata.files(distribution) or []
    except metadata.PackageNotFoundError:
        return
    for file in sorted(files):
        if file.suffix == ".py" and not _is_test(file):
            yield file.as_posix(), Path(str(file.locate()))


def _is_test(file: PurePath) -> bool:
    named = file.stem.startswith("test_") or file.stem.endswith("_test")
    return named or not {"test", "tests", "testing"}.isdisjoint(file.parts)


@functools.cache
def read_docstrings() -> WordTable:
    """All splits. Sentences and rests are unique; a module belongs to one split.

    Raises:
      FileNotFoundError: no package is installed with its sources.
    """
    rows: dict[str, list[WordPair]] = {split: [] for split in SPLITS}
    seen: set[str] = set()
    for distribution in LICENSES:
        for module, path in _sources(distribution):
            try:
                found = [divide(text) for text in docstrings(path.read_text(encoding="utf-8"))]
            except (SyntaxError, UnicodeDecodeError, FileNotFoundError):  # such as templates
                continue
            for pair in found:
                if pair is not None and not seen.intersection(pair):
                    seen.update(pair)
                    summary, body = pair
                    rows[split_of(module)].append(WordPair("summarize", body, summary, (summary,)))
    if not seen:
        raise FileNotFoundError(f"the sources of none of {', '.join(LICENSES)} are installed")
    return {split: shuffled(of_split) for split, of_split in rows.items()}


def whole(row: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """A row's docstring as `targets`, which the objective corrupts."""
    return {"targets": tf.strings.join([row["answer"], row["word"]], separator=" ")}


seqio.TaskRegistry.add(
    NAME,
    source=TableSource(read_docstrings),
    preprocessors=[
        text_to_text,
        seqio.preprocessors.tokenize,
        seqio.preprocessors.append_eos_after_trim,
    ],
    metric_fns=[rouge],
    output_features=output_features(),
)
seqio.TaskRegistry.add(
    PRETRAINING,
    source=TableSource(read_docstrings),
    preprocessors=[
        each(whole),
        seqio.preprocessors.tokenize,
        objectives.span_corruption,
        seqio.preprocessors.append_eos_after_trim,
    ],
    metric_fns=[],
    output_features=output_features(),
)
