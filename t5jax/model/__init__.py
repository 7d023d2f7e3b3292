"""The T5 network: configuration, attention, layers, the encoder-decoder and its cache."""
