"""Operations, each arranged for XLA. The reasons are facts about its CPU compiler (jaxlib 0.10):

- Products run at the peak rate where both operands lie in memory as they are multiplied. Behind a
  transposition that XLA fuses into it, a batched product ran at 21 GFLOP/s, else at 140 on two cores.
- A batched product goes through its batch in turn and divides each small product over the cores: of
  64 heads with 256 queries it takes as long on two cores as on one.
- A transposition that is part of a loop takes 29 ms for 2,048 x 2,048 floats and a seventh of that a
  float for 2,048 x 528: strides that are powers of 2 collide in the cache.
- An optimization barrier keeps products and transpositions apart, but is gone before loops are
  fused: two transpositions with a barrier between still become one loop.
- `x.T @ y` of two dimensions each is computed without a transposition. Over more dimensions, as a
  tensordot, x is transposed first.

`scripts/profile_program.py` shows where a program's time goes.
"""
