"""Requests, batches and buckets, the compiled programs, results."""
