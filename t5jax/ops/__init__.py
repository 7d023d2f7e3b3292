"""Operations on arrays, fast in XLA: no configuration, no model."""
