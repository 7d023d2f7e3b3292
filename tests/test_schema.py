"""Files from outside fit the schema that declares them, or one line says where they do not."""

import io
import json

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5jax.knobs import short
from t5jax.schema import Schema, check, parse_json, read_json
from t5jax.text_files import lines_of, read_lines, read_text


class Layer(Schema):
    size: int
    rate: float = 0.0


class Model(Schema):
    name: str
    layers: list[Layer] = pydantic.Field(default_factory=list)


WRONG = {
    "size=true": ({"name": "a", "layers": [{"size": True}]}, "layers.0.size: True"),
    "size='1'": ({"name": "a", "layers": [{"size": "1"}]}, "layers.0.size: '1'"),
    "size=1.5": ({"name": "a", "layers": [{"size": 1.5}]}, "layers.0.size: 1.5"),
    "layers=null": ({"name": "a", "layers": None}, "layers: None"),
    "name missing": ({}, "name: field required"),
    "a list": ([1, 2], "[1, 2]"),
    "null": (None, "None"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_named_with_its_file_and_field(case, tmp_path):
    value, named = WRONG[case]
    file = tmp_path / "model.json"
    file.write_text(json.dumps(value))
    with pytest.raises(ValueError) as error:
        read_json(file, Model)
    assert f"{file}: {named}" in str(error.value) and "\n" not in str(error.value)


def test_fields_that_are_not_declared_are_ignored_and_whole_numbers_are_floats():
    model = check(Model, {"name": "a", "more": 1, "layers": [{"size": 2, "rate": 1}]}, "here")
    assert (model.layers[0].size, model.layers[0].rate) == (2, 1.0)


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "", '{"a": ' + "9" * 5000 + "}", b"\xff"])
def test_what_is_not_json_is_one_line(text):
    with pytest.raises(ValueError, match=r"^here is (not|no) JSON") as error:
        parse_json(text, "here")
    assert len(str(error.value)) < 200


def test_a_value_is_shown_in_a_few_characters():
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    assert short("a" * 99) == "'" + "a" * 59 + "…"
    assert short(deep) == "a list"


# A line may hold any character but the one that ends it; \r only where \n does not follow.
LINES = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=8)).map(
    lambda lines: [line.rstrip("\r") for line in lines]
)


@given(LINES, st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_lines_are_what_was_written(tmp_path_factory, lines, end, mark):
    if lines and lines[0].startswith("\ufeff"):
        mark = True  # the first of two is the mark
    file = tmp_path_factory.mktemp("lines") / "lines.txt"
    text = "".join(line + end for line in lines)
    file.write_bytes((b"\xef\xbb\xbf" if mark else b"") + text.encode())
    assert list(read_lines(file)) == lines
    assert read_text(file) == text
    with file.open("rb") as stream:
        assert list(lines_of(stream, "stdin")) == lines


@pytest.mark.parametrize(
    "content, lines",
    [
        (b"", []),
        (b"\xef\xbb\xbf", []),
        (b"\xef\xbb\xbf\n", [""]),
        (b"a", ["a"]),
        (b"a\r\nb\rc\n\r\n", ["a", "b\rc", ""]),
        (b"a\r\r\nb\r", ["a\r", "b\r"]),
        ("a\x85b\u2028c\x0bd\x1ce\n".encode(), ["a\x85b\u2028c\x0bd\x1ce"]),
        (b"a\n\xef\xbb\xbfb", ["a", "\ufeffb"]),
    ],
)
def test_only_a_line_feed_ends_a_line(tmp_path, content, lines):
    (tmp_path / "lines.txt").write_bytes(content)
    assert list(read_lines(tmp_path / "lines.txt")) == lines
    assert list(lines_of(io.BytesIO(content), "stdin")) == lines


def test_a_byte_that_is_not_utf8_is_named_with_file_and_line(tmp_path):
    file = tmp_path / "latin.txt"
    file.write_bytes("one\ncaf\xe9\n".encode("latin-1"))
    for read in (read_text, lambda file: list(read_lines(file))):
        with pytest.raises(ValueError, match=r"latin.txt, line 2: byte 0xe9 is not UTF-8"):
            read(file)
