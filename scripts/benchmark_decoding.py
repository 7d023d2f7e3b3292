"""Decoding speed of t5jax and other libraries: the same random weights, inputs and lengths.

    python scripts/benchmark_decoding.py --cases 1 16 4x4

A case is a batch size, or batch size x beams. Every output has exactly `--outputs` tokens; the
share of ids that agree with ours is printed. t5jax, in --dtype and in int8, is timed in turns with
the installed ones of transformers (with --compiled also under torch.compile), CTranslate2 (which
reads transformers' models) and T5X (sources on PYTHONPATH suffice). On a known GPU, the share of
its memory bandwidth that reading our weights reaches is printed too.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import tempfile
import time

import jax
import numpy as np
from interleaved import measure, table, write_json
from peers import (
    Decode,
    ctranslate2_decoders,
    has_ctranslate2,
    has_t5x,
    has_transformers,
    on_device,
    params_of,
    random_torch_t5,
    t5x_decoder,
    transformers_decoder,
)

import t5jax
from t5jax.engine.buckets import ROOMS
from t5jax.model.parameters import for_serving, init_params, quantize
from t5jax.ops.quantized import Scheme
from t5jax.vocabulary import ByteVocabulary

# Bytes a second, from the vendors' datasheets, by a substring of JAX's device_kind.
BANDWIDTH = {"A100": 2.04e12, "H100": 3.35e12, "H200": 4.8e12, "B200": 8.0e12}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variant", default="t5_small", choices=t5jax.VARIANTS)
    parser.add_argument("--cases", nargs="+", default=["1", "16", "4x4"], metavar="ROWS[xBEAMS]")
    parser.add_argument("--inputs", type=int, default=64, help="tokens of an input")
    parser.add_argument("--outputs", type=int, default=64, help="tokens decoded")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--device", choices=("cpu", "gpu"), help="(default: JAX's)")
    parser.add_argument(
        "--compiled", action="store_true", help="transformers under torch.compile too"
    )
    parser.add_argument(
        "--growth",
        action="store_true",
        help="instead: compare the time a token at the end and at the beginning of an output",
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", help="file for the results")
    parser.add_argument("--plot", help="file for a plot of the results; needs matplotlib")
    arguments = parser.parse_args()

    if arguments.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib: pip install matplotlib")
    if arguments.growth and arguments.outputs < 2 * ROOMS[0]:
        parser.error(f"--growth needs --outputs {2 * ROOMS[0]} or more, not {arguments.outputs}")
    if arguments.device:
        jax.config.update("jax_platforms", {"gpu": "cuda"}.get(arguments.device, "cpu"))
    config = t5jax.VARIANTS[arguments.variant]
    if has_transformers():
        torch_model = random_torch_t5(config)
        params = params_of(config, torch_model)
    else:
        params = init_params(config, jax.random.key(0))
    # As many ids as rows of the embedding, so that no logit is masked.
    vocabulary = ByteVocabulary(config.vocab_size - 259)
    plain = t5jax.Text2Text(config, params, vocabulary, dtype=arguments.dtype)
    if arguments.growth:
        write_json(arguments.json, growth(plain, arguments))
        return
    small = t5jax.Text2Text(
        config,
        jax.jit(lambda p: quantize(config, for_serving(config, p), Scheme("int8")))(params),
        vocabulary,
    )
    decoders = {f"t5jax {arguments.dtype}": ours(plain), "t5jax int8": ours(small)}
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        if has_transformers() and has_ctranslate2():
            kinds = (arguments.dtype, "int8", *(["float16"] if device == "cuda" else []))
            found = ctranslate2_decoders(torch_model, folder, kinds, device)
            decoders |= {f"ctranslate2 {kind}": decode for kind, decode in found.items()}
        if has_t5x():
            decoders[f"t5x {arguments.dtype}"] = t5x_decoder(config, params, arguments.dtype)
        if has_transformers():
            torch_model = on_device(torch_model, device, arguments.dtype)
            name = f"transformers {arguments.dtype}"
            decoders[name] = transformers_decoder(torch_model)
            if arguments.compiled:
                decoders[f"{name} compiled"] = transformers_decoder(torch_model, compiled=True)
        print(
            f"{arguments.variant}, {arguments.inputs} in, {arguments.outputs} out, "
            f"{jax.devices()[0].device_kind}"
        )
        results = [time_case(case, decoders, config, arguments) for case in arguments.cases]
        sizes = {"t5jax int8": small, f"t5jax {arguments.dtype}": plain}
        for result in results:
            print_bandwidth(result, sizes, arguments.outputs)
    write_json(arguments.json, results)
    if arguments.plot:
        plot(results, arguments.plot)


def ours(t5: t5jax.Text2Text) -> Decode:
    def decode(ids: np.ndarray, outputs: int, beams: int) -> np.ndarray:
        options = {"max_new_tokens": outputs, "min_new_tokens": outputs, "num_beams": beams}
        return t5.generate_ids(ids, return_scores=False, **options).ids[:, 0]

    return decode


def time_case(
    case: str,
    decoders: dict[str, Decode],
    config: t5jax.T5Config,
    arguments: argparse.Namespace,
) -> dict:
    batch, _, beams = case.partition("x")
    rows, width = int(batch), int(beams or 1)
    rng = np.random.default_rng(rows)
    ids = rng.integers(3, config.vocab_size, (rows, arguments.inputs))
    print(f"batch {rows}, {f'beam {width}' if width > 1 else 'greedy'}")
    first = next(iter(decoders))
    found = {name: decode(ids, arguments.outputs, width) for name, decode in decoders.items()}
    for name, result in found.items():
        print(f"  {name:28} {np.mean(result == found[first]):6.1%} of the ids are {first}'s")
    contenders = {
        name: lambda decode=decode: decode(ids, arguments.outputs, width)
        for name, decode in decoders.items()
    }
    if width > 1:
        more = rng.integers(3, config.vocab_size, (rows * width, arguments.inputs))
        contenders[f"{first}, greedy, as many rows"] = lambda: decoders[first](
            more, arguments.outputs, 1
        )
    seconds = measure(contenders, arguments.rounds)
    against = [first, "t5jax int8"]
    tables = {name: table(seconds, rows * arguments.outputs, "tokens", name) for name in against}
    return {"case": case, "rows": tables}


def growth(t5: t5jax.Text2Text, arguments: argparse.Namespace) -> dict:
    """How the time a token grows with the output's length: one row, streamed.

    "First" are the tokens in the smallest KV cache.
    """
    count, part = ROOMS[0], 64
    ids = np.random.default_rng(0).integers(3, t5.config.vocab_size, (1, arguments.inputs))
    encoded = t5.encode_ids(ids)
    length = {"max_new_tokens": arguments.outputs, "min_new_tokens": arguments.outputs}
    request = t5.request(length)

    def seconds_a_token() -> list[float]:
        seconds: list[float] = []
        began = time.perf_counter()
        for some in t5.decoder.stream(encoded, request):
            ended = time.perf_counter()
            seconds += [(ended - began) / len(some)] * len(some)
            began = ended
        return seconds

    seconds_a_token()  # compiles
    rounds = [seconds_a_token() for _ in range(arguments.rounds)]
    first = [statistics.median(seconds[:count]) for seconds in rounds]
    last = [statistics.median(seconds[-part:]) for seconds in rounds]
    ratios = [b / a for a, b in zip(first, last, strict=True)]
    result = {
        "tokens": arguments.outputs,
        "first_seconds": statistics.median(first),
        "last_seconds": statistics.median(last),
        "ratio": statistics.median(ratios),
    }
    print(
        f"{arguments.variant} {arguments.dtype}, {arguments.outputs} tokens: one of the first "
        f"{count} {result['first_seconds'] * 1e3:.2f} ms, of the last {part} "
        f"{result['last_seconds'] * 1e3:.2f} ms: {result['ratio']:.2f} x "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )
    return result


def print_bandwidth(result: dict, models: dict[str, t5jax.Text2Text], steps: int) -> None:
    """Prints the share of the memory bandwidth that reading the weights at each step reaches."""
    kind = jax.devices()[0].device_kind
    peak = next((value for name, value in BANDWIDTH.items() if name in kind), None)
    rows = {row["name"]: row for row in next(iter(result["rows"].values()))}
    for name, t5 in models.items():
        if peak is None or name not in rows:
            continue
        # The encoder runs once, and a step looks up one row of an untied embedding.
        tree = {"decoder": t5.decoder.params["decoder"]}
        tree["head"] = t5.decoder.params.get("head", t5.decoder.params["token_embedder"])
        read = steps * sum(x.nbytes for x in jax.tree.leaves(tree))
        share = read / rows[name]["seconds"] / peak
        rows[name]["bandwidth"] = share
        print(f"case {result['case']}: {name} at {share:.0%} of {peak / 1e12:.2f} TB/s")


def plot(results: list[dict], file: str) -> None:
    """Bars of tokens a second, one group a case."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(results), figsize=(4 * len(results), 3.2))
    for axis, result in zip(np.atleast_1d(axes), results, strict=True):
        rows = next(iter(result["rows"].values()))
        axis.barh([r["name"] for r in rows], [r["tokens_per_second"] for r in rows])
        axis.invert_yaxis()
        axis.set_title(f"case {result['case']}")
        axis.set_xlabel("tokens/s")
    figure.tight_layout()
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    main()
