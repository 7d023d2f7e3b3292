"""Texts and vocabularies that the tests of vocabularies share."""

import os
from pathlib import Path

import pytest
import regex
from hypothesis import strategies as st

SHARED = Path(os.environ.get("T5JAX_SHARED", Path(__file__).parents[3] / "shared"))

SENTENCES = [
    f"The house number {i} is wonderful, and jelly <{i}> costs {i * 7}." for i in range(80)
]
SENTENCES += ["HH AH0 L OW1", "T R AE1 N S L EY0 T", "naïve Äpfel kosten drei Mark"] * 20

ODD = [
    "",
    " ",
    "  two  spaces ",
    "\ttab\nline\r\n",
    "\u00a0nbsp\u3000",
    "日本語 😀",
    "\u200b",
    "next\x85line\x85",
    "▁",
]

# Texts without a special token or a sentinel: nothing in angle brackets.
plain_pieces = st.sampled_from([*ODD, "the", "house", " wonderful", " ", "HH AH0 OW1", "LOW1L"])
plain_texts = st.lists(
    st.one_of(st.text(st.characters(exclude_characters="<", codec="utf-8")), plain_pieces),
    max_size=6,
).map("".join)
# Of these, tokenizers normalizes a character with its combining marks as one, and loses marks.
without_clusters = plain_texts.filter(
    lambda text: all(len(cluster) == 1 for cluster in regex.findall(r"\X", text))
)


def released(name: str, file: str = "spiece.model") -> Path:
    """A released vocabulary's file; skips the test where it is not there."""
    path = SHARED / "vocab" / name / file
    if not path.is_file():
        pytest.skip(f"the vocabulary of {name} is not at {path}")
    return path


def equally_probable(pieces, some: list[int], others: list[int]) -> bool:
    """Whether ids cut a text as SentencePiece does, or otherwise with the same probability.

    Implementations of the unigram model break ties in ways of their own: "lll" is "l" and "ll" of
    T5's vocabulary, in either order.
    """
    if some == others:
        return True
    texts = ["".join(map(pieces.processor.id_to_piece, ids)) for ids in (some, others)]
    scores = [sum(map(pieces.processor.get_score, ids)) for ids in (some, others)]
    return texts[0] == texts[1] and scores[0] == pytest.approx(scores[1], abs=1e-4)
