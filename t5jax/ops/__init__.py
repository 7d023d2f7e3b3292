"""Operations, each arranged for XLA. The reasons are facts about its CPU compiler (jaxlib 0.10):

- Products run at the peak rate where both operands lie in memory as they are multiplied. Attention
  of 8 x 256 tokens takes 1.8 times as long where XLA fuses the transpositions into its products.
- A batched product goes through its batch in turn, and divides each small product over the cores:
  weights of 64 heads with 256 queries are multiplied hardly sooner by two cores than by one.
- A transposition that is part of a loop takes 29 ms for 2,048 x 2,048 floats on one core, and for
  2,048 x 528 a seventh of that per float: strides that are powers of 2 collide in the cache.
- An optimization barrier keeps products and transpositions apart, but is gone before loops are
  fused: two transpositions with a barrier between still become one loop.
- `x.T @ y` of two dimensions each is computed without a transposition. Over more dimensions, as a
  tensordot, x is transposed first.

`scripts/profile_program.py` shows where a program's time goes.
"""
