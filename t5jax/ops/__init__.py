"""Mathematics on arrays, and what is known of XLA: no configuration, no model."""
