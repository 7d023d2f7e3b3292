"""Evaluation with seqio, and the comparison of two models."""
