"""Operations on arrays, fast in XLA: they know no model."""
