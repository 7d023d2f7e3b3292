"""Perplexity and bits per byte, from summed log-probabilities."""

from __future__ import annotations

import math


def perplexity(nats: float, tokens: int) -> float:
    """exp of the mean negative log-probability of a token; `nats`: -log p, summed over tokens.

    Infinite on overflow. It compares models with the same vocabulary only.
    """
    try:
        return math.exp(nats / tokens)
    except OverflowError:
        return math.inf


def bits_per_byte(nats: float, utf8_bytes: int) -> float:
    """-log2 p of texts over their UTF-8 bytes, which compares models with any vocabulary."""
    return nats / math.log(2) / utf8_bytes
