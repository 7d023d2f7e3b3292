"""transformers with a static cache, under torch.compile."""

from functools import partial

from contenders import transformers

decoding = partial(transformers.decoding, compiled=True)
