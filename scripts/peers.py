"""Models of other libraries, for the benchmarks."""

from __future__ import annotations

import t5jax


def random_torch_t5(config: t5jax.T5Config):
    """transformers' T5ForConditionalGeneration with its own random weights."""
    import torch
    import transformers

    torch.manual_seed(0)
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=config.vocab_size,
            d_model=config.d_model,
            d_kv=config.d_kv,
            d_ff=config.d_ff,
            num_heads=config.num_heads,
            num_layers=config.num_layers,
            num_decoder_layers=config.num_decoder_layers,
            feed_forward_proj=config.feed_forward_proj,
            tie_word_embeddings=config.tie_word_embeddings,
            scale_decoder_outputs=config.scale_decoder_outputs,
            dropout_rate=config.dropout,
            decoder_start_token_id=config.decoder_start_token_id,
        )
    ).eval()
