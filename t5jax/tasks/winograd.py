"""WNLI in the format of T5's WSC: the premise's pronoun is marked, the target is its noun.

A row has neither. Its hypothesis is the premise's sentence with the noun for the pronoun:

  premise     The fish ate the worm. It was tasty.   ->  wsc: The fish ate the worm. *It* was tasty.
  hypothesis  The worm was tasty.                    ->  The worm
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import tensorflow as tf

from t5jax.tasks.text import UNKNOWN, RawExample

_PRONOUNS = frozenset("he she they it her his their them him".split())
_ENDS = (".", ",", "?", "!")


def resolve_hypothesis(row: RawExample) -> dict[str, tf.Tensor]:
    """A row of WNLI -> the question and its noun, or `<unk>`; `label`: the noun is right."""
    inputs, targets = tf.numpy_function(
        _question, [row["sentence1"], row["sentence2"]], (tf.string, tf.string)
    )
    return {
        "inputs": tf.ensure_shape(inputs, []),
        "targets": tf.ensure_shape(targets, []),
        "premise": row["sentence1"],
        "hypothesis": row["sentence2"],
        "label": row["label"],
        "idx": row["idx"],
    }


def _question(premise: bytes, hypothesis: bytes) -> tuple[bytes, bytes]:
    text, noun = question(premise.decode("utf-8"), hypothesis.decode("utf-8"))
    return text.encode(), noun.encode()


def question(premise: str, hypothesis: str) -> tuple[str, str]:
    """The premise with its pronoun marked, and the noun in its place in the hypothesis.

    Of several pronouns, the first one with most surrounding words in the hypothesis counts.
    """
    words, said = _words(premise), _words(hypothesis)
    places = [place for place, word in enumerate(words) if word in _PRONOUNS]
    if not places:
        return f"wsc: {premise}", UNKNOWN
    shared = {place: _shared(words, said, place) for place in places}
    place = max(places, key=lambda place: sum(shared[place]))
    noun = _noun(words, " ".join(said), place, *shared[place])
    return f"wsc: {_marked(premise, place)}", _as_written(noun, hypothesis) or UNKNOWN


def _words(text: str) -> list[str]:
    words = [re.sub(r"[.,?!]$", "", word) for word in text.strip().lower().split(" ")]
    return [word for word in words if word]


def _shared(words: Sequence[str], said: Sequence[str], place: int) -> tuple[int, int]:
    """How many words just before and after the place the hypothesis also has in a row."""
    before = _longest(words[:place][::-1], " ".join(said[::-1]))
    return before, _longest(words[place + 1 :], " ".join(said))


def _longest(words: Sequence[str], text: str) -> int:
    """How many of the first words the text has in a row."""
    fits = (n for n in range(len(words)) if " ".join(words[: n + 1]) not in text)
    return next(fits, len(words))


def _noun(words: Sequence[str], said: str, place: int, before: int, after: int) -> str:
    """The hypothesis's words between those around the pronoun, or ""."""
    if not before + after:
        return ""
    # Without a shared word before it, the pattern has all of them, which seldom match.
    left = [re.escape(word) for word in words[place - before if before else 0 : place]]
    right = [re.escape(word) for word in words[place + 1 : place + 1 + after]]
    # Between both; at the hypothesis's beginning; at its end.
    for pattern in ([*left, "(.+)", *right], ["^(.+)", *right], [*left, "(.+)$"]):
        if found := re.search(" ".join(pattern), said):
            noun = found[1].split(" ")
            articles = [noun.index(article) for article in ("a", "an", "the") if article in noun]
            return " ".join(noun[max(articles, default=0) :])
    return ""


def _as_written(noun: str, hypothesis: str) -> str:
    """The noun in the hypothesis's case, without a possessive ending."""
    if not noun:
        return ""
    pattern = " ".join(rf"{re.escape(word)}[.,?!]?" for word in noun.split(" "))
    found = re.search(pattern, hypothesis, re.IGNORECASE)
    if found is None:
        return ""
    written = found[0].removesuffix(found[0][-1]) if found[0].endswith(_ENDS) else found[0]
    return written.removesuffix("'") if written.endswith("'") else written.removesuffix("'s")


def _marked(premise: str, place: int) -> str:
    words = premise.split(" ")
    word = words[place]
    words[place] = f"*{word[:-1]}* {word[-1]}" if word.endswith(_ENDS) else f"*{word}*"
    return " ".join(words)
