"""Bytes of the parameters of each published size, by dtype; nothing is allocated.

python scripts/sizes.py t5_small t5_1_1_xxl
"""

from __future__ import annotations

import argparse
import functools

import jax

import t5jax
from t5jax.model.parameters import abstract_params, count_parameters, quantize
from t5jax.ops.quantized import Scheme


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("variants", nargs="*", default=list(t5jax.VARIANTS), metavar="VARIANT")
    columns = ("parameters", "float32", "bfloat16", "int8", "int4")
    print(f"{'':24}{columns[0]:>16}" + "".join(f"{name:>12}" for name in columns[1:]) + "   GB")
    for name in parser.parse_args().variants:
        config = t5jax.VARIANTS[name]
        tree = abstract_params(config, serving=True)
        # Embeddings that are only looked up, norms and scales stay float32.
        make = functools.partial(quantize, config)
        small = [
            gigabytes(jax.eval_shape(functools.partial(make, scheme=Scheme(kind)), tree))
            for kind in ("int8", "int4")
        ]
        sizes = (gigabytes(tree), gigabytes(tree) / 2, *small)
        row = "".join(f"{size:12.3f}" for size in sizes)
        print(f"{name:24}{count_parameters(tree):>16,}{row}", flush=True)


def gigabytes(tree) -> float:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree)) / 1e9


if __name__ == "__main__":
    main()
