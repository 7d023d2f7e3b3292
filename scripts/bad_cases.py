"""The bad inputs of `bad_inputs.py`, generated from declarations.

Knobs and generation options come from their dataclasses, command-line numbers from `--help`, fields
from files that t5jax writes, arguments from signatures.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import io
import json
import math
import random
import re
import shutil
import tempfile
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

import t5jax
from t5jax.bulk import generate_each
from t5jax.cli import main
from t5jax.config import RunConfig
from t5jax.decoding.options import GenerationOptions
from t5jax.formats.detect import FORMATS
from t5jax.knobs import LARGEST, Range, declared
from t5jax.model.parameters import init_params
from t5jax.model.t5.config import T5Config
from t5jax.vocabulary import ByteVocabulary, load_vocabulary, train_sentencepiece

TINY = T5Config(
    vocab_size=384, d_model=16, d_kv=4, d_ff=24, num_heads=4, num_layers=2, num_decoder_layers=2
)
SHORT = ("--max_new_tokens", "2")


@dataclasses.dataclass(frozen=True)
class Case:
    """An input to try.

    `run` refuses it by ValueError, TypeError or OSError, or by exit code 2 after one line.
    `wanted`: whether it must. `named`: text that the message must contain.
    """

    group: str
    name: str
    run: Callable[[], object]
    wanted: bool = True
    named: str = ""


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


ODD: dict[str, Any] = {
    "null": None,
    "true": True,
    "-1": -1,
    "0": 0,
    "1.5": 1.5,
    "384.0": 384.0,
    "nan": math.nan,
    "inf": math.inf,
    "10^12": 10**12,
    "10^30": 10**30,
    "text": "x",
    "no text": "",
    "surrogate": "\ud800",
    "nul": "a\0b",
    "empty list": [],
    "list": [1],
    "list of null": [None],
    "mapping": {"a": 1},
    "nested": nested(400),
}
# Values that only Python can pass.
PYTHON: dict[str, Any] = {
    "bytes": b"x",
    "set": {1},
    "object": object(),
    "complex": 1j,
    "deep": nested(5000),
}


def fits(kind: Any, within: Range | None, value: Any) -> bool:
    """Whether a declaration allows a value; independent of `t5jax.knobs`."""
    args = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Annotated:
        return fits(args[0], within, value)
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return any(fits(arg, within, value) for arg in args)
    if kind is types.NoneType:
        return value is None
    if typing.get_origin(kind) is typing.Literal:
        return any(type(value) is type(arg) and value == arg for arg in args)
    if typing.get_origin(kind) is tuple:
        if args[0] is str and isinstance(value, str):  # names divided by commas
            return fits(str, None, value)
        return isinstance(value, list | tuple) and all(fits(args[0], None, v) for v in value)
    if kind is dict:
        return isinstance(value, dict)
    if kind is str:
        return isinstance(value, str) and value not in (ODD["surrogate"], ODD["nul"])
    if kind is bool:
        return isinstance(value, bool)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if kind is int and (not isinstance(value, int) or abs(value) > LARGEST):
        return False
    return math.isfinite(value) and (within is None or value in within)


def make_fixtures(folder: Path) -> None:
    """Checkpoints of every format, a vocabulary of each kind, and the results of an evaluation."""
    params = jax.jit(functools.partial(init_params, TINY))(jax.random.key(0))
    tiny = t5jax.Text2Text(TINY, params, ByteVocabulary())
    for name in FORMATS:
        tiny.save(folder / name, format=name)
    texts = [f"the number {i} is {i * i} in the house" for i in range(300)]
    vocabulary = train_sentencepiece(texts, folder / "words.model", vocab_size=60, extra_ids=10)
    t5jax.Text2Text(TINY, params, vocabulary).save(folder / "pieces", format="hf")
    shutil.copytree(folder / "pieces", folder / "fast")
    for file in (folder / "fast").glob("*spiece*"):
        file.unlink()
    pieces = [["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["▁", -2.0]]
    pieces += [[letter, -3.0 - i / 9] for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz")]
    special = [
        {"id": i, "content": pieces[i][0], "special": True, "single_word": False, "lstrip": False,
         "rstrip": False, "normalized": False}
        for i in range(3)
    ]  # fmt: skip
    space = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special,
        "normalizer": None, "pre_tokenizer": space, "decoder": space,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}},
                       {"SpecialToken": {"id": "</s>", "type_id": 0}}],
            "pair": [],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
        },
        "model": {"type": "Unigram", "unk_id": 2, "vocab": pieces, "byte_fallback": False},
    }  # fmt: skip
    (folder / "fast" / "tokenizer.json").write_text(json.dumps(tokenizer))
    quiet("eval", folder / "t5jax", "--tasks", "inflect", "--examples", 6, *SHORT)


def quiet(*words: object) -> None:
    """Runs a command without output; its `error:` line becomes a ValueError."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(word) for word in words])
        except SystemExit as stop:
            lines = [line for line in err.getvalue().splitlines() if line.startswith("error:")]
            if stop.code != 2 or len(lines) != 1 or "Traceback" in out.getvalue() + err.getvalue():
                raise RuntimeError(f"exit {stop.code}, {err.getvalue()[-300:]!r}") from None
            raise ValueError(lines[0]) from None


def all_cases(folder: Path, seed: int) -> list[Case]:
    """All cases; `seed` fixes their order."""
    cases = [
        *of_knobs(),
        *of_yaml(folder),
        *of_command_line(folder),
        *of_api(folder),
        *of_files(folder, random.Random(seed)),
        *of_sizes(folder),
    ]
    random.Random(seed).shuffle(cases)
    return cases


# knobs of configurations, in Python and in YAML


def sections(cls: type = RunConfig, prefix: str = "") -> Iterator[tuple[str, type]]:
    yield prefix, cls
    for name in declared(cls):
        if is_section(cls, name):
            yield from sections(type(getattr(cls(), name)), f"{prefix}{name}.")


def is_section(cls: type, name: str) -> bool:
    return dataclasses.is_dataclass(getattr(cls(), name))


def of_knobs() -> Iterator[Case]:
    for prefix, cls in sections():
        for name, (kind, within) in declared(cls).items():
            for word, value in (ODD | PYTHON).items():
                if is_section(cls, name) or fits(kind, within, value):
                    continue
                run = functools.partial(cls, **{name: value})
                yield Case("knobs in Python", f"{prefix}{name}: {word}", run, named=name)
    hints = typing.get_type_hints(GenerationOptions)
    for name, kind in hints.items():
        for word, value in (ODD | PYTHON).items():
            run = functools.partial(GenerationOptions, **{name: value})
            args = () if typing.get_origin(kind) is tuple else typing.get_args(kind)
            scalar = {int, float, bool} & {kind, *args}
            wrong = bool(scalar) and value is not None and not fits(kind, None, value)
            wrong = wrong and not (name == "seed" and type(value) is int)  # any integer will do
            yield Case("generation options", f"{name}: {word}", run, wrong)


def of_yaml(folder: Path) -> Iterator[Case]:
    base = "run_dir: never\ndata: {mixture: inflect}\n"
    plain = {k: v for k, v in ODD.items() if k != "surrogate"}
    for prefix, cls in sections():
        for name, (kind, within) in declared(cls).items():
            for word, value in plain.items():
                text = "[" * 500 if word == "nested" else json.dumps(value)
                text = text.replace("NaN", ".nan").replace("Infinity", ".inf")
                if is_section(cls, name):
                    if value is None or word in ("mapping",):
                        continue
                elif fits(kind, within, value):
                    continue
                words = (f"--{prefix}{name}={text}",)
                run = functools.partial(train, base, *words)
                named = name if word != "nested" else "levels"
                yield Case("knobs in YAML", f"{prefix}{name}: {word}", run, named=named)
    laughs = "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}' if i else 'x'] * 9)}]\n" for i in range(12)
    )
    for text in (
        "", "5", "[]", "- a", "null", "data: [", "data: {batch: 1}\ndata: {batch: 2}", "a: b: c",
        "data: {batch: 1, batch: 1}", "[" * 100_000, "{" * 100_000, "- " * 100_000, "a: &a [*a]",
        "? [1]\n: 2", "? {a: b}\n: 2", "!!python/object:os.system x", "data: !!binary aGk=",
        "data: !!set {batch}", "data: {batch: 1e400}", "data: {batch: 2026-11-25}",
        "\x00", "\ufffe",
        "data: {batch: " + "9" * 5000 + "}", "a: 1\n---\nb: 2", laughs, "data: *nothing",
        "k: [" + "1, " * 200_000 + "]", "{<<: 5}", "{<<: [5]}", "data: &x {batch: 2, <<: *x}",
        "x: 1", "model: {variant: [1]}", "model: {variant: {a: 1}}", "model: {variant: null, x: 1}",
        "%YAML 9.9\n---\na: 1", "%TAG ! x\n---\na: !b 1", "@", "`", "\t- a", "a: |\n\t b\n c: d",
    ):  # fmt: skip
        yield Case("YAML", repr(text[:40]), functools.partial(train, text))
    for word in ("--", "--=", "--a", "data=1", "--.=1", "--data.=1", "--data..batch=1", "-x=1",
                 "--data=5", "--data.batch.x=1", "--model.variant=[1]", "--data.lengths.inputs=[1]",
                 "--nothing=1", "--data.nothing=1", "--data.batch", "--data.batch=[", "--init=[1]",
                 "--vocabulary=nothing.model", "--init=/nowhere", "--data.modules=[nothing_here]",
                 "--data.mixture=nothing", "--data.split=nothing",
                 "--eval.tasks=[nothing]"):  # fmt: skip
        config = base + "training: {steps: 1}\nmodel: {d_model: 8, num_layers: 1, num_heads: 1}\n"
        yield Case("overrides", word, functools.partial(train, config, word))


def train(text: str, *words: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(text, encoding="utf-8")
        first = (f"--run_dir={folder}/run",) if text.startswith("run_dir: never") else ()
        quiet("train", file, *first, *words)


# the command line


def of_command_line(folder: Path) -> Iterator[Case]:
    model = folder / "t5jax"
    rows = model / "eval" / "inflect" / "predictions.jsonl"
    commands: dict[str, tuple[object, ...]] = {
        "generate": (model, "go"),
        "eval": (model, "--tasks", "inflect"),
        "compare": (rows, rows),
        "tasks": ("inflect",),
        "vocabulary": ("inflect", folder / "new.model"),
        "convert": (model, folder / "new", "--format", "hf"),
    }

    def label(*words: object) -> str:
        return " ".join(map(str, words)).replace(str(folder), "…")

    odd = ("x", "", "1.5", "nan", "inf", "-inf", "1e400", "-1", "9" * 30, "9" * 5000, "true", "[1]")
    for command, words in commands.items():
        for name, metavar in options_of(command):
            if metavar in ("INT", "N"):
                values = odd
            elif metavar in ("FLOAT", "LEVEL"):
                values = ("x", "", "nan", "inf", "-inf", "1e400", "true", "[1]")
            else:
                values = ("", "\udcff", "/nowhere/x", "{", "9" * 12) if metavar else ()
            for value in values:
                number = metavar in ("INT", "N", "FLOAT", "LEVEL")
                more = () if name in ("--max_new_tokens",) or command != "generate" else SHORT
                run = functools.partial(quiet, command, *words, *more, f"{name}={value}")
                # Any number is a valid seed of sampling.
                free = name == "--seed" and value[:1] in ("-", "9") and command != "compare"
                wanted = number and not free
                yield Case("command line", f"{command} {name}={value[:20]}", run, wanted)
        for some in ((*words, "--nothing"), ("/nowhere/here", *words[1:])):
            run = functools.partial(quiet, command, *some)
            yield Case("command line", f"{command} {label(*some)[:60]}", run)
    for words in ((), ("nothing",), ("--nothing",), ("generate",), ("generate", model)):
        yield Case("command line", label(*words), functools.partial(quiet, *words))
    paths = (folder, folder / "words.model", "/dev/null", "/", "", ".", "a b", "x" * 5000, "\0")
    for path in paths:
        for command in ("generate", "convert", "eval"):
            words = (path, *commands[command][1:])
            name = f"{command} of {label(path)[:30]!r}"
            yield Case("command line", name, functools.partial(quiet, command, *words))
        more = ("--input", path)
        yield Case("command line", f"generate --input {label(path)[:30]!r}",
                   functools.partial(quiet, "generate", model, *SHORT, *more),
                   path not in ("/dev/null", folder / "words.model"))  # fmt: skip


@functools.cache
def options_of(command: str) -> list[tuple[str, str | None]]:
    """(name, metavar) of a command's options, as `--help` shows them."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main([command, "--help"])
    found = re.findall(r"^  (--\w+)(?: (\S+))?", out.getvalue(), re.MULTILINE)
    return [(name, metavar or None) for name, metavar in found]


# the Python API


@functools.cache
def loaded(folder: Path) -> t5jax.Text2Text:
    return t5jax.load(folder / "t5jax")


def of_api(folder: Path) -> Iterator[Case]:
    def call(method: str, name: str, value: Any) -> None:
        t5 = loaded(folder)
        required = {
            "generate": {"texts": "go"}, "generate_ids": {"input_ids": [[5, 1]]},
            "score": {"inputs": "go", "targets": "went"}, "encode": {"texts": "go"},
            "score_ids": {"input_ids": [[5, 1]], "target_ids": [[5, 1]]},
            "encode_ids": {"input_ids": [[5, 1]]}, "stream": {"text": "go"},
            "logits": {"input_ids": [[5, 1]], "decoder_input_ids": [[0, 5]]},
        }[method]  # fmt: skip
        short = {"max_new_tokens": 2} if method in ("generate", "generate_ids", "stream") else {}
        result = getattr(t5, method)(**required | short | {name: value})
        if method == "stream":
            list(result)

    fine = {
        "texts": ("no text", "empty list", "text", "nul"), "text": ("no text", "text", "nul"),
        "inputs": ("text", "no text", "nul"), "targets": ("text", "no text", "nul"),
        "input_ids": ("empty list",), "target_ids": (), "decoder_input_ids": (),
        "decoder_prefix": ("null", "text", "no text", "list", "nul", "empty list"),
        "logits_processor": ("null",), "assistant_model": ("null",), "batch_size": (),
        "prefix_allowed_tokens_fn": ("null",),
    }  # fmt: skip
    methods = ("generate", "generate_ids", "score", "score_ids", "encode", "encode_ids", "stream",
               "logits")  # fmt: skip
    for method in methods:
        for name in inspect.signature(getattr(t5jax.Text2Text, method)).parameters:
            if name in ("self", "options") or name.startswith("return_"):
                continue
            for word, value in (ODD | PYTHON).items():
                if word in fine.get(name, ()) or (name == "batch_size" and word == "10^12"):
                    continue
                run = functools.partial(call, method, name, value)
                yield Case("API", f"{method}({name}={word})", run, named=name)
    for word, value in (ODD | PYTHON).items():
        yield Case("API", f"load({word})", functools.partial(t5jax.load, value))
        for name in ("dtype", "vocabulary", "allow", "quantize", "d_model", "nothing", "dropout"):
            if (name, word) in (("vocabulary", "null"), ("quantize", "null"), ("allow", "text"),
                                ("allow", "no text"), ("allow", "empty list"), ("dropout", "0"),
                                ("allow", "nul"), ("allow", "surrogate")):  # fmt: skip
                continue
            run = functools.partial(t5jax.load, folder / "t5jax", **{name: value})
            yield Case("API", f"load({name}={word})", run, named=name)
        run = functools.partial(save_as, folder, value)
        yield Case("API", f"save(format={word})", run, named="format")
        if word != "empty list":
            run = functools.partial(lambda v: list(generate_each(loaded(folder), v)), value)
            yield Case("API", f"generate_each({word})", run)
        if word not in ("0",):
            yield Case("API", f"ByteVocabulary({word})", functools.partial(ByteVocabulary, value),
                       named="extra_ids")  # fmt: skip


def save_as(folder: Path, value: Any) -> None:
    with tempfile.TemporaryDirectory() as place:
        loaded(folder).save(Path(place) / "x", format=value)


# files


def of_files(folder: Path, rng: random.Random) -> Iterator[Case]:
    """Every field of every JSON file with odd values, and every text file with damaged bytes."""
    ranges = declared(T5Config)
    for name in (*FORMATS, "pieces", "fast"):
        source = folder / name
        for file in sorted(p for p in source.rglob("*") if p.is_file()):
            place = file.relative_to(source)
            content = file.read_bytes()
            if len(content) > 1_000_000 or "eval" in place.parts:
                continue
            use = functools.partial(with_changed, source, place)
            text = is_text(content)
            for word, damaged in damages(content, rng, text):
                run = functools.partial(use, damaged)
                yield Case("damaged files", f"{name}/{place} {word}", run, False)
            if text and place.suffix in (".json", ".zarray", ""):
                with contextlib.suppress(ValueError):
                    value = json.loads(content)
                    for path in paths_of(value):
                        for word, odd in ODD.items():
                            changed = json.dumps(replaced(value, path, odd)).encode("utf-8")
                            key = path[-1] if path else ""
                            wanted = place.name in ("config.json", "model.json") and (
                                len(path) <= 2 and key in ranges and odd is not None
                                and not fits(*ranges[typing.cast(str, key)], odd)
                            )  # fmt: skip
                            run = functools.partial(use, changed)
                            label = f"{name}/{place} {'.'.join(map(str, path))}: {word}"
                            yield Case("fields of files", label, run, wanted)
    results = folder / "t5jax" / "eval" / "inflect"
    for file in ("predictions.jsonl", "metrics.json"):
        content = (results / file).read_bytes()
        for word, damaged in damages(content, rng, True):
            run = functools.partial(compare_changed, results, file, damaged)
            yield Case("damaged files", f"compare {file} {word}", run, False)
        first = json.loads(content.splitlines()[0] if file.endswith("l") else content)
        rest = b"\n".join(content.splitlines()[1:]) if file.endswith("l") else b""
        for path in paths_of(first):
            for word, odd in ODD.items():
                changed = json.dumps(replaced(first, path, odd)).encode() + b"\n" + rest
                run = functools.partial(compare_changed, results, file, changed)
                label = f"compare {file} {'.'.join(map(str, path))}: {word}"
                yield Case("fields of files", label, run, False)
    for note in (
        b"[1]",
        b"null",
        b"{",
        b"5",
        b'"x"',
        b"",
        b"[" * 10**5,
        b'{"dtype": [1]}',
        b"\xff",
    ):
        run = functools.partial(with_note, folder, note)
        yield Case("damaged files", f"note {note[:20]!r}", run)


def is_text(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return b"\0" not in content


def damages(content: bytes, rng: random.Random, text: bool) -> Iterator[tuple[str, bytes]]:
    yield "emptied", b""
    yield "cut", content[: len(content) // 2]
    yield "twice", content * 2
    if text:
        yield "nested", b"[" * 100_000
        yield "not UTF-8", content + b"\xff"
        yield "with a byte order mark", b"\xef\xbb\xbf" + content
    for number in range(4 if text else 2):
        if content:
            place, bit = rng.randrange(len(content)), 1 << rng.randrange(8)
            flipped = bytearray(content)
            flipped[place] ^= bit
            yield f"flipped {number}", bytes(flipped)


def paths_of(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to all values, up to four steps deep, and to two items of a list."""
    found = [prefix]
    if len(prefix) < 4:
        items: Any = value.items() if isinstance(value, dict) else ()
        items = enumerate(value[:2]) if isinstance(value, list) else items
        for key, item in items:
            found += paths_of(item, (*prefix, key))
    return found


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


def with_changed(source: Path, place: Path, content: bytes) -> None:
    """Generates with a copy of a checkpoint with one file replaced."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / source.name
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns("eval"))
        (copy / place).write_bytes(content)
        options = ("--vocabulary", "bytes") if source.name == "t5x" else ()
        quiet("generate", copy, "go", *SHORT, *options)


def compare_changed(source: Path, name: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copytree(source, Path(folder) / "inflect")
        (copy / name).write_bytes(content)
        quiet("compare", source / "predictions.jsonl", copy / "predictions.jsonl", "--resamples", 5)
        quiet("compare", copy / "predictions.jsonl", source / "predictions.jsonl", "--resamples", 5)


def with_note(folder: Path, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as place:
        output = Path(place) / "out.txt"
        output.with_name("out.txt.unfinished").write_bytes(content)
        quiet("generate", folder / "t5jax", "go", *SHORT, "--output", output)


# sizes


def of_sizes(folder: Path) -> Iterator[Case]:
    model = folder / "t5jax"
    for words in (
        ("--num_beams", 10**6), ("--num_return_sequences", 10**6, "--do_sample"),
        ("--max_new_tokens", 10**9), ("--max_new_tokens", 10**8, "--num_beams", 4),
        ("--num_beams", 10**6, "--num_return_sequences", 10**6),
    ):  # fmt: skip
        run = functools.partial(quiet, "generate", model, "go", *words)
        yield Case("sizes", f"generate {' '.join(map(str, words))}", run, named="memory")
    base = "run_dir: never\ndata: {mixture: inflect}\ntraining: {steps: 1}\n"
    for word, named in {
        "--data.batch=1000000000": "memory", "--data.lengths.inputs=1000000000": "memory",
        "--data.lengths.targets=1000000000": "memory", "--data.prefetch=1000000000": "memory",
        "--model.num_layers=1000000000": "num_layers", "--model.d_model=2000000000": "",
        "--model.vocab_size=2000000000": "", "--model.d_ff=2000000000": "",
        "--model.num_heads=2000000000": "", "--data.lengths.inputs=1000000000000": "inputs",
        "--mesh.data=1000000000": "mesh", "--data.streams=1000000000": "streams",
    }.items():  # fmt: skip
        yield Case("sizes", word, functools.partial(train, base, word), named=named)
    rows = model / "eval" / "inflect" / "predictions.jsonl"
    for name in ("--resamples",):
        run = functools.partial(quiet, "compare", rows, rows, name, 10**9)
        yield Case("sizes", f"compare {name} 10^9", run, named="resamples")
    for value in (10**6, 10**9, 10**12):
        run = functools.partial(ByteVocabulary, value)
        yield Case("sizes", f"ByteVocabulary({value})", run, named="extra_ids")
        run = functools.partial(load_vocabulary, folder / "pieces", value)
        yield Case("sizes", f"load_vocabulary(…, {value})", run)
    for name in ("num_layers", "num_decoder_layers", "d_model", "vocab_size", "num_heads"):
        run = functools.partial(t5jax.load, folder / "hf", **{name: 2 * 10**9})
        yield Case("sizes", f"load({name}=2·10^9)", run)
