"""The commands, as users type them: what they print, write and refuse."""

import contextlib
import dataclasses
import io
import json
import os
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import t5jax
from t5jax.cli import eval, main
from t5jax.cli.entry import COMMANDS
from t5jax.cli.loading import Generating
from t5jax.decoding.options import GenerationOptions
from t5jax.formats import detect
from t5jax.knobs import REQUIRED, declared
from t5jax.tasks.metrics import resampling
from t5jax.training import loop
from tests.support.mistakes import error_of
from tests.support.models import tiny_text2text

LINES = ["past: go", "", "pronounce: hello", "past: sing and a longer line"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("saved") / "model"
    tiny_text2text().save(str(path))
    return str(path)


@pytest.fixture
def expected(saved) -> list[str]:
    answers = t5jax.load(saved).generate(LINES, max_new_tokens=6)
    return [" ".join(answer.splitlines()) for answer in answers]


def test_generate_answers_texts(saved, expected, capsys):
    main(["generate", saved, *LINES, "--max_new_tokens", "6"])
    assert capsys.readouterr().out.split("\n") == [*expected, ""]


def test_generate_reads_a_file_and_writes_one_in_its_order(saved, expected, tmp_path):
    source, target = tmp_path / "in.txt", tmp_path / "out.txt"
    source.write_text("\n".join(LINES) + "\n")
    main(
        ["generate", saved, "--input", str(source), "--output", str(target), "--batch", "3",
         "--max_new_tokens", "6"]
    )  # fmt: skip
    assert target.read_text().split("\n") == [*expected, ""]


def test_convert_goes_through_every_format_and_reports(saved, expected, tmp_path, capsys):
    main(["convert", saved, str(tmp_path / "hf"), "--format", "hf"])
    assert re.search(r"hf: [\d,]+ parameters in \d+ tensors", capsys.readouterr().out)
    main(["convert", str(tmp_path / "hf"), str(tmp_path / "t5x"), "--format", "t5x"])
    assert "vocabulary" not in capsys.readouterr().out
    main(["convert", str(tmp_path / "t5x"), str(tmp_path / "back"), "--format", "t5jax"])
    assert "without a vocabulary" in capsys.readouterr().out
    for name in ("hf", "t5x", "back"):
        words = ["--max_new_tokens", "6", "--vocabulary", "bytes"]
        main(["generate", str(tmp_path / name), *LINES, *words])
        assert capsys.readouterr().out.split("\n") == [*expected, ""]


def test_convert_casts_and_leaves_out_what_it_is_told_to(saved, tmp_path, capsys):
    main(["convert", saved, str(tmp_path / "hf"), "--format", "hf", "--dtype", "bfloat16"])
    config = tmp_path / "hf" / "config.json"
    content = json.loads(config.read_text())
    assert content["torch_dtype"] == "bfloat16"
    config.write_text(json.dumps(content | {"num_decoder_layers": 2}))
    words = ["convert", tmp_path / "hf", tmp_path / "out", "--format", "t5jax"]
    assert "decoder.block.2" in error_of(capsys, *words)
    assert not (tmp_path / "out").exists()
    main([*map(str, words), "--allow", r"decoder\.block\.2\..*"])
    out = capsys.readouterr().out
    assert out.count("unused decoder.block.2.layer.") == 14
    assert t5jax.load(tmp_path / "out").config.num_decoder_layers == 2


def test_mistakes_of_convert_are_one_line(saved, tmp_path, capsys):
    target = tmp_path / "out"
    cases = {
        (saved, tmp_path, "--format", "hf"): "exists",
        (saved, target, "--format", "onnx"): "invalid choice: 'onnx'",
        (saved, target, "--format", "t5jax", "--float_head"): "--float_head needs --quantize",
        (saved, target, "--format", "hf", "--set", "d_ff"): "FIELD=VALUE",
        (saved, target, "--format", "hf", "--set", "d_fff=3"): "'d_fff' is no field",
        (saved, target, "--format", "hf", "--set", "d_ff=64"): "mlp",
        (tmp_path / "x y", target, "--format", "hf"): "is no folder",
    }
    for words, expected in cases.items():
        assert expected in error_of(capsys, "convert", *words)
        assert not target.exists()


def test_values_that_the_command_line_repeats_without_jax_are_those_of_their_owners():
    kind, _ = declared(COMMANDS["convert"])["format"]
    assert typing.get_args(kind) == detect.FORMATS
    assert eval.MOST_RESAMPLES == resampling.MOST_RESAMPLES


def test_generate_reads_stdin(saved, expected, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(LINES)))
    main(["generate", saved, "--input", "-", "--max_new_tokens", "6"])
    assert capsys.readouterr().out.split("\n") == [*expected, ""]


@pytest.mark.parametrize("source", ["file", "stdin"])
def test_generate_has_one_output_for_each_line_however_it_is_written(
    saved, expected, tmp_path, monkeypatch, capsys, source
):
    file = tmp_path / "in.txt"
    # As Windows' editors write it; the \r inside is part of its line.
    file.write_bytes(b"\xef\xbb\xbf" + "".join(f"{x}\r\n" for x in [*LINES, "a\rb"]).encode())
    with file.open() as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        words = ["--input", str(file) if source == "file" else "-", "--max_new_tokens", "6"]
        main(["generate", saved, *words])
        out = capsys.readouterr().out.split("\n")
        assert out[:-2] == expected and len(out) == len(LINES) + 2
        file.write_bytes(b"past: go\ncaf\xe9\n")
        stream.seek(0)
        named = {"file": str(file), "stdin": "standard input"}[source]
        error = error_of(capsys, "generate", saved, *words)
        assert error.startswith(f"error: {named}, line 2: byte 0xe9 is not UTF-8")


def test_an_output_is_one_line_whatever_the_model_says(saved, capsys):
    main(["generate", saved, "x", "--answers", "a\rb\tc\u2028d\x85e\r\nf"])
    assert capsys.readouterr().out == "a b\tc d e f\n"


def test_generate_writes_to_a_device_without_a_note_beside_it(saved, expected):
    ours, theirs = os.openpty()
    main(["generate", saved, *LINES, "--max_new_tokens", "6", "--output", os.ttyname(theirs)])
    seen = os.read(ours, 4096).decode().split("\r\n")
    os.close(ours)
    os.close(theirs)
    assert seen == [*expected, ""]


def test_generate_of_an_empty_file_writes_an_empty_one(saved, tmp_path):
    source, target = tmp_path / "in.txt", tmp_path / "out.txt"
    source.write_text("")
    main(["generate", saved, "--input", str(source), "--output", str(target)])
    assert target.read_text() == ""


def test_samples_of_an_input_stand_on_its_line(saved, capsys):
    main(
        ["generate", saved, *LINES[:2], "--do_sample", "--num_return_sequences", "3",
         "--max_new_tokens", "6"]
    )  # fmt: skip
    lines = capsys.readouterr().out.split("\n")
    assert [line.count("\t") for line in lines] == [2, 2, 0]


def test_generation_options_are_words_of_the_command_line(saved, capsys):
    words = "--num_beams 2 --num_return_sequences 2 --early_stopping never --length_penalty 0.5"
    lists = ["--answers", "yes", "--answers", "no, sir", "--bad_words_ids", "5,6"]
    more = "--bad_words_ids 7 --suppress_tokens 8,9 --eos_token_id 1 --max_new_tokens 9"
    main(["generate", saved, "a", "b", *words.split(), *lists, *more.split()])
    lines = capsys.readouterr().out.splitlines()
    assert [sorted(line.split("\t")) for line in lines] == [["no, sir", "yes"]] * 2
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    help = " ".join(capsys.readouterr().out.split())
    assert "--early_stopping true|false|never" in help
    assert "sequences of ids that must not be generated (repeatable)" in help


def test_tasks_are_listed_and_shown_as_text_and_ids(capsys):
    main(["tasks"])
    assert {"pronounce", "inflect", "words"} <= set(capsys.readouterr().out.split())
    main(["tasks", "inflect", "--split", "test", "--n", "2"])
    lines = capsys.readouterr().out.rstrip("\n").split("\n")
    assert [line[:8].strip() for line in lines] == [
        "inputs",
        "",
        "targets",
        "",
        "",
        "inputs",
        "",
        "targets",
        "",
    ]
    text, ids = lines[0][9:], [int(x) for x in lines[1].split()]
    assert ids == [*(byte + 3 for byte in text.encode()), 1]


def test_vocabulary_trains_a_model_that_tasks_can_be_shown_in(tmp_path, capsys):
    model = tmp_path / "deep" / "words.model"
    main(["vocabulary", "inflect", str(model), "--size", "90", "--examples", "2000"])
    assert f"{model}: 90 pieces" in capsys.readouterr().out
    main(["tasks", "inflect", "--n", "1", "--vocabulary", str(model)])
    lines = capsys.readouterr().out.split("\n")
    assert len(lines[1].split()) <= len(lines[0][9:]) + 1


def test_eval_writes_metrics_and_predictions_and_shows_some(saved, tmp_path, capsys):
    main(
        ["eval", saved, "--tasks", "inflect", "--examples", "7", "--show", "2", "--out",
         str(tmp_path), "--max_new_tokens", "4"]
    )  # fmt: skip
    out = capsys.readouterr().out
    assert "exact_match" in out and "rule_exact_match" in out
    assert sum(" = " in line or " ≠ " in line for line in out.splitlines()) == 2
    assert len((tmp_path / "inflect" / "predictions.jsonl").read_text().splitlines()) == 7


def test_the_readmes_task_works(tmp_path, capsys, monkeypatch):
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    code = readme[readme.index("# shout.py") :]
    (tmp_path / "shout.py").write_text(code[: code.index("```")])
    command = re.search(r"^t5jax (tasks shout .*)$", readme, re.MULTILINE)[1]
    monkeypatch.chdir(tmp_path)
    main(command.split())
    assert "inputs   shout: go\n" in capsys.readouterr().out


def test_mistakes_name_the_value_and_the_remedy(saved, tmp_path, capsys):
    broken = tmp_path / "broken.py"
    broken.write_text("import nothing_of_this_name\n")
    cases = {
        ("eval", saved, "--tasks", "inflekt"): "did you mean inflect",
        ("eval", saved, "--tasks", "inflect", "--split", "dev"): "has no split 'dev'",
        ("eval", saved, "--tasks", "inflect", "--modules", broken): "nothing_of_this_name",
        ("eval", tmp_path / "nowhere", "--tasks", "inflect"): "nowhere is no folder",
        ("eval", tmp_path, "--tasks", "inflect"): "holds no",
        ("tasks", "inflect", "--split", "dev"): "validation",
        ("tasks", "pronunce"): "did you mean pronounce",
        ("tasks", "inflect", "--vocabulary", tmp_path / "no.model"): "no.model",
        ("generate", saved, "--input", tmp_path / "no.txt"): "no.txt: no such file",
        ("generate", saved, "x", "--max_new_tokens", "0"): "'0' must be a whole number, at least 1",
        ("generate", saved, "x", "--num_return_sequences", "2"): "needs do_sample=True",
        ("generate", saved, "x", "--batch", "0"): "argument --batch: '0' must be a whole number",
        ("generate", saved, "x", "--batch", "1.5"): "--batch: '1.5' must be a whole number, at le",
        ("generate", saved, "x", "--batch", str(10**12)): f"--batch: '{10**12}' must be",
        ("generate", saved, "x", "--num_beam", "2"): "--num_beam; did you mean --num_beams?",
        ("generate", saved, "x", "--num_beams", str(10**6)): "of memory (the cache",
        ("generate", saved, "x", "--output", tmp_path): "is a folder; name a file",
        ("generate", saved, "x", "--output", tmp_path / "no" / "x"): "there is no such folder",
        ("convert", saved, tmp_path / "x", "--format", "hf", "--allow", "("): "allow='(' is no reg",
        (
            "eval",
            saved,
            "--tasks",
            "inflect",
            "--show",
            "-1",
        ): "--show: '-1' must be a whole",
        ("eval", saved, "--tasks", "inflect", "--examples", "0"): "--examples: '0' must be",
        ("eval", saved, "--tasks", "inflect", "--confidence", "nan"): "--confidence: 'nan' must be",
        ("eval", saved, "--tasks", "inflect", "--resamples", str(10**9)): "from 1 to 1000000",
        ("tasks", "inflect", "--n", "-1"): "argument --n: '-1' must be a whole number, at least 1",
        ("tasks", "inflect", "--inputs", "0"): "--inputs: '0' must be",
        ("vocabulary", "inflect", tmp_path / "x", "--words", "-1"): "--words: '-1' must be",
        ("generate", saved, "x", "--length_penalty", "2"): "length_penalty=2.0 needs num_beams",
        ("generate", saved, "x", "--early_stopping", "soon"): "must be true|false|never",
        ("generate", saved, "x", "--suppress_tokens", "5,x"): "'5,x' must be",
        ("generate", saved, "x", "--suppress_tokens", "999"): "suppress_tokens holds id 999",
        ("generate", saved, "x", "--tempreature", "2"): "--tempreature",
    }
    for words, remedy in cases.items():
        assert remedy in error_of(capsys, *words), words


def test_a_mistake_touches_neither_the_input_nor_a_finished_output(
    saved, tmp_path, monkeypatch, capsys
):
    source, target = tmp_path / "in.txt", tmp_path / "out.txt"
    source.write_text("a\nb\n")
    target.write_text("finished\n")
    cases = {
        ("--input", source, "--output", source): "is the input; write to another file",
        ("--input", source, "--output", tmp_path / "." / "in.txt"): "is the input",
        ("--input", source, "--output", target, "--suppress_tokens", "999"): "holds id 999",
        ("--input", source, "--output", target, "--answers", "tomorrow", "--max_new_tokens", "3"): (
            "max_new_tokens=3 would cut"
        ),
        (
            *("--input", source, "--output", target, "--num_beams", "2"),
            *("--assistant_model", saved),
        ): "num_beams=2 cannot be assisted",
    }
    for words, remedy in cases.items():
        assert remedy in error_of(capsys, "generate", saved, *words), words
    with open(source) as stdin, monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", stdin)
        assert "is the input" in error_of(
            capsys, "generate", saved, "--input", "-", "--output", source
        )
    assert source.read_text() == "a\nb\n" and target.read_text() == "finished\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.txt", "out.txt"]


@pytest.mark.slow
def test_a_reader_that_leaves_early_is_no_error():
    command = f"{sys.executable} -m t5jax.cli tasks inflect --n 20000 | head -1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.startswith("inputs")
    assert done.stderr == ""


@pytest.mark.slow
def test_a_person_sees_progress_while_a_file_is_read(saved, tmp_path):
    (tmp_path / "in.txt").write_text("one\ntwo\nthree\n")
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "t5jax.cli", "generate", saved, "--max_new_tokens", "2",
         "--input", str(tmp_path / "in.txt"), "--output", str(tmp_path / "out.txt")],
        stderr=theirs, env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
    )  # fmt: skip
    os.close(theirs)
    seen = b""
    with contextlib.suppress(OSError):  # the end of what a terminal shows
        while part := os.read(ours, 4096):
            seen += part
    os.close(ours)
    assert process.wait(timeout=120) == 0
    assert b"3/3" in seen and b"3 inputs in" in seen


@pytest.mark.slow
def test_compiled_programs_are_kept_on_disk_and_used_again(saved, tmp_path):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    seen = []
    for _ in range(2):
        subprocess.run(
            [sys.executable, "-m", "t5jax.cli", "generate", saved, "x", "--max_new_tokens", "4"],
            env=environment, check=True, capture_output=True, timeout=120,
        )  # fmt: skip
        programs = tmp_path / "t5jax" / "programs"
        seen.append({file.name for file in programs.iterdir() if not file.name.endswith("atime")})
    assert len(seen[0]) >= 2 and seen[1] == seen[0]


@pytest.mark.parametrize(
    ("there", "advice"),
    [("/proc/driver/nvidia", "t5jax[cuda]"), ("/dev/accel0", "t5jax[tpu]"), ("", "")],
)
def test_an_idle_accelerator_is_pointed_out(there, advice, monkeypatch, capsys):
    monkeypatch.setattr(loop.Path, "exists", lambda path: str(path) == there)
    loop.print_devices(loop.sharding.make_mesh(loop.RunConfig().mesh))
    out = capsys.readouterr().out
    assert out.startswith("devices: 1 x cpu (cpu)")
    assert advice in out and ("warning:" in out) == bool(advice)


def test_what_is_closed_full_or_damaged_is_one_line(saved, tmp_path, monkeypatch, capsys):
    words = ["generate", saved, "x", "--max_new_tokens", "3"]
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", None)
        assert "standard input is closed" in error_of(capsys, "generate", saved, "--input", "-")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", None)
        closed = "standard output is closed; write to a file with --output"
        assert closed in error_of(capsys, *words)
        assert "standard output is closed" in error_of(capsys, "tasks")
        main([*words, "--output", str(tmp_path / "out.txt")])
    assert error_of(capsys, *words, "--output", "/dev/full") == (
        "error: /dev/full: no space left on device"
    )
    for text in ("[1]", "{", "\x00", "[" * 100_000):
        (tmp_path / "out.txt.unfinished").write_text(text)
        line = error_of(capsys, *words, "--output", tmp_path / "out.txt")
        assert "out.txt.unfinished" in line and "delete it" in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("generate {saved} x --max_new_tokens 3 >&-", 2, "error: standard output is closed"),
        ("generate {saved} --input - <&-", 2, "error: --input -: standard input is closed"),
        ("generate {saved} x --max_new_tokens 3 >/dev/full", 2, "error: standard output: no space"),
        ("tasks >/dev/full", 2, "error: no space left on device"),
        ("tasks nothing 2>&-", 2, ""),
        ("convert {saved} {folder}/hf --format hf >&- <&-", 0, ""),
        ("generate {saved} x --max_new_tokens 3 --output {folder}/o >&- 2>&-", 0, ""),
    ],
)
def test_closed_and_full_streams_end_in_one_line_and_their_exit_code(
    saved, tmp_path, command, code, words
):
    command = command.format(saved=saved, folder=tmp_path)
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m t5jax.cli {command}"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith(words) and done.stderr.count("\n") == (1 if words else 0)
    if code == 0:
        t5jax.load(tmp_path / "hf") if "convert" in command else (tmp_path / "o").read_text()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--help", "vocabulary"),
        ("train --help", "training.log_every = 50"),
        ("generate --help", "--num_beams"),
        ("train {config} --trainnig.steps=3", "unknown key trainnig; did you mean training?"),
        ("train {config} --data.batch=0", "data.batch=0 must be at least 1"),
        ("generate x y --num_beam=2", "did you mean --num_beams?"),
        ("eval x --tasks inflect --top_p 2", "'2' must be a number, more than 0 and at most 1"),
    ],
)
def test_help_and_misspelt_options_answer_before_anything_heavy_is_imported(words, told):
    config = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
    code = f"""
import sys
from t5jax.cli import main
try:
    main({words.format(config=config).split()!r})
finally:
    heavy = "jax flax numpy orbax tensorflow seqio pydantic".split()
    print("heavy:", sorted({{*heavy}} & {{*sys.modules}}), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == (0 if "--help" in words else 2)
    assert told in done.stdout + done.stderr and "heavy: []" in done.stderr


def test_the_package_has_its_names_without_importing_what_they_need():
    code = """
import sys, t5jax
assert "jax" not in sys.modules
assert {"load", "Text2Text", "VARIANTS", "T5"} <= set(dir(t5jax))
from t5jax import *
assert load is t5jax.load and callable(load) and T5Config is t5jax.T5Config
assert "jax" in sys.modules and not hasattr(t5jax, "lode")
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_argument_of_a_command_is_in_its_help_with_meaning_default_and_range(name, capsys):
    with pytest.raises(SystemExit):
        main([name, "--help"])
    help = " ".join(capsys.readouterr().out.split())
    declarations = [COMMANDS[name]]
    if issubclass(COMMANDS[name], Generating):
        declarations.append(GenerationOptions)
    for cls in declarations:
        for field in dataclasses.fields(cls):
            if "help" not in field.metadata:
                continue
            within = declared(cls)[field.name][1]
            assert field.metadata["word" if "place" in field.metadata else "help"] in help
            assert within is None or f"{within})" in help or f"{within}; repeatable)" in help
            if field.default not in (REQUIRED, None, (), "", False):
                assert f"({str(field.default).lower()}" in help.lower()
