"""`pronounce:FILE`: a file of pronunciations as training, development and test set."""

import json
from collections import Counter
from pathlib import Path

import pytest

from t5jax.cli import main
from t5jax.config_files import build_config, read_config
from t5jax.tasks import pronunciations, registry
from t5jax.tasks.source import split_of
from tests.support.mistakes import error_of

CONFIGS = Path(__file__).parents[2] / "configs"
WORDS = [f"{a}{b}{c}" for a in "BDKM" for b in "AEIO" for c in "NST"]
TINY = {
    "model": dict(d_model=16, d_kv=8, d_ff=16, num_heads=2, num_layers=1, num_decoder_layers=1),
    "training": {"steps": 4, "scan_layers": False, "log_every": 4, "tensorboard": False},
    "optimizer": {"name": "adamw", "warmup": 2},
    "data": {"streams": 1, "batch": 8, "lengths": {"inputs": 32, "targets": 24}},
}


@pytest.fixture
def dictionary(tmp_path) -> Path:
    """48 words, each with a phoneme a letter; the first has a second pronunciation."""
    path = tmp_path / "made up-1.tsv"
    lines = [f"{word}\t{' '.join(word)}\n" for word in WORDS]
    path.write_text("".join([*lines, f"{WORDS[0]}\t{' '.join(WORDS[0])} X\n"]))
    return path


def test_lines_become_lower_case_words_with_all_their_pronunciations(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(
        "TOMATO\tT AH M EY T OW\r\nÉTÉ\tEY T EY\nTomato\tT AH M AA  T OW \nTOMATO\tT AH M EY T OW"
        .encode()
    )  # fmt: skip
    assert pronunciations.read_pronunciations(path) == {
        "tomato": ("T AH M EY T OW", "T AH M AA T OW"),
        "été": ("EY T EY",),
    }


def test_splits_divide_words_and_all_has_each_once():
    words = {f"word{i}": (f"A{i}", f"B{i}/C") for i in range(400)}
    splits = pronunciations.table(words)
    train, validation, everything = (
        Counter(row.word for row in splits[name]) for name in ("train", "validation", "all")
    )
    assert set(validation) == {word for word in words if split_of(word) == "validation"}
    assert 0 < len(validation) < 40
    assert set(train) == set(words) - set(validation) and set(train.values()) == {2}
    assert set(everything) == set(words) and set(everything.values()) == {1}
    assert all(row.answers == words[row.word] for rows in splits.values() for row in rows)


def test_a_file_is_a_task_of_its_own_name_that_is_registered_nowhere(dictionary):
    before = registry.task_names()
    task = registry.get(f"pronounce:{dictionary}")
    assert task.name == "pronounce:made_up_1.tsv" and registry.task_names() == before
    examples = list(task.get_dataset(None, "all", shuffle=False).as_numpy_iterator())
    (first,) = [e for e in examples if e["inputs_pretokenized"] == b"pronounce: ban"]
    assert first["references"].tolist() == [b"B A N", b"B A N X"]


def test_a_file_is_trained_on_and_another_evaluated(dictionary, tmp_path, capsys):
    config, run = tmp_path / "tiny.yaml", tmp_path / "run"
    config.write_text(json.dumps(TINY))
    name = f"pronounce:{dictionary}"
    main(["train", str(config), f"--run_dir={run}", f"--data.mixture={name}"])
    other = tmp_path / "other.dict"
    other.write_text("SUN\tS AH N\nSUN\tS UW N\nMOON\tM UW N\n")
    main(["eval", str(run), "--tasks", f"pronounce:{other}", "--split", "all"])
    assert "pronounce:other.dict (all)\n  wer " in capsys.readouterr().out
    folder = run / "eval" / "pronounce:other.dict"
    measured = json.loads((folder / "metrics.json").read_text())
    assert measured["examples"] == 2 and 0 <= measured["wer"] <= 1 and measured["per"] >= 0
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert sorted(row["inputs"] for row in rows) == ["pronounce: moon", "pronounce: sun"]
    # Results of two files of one name would lie in one folder.
    same = tmp_path / "more" / other.name
    same.parent.mkdir()
    same.write_text("SUN\tS AH N\n")
    two = [f"pronounce:{other}", f"pronounce:{same}"]
    assert "would both be called pronounce:other.dict" in error_of(
        capsys, "eval", run, "--tasks", ",".join(two), "--split", "all"
    )


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "bad.tsv is empty; every line must be word<TAB>phonemes"),
        (b"A\tAH\nB B IY\n", "bad.tsv, line 2: 'B B IY' is not word<TAB>phonemes"),
        (b"A\tAH\nB\t \n", r"bad.tsv, line 2: 'B' is not word<TAB>phonemes"),
        (b"\tAH\n", r"bad.tsv, line 1: '\tAH' is not word<TAB>phonemes"),
        (b"A\tAH\tEY\n", r"bad.tsv, line 1: 'A\tAH\tEY' is not word<TAB>phonemes"),
        (b"A\tAH\n\nB\tB IY\n", "bad.tsv, line 2: '' is not word<TAB>phonemes"),
        (b"A\tAH\n\xe9\tEY\n", r"bad.tsv, line 2: byte 0xe9 is not UTF-8"),
        (None, "bad.tsv: no such file of pronunciations"),
    ],
)
def test_a_bad_file_is_one_line_with_its_place(content, complaint, tmp_path, capsys):
    path, config = tmp_path / "bad.tsv", tmp_path / "tiny.yaml"
    config.write_text(json.dumps(TINY))
    if content is not None:
        path.write_bytes(content)
    assert complaint in error_of(capsys, "tasks", f"pronounce:{path}")
    run = f"--run_dir={tmp_path / 'run'}"
    assert complaint in error_of(capsys, "train", config, run, f"--data.mixture=pronounce:{path}")


def test_the_published_config_is_valid_and_trains_on_what_it_evaluates():
    config = build_config(read_config(CONFIGS / "g2p_published.yaml"))
    assert config.eval.tasks == (config.data.mixture,)
    assert config.data.mixture == "pronounce:../shared/data/g2p/g014b2b.train"
