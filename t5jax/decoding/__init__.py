"""Decoding: options, logit processors, samplers and the compiled loop; none of it knows T5."""
