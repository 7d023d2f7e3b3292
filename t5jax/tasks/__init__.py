"""seqio tasks; importing this package registers `pronounce`, `inflect` and the mixture `words`."""

import seqio

from t5jax.tasks import inflect, pronounce

seqio.MixtureRegistry.add("words", [(pronounce.NAME, 0.7), (inflect.NAME, 0.3)])
